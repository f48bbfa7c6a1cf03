"""The way back after too many failures: the service's spec as it was, and the rollout that brings it. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime

from msgspec.structs import asdict, replace

from controllers.rollout.failures import sentence
from controllers.rollout.view import View
from shoal.api.objects import Attempt, Revision, RolloutStatus, Service, ServiceSpec
from shoal.machinery.controller import Action, Replace
from shoal.rules.dirtiness import template_of

Begin = Callable[[View, RolloutStatus, datetime], RolloutStatus]


def roll_back(view: View, status: RolloutStatus, begin: Begin, now: datetime) -> Action:
    """Restore the spec and begin the rollback in one transaction; a spec that people change meanwhile stands."""
    revision = view.revision(status.stable)
    assert revision is not None
    assert view.rollout is not None
    message = f"update rolled back due to {sentence(view, status)}"
    service = restored(view.owner, revision, message)
    begun = begin(dataclasses.replace(view, service=service), status, now)
    steps = (Replace(service), Replace(replace(view.rollout, status=begun)))
    return Action("RolledBack", steps, note=message, about=service, warning=True)


def restored(service: Service, revision: Revision, message: str) -> Service:
    """Return the service as it was with a revision, but for its replicas and labels.

    The previous spec is used up: a second rollback would lead to what has just failed. Its update settings come back
    with it, where it was of that revision. Source: SwarmKit's rollbackUpdate.
    """
    previous, template = service.status.previous_spec, revision.spec.template
    same = previous if previous is not None and template_of(previous) == template else service.spec
    kept = {"replicas": service.spec.replicas, "max_concurrent": service.spec.max_concurrent}
    spec = ServiceSpec(**{**asdict(same), **asdict(template), **kept})
    status = replace(
        service.status,
        revision=revision.spec.hash,
        revision_number=revision.spec.number,
        previous_revision="",
        previous_spec=None,
        attempt=Attempt(number=service.status.attempt.number + 1, is_rollback=True, message=message),
    )
    return replace(service, spec=spec, status=status)
