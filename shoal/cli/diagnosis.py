"""What is wrong with a swarm's network, in sentences, from what its nodes found. Pure.

One cause is found by many: a pair of nodes is told of once, and pairs that share a node are told of together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from shoal.api.probes import NodeProbe, ProbedNode, ProbedNodes, Way
from shoal.api.states import NodeState
from shoal.cli.text import plural

VXLAN_BYTES: Final = 50
"""What a tunnel adds to a packet. Source: RFC 7348, over IPv4."""

Pair = tuple[str, str]


def findings(found: ProbedNodes) -> list[str]:
    """Return a sentence for each thing that is wrong, the gravest first; none if all is well."""
    probes = {node.name: node.probe for node in found.nodes if node.probe is not None}
    addresses = {node.name: node.address for node in found.nodes}
    unheard = {node.name for node in found.nodes} - probes.keys()
    apart = _apart(probes)
    sentences = [_unheard(node, probes, apart) for node in found.nodes if node.name in unheard]
    for one, others in grouped(pair for pair in apart if not unheard & set(pair)):
        sentences.append(
            f"{one} ({addresses[one]}) and {_places(others, addresses)} do not reach each other: pings between the "
            "hosts get no answer. Look at cables, routes and firewalls between them."
        )
    ways = [(name, way) for name, probe in probes.items() for way in probe.broken_ways if (name, way.peer) not in apart]
    sentences += _about_ways(ways, probes, found.port)
    for name, probe in probes.items():
        sentences += _about_node(name, probe)
    return sentences


def summary(found: ProbedNodes) -> str:
    """Say what was looked at, and that it is well."""
    probes = [node.probe for node in found.nodes if node.probe is not None]
    networks = sorted({network for probe in probes for network in probe.networks})
    if not networks:
        return f"{plural(len(probes), 'node')}, none of them on a network to look at: nothing is wrong"
    on = f" on {plural(len(networks), 'network')} ({', '.join(networks)})"
    names = max((probe.names for probe in probes), default=0)
    well = ["all reach each other, also with the largest packets"] if len(probes) > 1 else []
    well += [f"{plural(names, 'name')} asked for led where they should"] if names else []
    return f"{plural(len(probes), 'node')}{on}: {'; '.join(well) or 'nothing is wrong'}"


def grouped(pairs: Iterable[Pair]) -> Iterator[tuple[str, list[str]]]:
    """Yield nodes with those they make a pair with, each pair once, whoever has most of them first."""
    left = {(min(pair), max(pair)) for pair in pairs}
    while left:
        count = Counter(name for pair in left for name in pair)
        one = min(count, key=lambda name: (-count[name], name))
        others = sorted(b if a == one else a for a, b in left if one in (a, b))
        left = {pair for pair in left if one not in pair}
        yield one, others


def _apart(probes: Mapping[str, NodeProbe]) -> set[Pair]:
    """Return who does not reach whose host. A host that answers no ping and yet passes tunnels is merely quiet."""
    found = set()
    for name, probe in probes.items():
        dead = {way.peer for way in probe.broken_ways if not way.largest}
        found |= {(name, host.peer) for host in probe.silent_hosts if host.peer in dead or not probe.networks}
    return found


def _unheard(node: ProbedNode, probes: Mapping[str, NodeProbe], apart: set[Pair]) -> str:
    others = [name for name in probes if name != node.name]
    nobody = (
        f" No other node reaches it at {node.address}."
        if others and all((o, node.name) in apart for o in others)
        else ""
    )
    if node.state == NodeState.DOWN:
        return f"{node.name} is down{node.message and f' ({node.message})'}.{nobody}"
    return f"The agent of {node.name} does not answer: {node.silence}.{nobody}"


def _about_ways(ways: Iterable[tuple[str, Way]], probes: Mapping[str, NodeProbe], port: int) -> Iterator[str]:
    blocked: set[Pair] = set()
    dead: dict[str, set[Pair]] = {}
    narrow: dict[tuple[str, int, int], set[Pair]] = {}
    without_tcp: dict[str, set[Pair]] = {}
    for name, way in ways:
        pair = name, way.peer
        if not way.largest and not _passes_elsewhere(name, way.peer, probes):
            blocked.add(pair)
        elif not way.largest:
            dead.setdefault(way.network, set()).add(pair)
        elif way.largest < way.mtu:
            narrow.setdefault((way.network, way.mtu, way.largest), set()).add(pair)
        elif not way.takes_tcp:
            without_tcp.setdefault(way.network, set()).add(pair)
    for one, others in grouped(blocked):
        yield (
            f"{one} and {_each(others)} reach each other's hosts, but nothing passes through the tunnels between "
            f"them. Let UDP port {port} (VXLAN) pass, both ways."
        )
    for network, pairs in sorted(dead.items()):
        for one, others in grouped(pairs):
            yield (
                f"On network {network} nothing passes between {one} and {_each(others)}, on others it does. Entries "
                "that were altered are mended within 30 s; if this stays, look at the agents' logs."
            )
    for (network, mtu, largest), pairs in sorted(narrow.items()):
        for one, others in grouped(pairs):
            yield (
                f"On network {network} packets of {mtu} bytes are lost between {one} and {_each(others)}; of "
                f"{largest} bytes they pass. Something on the way carries less than {mtu + VXLAN_BYTES} bytes: raise "
                f"its MTU, or make the network anew with mtu: {largest}."
            )
    for network, pairs in sorted(without_tcp.items()):
        for one, others in grouped(pairs):
            yield (
                f"On network {network} pings pass between {one} and {_each(others)}, TCP connections do not: a "
                "firewall drops what comes from the network's bridge, or a network card spoils checksums (try "
                "`ethtool -K DEVICE tx-checksum-ip-generic off`)."
            )


def _passes_elsewhere(name: str, peer: str, probes: Mapping[str, NodeProbe]) -> bool:
    """Is there a network on which something passes between two nodes?"""
    dead = {way.network for way in probes[name].broken_ways if way.peer == peer and not way.largest}
    both = set(probes[name].networks) & set(probes[peer].networks) if peer in probes else set()
    return bool(both - dead)


def _about_node(name: str, probe: NodeProbe) -> Iterator[str]:
    for address, why in sorted(probe.silent_managers.items()):
        yield f"{name} cannot connect to the manager at {address}: {why}. Let that TCP port pass."
    for network, why in sorted(probe.troubles.items()):
        yield f"Network {network} is not whole on {name}: {why}."
    for at in probe.broken_names:
        if not at.answers:
            yield (
                f"The name service of {name} does not answer on network {at.network} ({at.address}): containers there "
                f"find no names. `shoal status` on {name} tells how it is."
            )
        for wrong in at.wrong:
            leads = f"leads to {_listed(wrong.found)}" if wrong.found else "is not known"
            should = f"should lead to {_listed(wrong.expected)}" if wrong.expected else "should lead nowhere"
            yield f"On {name} the name {wrong.name} {leads} on network {at.network}, and {should}."


def _places(names: Iterable[str], addresses: Mapping[str, str]) -> str:
    return _each([f"{name} ({addresses[name]})" if name in addresses else name for name in names])


def _each(names: Iterable[str]) -> str:
    several = _listed(names)
    return f"each of {several}" if " and " in several else several


def _listed(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
