"""Running sums of the placement controller: a change costs the same however many tasks there are.

The sums only remember; whether something is to be done is decided anew at every pass from what they hold.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime
from typing import TypeVar

from controllers.placement.filters import Use
from shoal.api.objects import Network, Node, Rollout, Service, Task
from shoal.api.states import TaskState
from shoal.machinery.cache import Fold
from shoal.rules.ports import PortKey, host_ports
from shoal.rules.resources import NOTHING, Amounts, reserved_by
from shoal.rules.slots import slot_order
from shoal.rules.subnets import conflicts

K = TypeVar("K")
V = TypeVar("V")

GroupKey = tuple[str, str]
"""A service's uid and a revision."""


class _Sums:
    """What is taken of one node, and its frozen form, made when asked for."""

    def __init__(self) -> None:
        self.reserved: Amounts = NOTHING
        self.ports: Counter[PortKey] = Counter()
        self.values: Counter[tuple[str, str]] = Counter()
        self.networks: Counter[str] = Counter()
        self.holders = 0
        self.tasks = 0
        self.by_service: Counter[str] = Counter()
        self._use: Use | None = None

    def add(self, task: Task, sign: int) -> None:
        self._use = None
        self.holders += sign
        wanted = reserved_by(task.spec.template)
        self.reserved = self.reserved.plus(wanted) if sign > 0 else self.reserved.minus(wanted)
        for port in host_ports(task.spec.template):
            _count(self.ports, port, sign)
        for resource in task.spec.generic:
            if resource.value is not None:
                _count(self.values, (resource.kind, resource.value), sign)
        for one in task.spec.addresses:
            _count(self.networks, one.network.uid, sign)
        if task.spec.desired_state.is_live:
            self.tasks += sign
            _count(self.by_service, task.spec.service.uid, sign)

    def use(self) -> Use:
        if self._use is None:
            self._use = Use(
                self.reserved, frozenset(self.ports), frozenset(self.values), self.tasks, dict(self.by_service),
                frozenset(self.networks),
            )  # fmt: skip
        return self._use


class Ledger(Fold[Task]):
    """Who waits, what each node holds, who failed where, and which nodes want checking."""

    kind = Task

    def __init__(self) -> None:
        self.pending: dict[GroupKey, dict[str, Task]] = {}
        self._order: dict[GroupKey, dict[str, None]] = {}
        """Names in the order of their slots, some perhaps no longer pending; absent = to be sorted."""
        self.failures: dict[GroupKey, dict[str, dict[str, datetime]]] = {}
        self.arrived: dict[str, Task] = {}
        """Tasks that were given a node, by name, until the reader has seen that it still suits them."""
        self.doubtful: set[str] = set()
        """Uids of nodes where a task may not fit any more. The reader checks them and takes out those in order."""
        self._nodes: defaultdict[str, _Sums] = defaultdict(_Sums)
        self._nodes_of: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """How many tasks of each service each node holds, by service."""

    def use_of(self, node: str) -> Use | None:
        """Return what is taken of a node, None where nothing is."""
        sums = self._nodes.get(node)
        return sums.use() if sums is not None else None

    def waiting(self, group: GroupKey) -> tuple[Task, ...]:
        """Return a group's pending tasks in the order of their slots. Sorted only after some were added."""
        tasks = self.pending[group]
        order = self._order.get(group)
        names = sorted(tasks, key=lambda name: (slot_order(tasks[name].spec.slot), name)) if order is None else order
        self._order[group] = {name: None for name in names if name in tasks}
        return tuple(tasks[name] for name in self._order[group])

    def doubt_service(self, service: str) -> None:
        self.doubtful.update(self._nodes_of.get(service, ()))

    def change(self, old: Task | None, new: Task | None) -> None:
        if old is not None and new is not None and _holds_the_same(old, new):
            return
        if old is not None:
            self._note(old, -1)
        if new is not None:
            self._note(new, 1)
            was_there = old is not None and old.status.state.is_assigned
            if new.spec.node is not None and new.status.state.is_assigned and not was_there:
                self.arrived[new.metadata.name] = new

    def _note(self, task: Task, sign: int) -> None:
        group, name = (task.spec.service.uid, task.spec.revision), task.metadata.name
        state, node = task.status.state, task.spec.node.uid if task.spec.node is not None else ""
        if state is TaskState.PENDING:
            if task.spec.desired_state.is_live:
                self._wait(group, name, task, sign)
        elif node and state.is_assigned:
            self._hold(node, task, sign)
        elif node and state in (TaskState.FAILED, TaskState.REJECTED):
            when = task.metadata.updated_at or task.status.timestamp  # the managers' clock; nodes' may be wrong
            if when is not None and task.spec.slot != node and not task.spec.evicted:
                _enter(self.failures.setdefault(group, {}), node, name, when, sign)
                if not self.failures[group]:
                    del self.failures[group]

    def _wait(self, group: GroupKey, name: str, task: Task, sign: int) -> None:
        if sign > 0 and name not in self._order.get(group, ()):
            self._order.pop(group, None)
        _enter(self.pending, group, name, task, sign)
        if group not in self.pending:
            self._order.pop(group, None)

    def _hold(self, node: str, task: Task, sign: int) -> None:
        self._nodes[node].add(task, sign)
        if not self._nodes[node].holders:
            del self._nodes[node]
        nodes = self._nodes_of[task.spec.service.uid]
        _count(nodes, node, sign)
        if not nodes:
            del self._nodes_of[task.spec.service.uid]


class Foes(Fold[Network]):
    """Which networks overlap which: known anew after a network came or went."""

    kind = Network

    def __init__(self) -> None:
        self._networks: dict[str, Network] = {}
        self._known: dict[str, frozenset[str]] | None = None

    def change(self, old: Network | None, new: Network | None) -> None:
        network = new if new is not None else old
        assert network is not None
        self._known = None
        if new is not None:
            self._networks[network.metadata.uid] = network
        else:
            self._networks.pop(network.metadata.uid, None)

    def all(self) -> dict[str, frozenset[str]]:
        """Return the uids of the networks that overlap each network, for those that overlap any."""
        if self._known is None:
            self._known = conflicts(self._networks.values())
        return self._known


class NodeDoubts(Fold[Node]):
    """A changed node may not suit its tasks any more."""

    kind = Node

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def change(self, old: Node | None, new: Node | None) -> None:
        if new is not None:
            self._ledger.doubtful.add(new.metadata.uid)


class ServiceDoubts(Fold[Service]):
    """Changed constraints may not suit the nodes of a service's tasks any more."""

    kind = Service

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def change(self, old: Service | None, new: Service | None) -> None:
        if old is None or new is None or old.spec.placement != new.spec.placement or old.status != new.status:
            some = new if new is not None else old
            assert some is not None
            self._ledger.doubt_service(some.metadata.uid)


class RolloutDoubts(Fold[Rollout]):
    """An update that has ended no longer protects tasks of an older revision."""

    kind = Rollout

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def change(self, old: Rollout | None, new: Rollout | None) -> None:
        before, after = (one.status if one is not None else None for one in (old, new))
        some = after or before
        assert some is not None
        if before is None or after is None or (before.state, before.target) != (after.state, after.target):
            self._ledger.doubt_service(some.service.uid)


def _holds_the_same(old: Task, new: Task) -> bool:
    """A task goes on its way on its node: what it takes there, and who waits, is as before."""
    was, now = old.spec, new.spec
    return (
        old.status.state.is_assigned
        and new.status.state.is_assigned
        and was.desired_state is now.desired_state
        and (was.node, was.generic, was.addresses) == (now.node, now.generic, now.addresses)
    )


def _count(counter: Counter[K], key: K, sign: int) -> None:
    counter[key] += sign
    if not counter[key]:
        del counter[key]


def _enter(groups: dict[K, dict[str, V]], key: K, name: str, value: V, sign: int) -> None:
    """File a value under a name of a group, or take it out, and the group with its last value."""
    if sign > 0:
        groups.setdefault(key, {})[name] = value
    elif key in groups:
        groups[key].pop(name, None)
        if not groups[key]:
            del groups[key]
