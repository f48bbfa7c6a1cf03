"""The published ports of a node as nftables rules. Pure.

A packet to a published port is sent to one ready backend, round robin per connection:

    prerouting/output   is it for this host?  protocol . port ──► chain of that port ──► dnat to a backend
    postrouting         a client on this host's loopback, or inside the mesh network, gets a source that can answer
    guard               nobody on a mesh bridge reaches the host's loopback, which route_localnet would allow

Each published port has a chain of its own and one element in the map, so a changed backend rewrites one chain.
`full` gives the whole table, `delta` the commands from one picture to the next; both are applied in one transaction.
Source: the shape (verdict map, chain per port) is kube-proxy's nftables mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import NamedTuple

from shoal.api.objects import Backend, ServiceEndpoint
from shoal.api.states import Protocol, PublishMode

TABLE = "ip shoal"

BEFORE_DOCKER = -110
"""Hook priority: Docker translates at -100, and the first translation of a connection wins."""


class PortKey(NamedTuple):
    protocol: Protocol
    published: int

    @property
    def chain(self) -> str:
        return f"{self.protocol}-{self.published}"


class Target(NamedTuple):
    address: IPv4Address
    port: int


@dataclass(frozen=True)
class Picture:
    """What the rules say: the targets of each published port, and the mesh networks' bridges and subnets."""

    ports: Mapping[PortKey, tuple[Target, ...]] = field(default_factory=dict)
    bridges: tuple[tuple[str, str], ...] = ()
    """(bridge interface, subnet) of each network that published ports lead to, sorted."""


def published_ports(
    endpoints: Iterable[ServiceEndpoint], backends: Iterable[Backend], network_uid: str
) -> dict[PortKey, tuple[Target, ...]]:
    """Return the targets of every ingress port, sorted by address; a port without a ready backend is left out.

    A port without targets needs no rule: the host then refuses the connection by itself.
    """
    addresses: dict[str, list[IPv4Address]] = {}
    for backend in backends:
        if backend.status.ready:
            addresses.setdefault(backend.spec.service.uid, []).extend(
                IPv4Interface(address.address).ip
                for address in backend.spec.addresses
                if address.network.uid == network_uid
            )
    ports: dict[PortKey, tuple[Target, ...]] = {}
    for endpoint in endpoints:
        ready = sorted(addresses.get(endpoint.spec.service.uid, ()))
        for port in endpoint.spec.ports if ready else ():
            if port.mode is PublishMode.INGRESS and port.published:
                key = PortKey(port.protocol, port.published)
                ports[key] = tuple(Target(address, port.target) for address in ready)
    return ports


def full(picture: Picture) -> str:
    """Return the script that replaces the whole table, whatever was there."""
    lines = [f"table {TABLE} {{}}", f"delete table {TABLE}", f"table {TABLE} {{"]
    lines += [
        "  map ports { type inet_proto . inet_service : verdict; }",
        f"  chain prerouting {{ type nat hook prerouting priority {BEFORE_DOCKER}; policy accept;",
        "    fib daddr type local meta l4proto . th dport vmap @ports",
        "  }",
        f"  chain output {{ type nat hook output priority {BEFORE_DOCKER}; policy accept;",
        "    fib daddr type local meta l4proto . th dport vmap @ports",
        "  }",
        "  chain postrouting { type nat hook postrouting priority 90; policy accept;",
        *(f"    {rule}" for rule in _masquerades(picture)),
        "  }",
        "  chain guard { type filter hook prerouting priority -300; policy accept;",
        *(f'    iifname "{bridge}" ip daddr 127.0.0.0/8 drop' for bridge, _ in picture.bridges),
        "  }",
        "}",
    ]
    for key in sorted(picture.ports):
        lines += _port(key, picture.ports[key])
    return "\n".join(lines) + "\n"


def delta(old: Picture, new: Picture) -> str:
    """Return the commands that turn `old` into `new`, "" if nothing changed; only what changed is named."""
    if old.bridges != new.bridges:
        return full(new)
    lines: list[str] = []
    for key in sorted(old.ports.keys() - new.ports.keys()):
        lines += [
            f"delete element {TABLE} ports {{ {key.protocol} . {key.published} }}",
            f"flush chain {TABLE} {key.chain}",
            f"delete chain {TABLE} {key.chain}",
        ]
    for key in sorted(new.ports):
        if key not in old.ports:
            lines += _port(key, new.ports[key])
        elif old.ports[key] != new.ports[key]:
            lines += [f"flush chain {TABLE} {key.chain}", f"add rule {TABLE} {key.chain} {_dnat(new.ports[key])}"]
    return "".join(line + "\n" for line in lines)


def vanished(old: Picture, new: Picture, protocol: Protocol = Protocol.UDP) -> frozenset[IPv4Address]:
    """Return addresses that no port of a protocol leads to any more: their tracked flows must be forgotten."""
    return _addresses(old, protocol) - _addresses(new, protocol)


def strangers(
    tracked: Iterable[IPv4Address], picture: Picture, protocol: Protocol = Protocol.UDP
) -> frozenset[IPv4Address]:
    """Return addresses of the mesh that flows are tracked to although no port of the protocol leads there."""
    subnets = [IPv4Network(subnet) for _, subnet in picture.bridges]
    ours = {address for address in tracked if any(address in subnet for subnet in subnets)}
    return frozenset(ours) - _addresses(picture, protocol)


def _addresses(picture: Picture, protocol: Protocol) -> frozenset[IPv4Address]:
    return frozenset(
        target.address for key, targets in picture.ports.items() if key.protocol is protocol for target in targets
    )


def _masquerades(picture: Picture) -> list[str]:
    return [
        f'oifname "{bridge}" ct status dnat ip saddr {{ 127.0.0.0/8, {subnet} }} masquerade'
        for bridge, subnet in picture.bridges
    ]


def _port(key: PortKey, targets: tuple[Target, ...]) -> list[str]:
    return [
        f"add chain {TABLE} {key.chain}",
        f"add rule {TABLE} {key.chain} {_dnat(targets)}",
        f"add element {TABLE} ports {{ {key.protocol} . {key.published} : goto {key.chain} }}",
    ]


def _dnat(targets: tuple[Target, ...]) -> str:
    port = targets[0].port
    if len(targets) == 1:
        return f"meta l4proto {{ tcp, udp }} dnat to {targets[0].address}:{port}"
    choices = ", ".join(f"{index} : {target.address}" for index, target in enumerate(targets))
    return f"meta l4proto {{ tcp, udp }} dnat to numgen inc mod {len(targets)} map {{ {choices} }} : {port}"
