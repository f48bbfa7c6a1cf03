"""nodes: who is there.

Reconciles: every node's state, from what API servers hear (one key, because the brake looks at all of them).
Owns:       nothing.
Watches:    Presences, Nodes and the Cluster's settings; reads Tasks.
Writes:     a Node's state, message and since; `orphaned` into tasks of nodes that were removed or down for a day.
Source:     DESIGN 6; swarm semantics 4.8 for what orphans are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from controllers.nodes.hearing import Hearing, Known
from controllers.nodes.plan import NodesView, plan
from shoal.api.keys import CLUSTER
from shoal.api.objects import Cluster, ClusterSpec, Node, Presence, Task
from shoal.api.states import NodeState
from shoal.machinery.cache import Cache, Fold, Index
from shoal.machinery.clock import SystemClock
from shoal.machinery.controller import Controller

KEY = "nodes"


def _node_of(task: Task) -> tuple[str, ...]:
    where = task.spec.node
    return (where.uid,) if where is not None and task.status.state.is_assigned else ()


_TASKS_BY_NODE = Index(Task, _node_of)


class Occupied(Fold[Task]):
    """Which nodes have tasks, whether the nodes exist or not."""

    kind = Task

    def __init__(self) -> None:
        self.nodes: Counter[str] = Counter()

    def change(self, old: Task | None, new: Task | None) -> None:
        before, after = (_node_of(task) if task is not None else () for task in (old, new))
        for uids, sign in ((before, -1), (after, 1)) if before != after else ():
            for uid in uids:
                self.nodes[uid] += sign
                if not self.nodes[uid]:
                    del self.nodes[uid]


def observe(_: str, cache: Cache) -> NodesView:
    nodes = {node.metadata.uid: node for node in cache.all(Node).values()}
    occupied = cache.fold(Occupied).nodes.keys()
    removed = occupied - nodes.keys()
    down = {uid for uid in occupied & nodes.keys() if nodes[uid].status.state is NodeState.DOWN}
    cluster = cache.get(Cluster, CLUSTER)
    return NodesView(
        nodes=tuple(nodes[uid] for uid in sorted(nodes)),
        cluster=cluster.spec if cluster is not None else ClusterSpec(),
        hearing=cache.fold(Hearing).listen(),
        tasks={uid: cache.by(_TASKS_BY_NODE, uid) for uid in removed | down},
        removed=tuple(sorted(removed)),
    )


def make_controller(monotonic: Callable[[], float]) -> Controller[NodesView]:
    """Make the controller with a clock of one's own choice: what was heard is stamped by it."""

    def make_folds() -> tuple[Fold[Node], Fold[Presence], Fold[Task]]:
        known = Known(monotonic)
        return known, Hearing(monotonic, known), Occupied()

    return Controller(
        name="nodes",
        watches={Presence: lambda _: (KEY,), Node: lambda _: (KEY,), Cluster: lambda _: (KEY,)},
        observe=observe,
        plan=plan,
        indexes=(_TASKS_BY_NODE,),
        folds=make_folds,
        live=True,
        reads=(Task,),
    )


CONTROLLER = make_controller(SystemClock().monotonic)
