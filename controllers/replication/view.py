"""What the replication controller looks at: one service and everything that is its own. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from shoal.api.meta import Ref
from shoal.api.objects import ClusterSpec, Node, Rollout, Service, Slot, Task, ref_of
from shoal.api.states import DesiredState, TaskState
from shoal.api.template import TaskTemplate
from shoal.rules.dirtiness import is_dirty, template_of
from shoal.rules.history import age_order
from shoal.rules.liveness import is_unusable, may_hold_container
from shoal.rules.resources import capacity_of, reserved_by
from shoal.rules.slots import Rights, is_member, rights


@dataclass(frozen=True)
class View:
    """`service` is None once it is deleted; `nodes` holds those its tasks are on, of a global service all.

    `templates` maps revisions to templates, `slots` slot names to Slots; `serving` are the uids of tasks that all
    nodes route to.
    """

    service: Service | None
    rollout: Rollout | None = None
    templates: Mapping[str, TaskTemplate] = field(default_factory=dict)
    slots: Mapping[str, Slot] = field(default_factory=dict)
    tasks: tuple[Task, ...] = ()
    nodes: Mapping[str, Node] = field(default_factory=dict)
    serving: frozenset[str] = frozenset()
    history_limit: int = ClusterSpec().task_history_limit

    @property
    def owner(self) -> Service:
        """The service, where it is known to exist."""
        assert self.service is not None
        return self.service

    @property
    def ref(self) -> Ref:
        return ref_of(self.owner)

    @property
    def wanted_state(self) -> DesiredState:
        """What is wanted of a task once nothing holds it back: a job's shall end by itself."""
        return DesiredState.COMPLETE if self.owner.spec.mode.is_job else DesiredState.RUNNING

    @cached_property
    def rights(self) -> Rights:
        return rights(self.rollout, self.owner)

    @cached_property
    def template(self) -> TaskTemplate:
        """The newest template of the service."""
        return template_of(self.owner.spec)

    @cached_property
    def held(self) -> Mapping[str, Held]:
        """Every slot that has a Slot, or tasks."""
        grouped: dict[str, list[Task]] = {name: [] for name in self.slots}
        for task in self.tasks:
            grouped.setdefault(task.spec.slot, []).append(task)
        return {name: _held(name, self.slots.get(name), tasks) for name, tasks in grouped.items()}

    def slot(self, name: str) -> Held:
        return self.held.get(name) or _held(name, self.slots.get(name), [])

    def node_of(self, task: Task) -> Node | None:
        """The task's node, None if it has none or it was removed."""
        return None if task.spec.node is None else self.nodes.get(task.spec.node.uid)

    def wanted(self, slot: str) -> tuple[str, TaskTemplate]:
        """Return the revision a new task of the slot runs, and its template."""
        revision = self.rights.revision(slot)
        template = self.templates.get(revision)
        newest = self.owner.status.revision
        return (newest, self.template) if template is None or revision == newest else (revision, template)

    def is_dirty(self, task: Task) -> bool:
        return is_dirty(task, *self.wanted(task.spec.slot), self.node_of(task))

    def is_ended(self, task: Task) -> bool:
        """Nothing more is to be expected of the task where it is."""
        return task.status.state.is_terminal or is_unusable(task, self.node_of(task))

    def may_hold_container(self, task: Task) -> bool:
        return may_hold_container(task, self.node_of(task))

    def serves(self, task: Task) -> bool:
        """The task runs, and whoever has to route to it does."""
        if task.status.state is not TaskState.RUNNING:
            return False
        return task.metadata.uid in self.serving or not task.spec.addresses

    def may_take_over(self, task: Task, old: Task) -> bool:
        """Say whether an old task may stop for a new one.

        start-first: once that serves. stop-first: once it has its container, or waits for what the old one may hold: an
        address, or room on a node on which it could be.
        """
        if task.spec.start_first:
            return self.serves(task)
        if task.status.state is TaskState.PENDING:
            return bool(task.status.err) and _could_be_on(self.node_of(old), task.spec.template)
        if task.status.state is TaskState.NEW:
            return bool(task.status.err)
        return TaskState.READY.rank <= task.status.state.rank <= TaskState.RUNNING.rank


@dataclass(frozen=True)
class Held:
    """One slot: `tasks` oldest first; `current` is the one its Slot points at, None while the slot is vacant."""

    name: str
    slot: Slot | None
    tasks: tuple[Task, ...]
    current: Task | None

    @property
    def live_others(self) -> tuple[Task, ...]:
        """Tasks still wanted alive besides the current one: the old one of a start-first update."""
        return tuple(task for task in self.tasks if task is not self.current and task.spec.desired_state.is_live)

    @property
    def history(self) -> tuple[Task, ...]:
        return tuple(task for task in self.tasks if task.spec.desired_state is not DesiredState.REMOVE)


def _could_be_on(node: Node | None, template: TaskTemplate) -> bool:
    """Say whether nothing but other tasks keeps one from a node, as far as constraints and size tell."""
    if node is None or not is_member(node, template):
        return False
    size = node.status.description
    return not (size.cpus or size.memory) or reserved_by(template).fits_into(capacity_of(size))


def _held(name: str, slot: Slot | None, tasks: list[Task]) -> Held:
    if len(tasks) > 1:
        tasks = sorted(tasks, key=age_order)
    current = None
    if slot is not None:
        current = next((task for task in tasks if task.metadata.uid == slot.spec.task), None)
        if current is not None and current.spec.desired_state is DesiredState.REMOVE:
            current = None
    return Held(name, slot, tuple(tasks), current)
