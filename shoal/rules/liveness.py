"""Whether a task runs, can still run, or is over, given the node it is on. Pure.

A task's stored state is what its node last said; the node may have fallen silent or left since.
"""

from __future__ import annotations

from shoal.api.objects import Node, Task
from shoal.api.states import Availability, NodeState, TaskState


def is_lost(node: Node | None) -> bool:
    """Nothing is heard of the node any more: it is down, or was removed."""
    return node is None or node.status.state is NodeState.DOWN


def is_drained(node: Node) -> bool:
    return node.spec.availability is Availability.DRAIN


def is_unusable(task: Task, node: Node | None) -> bool:
    """The task has a node, and no task may run there: replace it at once. (SwarmKit's InvalidNode)"""
    return task.spec.node is not None and (node is None or is_lost(node) or is_drained(node))


def is_over(task: Task, node: Node | None) -> bool:
    """No container of the task will run again: it ended, or its node was removed."""
    return task.status.state.is_terminal or (task.spec.node is not None and node is None)


def may_hold_container(task: Task, node: Node | None) -> bool:
    """The task's container may be running on a node that can be reached: a twin has to wait for it."""
    return task.status.state.is_assigned and not is_lost(node)


def is_unclaimed(task: Task) -> bool:
    """No agent has heard of the task: it can be deleted without anybody stopping anything."""
    return task.status.state in (TaskState.NEW, TaskState.PENDING)


def is_running(task: Task, node: Node | None) -> bool:
    """The task is wanted, was seen running, and its node is up: what `get` counts."""
    return task.status.state is TaskState.RUNNING and task.spec.desired_state.is_live and not is_lost(node)
