"""Which slots a service has, which revision each runs, and which nodes a global service runs on. Pure.

A slot is "1", "2", … of a replicated service, the uid of a node of a global one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from shoal.api.objects import Node, Rollout, Service, Task
from shoal.api.states import Availability, RolloutState, TaskState
from shoal.api.template import TaskTemplate
from shoal.rules.constraints import matches
from shoal.rules.liveness import is_drained, is_lost

IN_PROGRESS: Final = frozenset({RolloutState.UPDATING, RolloutState.ROLLBACK_STARTED})
BACKWARDS: Final = frozenset({RolloutState.ROLLBACK_STARTED, RolloutState.ROLLBACK_PAUSED})
PAUSED: Final = frozenset({RolloutState.PAUSED, RolloutState.ROLLBACK_PAUSED})


def slot_order(slot: str) -> tuple[int, str]:
    """Sort key: 2 before 10, nodes by uid after all numbers."""
    return (int(slot), "") if slot.isdecimal() else (1 << 62, slot)


def lowest_free(taken: Collection[str], count: int) -> list[str]:
    """Return the `count` lowest slot numbers that are free. Worked: 1 and 3 taken, two wanted: 2 and 4."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        number += 1
        if str(number) not in taken:
            found.append(str(number))
    return found


@dataclass(frozen=True)
class Rights:
    """What a service's rollout lets its slots run; made once for the questions about all of them."""

    newest: str
    target: str
    stable: str
    granted: frozenset[str] = frozenset()
    dirty: frozenset[str] = frozenset()
    is_paused: bool = False
    is_known: bool = True
    """There is a rollout."""

    def revision(self, slot: str) -> str:
        """Return the hash of the revision that a new task of the slot runs.

        A slot that was dirty when the rollout began runs the target once it is granted, the stable revision until then.
        Any other slot is new and gets the target, the stable revision while the rollout is paused.
        """
        if slot in self.granted:
            return self.target
        return self.stable if slot in self.dirty or self.is_paused else self.target

    def may_update(self, slot: str) -> bool:
        """Say whether the slot's task may be replaced now because it runs another revision than the target.

        Not before rollout has taken up the service's newest revision, and not before it has granted the slot.
        """
        return self.is_known and self.target == self.newest == self.revision(slot)


def rights(rollout: Rollout | None, service: Service) -> Rights:
    """Return what a rollout lets a service's slots run; without one, the service's own revision."""
    newest = service.status.revision
    if rollout is None:
        return Rights(newest, newest, newest, is_known=False)
    status = rollout.status
    return Rights(
        newest=newest,
        target=status.target,
        stable=status.stable,
        granted=frozenset(status.granted),
        dirty=frozenset(status.dirty),
        is_paused=status.state in PAUSED,
    )


def is_rolling_back(rollout: Rollout | None) -> bool:
    return rollout is not None and rollout.status.state in BACKWARDS


def is_member(node: Node, template: TaskTemplate) -> bool:
    """Say whether a global service belongs on the node as far as its constraints tell."""
    return template.placement is None or matches(template.placement.constraints, node)


def may_join(node: Node) -> bool:
    """Say whether a global service's task may be started or replaced on a node it belongs on."""
    return not is_lost(node) and not is_drained(node) and node.spec.availability is not Availability.PAUSE


class Occupied(NamedTuple):
    """A slot and the task it points at; None = vacant."""

    slot: str
    task: Task | None


def pick_victims(slots: Iterable[Occupied], count: int) -> list[str]:
    """Return which slots to give up, worst first.

    Vacant slots and those whose task is not wanted any more go first, then unassigned ones, then those on the nodes
    that hold most of the service's tasks; among equals the ones not running, then the highest numbers. Worked: with
    1 and 2 on node a and 3 on node b, all running, the victim is 2.
    Source: SwarmKit's replicated orchestrator (services.go), which does not prefer tasks that are dead for good.
    """
    ordered = sorted(slots, key=lambda occupied: (not _is_running(occupied.task), slot_order(occupied.slot)))
    copies: dict[str, int] = {}
    ranked: list[tuple[int, int, int, str]] = []
    for place, (slot, task) in enumerate(ordered):
        kind, copy = 0, 0
        if task is None or not task.spec.desired_state.is_live:
            kind = 2
        elif task.spec.node is None:
            kind = 1
        else:
            copies[task.spec.node.uid] = copy = copies.get(task.spec.node.uid, 0) + 1
        ranked.append((kind, copy, place, slot))
    return [slot for *_, slot in sorted(ranked, reverse=True)[:count]]


def _is_running(task: Task | None) -> bool:
    return task is not None and task.status.state is TaskState.RUNNING
