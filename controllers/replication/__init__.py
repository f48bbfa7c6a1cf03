"""The replication controller: one runnable task per slot of every service.

Reconciles: a service, by its uid.
Owns: tasks (creation, desired state, deletion) and slots.
Watches: services, rollouts, slots, tasks, backends of start-first updates, nodes.
Writes: one action per slot, guarded by the Slot's revision: a stale view meets a conflict, never a twin.
Source: SwarmKit's manager/orchestrator (replicated, global, restart, update, taskreaper).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from controllers.replication.plan import plan
from controllers.replication.view import View
from shoal.api import keys
from shoal.api.objects import Backend, Cluster, ClusterSpec, Node, Revision, Rollout, Service, Slot, Task
from shoal.machinery.cache import Cache, Index
from shoal.machinery.controller import Controller
from shoal.rules.liveness import is_unusable
from shoal.rules.progress import merely_proceeds

SERVICES: Final = Index(Service, lambda service: (service.metadata.uid,))
GLOBALS: Final = Index(Service, lambda service: ("global",) if service.spec.mode.is_global else ())
REVISIONS: Final = Index(Revision, lambda revision: (revision.spec.service.uid,))
ROLLOUTS: Final = Index(Rollout, lambda rollout: (rollout.status.service.uid,))
SLOTS: Final = Index(Slot, lambda slot: (slot.spec.service.uid,))
TASKS: Final = Index(Task, lambda task: (task.spec.service.uid,))
ON_NODE: Final = Index(Task, lambda task: (task.spec.node.uid,) if task.spec.node else ())
SERVING: Final = Index(Backend, lambda backend: (backend.spec.service.uid,) if backend.status.serving_at else ())


def observe(key: str, cache: Cache) -> View | None:
    """Gather what belongs to the service with this uid; None once nothing of it is left, or it cannot be read."""
    service = next(iter(cache.by(SERVICES, key).values()), None)
    slots = {slot.spec.slot: slot for slot in cache.sorted_by(SLOTS, key)}
    tasks = tuple(cache.sorted_by(TASKS, key))
    names = {slot.spec.service.name for slot in slots.values()} | {task.spec.service.name for task in tasks}
    if service is None and (not names or any(cache.is_unreadable(keys.service(name)) for name in names)):
        return None
    cluster = cache.get(Cluster, keys.CLUSTER)
    return View(
        service=service,
        rollout=next(iter(cache.by(ROLLOUTS, key).values()), None),
        templates={revision.spec.hash: revision.spec.template for revision in cache.sorted_by(REVISIONS, key)},
        slots=slots,
        tasks=tasks,
        nodes=dict(_nodes(service, tasks, cache)),
        serving=frozenset(backend.spec.task.uid for backend in cache.by(SERVING, key).values()),
        history_limit=(cluster.spec if cluster is not None else ClusterSpec()).task_history_limit,
    )


def _nodes(service: Service | None, tasks: Iterable[Task], cache: Cache) -> Iterator[tuple[str, Node]]:
    if service is not None and service.spec.mode.is_global:
        yield from ((node.metadata.uid, node) for _, node in sorted(cache.all(Node).items()))
        return
    for uid in sorted({task.spec.node.uid for task in tasks if task.spec.node is not None}):
        node = cache.get(Node, keys.node(uid))
        if node is not None:
            yield uid, node


def services_on(node: Node, cache: Cache) -> Iterable[str]:
    """Return the services that a change of a node concerns: those with tasks there, and all global ones."""
    there: Mapping[str, Task] = cache.by(ON_NODE, node.metadata.uid)
    everywhere: Mapping[str, Service] = cache.by(GLOBALS, "global")
    return {task.spec.service.uid for task in there.values()} | {one.metadata.uid for one in everywhere.values()}


def is_of_no_concern(old: Task, new: Task, cache: Cache) -> bool:
    """Say whether a changed task leaves its slot as it is: it goes on its way, where it can.

    How far it is counts only for one that is to take over from another.
    """
    if not merely_proceeds(old, new) or new.spec.replaces:
        return False
    where = new.spec.node
    return where is None or not is_unusable(new, cache.get(Node, keys.node(where.uid)))


CONTROLLER: Final = Controller(
    name="replication",
    watches={
        Service: lambda service: (service.metadata.uid,),
        Rollout: lambda rollout: (rollout.status.service.uid,),
        Slot: lambda slot: (slot.spec.service.uid,),
        Task: lambda task: (task.spec.service.uid,),
        Backend: lambda backend: (backend.spec.service.uid,) if backend.status.serving_at else (),
    },
    reaches={Node: services_on},
    observe=observe,
    plan=plan,
    indexes=(SERVICES, GLOBALS, REVISIONS, ROLLOUTS, SLOTS, TASKS, ON_NODE, SERVING),
    coalesce_s=0.02,
    reads=(Revision, Cluster),
    ignores={Task: is_of_no_concern},
)
