"""A service's networks and the virtual IPs it has there. Pure.

    on the network, mode vip ──► VIP claimed and named; it stays through updates, scaling and restarts
    mode dnsrr, the network left, or the service deleted:
        withdrawn (the name goes) ──► all nodes followed ──► out of the Endpoint (the rules go), its claim marked
        ──► all nodes followed ──► the address is free

A network that an update leaves is kept, VIP and all, as long as the service holds it by a Reference: tasks run there
until the rollout is over, and a rollback would want the same VIP.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from controllers.endpoint.addresses import Taken
from shoal.api import codec, keys
from shoal.api.objects import Claim, EndpointNetwork, Network, Service, ServiceEndpoint, owner_of, ref_of
from shoal.api.states import EndpointMode
from shoal.machinery.controller import Action, Create, Remove, Replace, Step
from shoal.rules.addresses import free_addresses, with_mask
from shoal.rules.claims import make_claim

RELEASING_LABEL: Final = "shoal.vip"
RELEASING: Final = {RELEASING_LABEL: "releasing"}
"""On the claim of a VIP that left its Endpoint: it is removed once all nodes have followed that."""


@dataclass(frozen=True)
class Wanted:
    """A network a service is on, or holds still."""

    network: Network
    taken: Taken
    claim: Claim | None = None
    """The VIP the service has there."""
    aliases: tuple[str, ...] | None = None
    """As its spec says; None = the spec names the network no more."""


@dataclass(frozen=True)
class Networks:
    """What becomes of a service's networks: entries, the claims to write with them, and networks that are full."""

    entries: tuple[EndpointNetwork, ...] = ()
    steps: tuple[Step, ...] = ()
    full: tuple[str, ...] = ()


@dataclass(frozen=True)
class Withdrawal:
    """An Endpoint with VIPs that are no longer named, and what is to remain of it."""

    endpoint: ServiceEndpoint
    is_orphan: bool
    """Its service is gone."""
    stays: frozenset[str] = frozenset()
    """Uids of the networks that the service is still on."""
    claims: Mapping[str, Claim] = field(default_factory=dict)
    """The VIPs' claims, by network uid."""


def plan_networks(
    service: Service, mode: EndpointMode, wanted: Iterable[Wanted], old: ServiceEndpoint | None
) -> Networks:
    """Return a service's networks: what it has it keeps, what it lacks it gets, what it leaves is withdrawn first."""
    known = {entry.network.uid: entry for entry in old.spec.networks} if old is not None else {}
    entries: list[EndpointNetwork] = []
    steps: list[Step] = []
    full: list[str] = []
    for one in wanted:
        network = one.network
        ref = ref_of(network)
        before = known.pop(ref.uid, EndpointNetwork(ref))
        entry = replace(before, aliases=before.aliases if one.aliases is None else one.aliases)
        if mode is not EndpointMode.VIP:
            entries.append(replace(entry, withdrawn=bool(entry.vip)))
            continue
        vip, step = _vip(service, one, entry)
        entries.append(replace(entry, vip=vip, withdrawn=False))
        steps += [step] if step is not None else []
        full += [] if vip else [ref.name]
    entries += [replace(entry, withdrawn=True) for entry in known.values() if entry.vip]
    return Networks(tuple(entries), tuple(steps), tuple(full))


def _vip(service: Service, one: Wanted, entry: EndpointNetwork) -> tuple[str, Step | None]:
    """Return the VIP of a service on a network, with the claim to make if it is new; "" if none is free."""
    if entry.vip:
        return entry.vip, None
    if one.claim is not None:
        return with_mask(one.network, one.claim.key.rpartition("/")[2]), None
    address = next(free_addresses(one.network, one.taken.addresses, one.taken.newest), None)
    if address is None:
        return "", None
    owner = owner_of(service)
    return with_mask(one.network, address), Create(make_claim(keys.address(entry.network, address), owner))


def withdrawn(endpoint: ServiceEndpoint) -> tuple[EndpointNetwork, ...]:
    """Return what is left of a deleted service's networks: VIPs without names."""
    return tuple(replace(entry, withdrawn=True) for entry in endpoint.spec.networks if entry.vip)


def is_withdrawing(endpoint: ServiceEndpoint) -> bool:
    return any(entry.withdrawn for entry in endpoint.spec.networks)


def is_releasing(claim: Claim) -> bool:
    return RELEASING_LABEL in claim.metadata.labels


def plan_withdrawal(one: Withdrawal) -> Action:
    """Take withdrawn VIPs out of an Endpoint, now that no node names them."""
    entries = one.endpoint.spec.networks
    left = tuple(
        replace(entry, vip="", withdrawn=False) if entry.withdrawn else entry
        for entry in entries
        if not entry.withdrawn or entry.network.uid in one.stays
    )
    new = replace(one.endpoint, spec=replace(one.endpoint.spec, networks=left))
    first: Step = Remove(one.endpoint) if one.is_orphan and not left else Replace(new)
    gone = [one.claims[entry.network.uid] for entry in entries if entry.withdrawn and entry.network.uid in one.claims]
    marked = (Replace(codec.with_meta(claim, labels={**claim.metadata.labels, **RELEASING})) for claim in gone)
    return Action("VipWithdrawn", (first, *marked))
