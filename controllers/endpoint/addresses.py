"""Which addresses tasks get, and which are given back. Pure.

An address is a Claim, so etcd itself keeps it unique; it is written in the transaction of what owns it. A task's
address is given back once its container was seen gone and no node routes to it any more (its Backend is removed).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec.structs import replace

from shoal.api import keys
from shoal.api.objects import Claim, Network, Task, TaskAddress, TaskStatus, owner_of, ref_of
from shoal.api.states import TaskState
from shoal.machinery.controller import Action, Create, Plan, Remove, Replace, Step
from shoal.rules.addresses import capacity, free_addresses, mac_of, with_mask
from shoal.rules.claims import make_claim
from shoal.rules.networks import PREDEFINED
from shoal.rules.ports import needs_ingress

RETRY = timedelta(seconds=5)
"""Before another look for an address where all were taken."""


@dataclass(frozen=True)
class Taken:
    """A network's addresses in use, without masks (a live view, as there may be many), and the one given last."""

    addresses: Set[str] = frozenset()
    newest: str = ""


class Kept(NamedTuple):
    """What a network that is nearly full has to keep for nodes: each needs an address there before its tasks start."""

    apart: int = 0
    """Nodes that are not on it."""
    homeless: int = 0
    """Tasks with an address there whose node is not on it, or that have none yet."""


@dataclass(frozen=True)
class AddressView:
    """Tasks that wait for addresses, and claims of tasks that are over."""

    waiting: tuple[Task, ...]
    over: tuple[Claim, ...]
    networks: tuple[Network, ...]
    taken: Mapping[str, Taken]
    """By network uid."""
    kept: Mapping[str, Kept] = field(default_factory=dict)
    """By network uid; those with room enough are left out."""


class _Supply:
    """The free addresses of each network during one plan: each is handed out once.

    Without those that are kept, tasks could take all addresses and wait for ever for their nodes to get one.
    """

    def __init__(self, networks: tuple[Network, ...], taken: Mapping[str, Taken], kept: Mapping[str, Kept]) -> None:
        self.by_uid = {network.metadata.uid: network for network in networks}
        self.by_name = {network.metadata.name: network for network in networks}
        self.ingress = next((network for network in networks if network.spec.ingress), None)
        self._taken = taken
        self._kept = dict(kept)
        self._free: dict[str, Iterator[str]] = {}
        self._given: Counter[str] = Counter()

    def next(self, network: Network) -> str | None:
        uid = network.metadata.uid
        if uid not in self._free:
            taken = self._taken.get(uid, Taken())
            self._free[uid] = free_addresses(network, taken.addresses, taken.newest)
        if uid in self._kept and not self._has_room(network):
            return None
        self._given[uid] += 1
        return next(self._free[uid], None)

    def _has_room(self, network: Network) -> bool:
        """May one more task have an address, so that every node that tasks still need has one, too?"""
        uid = network.metadata.uid
        kept, given = self._kept[uid], self._given[uid] + 1
        free = capacity(network) - len(self._taken.get(uid, Taken()).addresses) - given
        return free >= min(kept.apart, kept.homeless + given)


def plan_addresses(view: AddressView, now: datetime) -> Plan:
    """Give each waiting task what it needs and move it to pending; take back what nobody uses."""
    supply = _Supply(view.networks, view.taken, view.kept)
    actions = [Action("AddressReleased", (Remove(claim),)) for claim in view.over]
    reasons: list[str] = []
    for task in view.waiting:
        steps, reason = _allocate(task, supply, now)
        if reason:
            reasons.append(reason)
            steps = _explain(task, reason)
        if steps:
            told = reason if reason and len(reasons) == 1 else ""
            actions.append(
                Action("AddressMissing" if reason else "AddressAllocated", steps, (), told, task, bool(told))
            )
    because = f"{len(reasons)} tasks wait for an address: {reasons[0]}" if reasons else ""
    return Plan(tuple(actions), because=because, independent=True)


def _allocate(task: Task, supply: _Supply, now: datetime) -> tuple[tuple[Step, ...], str]:
    """Return the steps that give a task its addresses, or why there are none."""
    wanted, missing = _networks_of(task, supply)
    if missing:
        return (), f"network {missing} does not exist"
    addresses: list[TaskAddress] = []
    claims: list[Step] = []
    owner = owner_of(task)
    for network, aliases in wanted:
        address = supply.next(network)
        if address is None:
            return (), f"network {network.metadata.name} has no free address"
        ref = ref_of(network)
        addresses.append(TaskAddress(ref, with_mask(network, address), mac_of(address), aliases))
        claims.append(Create(make_claim(keys.address(ref, address), owner)))
    status = TaskStatus(TaskState.PENDING, now, "pending task scheduling")
    new = replace(task, spec=replace(task.spec, addresses=tuple(addresses)), status=status)
    return (Replace(new), *claims), ""


def _networks_of(task: Task, supply: _Supply) -> tuple[list[tuple[Network, tuple[str, ...]]], str]:
    """Return the networks a task gets addresses on with its aliases there, ingress first; or one that does not exist.

    On a node-local one its engine gives it what it needs.
    """
    wanted: list[tuple[Network, tuple[str, ...]]] = []
    if needs_ingress(task.spec.template):
        if supply.ingress is None:
            return [], "ingress"
        wanted.append((supply.ingress, ()))
    for use in task.spec.template.networks:
        if use.name in PREDEFINED:
            continue
        network = supply.by_uid.get(use.uid) if use.uid else supply.by_name.get(use.name)
        if network is None:
            return [], use.name
        if network.spec.is_local:
            continue
        wanted.append((network, use.aliases))
    return wanted, ""


def _explain(task: Task, reason: str) -> tuple[Step, ...]:
    return () if task.status.err == reason else (Replace(replace(task, status=replace(task.status, err=reason))),)
