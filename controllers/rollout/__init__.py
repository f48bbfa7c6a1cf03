"""The rollout controller: when each slot of a service may run its newest revision.

Reconciles: a service, by its uid.
Owns: the service's Rollout; collects Revisions and References, which the API server writes.
Watches: services, revisions, references, slots, tasks.
Writes: the Rollout's status, one compare-and-swap per pass. It never touches a task.
Source: SwarmKit's manager/orchestrator/update.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from controllers.rollout.plan import plan
from controllers.rollout.view import View
from shoal.api import keys
from shoal.api.objects import Node, Reference, Revision, Rollout, Service, Slot, Task
from shoal.api.states import TaskState
from shoal.machinery.cache import Cache, Index
from shoal.machinery.controller import Controller
from shoal.rules.progress import merely_proceeds
from shoal.rules.slots import IN_PROGRESS

SERVICES: Final = Index(Service, lambda service: (service.metadata.uid,))
REVISIONS: Final = Index(Revision, lambda revision: (revision.spec.service.uid,))
ROLLOUTS: Final = Index(Rollout, lambda rollout: (rollout.status.service.uid,))
REFERENCES: Final = Index(Reference, lambda one: (one.metadata.owner.uid,) if one.metadata.owner else ())
SLOTS: Final = Index(Slot, lambda slot: (slot.spec.service.uid,))
TASKS: Final = Index(Task, lambda task: (task.spec.service.uid,))
ON_NODE: Final = Index(Task, lambda task: (task.spec.node.uid,) if task.spec.node else ())


def observe(key: str, cache: Cache) -> View | None:
    """Gather what belongs to the service with this uid; None once nothing of ours is left, or it cannot be read."""
    service = next(iter(cache.by(SERVICES, key).values()), None)
    rollout = next(iter(cache.by(ROLLOUTS, key).values()), None)
    revisions = tuple(cache.sorted_by(REVISIONS, key))
    references = tuple(cache.sorted_by(REFERENCES, key))
    if service is None:
        names = {revision.spec.service.name for revision in revisions}
        names |= {rollout.status.service.name} if rollout else set()
        names |= {reference.metadata.owner.name for reference in references if reference.metadata.owner}
        is_known_gone = names and not any(cache.is_unreadable(keys.service(name)) for name in names)
        return View(None, rollout, revisions, references=references) if is_known_gone else None
    tasks = tuple(cache.sorted_by(TASKS, key))
    nodes = (cache.get(Node, keys.node(uid)) for uid in {task.spec.node.uid for task in tasks if task.spec.node})
    return View(
        service=service,
        rollout=rollout,
        revisions=revisions,
        slots={slot.spec.slot: slot for slot in cache.sorted_by(SLOTS, key)},
        tasks=tasks,
        nodes={node.metadata.uid: node for node in nodes if node is not None},
        references=references,
    )


def services_on(node: Node, cache: Cache) -> Iterable[str]:
    """Return the services with tasks on a node: without it, a rollout may be complete."""
    return {task.spec.service.uid for task in cache.by(ON_NODE, node.metadata.uid).values()}


def is_of_no_concern(old: Task, new: Task, cache: Cache) -> bool:
    """Say whether a changed task moves no rollout: it goes on its way, and nothing waits for it to run."""
    if not merely_proceeds(old, new):
        return False
    rollout = next(iter(cache.by(ROLLOUTS, new.spec.service.uid).values()), None)
    if rollout is None:
        return False
    return rollout.status.state not in IN_PROGRESS or new.status.state is not TaskState.RUNNING


CONTROLLER: Final = Controller(
    name="rollout",
    watches={
        Service: lambda service: (service.metadata.uid,),
        Rollout: lambda rollout: (rollout.status.service.uid,),
        Revision: lambda revision: (revision.spec.service.uid,),
        Reference: lambda one: (one.metadata.owner.uid,) if one.metadata.owner else (),
        Slot: lambda slot: (slot.spec.service.uid,),
        Task: lambda task: (task.spec.service.uid,),
    },
    reaches={Node: services_on},
    observe=observe,
    plan=plan,
    indexes=(SERVICES, REVISIONS, ROLLOUTS, REFERENCES, SLOTS, TASKS, ON_NODE),
    coalesce_s=0.02,
    ignores={Task: is_of_no_concern},
)
