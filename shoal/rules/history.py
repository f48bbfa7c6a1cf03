"""Which tasks of a slot are kept for people to look at, and which are forgotten. Pure.

Source: SwarmKit's manager/orchestrator/taskreaper.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from shoal.api.objects import Task

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def age_order(task: Task) -> tuple[datetime, str]:
    """Sort key: oldest task first, by the stamps of the one controller that creates tasks."""
    return task.metadata.created_at or _EPOCH, task.metadata.uid


def surplus(tasks: Sequence[Task], current: str, limit: int) -> tuple[Task, ...]:
    """Return which of a slot's tasks to forget: the oldest ended ones, so that `limit` are left in all.

    The slot's current task stays, and so does whatever has not ended, beyond the limit if need be. A negative limit
    keeps all.
    """
    excess = len(tasks) - limit
    if limit < 0 or excess <= 0:
        return ()
    ended = [task for task in tasks if task.status.state.is_terminal and task.metadata.uid != current]
    return tuple(sorted(ended, key=age_order)[:excess])
