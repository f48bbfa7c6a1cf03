"""What agents tell when they are asked how their network is. Pure: facts, which `shoal doctor` puts into sentences.

A node tells what is not as it should be, so that an answer is short however many nodes there are.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

MOST_TOLD: Final = 2000
"""Faults of one kind that a node tells of; with more the first of them show what is wrong as well."""


class Host(Struct, frozen=True, rename="camel"):
    """Another node's host, where its tunnels end."""

    peer: str
    """The node's name."""
    address: str


class Way(Struct, frozen=True, rename="camel"):
    """What comes back from another node's bridge on a network, through the tunnel."""

    network: str
    peer: str
    address: str
    mtu: int
    """Bytes, the network's."""
    largest: int = 0
    """The largest packet that came back, in bytes up to the MTU; 0 = none did."""
    takes_tcp: bool = False
    """A TCP connection was taken or refused: something came back for it."""

    @property
    def is_whole(self) -> bool:
        return self.largest == self.mtu and self.takes_tcp


class WrongName(Struct, frozen=True, rename="camel"):
    """A name that does not lead where it should."""

    name: str
    found: tuple[str, ...]
    expected: tuple[str, ...]


class Names(Struct, frozen=True, rename="camel"):
    """How the node's own name service answers on a network."""

    network: str
    address: str
    answers: bool = False
    wrong: tuple[WrongName, ...] = ()

    @property
    def is_whole(self) -> bool:
        return self.answers and not self.wrong


class NodeProbe(Struct, frozen=True, rename="camel"):
    """All that one node found: what it looked at, and what is wrong of that."""

    networks: tuple[str, ...] = ()
    peers: int = 0
    names: int = 0
    """Names that were asked for."""
    silent_hosts: tuple[Host, ...] = ()
    """Those that answer no ping, beside all tunnels."""
    broken_ways: tuple[Way, ...] = ()
    broken_names: tuple[Names, ...] = ()
    silent_managers: dict[str, str] = {}
    """Address → why it could not be reached."""
    troubles: dict[str, str] = {}
    """Network → why it is not whole on this node."""


class ProbedNode(Struct, frozen=True, rename="camel"):
    """A node, and what it found; or why nothing was heard of it."""

    name: str
    state: str
    message: str = ""
    """Why it is in that state."""
    address: str = ""
    """Where its tunnels end."""
    probe: NodeProbe | None = None
    silence: str = ""


class ProbedNodes(Struct, frozen=True, rename="camel"):
    port: int = 4789
    """UDP port of all tunnels."""
    nodes: tuple[ProbedNode, ...] = ()
