"""Whether and when a task that ended is replaced by its restart policy. Pure.

A slot's history is nothing but its stored tasks, so it survives every restart of ours; `shoal.rules.history` keeps
as many as are counted here.
Source: SwarmKit's manager/orchestrator/restart.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from shoal.api.defaults import effective_restart
from shoal.api.objects import Node, Task
from shoal.api.states import DesiredState, RestartCondition, TaskState
from shoal.rules.liveness import is_unusable
from shoal.rules.waiting import NOTHING, time_left

OLD_TASK_TIMEOUT: Final = timedelta(minutes=1)
"""How long a replacement waits for the old task to stop. Source: SwarmKit's defaultOldTaskTimeout."""


def is_restart(task: Task) -> bool:
    """The task was made by the restart policy, not by an update, a scale-up or a person."""
    return task.spec.restart_after is not None


def may_restart(task: Task, slot_tasks: Iterable[Task], now: datetime) -> bool:
    """Say whether the policy in the task's own template lets it be replaced.

    Restarts are counted per slot and revision. With a window only those made within it before the task ended count;
    that end was stamped by the node's clock, so it is kept between the task's creation and now.
    """
    policy = effective_restart(task.spec.template)
    if policy.condition is RestartCondition.NONE:
        return False
    if policy.condition is RestartCondition.ON_FAILURE and task.status.state is TaskState.COMPLETE:
        return False
    if policy.max_attempts == 0:
        return True
    restarts = [other for other in slot_tasks if is_restart(other) and other.spec.revision == task.spec.revision]
    if policy.window:
        ended_at = _ended_at(task, now)
        opens_at = ended_at - timedelta(seconds=policy.window.seconds)
        restarts = [other for other in restarts if opens_at < (other.metadata.created_at or now) <= ended_at]
    return len(restarts) < policy.max_attempts


def restart_delay(task: Task, node: Node | None) -> timedelta:
    """Return how long the replacement of a task waits: the policy's delay, nothing where the node is to blame."""
    if is_unusable(task, node) or task.status.state is TaskState.ORPHANED:
        return NOTHING
    return timedelta(seconds=effective_restart(task.spec.template).delay.seconds)


def delay_left(task: Task, now: datetime) -> timedelta:
    """Return how long a `ready` replacement has to wait yet; nothing for any other task."""
    after, born = task.spec.restart_after, task.metadata.created_at
    if task.spec.desired_state is not DesiredState.READY or after is None or born is None:
        return NOTHING
    return time_left(born, after - born, now)


def _ended_at(task: Task, now: datetime) -> datetime:
    born = task.metadata.created_at or now
    return min(max(task.status.timestamp or now, born), now)
