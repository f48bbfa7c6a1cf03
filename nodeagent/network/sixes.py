"""The IPv6 side of the ingress network, derived so that nobody has to hand it out. Pure.

    network uid ──► fdXX:XXXX:XXXX::/96   unique local (RFC 4193), the same on every node
    10.0.0.7    ──► fdXX:XXXX:XXXX::a00:7

So a client that came over IPv6 keeps its address to the task, as over IPv4; MACs and forwarding entries serve both.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Interface, IPv6Address, IPv6Network
from typing import Final

PREFIX6: Final = 96
"""Length of the prefix of every such subnet, in bits."""


def subnet6(network_uid: str) -> IPv6Network:
    """Return a network's IPv6 subnet: fd, forty bits of its uid, and room for an IPv4 address."""
    global_id = hashlib.sha256(network_uid.encode()).digest()[:5]
    return IPv6Network((bytes((0xFD,)) + global_id + bytes(10), PREFIX6))


def address6(network_uid: str, address: str) -> IPv6Address:
    """Return the IPv6 address that belongs to an IPv4 one, given with its mask or without."""
    return subnet6(network_uid)[int(IPv4Interface(address).ip)]


def interface6(network_uid: str, address: str) -> str:
    """Return the same with its mask, as a link carries it: `fd50:a3f6:c6df::a00:7/96`."""
    return f"{address6(network_uid, address)}/{PREFIX6}"
