"""What the rollout controller looks at: one service, its Rollout, revisions, References and slots. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from shoal.api.defaults import effective_rollback, effective_update
from shoal.api.objects import Node, Reference, Revision, Rollout, RolloutStatus, Service, Slot, Task, Update
from shoal.api.states import TaskState
from shoal.api.template import TaskTemplate
from shoal.rules.dirtiness import is_dirty, template_of
from shoal.rules.history import age_order
from shoal.rules.liveness import is_running
from shoal.rules.slots import BACKWARDS, may_join, slot_order


@dataclass(frozen=True)
class View:
    """`service` is None once it is deleted; `nodes` holds those its tasks are on."""

    service: Service | None
    rollout: Rollout | None = None
    revisions: tuple[Revision, ...] = ()
    slots: Mapping[str, Slot] = field(default_factory=dict)
    tasks: tuple[Task, ...] = ()
    nodes: Mapping[str, Node] = field(default_factory=dict)
    references: tuple[Reference, ...] = ()

    @property
    def owner(self) -> Service:
        """The service, where it is known to exist."""
        assert self.service is not None
        return self.service

    @cached_property
    def template(self) -> TaskTemplate:
        """The newest template of the service: what a rollout is to bring."""
        return template_of(self.owner.spec)

    @cached_property
    def current(self) -> Mapping[str, Task]:
        """Slot name → the task its Slot points at, in the order of slots; vacant slots are left out."""
        by_uid = {task.metadata.uid: task for task in self.tasks}
        names = sorted(self.slots, key=slot_order)
        return {name: by_uid[uid] for name in names if (uid := self.slots[name].spec.task) in by_uid}

    @cached_property
    def live(self) -> Mapping[str, tuple[Task, ...]]:
        """Slot name → its tasks that are wanted alive: two while a start-first update is under way there."""
        found: dict[str, tuple[Task, ...]] = {}
        for task in self.tasks:
            if task.spec.desired_state.is_live:
                found[task.spec.slot] = (*found.get(task.spec.slot, ()), task)
        return found

    @cached_property
    def _by_slot(self) -> Mapping[str, tuple[Task, ...]]:
        found: dict[str, list[Task]] = {}
        for task in sorted(self.tasks, key=age_order):
            found.setdefault(task.spec.slot, []).append(task)
        return {slot: tuple(tasks) for slot, tasks in found.items()}

    def in_slot(self, slot: str) -> tuple[Task, ...]:
        """Return all tasks of a slot that are still stored, oldest first."""
        return self._by_slot.get(slot, ())

    def revision(self, digest: str) -> Revision | None:
        return next((revision for revision in self.revisions if revision.spec.hash == digest), None)

    def settings(self, status: RolloutStatus) -> Update:
        """Return how a rollout proceeds: a rollback has settings of its own."""
        return (effective_rollback if status.state in BACKWARDS else effective_update)(self.owner.spec)

    def node_of(self, task: Task) -> Node | None:
        return None if task.spec.node is None else self.nodes.get(task.spec.node.uid)

    def is_dirty(self, slot: str) -> bool:
        """Say whether the slot holds anything but one task as the newest template asks for."""
        task = self.current.get(slot)
        if task is None:
            return False
        if len(self.live.get(slot, ())) > 1:
            return True
        return is_dirty(task, self.owner.status.revision, self.template, self.node_of(task))

    def is_updated(self, slot: str) -> bool:
        """Say whether the slot runs the newest template (or ran it to its end), and nothing else."""
        task = self.current.get(slot)
        if task is None or self.is_dirty(slot):
            return False
        return is_running(task, self.node_of(task)) or task.status.state is TaskState.COMPLETE

    def is_waited_for(self, slot: str) -> bool:
        """Say whether a rollout is incomplete without the slot: it was not scaled away, nor is its node out of use."""
        if slot not in self.slots:
            return False
        if not self.owner.spec.mode.is_global:
            return True
        node = self.nodes.get(slot)
        return node is not None and may_join(node)
