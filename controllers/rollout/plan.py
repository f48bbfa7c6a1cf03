"""What the rollout controller decides. Pure.

A Rollout says which slots may run the service's newest revision; replication does the replacing. A pass takes the
stored status, begins anew if the service has a newer revision, grants slots, and notes completion. Which slots to
grant, and when, is `grants`, and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Final

import msgspec

from controllers.rollout.references import release
from controllers.rollout.view import View
from shoal.api.meta import Meta, Owner, Ref, derived_uid
from shoal.api.objects import Rollout, RolloutStatus
from shoal.api.states import RolloutState
from shoal.machinery.controller import Action, Create, Plan, Remove, Replace, still_exists
from shoal.rules.slots import IN_PROGRESS

KEPT_REVISIONS: Final = 10
"""Revisions of a service that are kept, its newest ones."""


def plan(view: View, now: datetime) -> Plan:
    """Move a service's rollout on, and collect revisions nobody needs."""
    if view.service is None:
        return Plan(tuple(_collect_all(view)), independent=True)
    before = view.rollout.status if view.rollout is not None else _first(view)
    after = _advance(view, before, now)
    return Plan((*release(view, after), *_write(view, before, after), *_collect(view, after)), independent=True)


def _advance(view: View, status: RolloutStatus, now: datetime) -> RolloutStatus:
    if status.target != view.owner.status.revision:
        status = _begin(view, status, now)
    if status.state not in IN_PROGRESS:
        return status
    granted = grants(view, status)
    if granted != status.granted:
        status = msgspec.structs.replace(status, granted=granted)
    return _complete(status, now) if _is_complete(view, status) else status


def grants(view: View, status: RolloutStatus) -> tuple[str, ...]:
    """Return the slots that may run the target now: all that were dirty, at once."""
    return status.dirty


def _first(view: View) -> RolloutStatus:
    """Return a new service's status: nothing to do. Where tasks live already, what most of them run is stable."""
    known = {revision.spec.hash for revision in view.revisions}
    counts = Counter(task.spec.revision for task in view.current.values() if task.spec.desired_state.is_live)
    running = sorted((count, revision) for revision, count in counts.items() if revision in known)
    stable = running[-1][1] if running else view.owner.status.revision
    ref = Ref(view.owner.metadata.name, view.owner.metadata.uid)
    return RolloutStatus(service=ref, state=RolloutState.COMPLETED, stable=stable, target=stable)


def _begin(view: View, status: RolloutStatus, now: datetime) -> RolloutStatus:
    """Take up the service's newest revision. Where it changes no running task, it is complete with that.

    So is a job's: each iteration starts anew, and nothing is replaced.
    """
    target = view.owner.status.revision
    is_job = view.owner.spec.mode.is_job
    dirty = () if is_job else tuple(slot for slot in view.current if view.is_dirty(slot))
    if not dirty:
        return RolloutStatus(service=status.service, state=RolloutState.COMPLETED, stable=target, target=target)
    return RolloutStatus(
        service=status.service,
        state=RolloutState.UPDATING,
        stable=status.stable,
        target=target,
        dirty=dirty,
        started_at=now,
        message="update in progress",
    )


def _is_complete(view: View, status: RolloutStatus) -> bool:
    return all(view.is_updated(slot) for slot in status.dirty if view.is_waited_for(slot))


def _complete(status: RolloutStatus, now: datetime) -> RolloutStatus:
    """The target becomes the stable revision: here, and nowhere else, does stable move."""
    return msgspec.structs.replace(
        status,
        state=RolloutState.COMPLETED,
        stable=status.target,
        completed_at=now,
        message="update completed",
    )


def _write(view: View, before: RolloutStatus, after: RolloutStatus) -> Iterator[Action]:
    service = view.owner
    exists = (still_exists(service),)
    if view.rollout is None:
        meta = Meta(
            name=service.metadata.name,
            uid=derived_uid(service.metadata.uid, "rollout"),
            owner=Owner("Service", service.metadata.name, service.metadata.uid),
        )
        yield Action("RolloutCreated", (Create(Rollout(metadata=meta, status=after)),), exists)
    elif after != before:
        moved = msgspec.structs.replace(view.rollout, status=after)
        reason = "RolloutCompleted" if after.state is RolloutState.COMPLETED else "RolloutStarted"
        yield Action(reason, (Replace(moved),), exists, note=after.message, about=service)


def _collect(view: View, status: RolloutStatus) -> Iterator[Action]:
    """Forget revisions beyond the newest ten, but none that is in use."""
    if len(view.revisions) <= KEPT_REVISIONS:
        return
    used = {status.stable, status.target, view.owner.status.revision, *(task.spec.revision for task in view.tasks)}
    newest_first = sorted(view.revisions, key=lambda revision: (-revision.spec.number, revision.spec.hash))
    for revision in newest_first[KEPT_REVISIONS:]:
        if revision.spec.hash not in used:
            yield Action("RevisionCollected", (Remove(revision),))


def _collect_all(view: View) -> Iterator[Action]:
    """Forget what a deleted service has left."""
    if view.rollout is not None:
        yield Action("ServiceDeleted", (Remove(view.rollout),))
    for owned in (*view.revisions, *view.references):
        yield Action("ServiceDeleted", (Remove(owned),))
