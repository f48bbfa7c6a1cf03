"""What a task reserves of a node, and whether it fits. Pure.

Limits reserve nothing; only reservations count. Source: swarm semantics 4.5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from shoal.api.objects import NodeDescription
from shoal.api.template import GenericResource, TaskTemplate

NO_KINDS: Final[Mapping[str, int]] = {}


class Amounts(NamedTuple):
    """CPUs in billionths, memory in bytes, and counted resources by kind (named ones count one each)."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    generic: Mapping[str, int] = NO_KINDS

    def fits_into(self, room: Amounts) -> bool:
        """Nothing asked for is more than there is; asking for nothing fits even where too much is taken."""
        return (
            (self.nano_cpus == 0 or self.nano_cpus <= room.nano_cpus)
            and (self.memory_bytes == 0 or self.memory_bytes <= room.memory_bytes)
            and (not self.generic or all(count <= room.generic.get(kind, 0) for kind, count in self.generic.items()))
        )

    def plus(self, other: Amounts) -> Amounts:
        return Amounts(
            self.nano_cpus + other.nano_cpus, self.memory_bytes + other.memory_bytes, self._generic_with(other, 1)
        )

    def minus(self, other: Amounts) -> Amounts:
        if other is NOTHING:
            return self
        return Amounts(
            self.nano_cpus - other.nano_cpus, self.memory_bytes - other.memory_bytes, self._generic_with(other, -1)
        )

    def _generic_with(self, other: Amounts, sign: int) -> Mapping[str, int]:
        if not other.generic:
            return self.generic
        kinds = {**self.generic, **other.generic}
        return {kind: self.generic.get(kind, 0) + sign * other.generic.get(kind, 0) for kind in kinds}


NOTHING = Amounts()


def reserved_by(template: TaskTemplate) -> Amounts:
    """Return what a task of this template reserves."""
    reservations = template.resources.reservations if template.resources else None
    if reservations is None:
        return NOTHING
    return Amounts(int(reservations.cpus or 0), int(reservations.memory or 0), _counted(reservations.generic))


def capacity_of(description: NodeDescription) -> Amounts:
    """Return what a node has in all, as its agent described it."""
    return Amounts(int(description.cpus), int(description.memory), _counted(description.generic))


def is_offered(given: Sequence[GenericResource], description: NodeDescription) -> bool:
    """Say whether a node still has what was given to a task: each named one, and kinds that are counted."""
    if not given:
        return True
    offered = {(one.kind, one.value) for one in description.generic}
    return all((one.kind, one.value) in offered for one in given)


def _counted(resources: Sequence[GenericResource]) -> Mapping[str, int]:
    if not resources:
        return NO_KINDS
    counts: Counter[str] = Counter()
    for resource in resources:
        counts[resource.kind] += 1 if resource.count is None else resource.count
    return dict(counts)
