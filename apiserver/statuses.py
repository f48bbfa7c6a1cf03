"""What agents say of their tasks, merged into the store: own tasks only, states only grow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from apiserver.mirror import Mirror
from shoal.api import keys, ownership
from shoal.api import objects as o
from shoal.api.errors import InvariantError, UnavailableError
from shoal.api.states import TaskState
from shoal.machinery.cache import Cache
from shoal.machinery.controller import Action, Replace
from shoal.machinery.writer import Writer
from shoal.rules.reports import completed

ROUNDS: Final = 8
"""Times a status that met another's write to its task is merged anew before the agent is asked to come again."""


def merged(task: o.Task | None, node: str, name: str, status: o.TaskStatus) -> o.Task | str | None:
    """Return the task with its new status; why that is refused; or None where nothing is new. Pure."""
    if task is None:
        return f"there is no task {name}"
    if task.spec.node is None or task.spec.node.uid != node:
        return f"task {name} is not assigned to this node"
    if task.status.state.rank < TaskState.ASSIGNED.rank:
        return f"task {name} is not assigned yet"
    status = completed(task, status)
    if status.state.rank < task.status.state.rank or status == task.status:
        return None
    new = msgspec.structs.replace(task, status=status)
    try:
        ownership.check(ownership.API, task, new)
    except InvariantError:
        return f"an agent does not say {status.state} of task {name}"
    return new


async def merge_statuses(
    mirror: Mirror, writer: Writer, node: str, statuses: Mapping[str, o.TaskStatus]
) -> dict[str, str]:
    """Write statuses, all that can go together in one transaction; return task name → why it was refused.

    A conflict with a controller's write to the same task is settled by reading again. UnavailableError when that does
    not end, or the store is away: the agent says it all again.
    """
    refused: dict[str, str] = {}
    left = dict(statuses)
    for _ in range(ROUNDS):
        cache = await mirror.fresh()
        seen = mirror.revision
        actions, now_refused = _actions(cache, node, left)
        refused |= now_refused
        if not actions:
            return refused
        outcome = await writer.apply(actions, mirror.read, independent=True)
        mirror.written = max(mirror.written, outcome.revision)
        if not outcome.conflicts:
            return refused
        met = {conflict.key for conflict in outcome.conflicts}
        left = {name: status for name, status in left.items() if keys.task(name) in met}
        await mirror.catch_up(seen, *outcome.conflicts)
    raise UnavailableError(f"others keep writing to {', '.join(sorted(left))}: say it again")


def _actions(cache: Cache, node: str, statuses: Mapping[str, o.TaskStatus]) -> tuple[list[Action], dict[str, str]]:
    actions, refused = [], {}
    for name, status in statuses.items():
        result = merged(cache.get(o.Task, keys.task(name)), node, name, status)
        if isinstance(result, o.Task):
            actions.append(Action("StatusReported", (Replace(result),)))
        elif result is not None:
            refused[name] = result
    return actions, refused
