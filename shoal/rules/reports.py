"""What is stored with a status that a task's node reports. Pure.

The node knows the container, the store knows what was wanted: only together do they tell whether an end was a failure.
"""

from __future__ import annotations

import msgspec

from shoal.api.objects import Task, TaskStatus
from shoal.api.states import TaskState


def completed(task: Task, status: TaskStatus) -> TaskStatus:
    """Return a reported status with when the task began to run, and whether it ended unasked.

    That is told by what the store wants of the task as the status is stored: a task that was told to stop, or to leave
    its node, did what it was asked.
    """
    running_at = status.running_at or task.status.running_at
    if running_at is None and status.state is TaskState.RUNNING:
        running_at = status.timestamp
    if running_at is None and task.status.state is TaskState.RUNNING:
        running_at = task.status.timestamp
    is_wanted = task.spec.desired_state.is_live and not task.spec.evicted
    return msgspec.structs.replace(status, running_at=running_at, unasked=status.state.is_terminal and is_wanted)
