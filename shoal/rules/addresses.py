"""Which address of a network comes next, and the MAC that belongs to it. Pure.

Addresses are handed out serially, as Swarm's IPAM does: each search starts behind the newest address given, so that
one that was just given back rests for as long as possible. Source: swarm semantics 4.10.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterator

from shoal.api.objects import Network, Subnet


def pools(network: Network) -> tuple[Subnet, ...]:
    """Return the IPv4 subnets in force: what was allocated, or what was asked for where that was all there is.

    Tasks get IPv4 addresses only, as Swarm's do.
    """
    return tuple(subnet for subnet in network.status.subnets or network.spec.subnets if ":" not in subnet.subnet)


def free_addresses(network: Network, taken: Container[str], newest: str = "") -> Iterator[str]:
    """Yield the addresses of a network that nobody has, each once, beginning behind `newest`.

    Addresses are given and taken without a mask. Left out are a subnet's own number, its broadcast address, its
    gateway, and its first host address, which stays Docker's customary gateway whatever a node's bridge is called.
    """
    parts = [_hosts(subnet) for subnet in pools(network)]
    at = _position(parts, newest)
    for ring in (_walk(parts, at), _until(parts, at)):
        for address in ring:
            if address not in taken:
                yield address


def capacity(network: Network) -> int:
    """Return how many addresses a network has to give. Worked: 10.0.1.0/24 has 253, its gateway being its first."""
    parts = map(_hosts, pools(network))
    return sum(max(0, last - first + 1) - sum(first <= one <= last for one in kept) for first, last, kept in parts)


def with_mask(network: Network, address: str) -> str:
    """Spell an address with its subnet's mask: 10.0.0.4/24. ValueError if it lies in no subnet of the network."""
    number = ipaddress.ip_address(address)
    for subnet in pools(network):
        net = ipaddress.ip_network(subnet.subnet)
        if number in net:
            return f"{address}/{net.prefixlen}"
    raise ValueError(f"{address} lies in no subnet of network {network.metadata.name}")


def without_mask(address: str) -> str:
    return address.partition("/")[0]


def mac_of(address: str) -> str:
    """Return 02:42 and the four bytes of an IPv4 address: 10.0.0.4 has 02:42:0a:00:00:04."""
    packed = ipaddress.IPv4Address(without_mask(address)).packed
    return "02:42:" + ":".join(f"{byte:02x}" for byte in packed)


def lowest_free(taken: Container[int], first: int, last: int) -> int | None:
    """Return the lowest number of first..last that nobody has, None if there is none."""
    return next((number for number in range(first, last + 1) if number not in taken), None)


_Part = tuple[int, int, frozenset[int]]
"""First and last address as numbers, and those between that are not for tasks."""


def _hosts(subnet: Subnet) -> _Part:
    net = ipaddress.IPv4Network(subnet.subnet)
    inside = ipaddress.IPv4Network(subnet.range) if subnet.range else net
    low, high = int(net.network_address) + 1, int(net.broadcast_address) - 1
    kept = {low}
    if subnet.gateway:
        kept.add(int(ipaddress.IPv4Address(without_mask(subnet.gateway))))
    return max(low, int(inside.network_address)), min(high, int(inside.broadcast_address)), frozenset(kept)


def _position(parts: list[_Part], newest: str) -> tuple[int, int]:
    """Return the part and the number to begin with."""
    if newest:
        number = int(ipaddress.IPv4Address(newest))
        for index, (first, last, _) in enumerate(parts):
            if first <= number <= last:
                return index, number + 1
    return 0, parts[0][0] if parts else 0


def _walk(parts: list[_Part], at: tuple[int, int]) -> Iterator[str]:
    for index, (first, last, kept) in enumerate(parts):
        if index >= at[0]:
            start = at[1] if index == at[0] else first
            yield from _spelled(start, last, kept)


def _until(parts: list[_Part], at: tuple[int, int]) -> Iterator[str]:
    for index, (first, last, kept) in enumerate(parts[: at[0] + 1]):
        end = at[1] - 1 if index == at[0] else last
        yield from _spelled(first, end, kept)


def _spelled(first: int, last: int, kept: frozenset[int]) -> Iterator[str]:
    for number in range(first, last + 1):
        if number not in kept:
            yield str(ipaddress.IPv4Address(number))
