"""What a task reserves of a node, and whether it fits. Pure.

Limits reserve nothing; only reservations count. Source: swarm semantics 4.5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from shoal.api.objects import NodeDescription
from shoal.api.template import GenericResource, TaskTemplate


class Amounts(NamedTuple):
    """CPUs in billionths, memory in bytes, and counted resources by kind (named ones count one each)."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    generic: Mapping[str, int] = {}

    def fits_into(self, room: Amounts) -> bool:
        """Nothing asked for is more than there is; asking for nothing fits even where too much is taken."""
        return (
            (self.nano_cpus == 0 or self.nano_cpus <= room.nano_cpus)
            and (self.memory_bytes == 0 or self.memory_bytes <= room.memory_bytes)
            and (not self.generic or all(count <= room.generic.get(kind, 0) for kind, count in self.generic.items()))
        )

    def plus(self, other: Amounts) -> Amounts:
        return self._combined(other, 1)

    def minus(self, other: Amounts) -> Amounts:
        return self._combined(other, -1)

    def _combined(self, other: Amounts, sign: int) -> Amounts:
        generic = self.generic
        if other.generic:
            generic = {
                kind: generic.get(kind, 0) + sign * other.generic.get(kind, 0) for kind in {**generic, **other.generic}
            }
        return Amounts(self.nano_cpus + sign * other.nano_cpus, self.memory_bytes + sign * other.memory_bytes, generic)


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


def _counted(resources: Iterable[GenericResource]) -> Mapping[str, int]:
    counts: Counter[str] = Counter()
    for resource in resources:
        counts[resource.kind] += 1 if resource.count is None else resource.count
    return dict(counts)
