"""What to do about one slot now: fill it, update, restart, release, or leave it alone. Pure.

A slot's current task is the one its Slot points at. Every change of it is one action, which swaps the Slot, so that
of two replication controllers only one succeeds. Besides the current task there may be old ones: told to stop and
not yet stopped (the current one is `ready` and waits for them), or, in an update, still running until the current one
may take over: until it is prepared (stop-first), or until it serves (start-first).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from controllers.replication.make import new_task, point_at, with_desired
from controllers.replication.view import Held, View
from shoal.api.defaults import effective_rollback, effective_update
from shoal.api.objects import Node, Task
from shoal.api.states import DesiredState, TaskState, UpdateOrder
from shoal.api.units import Duration
from shoal.machinery.controller import Action, Create, Replace, is_unchanged, still_exists
from shoal.rules.liveness import is_drained, is_lost, is_unusable
from shoal.rules.restart import OLD_TASK_TIMEOUT, delay_left, may_restart, restart_delay
from shoal.rules.slots import is_rolling_back
from shoal.rules.waiting import NOTHING, time_left


@dataclass(frozen=True)
class Decision:
    action: Action | None = None
    wait: timedelta | None = None
    """When to look again though nothing changes."""


IDLE = Decision()
_BAD_ENDS = frozenset({TaskState.FAILED, TaskState.REJECTED, TaskState.ORPHANED})


def decide(view: View, held: Held, now: datetime, *, frozen: bool = False) -> Decision:
    """Decide about one slot. `frozen`: nothing new may be started there (a node that is paused, drained or down)."""
    current = held.current
    if current is None:
        return IDLE if frozen else _fill(view, held, now)
    if not frozen and view.rights.may_update(held.name) and view.is_dirty(current):
        return _update(view, held, now)
    if not current.spec.desired_state.is_live or view.is_ended(current):
        return _restart(view, held, current, now, frozen=frozen)
    if current.spec.desired_state is DesiredState.READY:
        return _release(view, held, current, now)
    old = _superseded(view, held, current)
    return Decision(_stop(view, held, old)) if old else IDLE


def _fill(view: View, held: Held, now: datetime) -> Decision:
    """Give a vacant slot a task: one that somehow lives there already, else a new one."""
    if held.live_others:
        return Decision(_adopt(view, held, held.live_others[-1]))
    return Decision(_succeed(view, held, now, "TaskCreated", "created"))


def _update(view: View, held: Held, now: datetime) -> Decision:
    """Replace a task that runs another revision than it shall, in the order the service asks for.

    stop-first: the new one is prepared (its image pulled, its container made) beside the newest old one that runs;
    `_superseded` stops that then, and the new one is released once it has stopped. start-first: the new one starts at
    once beside it, and it is stopped once the new one serves.
    """
    live = [task for task in held.tasks if task.spec.desired_state.is_live]
    running = [task for task in live if task.status.state is TaskState.RUNNING and not view.is_ended(task)]
    clean = [task for task in running if not view.is_dirty(task)]
    if clean:
        return Decision(_adopt(view, held, clean[-1]))
    settings = (effective_rollback if is_rolling_back(view.rollout) else effective_update)(view.owner.spec)
    kept = running[-1:]
    stop = [task for task in live if task not in kept]
    start_first = bool(kept) and settings.order is UpdateOrder.START_FIRST
    held_back = bool(kept) and not start_first
    return Decision(
        _succeed(view, held, now, "TaskUpdated", "updated", stop=stop, start_first=start_first, held_back=held_back)
    )


def _restart(view: View, held: Held, current: Task, now: datetime, *, frozen: bool) -> Decision:
    """Replace a task that ended or lost its node, if its restart policy permits; else the slot stays as it is."""
    node, wanted = view.node_of(current), current.spec.desired_state.is_live
    left = delay_left(current, now)
    if wanted and left and not is_unusable(current, node):
        return Decision(wait=left)  # it failed while it still waited: its own delay first, or a bad image spins
    why = _why(current, node)
    stop = [current] if wanted else []
    stop += [task for task in held.live_others if not view.may_hold_container(task)]
    if frozen or not may_restart(current, held.history, now):
        return Decision(_stop(view, held, stop, "TaskEnded", why)) if stop else IDLE
    delay = max(restart_delay(current, node), left) if wanted else None
    note = f"{why}; replaced{f' in {Duration.of(delay.total_seconds())}' if delay else ''}"
    overlaps = any(task not in stop for task in held.live_others)
    warning = wanted and (is_lost(node) or current.status.state in _BAD_ENDS)
    return Decision(
        _succeed(
            view, held, now, "TaskReplaced", note,
            stop=stop, delay=delay, start_first=overlaps and current.spec.start_first,
            held_back=overlaps and not current.spec.start_first, warning=warning,
        )
    )  # fmt: skip


def _release(view: View, held: Held, current: Task, now: datetime) -> Decision:
    """Start a prepared task once its delay is over and the old one has stopped, or has had a minute to."""
    left = delay_left(current, now)
    if left > NOTHING:
        return Decision(wait=left)
    old = _superseded(view, held, current)
    if not current.spec.start_first and len(old) < len(held.live_others):
        return Decision(_stop(view, held, old) if old else None)
    left = _old_task_left(view, held, old, now)
    if left > NOTHING:
        return Decision(_stop(view, held, old) if old else None, left)
    steps = (Replace(with_desired(current, view.wanted_state)), *_told_to_stop(old))
    return Decision(Action("TaskReleased", steps, (still_exists(view.owner),)))


def _superseded(view: View, held: Held, current: Task) -> list[Task]:
    """Return which old tasks may stop: those that ended, the others once the current one may take over."""
    return [task for task in held.live_others if view.is_ended(task) or view.may_take_over(current, task)]


def _is_blocking(view: View, task: Task, stopping: Collection[Task]) -> bool:
    """Say whether an old task that shall stop may still run where it can be reached."""
    is_stopping = task in stopping or not task.spec.desired_state.is_live
    return is_stopping and view.may_hold_container(task)


def _old_task_left(view: View, held: Held, stopping: Collection[Task], now: datetime) -> timedelta:
    """Return how long to wait yet for old tasks to stop: at most a minute since they were told to.

    What was written last to a task that has not ended is, but for reports on its way there, that it shall stop.
    """
    blocking = [task for task in held.tasks if _is_blocking(view, task, stopping)]
    told_at = (now if task in stopping else task.metadata.updated_at or task.metadata.created_at for task in blocking)
    return max((time_left(stamp, OLD_TASK_TIMEOUT, now) for stamp in told_at), default=NOTHING)


def touched_by(action: Action | None) -> frozenset[str]:
    """Return the uids of the tasks that an action changes."""
    steps: Iterable[object] = action.steps if action is not None else ()
    return frozenset(
        step.new.metadata.uid for step in steps if isinstance(step, Replace) and isinstance(step.new, Task)
    )


def _succeed(
    view: View,
    held: Held,
    now: datetime,
    reason: str,
    note: str,
    *,
    stop: Collection[Task] = (),
    delay: timedelta | None = None,
    start_first: bool = False,
    held_back: bool = False,
    warning: bool = False,
) -> Action:
    """Create the slot's next task and tell others to stop, together.

    The next one waits as `ready` for a restart delay, for whatever is stopping where it can be reached, and, held
    back, for an old one that goes on until it is prepared.
    """
    waits = bool(delay) or held_back or any(_is_blocking(view, task, stop) for task in held.tasks)
    desired = DesiredState.READY if waits else view.wanted_state
    task = new_task(view, held, now, desired, delay, start_first)
    steps = (Create(task), point_at(view, held, task), *_told_to_stop(stop))
    return Action(
        reason, steps, (still_exists(view.owner),), f"{_label(view, held)}: {note}", about=view.owner, warning=warning
    )


def _adopt(view: View, held: Held, task: Task) -> Action:
    others = [one for one in held.tasks if one.spec.desired_state.is_live and one is not task]
    return Action("TaskKept", (point_at(view, held, task), *_told_to_stop(others)), (still_exists(view.owner),))


def _stop(view: View, held: Held, tasks: Iterable[Task], reason: str = "TaskSuperseded", why: str = "") -> Action:
    """Tell tasks to stop, as long as the slot points where it did: what takes over must still be there to do so."""
    tasks = tuple(tasks)
    compares = () if held.slot is None else (is_unchanged(held.slot),)
    note = f"{tasks[0].spec.service.name}.{tasks[0].spec.slot}: {why}; not replaced" if why else ""
    return Action(reason, tuple(_told_to_stop(tasks)), compares, note, view.owner, warning=bool(why))


def _told_to_stop(tasks: Iterable[Task]) -> list[Replace]:
    return [Replace(with_desired(task, DesiredState.SHUTDOWN)) for task in tasks]


def _label(view: View, held: Held) -> str:
    return f"{view.owner.metadata.name}.{held.name}"


def _why(task: Task, node: Node | None) -> str:
    """Say in a few words what ended a task."""
    status = task.status
    if status.state.is_terminal:
        return f"{status.state.value}{f' ({status.err or status.message})' if status.err or status.message else ''}"
    name = task.spec.node.name if task.spec.node else ""
    if node is None:
        return f"node {name} was removed"
    if is_lost(node):
        return f"node {name} is down"
    return f"node {name} is drained" if is_drained(node) else "was stopped"
