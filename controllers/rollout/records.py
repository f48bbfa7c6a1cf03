"""What the rollout controller writes, and which Revisions it forgets. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from controllers.rollout.view import View
from shoal.api.meta import Meta, derived_uid
from shoal.api.objects import Rollout, RolloutStatus, owner_of
from shoal.api.states import RolloutState
from shoal.machinery.controller import Action, Create, Remove, Replace, still_exists
from shoal.rules.slots import PAUSED

KEPT_REVISIONS: Final = 10
"""Revisions of a service that are kept, its newest ones."""

_REASONS: Final = {
    RolloutState.UPDATING: "RolloutStarted",
    RolloutState.PAUSED: "RolloutPaused",
    RolloutState.COMPLETED: "RolloutCompleted",
    RolloutState.ROLLBACK_STARTED: "RollbackStarted",
    RolloutState.ROLLBACK_PAUSED: "RollbackPaused",
    RolloutState.ROLLBACK_COMPLETED: "RollbackCompleted",
}


def write(view: View, before: RolloutStatus, after: RolloutStatus) -> Iterator[Action]:
    """Store the status if it has changed; people are told when its state or message has."""
    service = view.owner
    exists = (still_exists(service),)
    if view.rollout is None:
        meta = Meta(
            name=service.metadata.name,
            uid=derived_uid(service.metadata.uid, "rollout"),
            owner=owner_of(service),
        )
        yield Action("RolloutCreated", (Create(Rollout(metadata=meta, status=after)),), exists)
    elif after != before:
        is_news = (after.state, after.message, after.target) != (before.state, before.message, before.target)
        reason = _REASONS[after.state] if is_news else "RolloutAdvanced"
        note = after.message if is_news else ""
        steps = (Replace(replace(view.rollout, status=after)),)
        yield Action(reason, steps, exists, note=note, about=service, warning=is_news and after.state in PAUSED)


def collect(view: View, status: RolloutStatus) -> Iterator[Action]:
    """Forget revisions beyond the newest ten, but none that is in use."""
    if len(view.revisions) <= KEPT_REVISIONS:
        return
    used = {status.stable, status.target, view.owner.status.revision, view.owner.status.previous_revision}
    used |= {task.spec.revision for task in view.tasks}
    newest_first = sorted(view.revisions, key=lambda revision: (-revision.spec.number, revision.spec.hash))
    for revision in newest_first[KEPT_REVISIONS:]:
        if revision.spec.hash not in used:
            yield Action("RevisionCollected", (Remove(revision),))


def collect_all(view: View) -> Iterator[Action]:
    """Forget what a deleted service has left."""
    if view.rollout is not None:
        yield Action("ServiceDeleted", (Remove(view.rollout),))
    for owned in (*view.revisions, *view.references):
        yield Action("ServiceDeleted", (Remove(owned),))
