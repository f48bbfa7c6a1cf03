"""Which tasks do not fit their node any more, because the node or the service's constraints changed. Pure.

Source: swarm semantics 4.6 (SwarmKit's constraint enforcer).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from shoal.api.objects import Node, Rollout, Service, Task
from shoal.api.states import Availability, RolloutState
from shoal.rules.constraints import matches
from shoal.rules.resources import Amounts, capacity_of, is_offered, reserved_by

_NEVER: Final = datetime.max.replace(tzinfo=UTC)

WHY: Final = "assigned node no longer meets constraints"

_SETTLED: Final = frozenset({RolloutState.COMPLETED, RolloutState.ROLLBACK_COMPLETED})


@dataclass(frozen=True)
class Resident:
    """A task on its node, and the constraints it is held to."""

    task: Task
    constraints: tuple[str, ...]


def constraints_for(task: Task, service: Service | None, rollout: Rollout | None) -> tuple[str, ...]:
    """Return what a task is held to: what its replacement would be held to.

    The service's current constraints, unless an update is on its way to the task: then that decides when it is
    replaced, and until then its own template counts. Otherwise one change would take all tasks down at once.
    """
    template = task.spec.template.placement
    current = service.spec.placement if service is not None else template
    if service is not None and task.spec.revision != service.status.revision:
        is_settled = rollout is None or rollout.status.state in _SETTLED
        if not is_settled or (rollout is not None and rollout.status.target != service.status.revision):
            current = template
    return current.constraints if current is not None else ()


def misfits(node: Node, residents: Iterable[Resident]) -> tuple[Task, ...]:
    """Return the tasks that have to leave an active node. Of reservations that are too many, the oldest stay."""
    if node.spec.availability is not Availability.ACTIVE:
        return ()
    description = node.status.description
    is_described = bool(description.cpus or description.memory)
    room = capacity_of(description)
    leaving: list[Task] = []
    for resident in sorted(residents, key=lambda one: (one.task.metadata.created_at or _NEVER, one.task.metadata.name)):
        wanted = reserved_by(resident.task.spec.template)
        is_allowed = not resident.constraints or matches(resident.constraints, node)
        has_its_own = wanted.fits_into(room) and is_offered(resident.task.spec.generic, description)
        if not is_allowed or (is_described and not has_its_own):
            leaving.append(resident.task)
        else:
            room = room.minus(wanted)
    return tuple(leaving)


def is_suited(node: Node, resident: Resident, reserved: Amounts) -> bool:
    """Say whether a task that has just come can stay, given what all tasks there reserve; the quick way of asking."""
    description = node.status.description
    has_its_own = is_offered(resident.task.spec.generic, description)
    return has_its_own and matches(resident.constraints, node) and reserved.fits_into(capacity_of(description))


def may_leave(task: Task) -> bool:
    """Only what is wanted alive, has a node and is not leaving yet is looked at."""
    return task.status.state.is_assigned and task.spec.desired_state.is_live and not task.spec.evicted
