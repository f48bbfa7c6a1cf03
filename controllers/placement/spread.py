"""Which of the nodes that may run a task is the best, for many equal tasks in a row. Pure.

Better is: fewer recent failures of this very revision (from five on), then fewer tasks of the service, then fewer tasks
in all, then the lower uid, so that the same question always has the same answer. With preferences the nodes form a
tree by the values of their labels; each level gives to the branch with the fewest tasks of the service, and passes
over what is full. Source: swarm semantics 4.5 (SwarmKit's scheduler, decision tree).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from controllers.placement.filters import Ask, Spot, asking, changing, may_run
from shoal.api.objects import Node

FAULTY_FROM = 5
"""Failures of one revision within five minutes from which a node is avoided."""

_Score = tuple[int, int, int, str]


class Source(Protocol):
    """Gives nodes out one task at a time; `tasks` counts the service's tasks below it."""

    tasks: int

    def take(self) -> Spot | None:
        """Return the node that the next task goes to, which it has yet to be put on; None if there is none."""

    def give_back(self) -> None:
        """The node taken last has its task now: rank it anew."""


class Leaf:
    """Nodes of equal labels, best first."""

    def __init__(self, ask: Ask, spots: Iterable[Spot], failures: Mapping[str, int]) -> None:
        self._ask, self._failures = ask, failures
        self.tasks = 0
        self._heap: list[tuple[_Score, Spot]] = []
        self._last: Spot | None = None
        self._changing = changing(ask)
        filters = asking(ask)
        for spot in spots:
            self.tasks += spot.of_service(ask.service)
            if may_run(ask, spot, filters):
                self._heap.append((self._score(spot), spot))
        heapq.heapify(self._heap)

    def take(self) -> Spot | None:
        self._last = self._heap[0][1] if self._heap else None
        return self._last

    def give_back(self) -> None:
        assert self._last is not None
        self.tasks += 1
        if may_run(self._ask, self._last, self._changing):
            heapq.heapreplace(self._heap, (self._score(self._last), self._last))
        else:
            heapq.heappop(self._heap)

    def _score(self, spot: Spot) -> _Score:
        failures = self._failures.get(spot.uid, 0) if self._failures else 0
        return failures if failures >= FAULTY_FROM else 0, spot.of_service(self._ask.service), spot.tasks, spot.uid


class Branches:
    """Sources by the value of one label; whoever has fewest tasks of the service gives next."""

    def __init__(self, children: Mapping[str, Source]) -> None:
        self.tasks = sum(child.tasks for child in children.values())
        self._heap = [(child.tasks, value, child) for value, child in children.items()]
        heapq.heapify(self._heap)

    def take(self) -> Spot | None:
        while self._heap:
            spot = self._heap[0][2].take()
            if spot is not None:
                return spot
            heapq.heappop(self._heap)
        return None

    def give_back(self) -> None:
        _, value, child = self._heap[0]
        child.give_back()
        self.tasks += 1
        heapq.heapreplace(self._heap, (child.tasks, value, child))


def make_source(ask: Ask, spots: Sequence[Spot], failures: Mapping[str, int]) -> Source:
    """Return where the group's tasks go, one after another."""
    return _grow(ask, spots, failures, [label for label in map(_label_of, ask.spreads) if label is not None])


def _grow(ask: Ask, spots: Sequence[Spot], failures: Mapping[str, int], labels: Sequence[tuple[str, str]]) -> Source:
    if not labels:
        return Leaf(ask, spots, failures)
    parts: dict[str, list[Spot]] = {}
    for spot in spots:
        parts.setdefault(_value(spot.node, *labels[0]), []).append(spot)
    return Branches({value: _grow(ask, part, failures, labels[1:]) for value, part in parts.items()})


def _label_of(descriptor: str) -> tuple[str, str] | None:
    """Return whose label a descriptor means and which, None for one that Swarm passes over too."""
    for whose in ("node", "engine"):
        prefix = f"{whose}.labels."
        if descriptor.lower().startswith(prefix):
            return whose, descriptor[len(prefix) :]
    return None


def _value(node: Node, whose: str, label: str) -> str:
    """Nodes without the label form one branch of their own."""
    labels = node.metadata.labels if whose == "node" else node.status.description.engine_labels
    return labels.get(label, "")
