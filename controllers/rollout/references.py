"""Which secrets, configs and networks a service's References need to hold no longer. Pure.

The API server creates a Reference with the spec that uses something. What an update stops using is let go only once
the rollout is over: until then tasks run with it, and a rollback would bring it back.
"""

from __future__ import annotations

from collections.abc import Iterator

from controllers.rollout.view import View
from shoal.api.objects import RolloutStatus
from shoal.api.template import TaskTemplate
from shoal.machinery.controller import Action, Remove, is_unchanged
from shoal.rules.networks import INGRESS_LABEL
from shoal.rules.ports import needs_ingress


def release(view: View, status: RolloutStatus) -> Iterator[Action]:
    """Remove the References that neither the spec, nor the stable revision, nor a task wanted alive needs.

    The service must be unchanged: a newer spec may use the same object again, and counts on its Reference then.
    """
    if not view.references:
        return
    stable = {revision.spec.hash: revision.spec.template for revision in view.revisions}.get(status.stable)
    if stable is None and status.stable != view.owner.status.revision:
        return
    live = [task.spec.template for tasks in view.live.values() for task in tasks if not task.status.state.is_terminal]
    templates = [template for template in (view.template, stable, *live) if template is not None]
    needed = {uid for template in templates for uid in _uses(template)}
    publishes = any(map(needs_ingress, templates))
    stale = [
        reference
        for reference in view.references
        if reference.to.uid not in needed and not (publishes and INGRESS_LABEL in reference.metadata.labels)
    ]
    if stale:
        yield Action("ReferencesReleased", tuple(map(Remove, stale)), (is_unchanged(view.owner),))


def _uses(template: TaskTemplate) -> Iterator[str]:
    yield from (use.uid for use in (*template.secrets, *template.configs))
    yield from (use.uid for use in template.networks)
