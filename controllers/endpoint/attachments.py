"""Each node's own address on the networks it takes part in, and its number. Pure.

    first task (or plain container) of a network on a node ──► Attachment, address and claim in one transaction
    ten seconds after the last has ended                   ──► removed, the address given back

On the ingress network every node has one. A node's number is claimed once, before its first Attachment, and stays
with it until it is removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from controllers.endpoint.addresses import RETRY, Taken
from controllers.endpoint.sites import tunnel_end
from shoal.api import keys
from shoal.api.meta import Meta, derived_uid
from shoal.api.objects import Attachment, AttachmentSpec, Claim, Network, Node, Reference, owner_of, ref_of
from shoal.machinery.controller import Action, Create, Plan, Remove, Replace, Step, any_of, is_unchanged, still_exists
from shoal.rules.addresses import free_addresses, lowest_free, mac_of, with_mask, without_mask
from shoal.rules.claims import make_claim

LAST_NODE_NUMBER: Final = 65535
"""Node numbers mark connections in 16 bits; 0 means none."""

LINGER: Final = timedelta(seconds=10)
"""How long a network outlives its last task on a node: a replacement that comes at once finds it there."""

NUMBER_PREFIX: Final = "claims/node-number/"


@dataclass(frozen=True)
class Site:
    """One node on one network: what it has there, and whether anything needs it."""

    node: Node | None
    """None = it is gone."""
    attachment: Attachment | None
    is_used: bool
    ended_at: datetime | None = None
    """When the last task there ended, as far as is known."""
    number: int = 0
    """The node's; 0 = it has none yet."""
    claims: tuple[Claim, ...] = ()
    """What goes with the attachment: its address."""
    containers: tuple[tuple[Attachment, tuple[Claim | Reference, ...]], ...] = ()
    """Plain containers that nobody will take back, for their node is gone, and what each holds."""


@dataclass(frozen=True)
class AttachmentView:
    """Sites of one network that may need something."""

    network: Network | None
    """None = it is gone."""
    sites: tuple[Site, ...]
    taken: Taken


@dataclass(frozen=True)
class NumberView:
    """Nodes without a number, and what nodes hold that are gone."""

    bare: tuple[Node, ...]
    taken: frozenset[int]
    gone: Mapping[str, tuple[Claim, ...]]
    """By node uid; what goes with an Attachment is left to it."""


def plan_attachments(view: AttachmentView, now: datetime) -> Plan:
    """Attach nodes to a network where it is needed, follow their addresses, detach them where it is needed no more."""
    network = view.network
    free = free_addresses(network, view.taken.addresses, view.taken.newest) if network is not None else iter(())
    actions: list[Action] = []
    wait: timedelta | None = None
    because = ""
    for site in view.sites:
        actions += [Action("ContainerDetached", (Remove(a), *map(Remove, held))) for a, held in site.containers]
        if site.attachment is not None:
            action, linger = _kept_up(site, network, now)
            actions += [action] if action is not None else []
            wait = any_of(wait, linger)
        elif network is not None and site.node is not None and site.is_used and site.number:
            address = next(free, None)
            if address is None:
                because = f"network {network.metadata.name} has no free address for node {site.node.metadata.name}"
                continue
            actions.append(_attach(network, site.node, address, site.number))
    return Plan(tuple(actions), any_of(wait, RETRY if because else None), because, independent=True)


def _kept_up(site: Site, network: Network | None, now: datetime) -> tuple[Action | None, timedelta | None]:
    """Return what an Attachment needs, and when to look again whether it is needed at all."""
    attachment = site.attachment
    assert attachment is not None
    left = _left(site, now)
    if network is None or site.node is None or left == timedelta(0):
        return Action("NodeDetached", (Remove(attachment), *map(Remove, site.claims))), None
    spec = replace(attachment.spec, vtep=tunnel_end(site.node), number=site.number or attachment.spec.number)
    moved = Action("NodeMoved", (Replace(replace(attachment, spec=spec)),)) if spec != attachment.spec else None
    return moved, left


def _left(site: Site, now: datetime) -> timedelta | None:
    """Return how long an Attachment stays, None = as long as it is used. The nodes' clocks may differ from ours."""
    if site.is_used:
        return None
    if site.ended_at is None:
        return timedelta(0)
    return min(max(site.ended_at + LINGER - now, timedelta(0)), LINGER)


def _attach(network: Network, node: Node, address: str, number: int) -> Action:
    net, ref, owner = ref_of(network), ref_of(node), owner_of(node)
    spec = AttachmentSpec(
        network=net, node=ref, address=with_mask(network, address), mac=mac_of(address), vtep=tunnel_end(node),
        number=number,
    )  # fmt: skip
    meta = Meta(name=f"{net.name}.{ref.uid}", uid=derived_uid("attachment", net.uid, ref.uid), owner=owner)
    steps: list[Step] = [Create(Attachment(metadata=meta, spec=spec))]
    steps.append(Create(make_claim(keys.address(net, address), owner)))
    return Action("NodeAttached", tuple(steps), (still_exists(node), is_unchanged(network)))


def plan_numbers(view: NumberView) -> Plan:
    """Give every node a number, and take back what removed nodes hold."""
    actions = [Action("NodeReleased", tuple(map(Remove, claims))) for claims in view.gone.values() if claims]
    numbers = set(view.taken)
    for node in view.bare:
        number = lowest_free(numbers, 1, LAST_NODE_NUMBER)
        if number is None:
            because = f"all {LAST_NODE_NUMBER} node numbers are taken"
            return Plan(tuple(actions), RETRY, because, independent=True)
        numbers.add(number)
        owner = owner_of(node)
        claim = make_claim(keys.claim("node-number", number), owner)
        actions.append(Action("NodeNumbered", (Create(claim),), (still_exists(node),)))
    return Plan(tuple(actions), independent=True)


def number_in(claims: Mapping[str, Claim]) -> int:
    """Return the number among what a node holds, 0 = none."""
    found = (int(claim.key[len(NUMBER_PREFIX) :]) for claim in claims.values() if claim.key.startswith(NUMBER_PREFIX))
    return min(found, default=0)


def address_key(attachment: Attachment) -> str:
    """Return the key of the claim on an Attachment's address."""
    return keys.address(attachment.spec.network, without_mask(attachment.spec.address))
