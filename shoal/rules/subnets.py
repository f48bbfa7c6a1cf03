"""Which subnet and which VXLAN number a network gets. Pure.

Automatic subnets are the lowest free ones of the cluster's address pools, as Swarm's IPAM hands them out; VXLAN
numbers go up from 4096. Source: swarm semantics 4.10.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv4Network
from typing import Final

from shoal.api.objects import Network, Subnet

FIRST_VNI: Final = 4096
"""Swarm's first VXLAN number; lower ones are left to others."""

LAST_VNI: Final = (1 << 24) - 1
"""VXLAN numbers have 24 bits."""


def subnets_of(network: Network) -> tuple[IPv4Network, ...]:
    """Return the subnets a network has."""
    return tuple(IPv4Network(subnet.subnet) for subnet in network.status.subnets if ":" not in subnet.subnet)


def are_apart(one: Network, other: Network) -> bool:
    """Say whether one engine can have both networks: Docker allows no two bridges whose subnets overlap."""
    return not any(mine.overlaps(theirs) for mine in subnets_of(one) for theirs in subnets_of(other))


def conflicts(networks: Iterable[Network]) -> dict[str, frozenset[str]]:
    """Return, for each network that overlaps others, the uids of those; sorted by address, so not every pair is asked.

    Worked: 10.1.0.0/16, 10.1.2.0/24 and 10.2.0.0/24 give the first two, each with the other.
    """
    spans = sorted(
        (int(net.network_address), int(net.broadcast_address), network.metadata.uid)
        for network in networks
        for net in subnets_of(network)
    )
    found: dict[str, set[str]] = {}
    open_spans: list[tuple[int, str]] = []
    for first, last, uid in spans:
        open_spans = [(end, other) for end, other in open_spans if end >= first]
        for _, other in open_spans:
            if other != uid:
                found.setdefault(uid, set()).add(other)
                found.setdefault(other, set()).add(uid)
        open_spans.append((last, uid))
    return {uid: frozenset(others) for uid, others in found.items()}


def first_free(pools: Iterable[str], size: int, taken: Iterable[IPv4Network]) -> IPv4Network | None:
    """Return the lowest subnet with a mask of `size` bits of the pools that overlaps nothing taken, None if all do.

    Worked: of 10.0.0.0/8 in /24s with 10.0.0.0/24 and 10.0.1.128/25 taken, the next is 10.0.2.0/24.
    """
    spans = sorted((int(net.network_address), int(net.broadcast_address)) for net in taken)
    width = 1 << (32 - size)
    for pool in map(IPv4Network, pools):
        if size < pool.prefixlen:
            continue
        at = int(pool.network_address)
        for first, last in spans:
            if first > at + width - 1:
                break
            if last >= at:
                at = (last // width + 1) * width
        if at + width - 1 <= int(pool.broadcast_address):
            return IPv4Network((at, size))
    return None


def with_gateway(subnet: Subnet) -> Subnet:
    """Return a subnet with its gateway: the one asked for, or its first host address."""
    gateway = subnet.gateway or str(IPv4Network(subnet.subnet).network_address + 1)
    return Subnet(subnet.subnet, gateway, subnet.range)


def next_vni(taken: Collection[int], newest: int) -> int | None:
    """Return the VXLAN number behind `newest`, or else the lowest free one: a number rests before it is reused."""
    free = (vni for vni in range(max(newest + 1, FIRST_VNI), LAST_VNI + 1) if vni not in taken)
    again = (vni for vni in range(FIRST_VNI, LAST_VNI + 1) if vni not in taken)
    return next(free, None) or next(again, None)
