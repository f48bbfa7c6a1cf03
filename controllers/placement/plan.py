"""What the placement controller decides: where pending tasks go, and which tasks have to leave. Pure.

Equal tasks (of one service and revision) are placed together: a node is looked at once per group, and each further
task costs one step in a heap. Tasks that come with their node (of global services) are only validated, first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from controllers.placement.evict import WHY, Resident, misfits
from controllers.placement.filters import Ask, Spot, Use, explain, may_run
from controllers.placement.spread import make_source
from shoal.api.meta import Ref
from shoal.api.objects import Node, Service, Task, TaskStatus
from shoal.api.states import TaskState
from shoal.api.template import GenericResource, TaskTemplate
from shoal.machinery.controller import Action, Plan, Replace

AT_ONCE: Final = 1000
"""Tasks written in one pass; the next pass goes on where this one ended, knowing what has changed meanwhile."""

MEMORY: Final = timedelta(minutes=5)
"""For so long a failure counts against its node."""

ASSIGNED: Final = "scheduler assigned task to node"


@dataclass(frozen=True)
class Group:
    """Pending tasks of one service and revision, in the order of their slots."""

    service: Ref
    revision: str
    template: TaskTemplate
    tasks: tuple[Task, ...]
    about: Service | None = None


@dataclass(frozen=True)
class PlacementView:
    nodes: tuple[Node, ...]
    """By uid."""
    uses: Mapping[str, Use]
    groups: tuple[Group, ...]
    failures: Mapping[tuple[str, str], Mapping[str, tuple[datetime, ...]]]
    """When tasks of a service's revision failed, by node."""
    doubtful: tuple[tuple[Node, tuple[Resident, ...]], ...] = ()
    """Nodes where something changed, and who is there."""
    foes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Uids of the networks whose subnets overlap a network's, by that one's uid."""


@dataclass(frozen=True)
class Refusal:
    """Tasks of a group that no node may run, and why."""

    group: Group
    tasks: tuple[Task, ...]
    why: str


def plan(view: PlacementView, now: datetime) -> Plan:
    actions = [_evict(task) for node, residents in view.doubtful for task in misfits(node, residents)]
    refusals: list[Refusal] = []
    spots = [Spot(node, view.uses.get(node.metadata.uid, Use())) for node in view.nodes] if view.groups else []
    for action in _place_all(view, spots, now, refusals):
        actions.append(action)
        if len(actions) >= AT_ONCE:
            break
    because = "; ".join(f"{len(one.tasks)} tasks of {one.group.service.name}: {one.why}" for one in refusals[:10])
    return Plan(tuple(actions), because=because, independent=True)


def _place_all(view: PlacementView, spots: list[Spot], now: datetime, refusals: list[Refusal]) -> Iterator[Action]:
    asks = [(group, _ask(group, view.foes)) for group in view.groups]
    by_uid = {spot.uid: spot for spot in spots}
    for group, ask in asks:
        for task in group.tasks:
            if task.spec.node is not None:
                yield from _validate(task, group, ask, by_uid.get(task.spec.node.uid), now, refusals)
    for group, ask in asks:
        free = tuple(task for task in group.tasks if task.spec.node is None)
        if free:
            yield from _place_group(replace_tasks(group, free), ask, spots, _recent(view, group, now), now, refusals)


def _ask(group: Group, foes: Mapping[str, frozenset[str]]) -> Ask:
    networks = frozenset(one.network.uid for one in group.tasks[0].spec.addresses)
    met = frozenset(foe for network in networks & foes.keys() for foe in foes[network])
    return Ask(group.service.uid, group.template, networks, met)


def replace_tasks(group: Group, tasks: tuple[Task, ...]) -> Group:
    return Group(group.service, group.revision, group.template, tasks, group.about)


def _validate(
    task: Task, group: Group, ask: Ask, spot: Spot | None, now: datetime, refusals: list[Refusal]
) -> Iterator[Action]:
    """Accept a task that comes with its node, or say why the node may not run it."""
    if spot is not None and may_run(ask, spot):
        yield _assign(task, spot, spot.put(ask), now)
        return
    refusal = Refusal(group, (task,), explain(ask, [spot] if spot is not None else []))
    refusals.append(refusal)
    yield from _refuse(refusal)


def _place_group(
    group: Group, ask: Ask, spots: list[Spot], failures: Mapping[str, int], now: datetime, refusals: list[Refusal]
) -> Iterator[Action]:
    source = make_source(ask, spots, failures)
    for index, task in enumerate(group.tasks):
        spot = source.take()
        if spot is None:
            refusal = Refusal(group, group.tasks[index:], explain(ask, spots))
            refusals.append(refusal)
            yield from _refuse(refusal)
            return
        given = spot.put(ask)
        source.give_back()
        yield _assign(task, spot, given, now)


def _recent(view: PlacementView, group: Group, now: datetime) -> Mapping[str, int]:
    """Count the failures of a group's revision on each node that are not forgotten yet."""
    failed = view.failures.get((group.service.uid, group.revision), {})
    return {uid: sum(1 for at in times if at > now - MEMORY) for uid, times in failed.items()}


def _assign(task: Task, spot: Spot, given: tuple[GenericResource, ...], now: datetime) -> Action:
    spec = replace(task.spec, node=Ref(spot.node.metadata.name, spot.uid), generic=given)
    return Action(
        "TaskAssigned", (Replace(replace(task, spec=spec, status=TaskStatus(TaskState.ASSIGNED, now, ASSIGNED))),)
    )


def _refuse(refusal: Refusal) -> Iterator[Action]:
    """Write the reason into tasks that do not show it yet; tell it once for the whole group."""
    count = len(refusal.tasks)
    note = f"{count} tasks wait: {refusal.why}" if count > 1 else f"1 task waits: {refusal.why}"
    for task in _saying_otherwise(refusal):
        new = replace(task, status=replace(task.status, err=refusal.why))
        yield Action("TaskNotPlaced", (Replace(new),), (), note, refusal.group.about or task, warning=True)
        note = ""


def _saying_otherwise(refusal: Refusal) -> Iterable[Task]:
    return (task for task in refusal.tasks if task.status.err != refusal.why)


def _evict(task: Task) -> Action:
    new = replace(task, spec=replace(task.spec, evicted=WHY))
    return Action("TaskEvicted", (Replace(new),), (), f"task {task.metadata.name}: {WHY}", task, warning=True)
