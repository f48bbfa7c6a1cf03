"""placement: which node each task runs on.

Reconciles: all pending tasks together (one key: each choice changes what is left for the next).
Owns:       nothing.
Watches:    Tasks, Nodes, Services and Rollouts; reads Networks.
Writes:     a Task's node and resources with `pending` → `assigned`; why it stays pending; `evicted`.
Source:     swarm semantics 4.5 and 4.6 (SwarmKit's scheduler and constraint enforcer).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controllers.placement.evict import Resident, constraints_for, is_suited, may_leave, misfits
from controllers.placement.filters import Use
from controllers.placement.ledger import Foes, GroupKey, Ledger, NodeDoubts, RolloutDoubts, ServiceDoubts
from controllers.placement.plan import Group, PlacementView, plan
from shoal.api import keys
from shoal.api.objects import Node, Object, Rollout, Service, Task
from shoal.api.states import TASK_RANK, TaskState
from shoal.machinery.cache import Cache, Fold, Index
from shoal.machinery.controller import Controller

KEY = "placement"

_RESIDENTS = Index(Task, lambda task: (task.spec.node.uid,) if task.spec.node is not None and may_leave(task) else ())
_SERVICE_BY_UID = Index(Service, lambda service: (service.metadata.uid,))
_ROLLOUT_BY_SERVICE = Index(Rollout, lambda rollout: (rollout.status.service.uid,))


def observe(_: str, cache: Cache) -> PlacementView | None:
    ledger = cache.fold(Ledger)
    doubtful = _doubtful(ledger, cache)
    if not ledger.pending and not doubtful:
        return None
    if not ledger.pending:
        return PlacementView((), {}, (), {}, doubtful)
    nodes = tuple(sorted(cache.all(Node).values(), key=lambda node: node.metadata.uid))
    groups = sorted(
        (_group(key, ledger.waiting(key), cache) for key in ledger.pending),
        key=lambda group: (group.service.name, group.service.uid, group.revision),
    )
    failures = {
        key: {node: tuple(times.values()) for node, times in ledger.failures[key].items()}
        for key in ledger.pending.keys() & ledger.failures.keys()
    }
    return PlacementView(nodes, _uses(ledger, nodes), tuple(groups), failures, doubtful, cache.fold(Foes).all())


def _uses(ledger: Ledger, nodes: Iterable[Node]) -> dict[str, Use]:
    found = ((node.metadata.uid, ledger.use_of(node.metadata.uid)) for node in nodes)
    return {uid: use for uid, use in found if use is not None}


def _group(key: GroupKey, tasks: tuple[Task, ...], cache: Cache) -> Group:
    first = tasks[0].spec
    return Group(first.service, key[1], first.template, tasks, _service(key[0], cache))


def _doubtful(ledger: Ledger, cache: Cache) -> tuple[tuple[Node, tuple[Resident, ...]], ...]:
    """Return the nodes that somebody has to leave; forget those that are in order."""
    _check_arrivals(ledger, cache)
    found: list[tuple[Node, tuple[Resident, ...]]] = []
    for uid in sorted(ledger.doubtful):
        node = cache.get(Node, keys.node(uid))
        residents = _residents(uid, cache) if node is not None else ()
        if node is not None and misfits(node, residents):
            found.append((node, residents))
        else:
            ledger.doubtful.discard(uid)
    return tuple(found)


def _check_arrivals(ledger: Ledger, cache: Cache) -> None:
    """Doubt the nodes that changed while a task was being assigned to them."""
    for task in ledger.arrived.values():
        uid = task.spec.node.uid if task.spec.node is not None else ""
        node, use = cache.get(Node, keys.node(uid)), ledger.use_of(uid)
        if node is not None and use is not None and not is_suited(node, _resident(task, cache), use.reserved):
            ledger.doubtful.add(uid)
    ledger.arrived.clear()


def _residents(node: str, cache: Cache) -> tuple[Resident, ...]:
    return tuple(_resident(task, cache) for task in cache.by(_RESIDENTS, node).values())


def _resident(task: Task, cache: Cache) -> Resident:
    service = _service(task.spec.service.uid, cache)
    rollout = next(iter(cache.by(_ROLLOUT_BY_SERVICE, task.spec.service.uid).values()), None)
    return Resident(task, constraints_for(task, service, rollout))


def _service(uid: str, cache: Cache) -> Service | None:
    return next(iter(cache.by(_SERVICE_BY_UID, uid).values()), None)


def _task_keys(task: Task) -> Iterable[str]:
    """A task that merely goes on its way changes nothing for others."""
    state = task.status.state
    is_on_its_way = (
        state is TaskState.NEW or TASK_RANK[TaskState.ACCEPTED] <= state.rank <= TASK_RANK[TaskState.RUNNING]
    )
    return () if is_on_its_way and task.spec.desired_state.is_live and not task.spec.evicted else (KEY,)


def _always(_: Object) -> Iterable[str]:
    return (KEY,)


def make_folds() -> tuple[Fold[Any], ...]:
    ledger = Ledger()
    return ledger, NodeDoubts(ledger), ServiceDoubts(ledger), RolloutDoubts(ledger), Foes()


CONTROLLER = Controller[PlacementView](
    name="placement",
    watches={Task: _task_keys, Node: _always, Service: _always, Rollout: _always},
    observe=observe,
    plan=plan,
    indexes=(_RESIDENTS, _SERVICE_BY_UID, _ROLLOUT_BY_SERVICE),
    folds=make_folds,
    coalesce_s=0.02,
)
