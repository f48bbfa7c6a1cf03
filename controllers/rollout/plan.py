"""What the rollout controller decides: the life of a rollout. Pure.

    completed ──a newer revision──► updating ──all slots done──► completed       (stable := target)
                                    updating ──too many failed──► paused          failureAction pause
                                                       └────────► rollback_started failureAction rollback
    rollback_started ──all slots done──► rollback_completed, ──too many failed──► rollback_paused

A Rollout says which slots may run the service's newest revision (the target); replication does the replacing. A pass
takes the stored status through four questions, each a function of its own: is something new asked for (`take_up`)?
what became of the granted slots (`batch.watch`)? is that too bad (`failures`)? who is next (`batch.grant`)? Whatever
the answers need later is in the status, so a pass may be the first one of a new process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from controllers.rollout import batch
from controllers.rollout.failures import action_on_failures, sentence
from controllers.rollout.records import collect, collect_all, write
from controllers.rollout.references import release
from controllers.rollout.rollback import roll_back
from controllers.rollout.view import View
from shoal.api.objects import RolloutStatus, Watched, ref_of
from shoal.api.states import FailureAction, RolloutState
from shoal.machinery.controller import Plan
from shoal.rules.slots import BACKWARDS, IN_PROGRESS

_PAUSED_FROM: Final = {
    RolloutState.PAUSED: RolloutState.UPDATING,
    RolloutState.ROLLBACK_PAUSED: RolloutState.ROLLBACK_STARTED,
}
"""State of a paused rollout → the one it goes on in."""


def plan(view: View, now: datetime) -> Plan:
    """Move a service's rollout on, and collect what nobody needs."""
    if view.service is None:
        return Plan(tuple(collect_all(view)), independent=True)
    before = view.rollout.status if view.rollout is not None else _first(view)
    after = advance(view, before, now)
    if must_roll_back(view, after):
        return Plan((roll_back(view, after, begin, now),))
    actions = (*release(view, after), *write(view, before, after), *collect(view, after))
    return Plan(actions, _next_look(view, after, now), independent=True)


def advance(view: View, status: RolloutStatus, now: datetime) -> RolloutStatus:
    """Return the status one pass later; a rollout that must go back stays as it is, for `plan` to see to."""
    status = take_up(view, status, now)
    if status.state not in IN_PROGRESS:
        return status
    if view.owner.status.attempt.is_paused:
        return _paused(status, f"{_word(status)} paused by hand")
    settings = view.settings(status)
    status = batch.watch(view, status, settings, now)
    action = action_on_failures(view, status)
    if action is FailureAction.PAUSE:
        return _paused(status, f"{_word(status)} paused due to {sentence(view, status)}")
    if action is FailureAction.ROLLBACK:
        return status
    status = batch.grant(view, status, settings, now)
    return _completed(status, now) if batch.is_over(view, status) else status


def must_roll_back(view: View, status: RolloutStatus) -> bool:
    return status.state is RolloutState.UPDATING and action_on_failures(view, status) is FailureAction.ROLLBACK


def take_up(view: View, status: RolloutStatus, now: datetime) -> RolloutStatus:
    """Begin with what is newly asked for: another revision, or another attempt at the one under way."""
    asked = view.owner.status.attempt
    is_new = asked.number != status.attempt
    if status.target != view.owner.status.revision or (is_new and asked.is_rollback):
        return begin(view, status, now)
    if is_new:
        return _again(view, status, now)
    return status


def begin(view: View, status: RolloutStatus, now: datetime) -> RolloutStatus:
    """Take up the service's newest revision. Where it changes no running task, it is complete with that.

    So is a job's: each iteration starts anew, and nothing is replaced. What a rollout before this one has left
    unfinished is dirty again, and what it granted is forgotten; stable is still what was last completed.
    """
    asked, target = view.owner.status.attempt, view.owner.status.revision
    is_job = view.owner.spec.mode.is_job
    dirty = () if is_job else tuple(slot for slot in view.current if view.is_dirty(slot))
    begun = RolloutStatus(
        service=status.service,
        state=RolloutState.ROLLBACK_STARTED if asked.is_rollback else RolloutState.UPDATING,
        stable=status.stable,
        target=target,
        attempt=asked.number,
        granted=_others(view.current, dirty) if dirty else (),
        dirty=dirty,
        started_at=now,
        message=asked.message if asked.is_rollback else "update in progress",
    )
    if dirty or asked.is_rollback:
        return begun
    return replace(begun, state=RolloutState.COMPLETED, stable=target, started_at=None, message="")


def _others(slots: Iterable[str], dirty: Collection[str]) -> tuple[str, ...]:
    known = set(dirty)
    return tuple(slot for slot in slots if slot not in known)


def _again(view: View, status: RolloutStatus, now: datetime) -> RolloutStatus:
    """Go on with a rollout that was resumed, or whose settings were changed: earlier failures are forgiven."""
    number = view.owner.status.attempt.number
    if status.state not in IN_PROGRESS and status.state not in _PAUSED_FROM:
        return replace(status, attempt=number)
    granted = set(status.granted)
    open_slots = (slot for slot in status.dirty if slot in granted and not view.is_updated(slot))
    return replace(
        status,
        state=_PAUSED_FROM.get(status.state, status.state),
        attempt=number,
        watched={**status.watched, **{slot: Watched(granted_at=now) for slot in open_slots}},
        failures={},
        message=f"{_word(status)} in progress",
    )


def _paused(status: RolloutStatus, message: str) -> RolloutStatus:
    is_back = status.state in BACKWARDS
    return replace(status, state=RolloutState.ROLLBACK_PAUSED if is_back else RolloutState.PAUSED, message=message)


def _completed(status: RolloutStatus, now: datetime) -> RolloutStatus:
    """The target becomes the stable revision: here, and nowhere else, does stable move."""
    is_back = status.state in BACKWARDS
    return replace(
        status,
        state=RolloutState.ROLLBACK_COMPLETED if is_back else RolloutState.COMPLETED,
        stable=status.target,
        granted=(),
        dirty=(),
        watched={},
        completed_at=now,
        message=f"{_word(status)} completed",
    )


def _word(status: RolloutStatus) -> str:
    return "rollback" if status.state in BACKWARDS else "update"


def _first(view: View) -> RolloutStatus:
    """Return a new service's status: nothing to do. Where tasks live already, what most of them run is stable."""
    known = {revision.spec.hash for revision in view.revisions}
    counts = Counter(task.spec.revision for task in view.current.values() if task.spec.desired_state.is_live)
    running = sorted((count, revision) for revision, count in counts.items() if revision in known)
    stable = running[-1][1] if running else view.owner.status.revision
    ref = ref_of(view.owner)
    attempt = view.owner.status.attempt.number
    return RolloutStatus(service=ref, state=RolloutState.COMPLETED, stable=stable, target=stable, attempt=attempt)


def _next_look(view: View, status: RolloutStatus, now: datetime) -> timedelta | None:
    return batch.next_look(status, view.settings(status), now) if status.state in IN_PROGRESS else None
