"""Which slots are being updated, and which are next. Pure.

    granted ──runs the target──► settled ──delay over──► its place is free ──monitor over──► done with
       └──failed, or no farther within the deadline──► settled, and counted as a failure

A slot that is granted and no longer watched is done with. Only a place that is free lets the next slot in, so that at
most `parallelism` slots are between their grant and the end of their delay.
Source: SwarmKit's manager/orchestrator/update, where a worker per place sleeps through delay and monitor.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec.structs import replace

from controllers.rollout.failures import failed_task
from controllers.rollout.view import View
from shoal.api.objects import RolloutStatus, Update, Watched
from shoal.machinery.controller import any_of
from shoal.rules.waiting import NOTHING, time_left


def watch(view: View, status: RolloutStatus, settings: Update, now: datetime) -> RolloutStatus:
    """Note which watched slots have settled or failed, and be done with those whose time is over."""
    failures = dict(status.failures)
    watched: dict[str, Watched] = {}
    for slot, one in status.watched.items():
        if not view.is_waited_for(slot):
            continue
        failed = failed_task(view, status, slot, settings)
        if failed is None and _is_late(one, settings, now):
            failed = view.current.get(slot)
        if failed is not None:
            failures.setdefault(slot, failed.metadata.uid)
        if one.settled_at is None and (slot in failures or view.is_updated(slot)):
            one = replace(one, settled_at=now)
        if not _is_done(one, settings, now):
            watched[slot] = one
    if (watched, failures) == (status.watched, status.failures):
        return status
    return replace(status, watched=watched, failures=failures)


def grant(view: View, status: RolloutStatus, settings: Update, now: datetime) -> RolloutStatus:
    """Let as many further slots run the target as there are free places. Worked: 5 dirty, parallelism 2: 2, 2, 1."""
    waiting = not_granted(view, status)
    busy = sum(one.settled_at is None or _delay_left(one, settings, now) > NOTHING for one in status.watched.values())
    chosen = waiting[: max(0, settings.parallelism - busy)] if settings.parallelism else waiting
    if not chosen:
        return status
    watched = {**status.watched, **{slot: Watched(granted_at=now) for slot in chosen}}
    return replace(status, granted=(*status.granted, *chosen), watched=watched)


def is_over(view: View, status: RolloutStatus) -> bool:
    """Every slot that is still there was granted and is done with."""
    return not status.watched and not not_granted(view, status)


def not_granted(view: View, status: RolloutStatus) -> list[str]:
    granted = set(status.granted)
    return [slot for slot in status.dirty if slot not in granted and view.is_waited_for(slot)]


def next_look(status: RolloutStatus, settings: Update, now: datetime) -> timedelta | None:
    """Return when time alone will have changed something."""
    wait: timedelta | None = None
    for one in status.watched.values():
        if one.settled_at is None:
            wait = any_of(wait, _deadline_left(one, settings, now))
            continue
        delay = _delay_left(one, settings, now)
        wait = any_of(wait, delay if delay > NOTHING else None, _monitor_left(one, settings, now))
    return wait


def _is_late(one: Watched, settings: Update, now: datetime) -> bool:
    return one.settled_at is None and _deadline_left(one, settings, now) == NOTHING


def _is_done(one: Watched, settings: Update, now: datetime) -> bool:
    return one.settled_at is not None and _monitor_left(one, settings, now) == NOTHING


def _deadline_left(one: Watched, settings: Update, now: datetime) -> timedelta | None:
    deadline = timedelta(seconds=settings.deadline.seconds)
    return time_left(one.granted_at, deadline, now) if deadline else None


def _delay_left(one: Watched, settings: Update, now: datetime) -> timedelta:
    return time_left(one.settled_at, timedelta(seconds=settings.delay.seconds), now)


def _monitor_left(one: Watched, settings: Update, now: datetime) -> timedelta:
    """Return how long a settled slot is watched still: for `monitor`, and at least as long as it holds its place."""
    return time_left(one.settled_at, timedelta(seconds=max(settings.monitor.seconds, settings.delay.seconds)), now)
