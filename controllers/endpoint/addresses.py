"""Which addresses tasks and nodes get, and which are given back. Pure.

An address is a Claim, so etcd itself keeps it unique; it is written in the transaction of what owns it. A task's
address is given back once its container was seen gone and no node routes to it any more (its Backend is removed).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from msgspec.structs import replace

from shoal.api import keys
from shoal.api.meta import Meta, Owner, Ref, derived_uid
from shoal.api.objects import Attachment, AttachmentSpec, Claim, Network, Node, Task, TaskAddress, TaskStatus
from shoal.api.states import TaskState
from shoal.machinery.controller import Action, Create, Plan, Remove, Replace, Step, still_exists
from shoal.rules.addresses import free_addresses, lowest_free, mac_of, with_mask, without_mask
from shoal.rules.networks import PREDEFINED
from shoal.rules.ports import needs_ingress

LAST_NODE_NUMBER = 65535
"""Node numbers mark connections in 16 bits; 0 means none."""

RETRY = timedelta(seconds=5)
"""Before another look for a node's address where all were taken."""


@dataclass(frozen=True)
class Taken:
    """A network's addresses in use, without masks (a live view, as there may be many), and the one given last."""

    addresses: Set[str] = frozenset()
    newest: str = ""


@dataclass(frozen=True)
class AddressView:
    """Tasks that wait for addresses, and claims of tasks that are over."""

    waiting: tuple[Task, ...]
    over: tuple[Claim, ...]
    networks: tuple[Network, ...]
    taken: Mapping[str, Taken]
    """By network uid."""


@dataclass(frozen=True)
class AttachmentView:
    """Nodes beside what they hold on the ingress network."""

    ingress: Network | None
    taken: Taken
    bare: tuple[Node, ...]
    """Nodes without an attachment."""
    moved: tuple[tuple[Attachment, str], ...]
    """Attachments whose node now has another address, and that address."""
    stale: tuple[Attachment, ...]
    """Attachments whose node or network is gone."""
    claims: Mapping[str, tuple[Claim, ...]]
    """What those nodes hold, by node uid."""
    gone: tuple[str, ...]
    """Nodes that hold claims but do not exist."""
    numbers: frozenset[int]


class _Supply:
    """The free addresses of each network during one plan: each is handed out once."""

    def __init__(self, networks: tuple[Network, ...], taken: Mapping[str, Taken]) -> None:
        self.by_uid = {network.metadata.uid: network for network in networks}
        self.by_name = {network.metadata.name: network for network in networks}
        self.ingress = next((network for network in networks if network.spec.ingress), None)
        self._taken = taken
        self._free: dict[str, Iterator[str]] = {}

    def next(self, network: Network) -> str | None:
        uid = network.metadata.uid
        if uid not in self._free:
            taken = self._taken.get(uid, Taken())
            self._free[uid] = free_addresses(network, taken.addresses, taken.newest)
        return next(self._free[uid], None)


def plan_addresses(view: AddressView, now: datetime) -> Plan:
    """Give each waiting task what it needs and move it to pending; take back what nobody uses."""
    supply = _Supply(view.networks, view.taken)
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
    owner = Owner("Task", task.metadata.name, task.metadata.uid)
    for network in wanted:
        address = supply.next(network)
        if address is None:
            return (), f"network {network.metadata.name} has no free address"
        ref = Ref(network.metadata.name, network.metadata.uid)
        addresses.append(TaskAddress(ref, with_mask(network, address), mac_of(address)))
        claims.append(Create(make_claim(keys.address(ref, address), owner)))
    status = TaskStatus(TaskState.PENDING, now, "pending task scheduling")
    new = replace(task, spec=replace(task.spec, addresses=tuple(addresses)), status=status)
    return (Replace(new), *claims), ""


def _networks_of(task: Task, supply: _Supply) -> tuple[list[Network], str]:
    """Return the networks a task is attached to, ingress first, or the name of one that does not exist."""
    wanted: list[Network] = []
    if needs_ingress(task.spec.template):
        if supply.ingress is None:
            return [], "ingress"
        wanted.append(supply.ingress)
    for use in task.spec.template.networks:
        if use.name in PREDEFINED:
            continue
        network = supply.by_uid.get(use.uid) if use.uid else supply.by_name.get(use.name)
        if network is None:
            return [], use.name
        wanted.append(network)
    return wanted, ""


def _explain(task: Task, reason: str) -> tuple[Step, ...]:
    return () if task.status.err == reason else (Replace(replace(task, status=replace(task.status, err=reason))),)


def plan_attachments(view: AttachmentView, now: datetime) -> Plan:
    """Give every node its address and number, follow its address, and clear up after nodes that were removed."""
    actions: list[Action] = [_detach(attachment, view) for attachment in view.stale]
    actions += [_let_go(view.claims.get(uid, ()), view) for uid in view.gone]
    actions += [
        Action("NodeMoved", (Replace(replace(attachment, spec=replace(attachment.spec, vtep=address))),))
        for attachment, address in view.moved
    ]
    because = ""
    if view.ingress is not None and view.bare:
        attached, because = _attach_all(view.ingress, view)
        actions += attached
    wait = RETRY if because else None
    return Plan(tuple(action for action in actions if action.steps), wait, because, independent=True)


def _attach_all(network: Network, view: AttachmentView) -> tuple[list[Action], str]:
    free = free_addresses(network, view.taken.addresses, view.taken.newest)
    numbers = set(view.numbers)
    actions: list[Action] = []
    for node in view.bare:
        held = _held_number(view.claims.get(node.metadata.uid, ()))
        number = held or lowest_free(numbers, 1, LAST_NODE_NUMBER)
        address = next(free, None)
        if address is None or number is None:
            return actions, f"network {network.metadata.name} has no free address for node {node.metadata.name}"
        numbers.add(number)
        actions.append(_attach(network, node, address, number, is_new=not held))
    return actions, ""


def _attach(network: Network, node: Node, address: str, number: int, *, is_new: bool) -> Action:
    net = Ref(network.metadata.name, network.metadata.uid)
    ref = Ref(node.metadata.name, node.metadata.uid)
    owner = Owner("Node", ref.name, ref.uid)
    spec = AttachmentSpec(
        network=net, node=ref, address=with_mask(network, address), mac=mac_of(address), vtep=node.status.address,
        number=number,
    )  # fmt: skip
    meta = Meta(name=f"{net.name}.{ref.uid}", uid=derived_uid("attachment", net.uid, ref.uid), owner=owner)
    steps: list[Step] = [Create(Attachment(metadata=meta, spec=spec))]
    steps.append(Create(make_claim(keys.address(net, address), owner)))
    if is_new:
        steps.append(Create(make_claim(keys.claim("node-number", number), owner)))
    return Action("NodeAttached", tuple(steps), (still_exists(node), still_exists(network)))


def _detach(attachment: Attachment, view: AttachmentView) -> Action:
    """Remove an attachment and give its address back; the number stays with the node."""
    key = keys.address(attachment.spec.network, without_mask(attachment.spec.address))
    held = view.claims.get(attachment.spec.node.uid, ())
    freed = tuple(Remove(claim) for claim in held if keys.key_of(claim) == key)
    return Action("NodeDetached", (Remove(attachment), *freed))


def _let_go(claims: tuple[Claim, ...], view: AttachmentView) -> Action:
    """Remove what a removed node still holds, except what goes with an attachment."""
    bound = {keys.address(stale.spec.network, without_mask(stale.spec.address)) for stale in view.stale}
    return Action("NodeReleased", tuple(Remove(claim) for claim in claims if keys.key_of(claim) not in bound))


def _held_number(claims: tuple[Claim, ...]) -> int:
    prefix = "claims/node-number/"
    return next((int(claim.key[len(prefix) :]) for claim in claims if claim.key.startswith(prefix)), 0)


def make_claim(key: str, owner: Owner, labels: Mapping[str, str] | None = None) -> Claim:
    """Return the claim that lies at a whole key."""
    short = key[len(keys.ROOT) :]
    meta = Meta(name=short, uid=derived_uid("claim", short, owner.uid), labels=dict(labels or {}), owner=owner)
    return Claim(metadata=meta, key=short)
