"""Whom a node has to reach, and which names have to lead where, by its assignments. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from nodeagent.assignments import Assignments
from shoal.api.objects import Attachment, Backend, Network, ServiceEndpoint
from shoal.api.probes import Host, Way
from shoal.rules.addresses import without_mask
from shoal.rules.networks import DEFAULT_MTU

MOST_NAMES: Final = 50
"""Services of one network that are asked for by name."""


class NamesAt(NamedTuple):
    """A network's name service on this node, and what it should say: name → addresses."""

    network: str
    server: str
    expected: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Targets:
    source: str
    """The address this node's tunnels begin at; "" = any."""
    networks: tuple[str, ...]
    hosts: tuple[Host, ...]
    ways: tuple[Way, ...]
    """As if nothing had come back."""
    names: tuple[NamesAt, ...]


def targets_of(assignments: Assignments, node_uid: str, wanted: Collection[str] = ()) -> Targets:
    """Return what is to be looked at on the networks with these uids; with none, on all the node is attached to."""
    attachments = [one for one in assignments.of(Attachment).values() if not one.spec.container and one.spec.address]
    own = {one.spec.network.uid: one for one in attachments if one.spec.node.uid == node_uid}
    networks = {
        network.metadata.uid: network
        for network in assignments.of(Network).values()
        if network.metadata.uid in own and (not wanted or network.metadata.uid in wanted)
    }
    others = [one for one in attachments if one.spec.node.uid != node_uid and one.spec.network.uid in networks]
    hosts = {Host(one.spec.node.name, one.spec.vtep) for one in others if one.spec.vtep}
    return Targets(
        source=next((one.spec.vtep for one in own.values()), ""),
        networks=tuple(sorted(network.metadata.name for network in networks.values())),
        hosts=tuple(sorted(hosts, key=lambda host: host.peer)),
        ways=tuple(sorted((_way(one, networks) for one in others), key=lambda way: (way.network, way.peer))),
        names=tuple(_names(assignments, networks, own)),
    )


def _way(other: Attachment, networks: Mapping[str, Network]) -> Way:
    network = networks[other.spec.network.uid]
    mtu = network.status.mtu or DEFAULT_MTU
    return Way(network.metadata.name, other.spec.node.name, without_mask(other.spec.address), mtu)


def _names(
    assignments: Assignments, networks: Mapping[str, Network], own: Mapping[str, Attachment]
) -> Iterator[NamesAt]:
    endpoints = sorted(assignments.of(ServiceEndpoint).values(), key=lambda one: one.spec.service.name)
    ready = _ready(assignments.of(Backend).values())
    for uid, network in sorted(networks.items(), key=lambda item: item[1].metadata.name):
        if network.spec.ingress:
            continue
        found = [(one.spec.service, on) for one in endpoints for on in one.spec.networks if on.network.uid == uid]
        expected = {
            service.name: (without_mask(on.vip),) if on.vip else ready.get((service.uid, uid), ())
            for service, on in found[:MOST_NAMES]
            if not on.withdrawn
        }
        yield NamesAt(network.metadata.name, without_mask(own[uid].spec.address), expected)


def _ready(backends: Iterable[Backend]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the addresses of ready tasks, sorted, by (service uid, network uid)."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for backend in backends:
        for one in backend.spec.addresses if backend.status.ready else ():
            key = backend.spec.service.uid, one.network.uid
            found[key] = tuple(sorted((*found.get(key, ()), without_mask(one.address))))
    return found
