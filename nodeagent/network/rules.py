"""A node's packet rules: published ports, virtual IPs, and the way back to the mesh's clients. Pure.

A connection to a published port, or to a virtual IP, is sent to one ready backend, round robin:

    prerouting   from one of our bridges to a virtual IP of its network?   bridge . address ──► chain ──► dnat
                 for this host?   protocol . port ──► chain of that port ──► dnat to a backend
    output       the same for the host's own clients of published ports
    postrouting  a client on the host's loopback, or one that is its own backend, gets a source that can answer
    forward      a virtual IP without a ready backend refuses
    guard        nobody on our bridges reaches the host's loopback, which route_localnet would allow

Clients keep their address, so a backend on another node than the one a client came to would answer it directly, from
an address the client never asked. Therefore a node notes who brought a connection over the tunnel, and hands the
replies back to that node's bridge:

    zones        each node's bridge (its MAC) has a zone of its own in connection tracking
    marks        a new connection from a node's bridge is marked with that node's number; replies carry it
    back         (family bridge) a marked frame is addressed to the bridge of the node with that number

A client may ask two nodes from the same port of its own, and both may choose the same backend. Zones keep the two
connections apart here, and as replies are in none, the kernel gives the later one another source port.

Each port and each virtual IP has a chain of its own and one element in a map, so a changed backend rewrites one chain.
`renewed` fills the tables there are anew, `full` replaces them, `delta` gives the commands from one picture to the
next; each is applied in one transaction.
Source: the shape (verdict map, chain per port) is kube-proxy's nftables mode.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, ip_address
from typing import Final, NamedTuple

from nodeagent.network.sixes import address6, subnet6
from shoal.api.objects import Attachment, Backend, ServiceEndpoint
from shoal.api.states import Protocol, PublishMode

TABLE = "ip shoal"

TABLE6 = "ip6 shoal"

BRIDGE_TABLE = "bridge shoal"

BEFORE_DOCKER = -110
"""Hook priority: Docker translates at -100, and the first translation of a connection wins."""

MARK = 0x53480000
"""Marks of ours: these upper 16 bits, and a node's number (1-65535) in the lower ones."""

MARK_MASK = 0xFFFF0000

ANY_ADDRESS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 -- nothing is bound here
"""How people write that a port is published on all addresses of a host."""

_FRAME = f"""\
table {TABLE} {{
  map ports {{ type inet_proto . inet_service : verdict; }}
  map vips {{ type ifname . ipv4_addr : verdict; }}
  set idle {{ type ifname . ipv4_addr; }}
  set bridges {{ type ifname; }}
  set hairpins {{ type ipv4_addr . ipv4_addr; }}
  map peers {{ type ether_addr : mark; }}
  map zones {{ typeof ether saddr : ct zone; }}
  chain prerouting {{ type nat hook prerouting priority {BEFORE_DOCKER}; policy accept;
    iifname . ip daddr vmap @vips
    fib daddr type local meta l4proto . th dport vmap @ports
  }}
  chain output {{ type nat hook output priority {BEFORE_DOCKER}; policy accept;
    fib daddr type local meta l4proto . th dport vmap @ports
  }}
  chain postrouting {{ type nat hook postrouting priority 90; policy accept;
    oifname @bridges ct status dnat ip saddr 127.0.0.0/8 masquerade
    oifname @bridges ct status dnat ip saddr . ip daddr @hairpins masquerade
  }}
  chain forward {{ type filter hook forward priority -10; policy accept;
    iifname . ip daddr @idle meta l4proto tcp reject with tcp reset
    iifname . ip daddr @idle reject with icmp type host-unreachable
  }}
  chain guard {{ type filter hook prerouting priority -300; policy accept;
    iifname @bridges ip daddr 127.0.0.0/8 drop
  }}
  chain zones {{ type filter hook prerouting priority -300; policy accept;
    iifname @bridges ct original zone set ether saddr map @zones
  }}
  chain marks {{ type filter hook prerouting priority -150; policy accept;
    iifname @bridges ct state new ct mark set ether saddr map @peers
    iifname @bridges ct direction reply ct mark & {MARK_MASK:#x} == {MARK:#x} meta mark set ct mark
  }}
}}
table {BRIDGE_TABLE} {{
  map ways {{ type mark : ether_addr; }}
  chain back {{ type filter hook prerouting priority 10; policy accept;
    meta mark & {MARK_MASK:#x} == {MARK:#x} ether daddr set meta mark map @ways meta mark set 0
  }}
}}
"""
"""What is the same on every node. Bridge netfilter, at priority 0, comes before `back` and lends it the mark."""


_FRAME6 = f"""\
table {TABLE6} {{
  map ports {{ type inet_proto . inet_service : verdict; }}
  set bridges {{ type ifname; }}
  set hairpins {{ type ipv6_addr . ipv6_addr; }}
  map peers {{ type ether_addr : mark; }}
  map zones {{ typeof ether saddr : ct zone; }}
  chain prerouting {{ type nat hook prerouting priority {BEFORE_DOCKER}; policy accept;
    fib daddr type local meta l4proto . th dport vmap @ports
  }}
  chain output {{ type nat hook output priority {BEFORE_DOCKER}; policy accept;
    ip6 daddr != ::1 fib daddr type local meta l4proto . th dport vmap @ports
  }}
  chain postrouting {{ type nat hook postrouting priority 90; policy accept;
    oifname @bridges ct status dnat ip6 saddr . ip6 daddr @hairpins masquerade
    oifname != @bridges ip6 saddr INSIDE masquerade
  }}
  chain zones {{ type filter hook prerouting priority -300; policy accept;
    iifname @bridges ct original zone set ether saddr map @zones
  }}
  chain marks {{ type filter hook prerouting priority -150; policy accept;
    iifname @bridges ct state new ct mark set ether saddr map @peers
    iifname @bridges ct direction reply ct mark & {MARK_MASK:#x} == {MARK:#x} meta mark set ct mark
  }}
}}
"""
"""The same for IPv6, which the ingress network has, INSIDE. From ::1 nothing leads; old engines masquerade not."""


class PortKey(NamedTuple):
    protocol: Protocol
    published: int

    @property
    def chain(self) -> str:
        return f"{self.protocol}-{self.published}"


class VipKey(NamedTuple):
    bridge: str
    """Whose containers may use it."""
    address: IPv4Address

    @property
    def chain(self) -> str:
        return f"{self.bridge}-{self.address}"


class Target(NamedTuple):
    address: IPv4Address
    port: int = 0
    """0 = the one the client asked."""
    only: str = ""
    """The one address of the host that leads there; "" = all."""


@dataclass(frozen=True)
class Picture:
    """What the rules say."""

    ports: Mapping[PortKey, tuple[Target, ...]] = field(default_factory=dict)
    """The targets of each published port that has any."""
    vips: Mapping[VipKey, tuple[Target, ...]] = field(default_factory=dict)
    """The targets of each virtual IP; it may have none."""
    bridges: tuple[tuple[str, str], ...] = ()
    """(bridge interface, subnet) of each of our networks here, sorted."""
    peers: Mapping[int, str] = field(default_factory=dict)
    """Node number → the MAC of that node's bridge on the ingress network, for each other node."""
    near: frozenset[IPv4Address] = frozenset()
    """Ready backends on this node: they may ask for a service and be sent to themselves."""
    six: str = ""
    """The uid of the ingress network if it has an IPv6 side here, else ""."""


def published_ports(
    endpoints: Iterable[ServiceEndpoint], backends: Iterable[Backend], network_uid: str
) -> dict[PortKey, tuple[Target, ...]]:
    """Return the targets of every ingress port, sorted by address; a port without a ready backend is left out.

    A port without targets needs no rule: the host then refuses the connection by itself.
    """
    ready = _ready(backends)
    ports: dict[PortKey, tuple[Target, ...]] = {}
    for endpoint in endpoints:
        addresses = ready.get((endpoint.spec.service.uid, network_uid), ())
        for port in endpoint.spec.ports if addresses else ():
            if port.mode is PublishMode.INGRESS and port.published:
                key = PortKey(port.protocol, port.published)
                only = "" if port.address in ANY_ADDRESS else port.address
                ports[key] = tuple(Target(address, port.target, only) for address in addresses)
    return ports


def virtual_ips(
    endpoints: Iterable[ServiceEndpoint], backends: Iterable[Backend], bridges: Mapping[str, str]
) -> dict[VipKey, tuple[Target, ...]]:
    """Return the targets of every virtual IP on the networks in `bridges` (uid → interface), sorted by address."""
    ready = _ready(backends)
    vips: dict[VipKey, tuple[Target, ...]] = {}
    for endpoint in endpoints:
        for on in endpoint.spec.networks:
            bridge = bridges.get(on.network.uid)
            if bridge and on.vip:
                addresses = ready.get((endpoint.spec.service.uid, on.network.uid), ())
                vips[VipKey(bridge, _ip(on.vip))] = tuple(Target(address) for address in addresses)
    return vips


def _ready(backends: Iterable[Backend]) -> dict[tuple[str, str], list[IPv4Address]]:
    """Return the addresses of ready backends, sorted, by (service uid, network uid)."""
    found: dict[tuple[str, str], list[IPv4Address]] = {}
    for backend in backends:
        if backend.status.ready:
            for one in backend.spec.addresses:
                found.setdefault((backend.spec.service.uid, one.network.uid), []).append(_ip(one.address))
    for addresses in found.values():
        addresses.sort(key=int)
    return found


@lru_cache(maxsize=65536)
def _ip(address: str) -> IPv4Address:
    """Read 10.0.1.5/24. Kept, as reading takes longer than all else, and what is the same object is equal at once."""
    return IPv4Interface(address).ip


def near_addresses(backends: Iterable[Backend], node_uid: str) -> frozenset[IPv4Address]:
    """Return every address of the ready backends on a node."""
    return frozenset(
        _ip(one.address)
        for backend in backends
        if backend.status.ready and backend.spec.node.uid == node_uid
        for one in backend.spec.addresses
    )


def peers(attachments: Iterable[Attachment], network_uid: str, node_uid: str) -> dict[int, str]:
    """Return the other nodes on the ingress network: number → MAC of their bridge."""
    return {
        attachment.spec.number: attachment.spec.mac
        for attachment in attachments
        if attachment.spec.network.uid == network_uid
        and attachment.spec.node.uid != node_uid
        and not attachment.spec.container
        and attachment.spec.number
        and attachment.spec.mac
    }


def renewed(picture: Picture, chains: Iterable[str]) -> str:
    """Return the script that fills our tables anew, and makes them first where they are missing.

    `chains` are those there are, as `ip shoal tcp-80`; those of nobody go. The chains that packets enter by stay: one
    that was evaluating a new chain before it was valid, and the old one after, found no rule (one connection in a
    hundred thousand was refused). What is there with another definition makes the kernel refuse all of it.
    """
    frame, tables = _frames(picture), _tables(picture)
    kept = {f"{table} {name}" for table, part in tables.items() for name in _CHAIN.findall(part)} | _chains(
        picture
    ).keys()
    stale = sorted(one for one in chains if one.rpartition(" ")[0] in tables and one not in kept)
    lines = [f"flush table {table}" for table in tables]
    lines += [f"flush {kind} {table} {name}" for table, part in tables.items() for kind, name in _HOLDER.findall(part)]
    lines += [f"delete chain {chain}" for chain in stale]
    return "\n".join((frame, *lines, frame)) + _delta(Picture(six=picture.six), picture)


def full(picture: Picture) -> str:
    """Return the script that replaces the whole tables, whatever was there."""
    gone = "".join(f"table {table} {{}}\ndelete table {table}\n" for table in _tables(picture))
    return gone + _frames(picture) + _delta(Picture(six=picture.six), picture)


def _frames(picture: Picture) -> str:
    return _FRAME + (_FRAME6.replace("INSIDE", str(subnet6(picture.six))) if picture.six else "")


def _tables(picture: Picture) -> dict[str, str]:
    """Return the part of each table in the frames, by the table's name."""
    parts = re.split(r"^table (\S+ \S+) ", _frames(picture), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


_CHAIN: Final = re.compile(r"^  chain (\S+) ", re.MULTILINE)
_HOLDER: Final = re.compile(r"^  (map|set) (\S+) ", re.MULTILINE)


def delta(old: Picture, new: Picture) -> str:
    """Return the commands that turn `old` into `new`, "" if nothing changed; only what changed is named.

    Elements go before the chains they lead to, and come after them.
    """
    return full(new) if old.six != new.six else _delta(*_apart(old, new))


def _delta(old: Picture, new: Picture) -> str:
    had, has = _elements(old), _elements(new)
    chains, wanted = _chains(old), _chains(new)
    lines = [_command("delete", name, _stale(had[name], has[name], with_data=False)) for name in had]
    for chain in sorted(chains.keys() - wanted.keys()):
        lines += [f"flush chain {chain}", f"delete chain {chain}"]
    for chain in sorted(wanted):
        if chain not in chains:
            lines += [f"add chain {chain}", f"add rule {chain} {wanted[chain]}"]
        elif chains[chain] != wanted[chain]:
            lines += [f"flush chain {chain}", f"add rule {chain} {wanted[chain]}"]
    lines += [_command("add", name, _stale(has[name], had[name], with_data=True)) for name in has]
    return "".join(f"{line}\n" for line in lines if line)


def _apart(old: Picture, new: Picture) -> tuple[Picture, Picture]:
    """Leave out the ports and virtual IPs that are the same in both, so that nothing is spelled for them."""
    ports = {key for key in old.ports.keys() | new.ports.keys() if old.ports.get(key) != new.ports.get(key)}
    vips = {key for key in old.vips.keys() | new.vips.keys() if old.vips.get(key) != new.vips.get(key)}
    return _only(old, ports, vips), _only(new, ports, vips)


def _only(picture: Picture, ports: set[PortKey], vips: set[VipKey]) -> Picture:
    return replace(
        picture,
        ports={key: picture.ports[key] for key in ports if key in picture.ports},
        vips={key: picture.vips[key] for key in vips if key in picture.vips},
    )


def clear(*, has_ipv6: bool) -> str:
    """Return the script that removes everything of ours."""
    tables = (TABLE, BRIDGE_TABLE, *((TABLE6,) if has_ipv6 else ()))
    return "".join(f"table {table} {{}}\ndelete table {table}\n" for table in tables)


def vanished(old: Picture, new: Picture, protocol: Protocol = Protocol.UDP) -> frozenset[IPv4Address]:
    """Return addresses that no port of a protocol and no virtual IP leads to any more: forget their flows."""
    return _addresses(old, protocol) - _addresses(new, protocol)


def appeared(old: Picture, new: Picture, protocol: Protocol = Protocol.UDP) -> frozenset[int]:
    """Return published ports of a protocol that lead somewhere now and did not before.

    What a client sent meanwhile was tracked as meant for the host itself, and would go on to be.
    """
    return frozenset(key.published for key in new.ports.keys() - old.ports.keys() if key.protocol is protocol)


def strangers(
    tracked: Iterable[IPv4Address], picture: Picture, protocol: Protocol = Protocol.UDP
) -> frozenset[IPv4Address]:
    """Return addresses of our networks that flows are tracked to although nothing of the protocol leads there."""
    subnets = [IPv4Network(subnet) for _, subnet in picture.bridges]
    ours = {address for address in tracked if any(address in subnet for subnet in subnets)}
    return frozenset(ours) - _addresses(picture, protocol)


def _addresses(picture: Picture, protocol: Protocol) -> frozenset[IPv4Address]:
    published = (targets for key, targets in picture.ports.items() if key.protocol is protocol)
    return frozenset(target.address for targets in (*published, *picture.vips.values()) for target in targets)


def _elements(picture: Picture) -> dict[str, dict[str, str]]:
    """Return what each set and map holds: key → data, "" in a set."""
    served = [key for key, targets in picture.vips.items() if targets]
    bridges = {f'"{bridge}"': "" for bridge, _ in picture.bridges}
    peers = {mac: f"{MARK | number:#x}" for number, mac in picture.peers.items()}
    return {
        f"{TABLE} ports": _ports(picture, 4),
        f"{TABLE} vips": {_vip(key): f"goto {key.chain}" for key in served},
        f"{TABLE} idle": {_vip(key): "" for key, targets in picture.vips.items() if not targets},
        f"{TABLE} bridges": bridges,
        f"{TABLE} hairpins": {f"{address} . {address}": "" for address in picture.near},
        f"{TABLE} peers": peers,
        f"{TABLE} zones": _zones(picture),
        f"{BRIDGE_TABLE} ways": {f"{MARK | number:#x}": mac for number, mac in picture.peers.items()},
        **(_elements6(picture, bridges, peers) if picture.six else {}),
    }


def _elements6(picture: Picture, bridges: dict[str, str], peers: dict[str, str]) -> dict[str, dict[str, str]]:
    near = [address6(picture.six, str(address)) for address in picture.near]
    return {
        f"{TABLE6} ports": _ports(picture, 6),
        f"{TABLE6} bridges": bridges,
        f"{TABLE6} hairpins": {f"{address} . {address}": "" for address in near},
        f"{TABLE6} peers": peers,
        f"{TABLE6} zones": _zones(picture),
    }


def _zones(picture: Picture) -> dict[str, str]:
    return {mac: str(number) for number, mac in picture.peers.items()}


def _ports(picture: Picture, version: int) -> dict[str, str]:
    return {
        f"{key.protocol} . {key.published}": f"goto {key.chain}"
        for key, targets in picture.ports.items()
        if _speaks(targets, version)
    }


def _speaks(targets: tuple[Target, ...], version: int) -> bool:
    """Does a port answer over this version of IP? One that is bound to an address does over that address's."""
    only = targets[0].only
    return not only or ip_address(only).version == version


def _vip(key: VipKey) -> str:
    return f'"{key.bridge}" . {key.address}'


def _stale(here: Mapping[str, str], there: Mapping[str, str], *, with_data: bool) -> list[str]:
    """Return the elements that are only here, or have other data there."""
    return [
        f"{key} : {here[key]}" if with_data and here[key] else key
        for key in sorted(here)
        if key not in there or there[key] != here[key]
    ]


def _command(verb: str, name: str, elements: list[str]) -> str:
    return f"{verb} element {name} {{ {', '.join(elements)} }}" if elements else ""


def _chains(picture: Picture) -> dict[str, str]:
    """Return the rule of each chain: of published ports, and of virtual IPs that have targets."""
    rules: dict[str, str] = {}
    for port, targets in picture.ports.items():
        addresses = [target.address for target in targets]
        if _speaks(targets, 4):
            rules[f"{TABLE} {port.chain}"] = _port_rule("ip", targets[0], addresses)
        if picture.six and _speaks(targets, 6):
            sixes = [address6(picture.six, str(address)) for address in addresses]
            rules[f"{TABLE6} {port.chain}"] = _port_rule("ip6", targets[0], sixes)
    for vip, targets in picture.vips.items():
        if targets:
            rules[f"{TABLE} {vip.chain}"] = f"dnat to {_choice([target.address for target in targets])}"
    return rules


def _port_rule(family: str, one: Target, addresses: Sequence[IPv4Address | IPv6Address]) -> str:
    only = f"{family} daddr {one.only} " if one.only else ""
    choice = _choice(addresses)
    if len(addresses) == 1:
        where = f"[{choice}]:{one.port}" if family == "ip6" else f"{choice}:{one.port}"
    else:
        where = f"{choice} : {one.port}"
    return f"{only}meta l4proto {{ tcp, udp }} dnat to {where}"


def _choice(addresses: Sequence[IPv4Address | IPv6Address]) -> str:
    if len(addresses) == 1:
        return str(addresses[0])
    choices = ", ".join(f"{index} : {address}" for index, address in enumerate(addresses))
    return f"numgen inc mod {len(addresses)} map {{ {choices} }}"
