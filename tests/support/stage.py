"""One service on a stage: a real Cache, in which controllers' plans take effect at once and tests play the agents.

Every write is checked as the store would: its compares hold, and its writer may write it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import replace

from controllers.replication import CONTROLLER as REPLICATION
from controllers.rollout import CONTROLLER as ROLLOUT
from shoal.api import keys, ownership
from shoal.api.codec import with_meta
from shoal.api.meta import Meta, Ref, derived_uid
from shoal.api.objects import (
    Backend,
    BackendSpec,
    BackendStatus,
    Node,
    Object,
    Revision,
    Rollout,
    Service,
    Slot,
    Task,
    TaskAddress,
)
from shoal.api.states import DesiredState, TaskState
from shoal.machinery.cache import Cache
from shoal.machinery.clock import VirtualClock
from shoal.machinery.controller import Action, Controller, Create, Plan, Remove, Replace, any_of
from shoal.machinery.store import Exists, Unchanged
from shoal.machinery.testkit import changed, make_node, make_revision, make_service, ref_of, template_hash, template_of
from shoal.rules.ports import needs_ingress
from shoal.rules.reports import completed

ON_THE_MESH = (TaskAddress(Ref("ingress", "ingress"), "10.0.0.9/24", "02:42:0a:00:00:09"),)
"""What a placed task with published ports has."""


class Stage:
    def __init__(self, *objects: Object, controllers: Sequence[Controller[Any]] = (REPLICATION, ROLLOUT)) -> None:
        self.cache = Cache(index for controller in (REPLICATION, ROLLOUT) for index in controller.indexes)
        self.controllers = controllers
        self.now = VirtualClock.START
        self.revision = 0
        self.reasons: list[str] = []
        for obj in objects:
            self.put(obj)

    def put(self, obj: Object) -> None:
        self.revision += 1
        self.cache.set(keys.key_of(obj), with_meta(obj, resource_version=self.revision, updated_at=self.now))

    def drop(self, obj: Object) -> None:
        self.revision += 1
        self.cache.set(keys.key_of(obj), None)

    def deploy(self, name: str = "web", **spec: Any) -> Service:
        """Write a service and its revision as the API server does, creating or updating it."""
        old = self.cache.get(Service, keys.service(name))
        service = make_service(name, **spec)
        known = self.cache.all(Revision).values()
        if not any(one.spec.hash == service.status.revision for one in known):
            self.put(make_revision(service, number=1 + max((one.spec.number for one in known), default=0)))
        self.put(changed(old, service) if old is not None else service)
        return service

    def node(self, name: str, **changes: Any) -> Node:
        node = make_node(name, **changes)
        self.put(node)
        return node

    def plan(self, controller: Controller[Any] = REPLICATION, name: str = "web") -> Plan:
        view = controller.observe(make_service(name).metadata.uid, self.cache)
        return controller.plan(view, self.now) if view is not None else Plan()

    def settle(self, name: str = "web") -> timedelta | None:
        """Let the controllers act until none has anything to do; returns when one wants to look again."""
        for _ in range(20):
            plans = [(controller.name, self.plan(controller, name)) for controller in self.controllers]
            if not any(plan.actions for _, plan in plans):
                return any_of(*(plan.requeue_after for _, plan in plans))
            for actor, plan in plans:
                for action in plan.actions:
                    self.apply(action, actor)
        raise AssertionError(f"does not settle: {[(name, plan.actions) for name, plan in plans]}")

    def apply(self, action: Action, actor: str) -> None:
        for compare in action.all_compares():
            if isinstance(compare, Exists):
                assert self._revision_of(compare.key), f"{action.reason}: {compare.key} is absent"
            elif isinstance(compare, Unchanged) and self._revision_of(compare.key) != compare.revision:
                return
        for step in action.steps:
            match step:
                case Create(obj=obj):
                    ownership.check(actor, None, obj)
                    self.put(obj)
                case Replace(new=new):
                    ownership.check(actor, self.cache.get(type(new), keys.key_of(new)), new)
                    self.put(new)
                case Remove(obj=obj):
                    ownership.check(actor, obj, None)
                    self.drop(obj)
        self.reasons.append(action.reason)

    def _revision_of(self, key: str) -> int:
        kind = keys.kind_at(key)
        found = self.cache.get(kind, key) if kind is not None else None
        return found.metadata.resource_version if found is not None else 0

    def move(self, task: Task, state: TaskState, node: Node | None = None, **status: Any) -> None:
        """Report a task's state, placing it first if a node is given."""
        task = self.fresh(task)
        if node is not None:
            addresses = ON_THE_MESH if needs_ingress(task.spec.template) else ()
            task = replace(task, spec=replace(task.spec, node=ref_of(node), addresses=addresses))
        reported = replace(task.status, state=state, timestamp=self.now, **status)
        self.put(replace(task, status=completed(task, reported)))

    def work(self, *nodes: Node, only: str = "") -> None:
        """Let placement and the nodes' agents do all there is to do: start what shall run, stop what shall not.

        `only` is the uid of the one task they look at.
        """
        for number, task in enumerate(self.tasks(lambda task: only in ("", task.metadata.uid))):
            node = self._node_for(task, nodes, number)
            if task.status.state.is_terminal or node is None:
                continue
            if not task.spec.desired_state.is_live:
                self.move(task, TaskState.SHUTDOWN)
            elif task.spec.desired_state is DesiredState.READY:
                if task.status.state is not TaskState.READY:
                    self.move(task, TaskState.READY, node)
            elif task.status.state is not TaskState.RUNNING:
                self.move(task, TaskState.RUNNING, node)

    def _node_for(self, task: Task, nodes: Sequence[Node], number: int) -> Node | None:
        if task.spec.node is not None:
            return next((node for node in nodes if node.metadata.uid == task.spec.node.uid), None)
        return nodes[number % len(nodes)] if nodes else None

    def run(self, *nodes: Node, name: str = "web") -> None:
        """Let controllers and agents act in turn, moving time where they wait for it, until nothing moves."""
        for _ in range(40):
            before = self.revision
            wait = self.settle(name)
            self.work(*nodes)
            if self.revision == before:
                if wait is None:
                    return
                self.now += wait
        raise AssertionError("does not come to rest")

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def fresh(self, task: Task) -> Task:
        found = self.cache.get(Task, keys.key_of(task))
        assert found is not None
        return found

    def tasks(self, where: Callable[[Task], bool] = lambda task: True) -> list[Task]:
        """Tasks by slot and age."""
        found = [task for task in self.cache.all(Task).values() if where(task)]
        return sorted(found, key=lambda task: (len(task.spec.slot), task.spec.slot, _born(task)))

    def live(self) -> list[Task]:
        return self.tasks(lambda task: task.spec.desired_state.is_live)

    def live_slots(self) -> list[str]:
        return [task.spec.slot for task in self.live()]

    def slots(self) -> list[str]:
        return sorted(slot.spec.slot for slot in self.cache.all(Slot).values())

    def current(self, slot: str | int = 1) -> Task:
        """The task a slot points at."""
        uid = next(one.spec.task for one in self.cache.all(Slot).values() if one.spec.slot == str(slot))
        return next(task for task in self.tasks() if task.metadata.uid == uid)

    def services(self) -> list[Service]:
        return list(self.cache.all(Service).values())

    def left(self) -> list[str]:
        """Keys of everything that belongs to services."""
        kinds = (Service, Revision, Rollout, Slot, Task)
        return [key for kind in kinds for key in self.cache.all(kind)]

    def rollout(self) -> Rollout:
        (found,) = self.cache.all(Rollout).values()
        return found


def twin_of(task: Task) -> Task:
    """A second task of the same slot, as no controller of ours would make."""
    uid = derived_uid("twin", task.metadata.uid)
    return with_meta(task, uid=uid, name=keys.task_name(task.spec.service.name, task.spec.slot, uid))


def serve(stage: Stage, task: Task) -> None:
    """Let endpoint note that all nodes route to a task."""
    task = stage.fresh(task)
    assert task.spec.node is not None
    stage.put(
        Backend(
            metadata=Meta(name=task.metadata.name, uid=derived_uid("backend", task.metadata.uid)),
            spec=BackendSpec(task.spec.service, ref_of(task), task.spec.node),
            status=BackendStatus(ready=True, serving_at=stage.now),
        )
    )


def _born(task: Task) -> datetime:
    return task.metadata.created_at or VirtualClock.START


def running_on(stage: Stage) -> dict[str, list[str]]:
    """Node name → slots running there, wanted or not."""
    found: dict[str, list[str]] = {}
    for task in stage.tasks(lambda task: task.status.state is TaskState.RUNNING):
        assert task.spec.node is not None
        found.setdefault(task.spec.node.name, []).append(task.spec.slot)
    return found


def revisions_of(tasks: Iterable[Task]) -> set[str]:
    return {task.spec.revision for task in tasks}


def revision_named(**spec: Any) -> str:
    return template_hash(template_of(make_service(**spec).spec))
