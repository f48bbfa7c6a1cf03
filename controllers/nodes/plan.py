"""What the nodes controller decides. Pure.

    any state ──(heard)──► ready
    any state ──(silent for a period and a second)──► down ──(a day)──► its tasks are orphans
    any state ──(its host left)──► down for good

"Silent" is measured by this process's own monotonic clock (see `hearing`). When more than half of at least five ready
nodes fall silent within one period, the fault is more likely ours than theirs: the brake holds everything for a while.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from shoal.api.objects import ClusterSpec, Node, Task, TaskStatus
from shoal.api.states import NodeState, TaskState
from shoal.machinery.controller import Action, Plan, Replace, any_of

GRACE_S: Final = 1.0
"""Seconds beyond the heartbeat period before a silent node is down."""

UNSERVED_S: Final = 15.0
"""Seconds of silence that a node may keep while it looks for an API server, as all are new, or the one that heard it is
gone: a thousand that come at once wait at its door, and a manager that boots starts its own agent after its API server.
A manager without power takes its own server along: it gets none."""

CROWD_S: Final = 5.0
"""Seconds since connections last waited at an API server's door in which such a node may yet be heard."""

UNSERVED_MOST_S: Final = 60.0
"""Seconds that such a node has at most, however many wait: strangers could, for ever."""

LEFT: Final = "its host has left the swarm"

BRAKE_FROM: Final = 5
"""Ready nodes from which the brake works: of fewer, half is too easily reached by honest failures."""


@dataclass(frozen=True)
class Heard:
    """What is known from fresh API servers; all times in seconds before this moment."""

    heard: frozenset[str] = frozenset()
    silent_s: Mapping[str, float] = field(default_factory=dict)
    """How long each node that is not heard has not been heard, or watched for."""
    told_s: Mapping[str, float] = field(default_factory=dict)
    """Since when the API server that last heard a node has been saying that a period passed without a beat."""
    fell_s: Mapping[str, float] = field(default_factory=dict)
    """When each node last fell silent, even if it is back."""
    counting_s: float = 0.0
    """How long there has been a fresh API server without a break."""
    unserved: frozenset[str] = frozenset()
    """Nodes that no API server has heard yet, or that are not heard as the one that did is gone, on another node."""
    crowded_s: float = math.inf
    """How long ago connections last waited at the door of a fresh API server."""


@dataclass(frozen=True)
class NodesView:
    nodes: tuple[Node, ...]
    cluster: ClusterSpec
    hearing: Heard | None
    """None = no API server is fresh, so nobody can be judged."""
    tasks: Mapping[str, Mapping[str, Task]]
    """Tasks that are assigned to nodes that are down or removed, by node uid."""
    removed: tuple[str, ...]
    """Nodes that have tasks but do not exist."""


def plan(view: NodesView, now: datetime) -> Plan:
    left = [
        _move(node, NodeState.DOWN, LEFT, now)
        for node in view.nodes
        if node.status.left_at is not None and node.status.state is not NodeState.DOWN
    ]
    judged, wait, because = _judge(view, now)
    lost, orphan_wait = _orphan_lost(view, now)
    removed = [
        _orphan(task, "task belonged to a node that has been removed", now)
        for uid in view.removed
        for task in _sorted(view.tasks.get(uid, {}))
    ]
    return Plan((*left, *judged, *lost, *removed), any_of(wait, orphan_wait), because, independent=True)


def _judge(view: NodesView, now: datetime) -> tuple[list[Action], timedelta | None, str]:
    """Decide who is ready and who is down."""
    hearing = view.hearing
    if hearing is None:
        return [], None, "no API server is fresh"
    actions: list[Action] = []
    due: list[Node] = []
    waits: list[float] = []
    for node in view.nodes:
        uid = node.metadata.uid
        if node.status.left_at is not None:
            continue
        if uid in hearing.heard:
            if node.status.state is not NodeState.READY:
                actions.append(_move(node, NodeState.READY, "", now))
        elif node.status.state is not NodeState.DOWN:
            left = _time_left(uid, hearing, view.cluster)
            if left <= 0:
                due.append(node)
            else:
                waits.append(left)
    held = _brake(view.nodes, hearing, view.cluster) if due else 0.0
    if held > 0:
        because = f"{len(due)} nodes fell silent at once; nothing moves for {held:.0f} s"
        return actions, timedelta(seconds=min([held, *waits])), because
    actions += [_move(node, NodeState.DOWN, "heartbeat failure", now) for node in due]
    return actions, timedelta(seconds=min(waits)) if waits else None, ""


def _time_left(uid: str, hearing: Heard, cluster: ClusterSpec) -> float:
    """Return for how many seconds a silent node may go on being silent.

    A whole period and the grace from when it was last heard; its API server's word, which comes after a period of
    silence, stands for the period. With 5 s: told silent at 5.0 s, down at 6.0 s. Where its API server is gone, 15 s;
    and longer while a crowd waits at another one's door, the node perhaps in it.
    """
    whole = cluster.heartbeat_period.seconds + GRACE_S
    if uid in hearing.told_s:
        return max(GRACE_S - hearing.told_s[uid], whole - hearing.counting_s)
    silent_s = hearing.silent_s.get(uid, 0.0)
    if uid in hearing.unserved:
        crowded_until_s = silent_s + CROWD_S - hearing.crowded_s
        whole = max(whole, UNSERVED_S, min(crowded_until_s, UNSERVED_MOST_S))
    return whole - silent_s


def _brake(nodes: Iterable[Node], hearing: Heard, cluster: ClusterSpec) -> float:
    """Return for how many seconds nothing may move, 0 if all may.

    With ten ready nodes and a period of 5 s: six that fell silent 3.0 to 5.5 s ago hold everything until the last fall
    is a minute old, 57 s from now, even if one of them is back.
    """
    ready = [node.metadata.uid for node in nodes if node.status.state is NodeState.READY and not node.status.left_at]
    falls = sorted(hearing.fell_s[uid] for uid in ready if uid in hearing.fell_s)
    most = len(ready) // 2
    if len(ready) < BRAKE_FROM or len(falls) <= most:
        return 0.0
    period = cluster.heartbeat_period.seconds
    together = (first for first, last in zip(falls, falls[most:], strict=False) if last - first <= period)
    return max(0.0, cluster.brake.seconds - next(together, cluster.brake.seconds))


def _move(node: Node, state: NodeState, message: str, now: datetime) -> Action:
    status = replace(node.status, state=state, message=message, since=now)
    is_down = state is NodeState.DOWN
    note = f"node {node.metadata.name} is {state.value}" + (f": {message}" if message else "")
    new = replace(node, status=status)
    return Action("NodeDown" if is_down else "NodeReady", (Replace(new),), (), note, node, warning=is_down)


def _orphan_lost(view: NodesView, now: datetime) -> tuple[list[Action], timedelta | None]:
    """Give up the tasks of nodes that have been down for too long, and return when the next may be due."""
    actions: list[Action] = []
    waits: list[timedelta | None] = []
    interval = timedelta(seconds=view.cluster.orphan_after.seconds)
    for node in view.nodes:
        tasks = view.tasks.get(node.metadata.uid)
        if node.status.state is not NodeState.DOWN or not tasks or node.status.since is None:
            continue
        left = min(max(node.status.since + interval - now, timedelta(0)), interval)
        if left:
            waits.append(left)
        else:
            why = f"node {node.metadata.name} has been down for {view.cluster.orphan_after}"
            actions += [_orphan(task, why, now) for task in _sorted(tasks)]
    return actions, any_of(*waits)


def _orphan(task: Task, why: str, now: datetime) -> Action:
    status = TaskStatus(TaskState.ORPHANED, now, why, container=task.status.container)
    return Action("TaskOrphaned", (Replace(replace(task, status=status)),))


def _sorted(tasks: Mapping[str, Task]) -> list[Task]:
    return [tasks[key] for key in sorted(tasks)]
