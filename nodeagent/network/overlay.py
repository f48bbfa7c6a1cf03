"""Which tunnels a node needs, where they lead, and what to do about those it has. Pure.

A tunnel is a VXLAN device in a network's bridge. Addresses and MACs are Shoal's, so it is told in advance who is where,
and neither learns nor floods:

    neighbour   address → MAC        the tunnel itself answers when somebody here asks who has an address
    way         MAC → the tunnel     the bridge sends frames for that MAC into it
    far end     MAC → host           the tunnel sends them to that host

Every container and every bridge of another node has all three; a virtual IP has a neighbour entry only, with the MAC of
this node's own bridge: packets to it come to this host, whose rules send them on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface
from typing import NamedTuple

from nodeagent.network.docker_networks import bridge_name
from nodeagent.network.sixes import address6, interface6
from shoal.api.objects import Attachment, Backend, Network, ServiceEndpoint
from shoal.rules.addresses import mac_of, without_mask
from shoal.rules.networks import DEFAULT_MTU

TUNNEL_PREFIX = "shx-"
"""Every tunnel of ours starts with it."""


@dataclass(frozen=True)
class Tunnel:
    """A VXLAN device and its bridge, as wanted or as found."""

    name: str
    vni: int
    port: int
    """UDP."""
    local: str
    """The address its packets are sent from; "" = whichever the route has."""
    bridge: str
    """Which bridge it is part of; "" = none."""
    mac: str
    address: str
    """The bridge's, the address with its mask: this node's on the network."""
    mtu: int
    address6: str = ""
    """The bridge's over IPv6, as `address`; "" = the network has no IPv6 side here."""
    is_up: bool = True
    """Both it and its bridge are."""
    is_quiet: bool = True
    """It does not learn, neither by itself nor as the bridge's port."""
    is_filtered: bool = True
    """Packet rules see what the bridge forwards: replies of a virtual IP's backends are translated there."""

    @property
    def identity(self) -> tuple[str, int, int, str]:
        """What cannot be changed about a device once it is made."""
        return self.name, self.vni, self.port, self.local


class FarEnd(NamedTuple):
    mac: str
    host: str


class Neighbour(NamedTuple):
    address: str
    mac: str


@dataclass(frozen=True)
class Overlay:
    """A tunnel and all its entries."""

    tunnel: Tunnel
    far_ends: frozenset[FarEnd] = frozenset()
    ways: frozenset[str] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()


class MakeTunnel(NamedTuple):
    tunnel: Tunnel


class MendTunnel(NamedTuple):
    tunnel: Tunnel


class DropTunnel(NamedTuple):
    device: str


class SetFarEnd(NamedTuple):
    device: str
    mac: str
    host: str


class DropFarEnd(NamedTuple):
    device: str
    mac: str


class SetWay(NamedTuple):
    device: str
    mac: str


class DropWay(NamedTuple):
    device: str
    mac: str


class SetNeighbour(NamedTuple):
    device: str
    address: str
    mac: str


class DropNeighbour(NamedTuple):
    device: str
    address: str


Change = MakeTunnel | MendTunnel | DropTunnel | SetFarEnd | DropFarEnd | SetWay | DropWay | SetNeighbour | DropNeighbour


def device_of(change: Change) -> str:
    return change.tunnel.name if isinstance(change, MakeTunnel | MendTunnel) else change.device


@dataclass
class _Growing:
    """One network's entries while they are collected."""

    tunnel: Tunnel
    hosts: dict[str, str]
    """Node uid → where its tunnel ends."""
    six: str
    """The network's uid if it has an IPv6 side here, else ""."""
    far_ends: set[FarEnd] = field(default_factory=set)
    neighbours: set[Neighbour] = field(default_factory=set)

    def add(self, node: str, address: str, mac: str) -> None:
        host = self.hosts.get(node)
        if host:
            self.far_ends.add(FarEnd(mac, host))
            self.neighbours.add(Neighbour(without_mask(address), mac))
            if self.six:
                self.neighbours.add(Neighbour(str(address6(self.six, address)), mac))

    def finished(self) -> Overlay:
        ways = frozenset(end.mac for end in self.far_ends)
        return Overlay(self.tunnel, frozenset(self.far_ends), ways, frozenset(self.neighbours))


def tunnel_name(uid: str) -> str:
    return f"{TUNNEL_PREFIX}{uid[:10]}"


def overlays(
    networks: Iterable[Network],
    attachments: Iterable[Attachment],
    backends: Iterable[Backend],
    endpoints: Iterable[ServiceEndpoint],
    node_uid: str,
    port: int,
    six: str = "",
) -> dict[str, Overlay]:
    """Return, by device name, the overlay of every network that the node is attached to and that has a number.

    `six`: the uid of the network that has an IPv6 side, if there is one.
    """
    attachments = tuple(attachments)
    growing = _begin(networks, attachments, node_uid, port, six)
    for attachment in attachments:
        spec = attachment.spec
        if spec.node.uid != node_uid and spec.network.uid in growing and spec.address:
            growing[spec.network.uid].add(spec.node.uid, spec.address, spec.mac or mac_of(spec.address))
    for backend in backends:
        if backend.spec.node.uid != node_uid:
            for one in backend.spec.addresses:
                if one.network.uid in growing:
                    growing[one.network.uid].add(backend.spec.node.uid, one.address, one.mac)
    for endpoint in endpoints:
        for on in endpoint.spec.networks:
            if on.vip and on.network.uid in growing:
                network = growing[on.network.uid]
                network.neighbours.add(Neighbour(without_mask(on.vip), network.tunnel.mac))
    return {one.tunnel.name: one.finished() for one in growing.values()}


def _begin(
    networks: Iterable[Network], attachments: Iterable[Attachment], node_uid: str, port: int, six: str
) -> dict[str, _Growing]:
    """Return what the node is attached to, by network uid, with the hosts of the other nodes and no entries yet."""
    by_network: dict[str, dict[str, Attachment]] = {}
    for attachment in attachments:
        if not attachment.spec.container:
            by_network.setdefault(attachment.spec.network.uid, {})[attachment.spec.node.uid] = attachment
    found = {}
    for network in networks:
        nodes = by_network.get(network.metadata.uid, {})
        own = nodes.get(node_uid)
        if own is not None and own.spec.address and network.status.vni:
            hosts = {uid: one.spec.vtep for uid, one in nodes.items() if uid != node_uid}
            uid = network.metadata.uid
            its_six = six if six == uid else ""
            found[uid] = _Growing(_tunnel(network, own, port, its_six), hosts, its_six)
    return found


def _tunnel(network: Network, own: Attachment, port: int, six: str) -> Tunnel:
    uid = network.metadata.uid
    return Tunnel(
        name=tunnel_name(uid),
        vni=network.status.vni,
        port=port,
        local=own.spec.vtep,
        bridge=bridge_name(uid),
        mac=own.spec.mac or mac_of(str(IPv4Interface(own.spec.address).ip)),
        address=own.spec.address,
        address6=interface6(six, own.spec.address) if six else "",
        mtu=network.status.mtu or DEFAULT_MTU,
    )


def changes(have: Mapping[str, Overlay], want: Mapping[str, Overlay]) -> tuple[Change, ...]:
    """Return what turns one into the other, in an order that may break off anywhere: what is wrong goes first.

    A device that must be made anew takes all its entries with it. Two devices cannot have one number, so those that go
    go before those that come.
    """
    found: list[Change] = []
    kept: dict[str, Overlay] = {}
    for name in sorted(have):
        wanted = want.get(name)
        if wanted is None or wanted.tunnel.identity != have[name].tunnel.identity:
            found.append(DropTunnel(name))
        else:
            kept[name] = have[name]
    for name in sorted(want):
        found += _become(kept.get(name), want[name])
    return tuple(found)


def _become(have: Overlay | None, want: Overlay) -> Iterator[Change]:
    tunnel = want.tunnel
    if have is None:
        yield MakeTunnel(tunnel)
        have = Overlay(replace(tunnel, bridge=""))
    if have.tunnel != tunnel:
        yield MendTunnel(tunnel)
    yield from _far_ends(tunnel.name, have.far_ends, want.far_ends)
    for mac in sorted(have.ways - want.ways):
        yield DropWay(tunnel.name, mac)
    for mac in sorted(want.ways - have.ways):
        yield SetWay(tunnel.name, mac)
    wanted = {one.address for one in want.neighbours}
    for address in sorted({one.address for one in have.neighbours} - wanted):
        yield DropNeighbour(tunnel.name, address)
    for one in sorted(want.neighbours - have.neighbours):
        yield SetNeighbour(tunnel.name, *one)


def _far_ends(device: str, have: frozenset[FarEnd], want: frozenset[FarEnd]) -> Iterator[Change]:
    """A MAC that leads to several hosts, or to none that is wanted, is forgotten first."""
    hosts: dict[str, set[str]] = {}
    for end in have:
        hosts.setdefault(end.mac, set()).add(end.host)
    wanted = {end.mac for end in want}
    doubled = {mac for mac, found in hosts.items() if len(found) > 1}
    for mac in sorted(doubled | (hosts.keys() - wanted)):
        yield DropFarEnd(device, mac)
    for end in sorted(want):
        if end not in have or end.mac in doubled:
            yield SetFarEnd(device, *end)
