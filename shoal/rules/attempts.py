"""What a changed spec, a rollback, a pause or a resumption of a service means for its rollout. Pure.

A rollout begins, or goes on, with a new attempt; scaling is none, so that it neither resumes nor restarts anything.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import asdict, replace

from shoal.api.objects import Attempt, RevisionSpec, Service, ServiceSpec, ServiceStatus

BY_HAND: Final = "manually requested rollback"
"""Swarm's words."""


def after_change(service: Service, spec: ServiceSpec, revision: RevisionSpec) -> ServiceStatus:
    """Return a service's status with a new spec, whose template is that revision."""
    status = service.status
    is_scaling = replace(service.spec, replicas=spec.replicas, max_concurrent=spec.max_concurrent) == spec
    is_same = revision.hash == status.revision
    return replace(
        status,
        revision=revision.hash,
        revision_number=revision.number,
        previous_revision=status.previous_revision if is_same else status.revision,
        attempt=status.attempt if is_scaling else Attempt(number=status.attempt.number + 1),
        previous_spec=service.spec,
    )


def spec_at(service: Service, revision: RevisionSpec) -> ServiceSpec:
    """Return the spec that brings back a revision: its template, and everything else as it is now."""
    return ServiceSpec(**{**asdict(service.spec), **asdict(revision.template)})


def as_rollback(status: ServiceStatus, message: str = BY_HAND) -> ServiceStatus:
    """Return the status, its attempt marked as the way back."""
    return replace(status, attempt=replace(status.attempt, is_rollback=True, is_paused=False, message=message))


def paused(status: ServiceStatus) -> ServiceStatus:
    return replace(status, attempt=replace(status.attempt, is_paused=True))


def resumed(status: ServiceStatus) -> ServiceStatus:
    return replace(status, attempt=Attempt(number=status.attempt.number + 1))
