"""Sends what other hosts answer by themselves, and waits for what comes back: pings of any size, TCP connections.

Whoever is asked needs nothing but its kernel. Sockets are asyncio's: anyio knows no raw ones.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

import anyio

WAIT_S: Final = 1.0
"""Seconds for an answer: several times what a way around the earth takes."""

AT_ONCE: Final = 64
"""Pings sent in a row; then others have their turn."""

HEADERS_BYTES: Final = 28
"""Of a ping."""

_MTU_DISCOVER, _PROBE = 10, 3
"""IP_MTU_DISCOVER, IP_PMTUDISC_PROBE: never cut into pieces, whatever is known of the way. Source: linux/in.h."""

_ICMP: Final = struct.Struct("!BBHHH")
_ECHO_REQUEST, _ECHO_REPLY = 8, 0


class Echo(NamedTuple):
    """A ping."""

    address: str
    bytes: int
    """Of the whole packet."""


async def echoed(echoes: Collection[Echo], source: str = "") -> frozenset[Echo]:
    """Send each of at most 65,536 once, from an address of ours, and return those that came back within WAIT_S."""
    waiting = dict(enumerate(echoes))
    number, found = secrets.randbelow(1 << 16), set[Echo]()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, _MTU_DISCOVER, _PROBE)
        if source:
            sock.bind((source, 0))
        async with anyio.create_task_group() as group:
            group.start_soon(_collect, sock, number, dict(waiting), found, group.cancel_scope)
            for sequence, echo in waiting.items():
                _send(sock, echo, number, sequence)
                if sequence % AT_ONCE == AT_ONCE - 1:
                    await anyio.sleep(0.001)
            group.cancel_scope.deadline = anyio.current_time() + WAIT_S
    return frozenset(found)


def _send(sock: socket.socket, echo: Echo, number: int, sequence: int) -> None:
    """What the kernel refuses to send is lost, as is what others lose."""
    try:
        sock.sendto(ping(number, sequence, echo.bytes), (echo.address, 0))
    except OSError:
        return


async def _collect(
    sock: socket.socket, number: int, waiting: Mapping[int, Echo], found: set[Echo], scope: anyio.CancelScope
) -> None:
    """Note what comes back, and end it all when everything has."""
    loop, missing = asyncio.get_running_loop(), dict(waiting)
    while missing:
        sequence = sequence_of_reply(await loop.sock_recv(sock, 65535), number)
        if (echo := missing.pop(sequence, None)) is not None:
            found.add(echo)
    scope.cancel()


def ping(number: int, sequence: int, size: int) -> bytes:
    """Pack an echo request that makes a packet of `size` bytes, the IP header included. Pure."""
    body = bytes(max(0, size - HEADERS_BYTES))
    checksum = _checksum(_ICMP.pack(_ECHO_REQUEST, 0, 0, number, sequence))
    return _ICMP.pack(_ECHO_REQUEST, 0, checksum, number, sequence) + body


def sequence_of_reply(packet: bytes, number: int) -> int:
    """Return the sequence number of a packet (IP header first) that answers a ping of ours, else -1. Pure."""
    start = (packet[0] & 0xF) * 4 if packet else 0
    if len(packet) < start + _ICMP.size:
        return -1
    kind, _, _, whose, sequence = _ICMP.unpack_from(packet, start)
    return int(sequence) if (kind, whose) == (_ECHO_REPLY, number) else -1


def _checksum(header: bytes) -> int:
    """The internet checksum; a body of zeros adds nothing. Source: RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


async def trouble_connecting(host: str, port: int) -> str:
    """Connect by TCP and tell why that failed, "" if it did not; that nobody listens there is no answer either."""
    try:
        with anyio.fail_after(WAIT_S):
            async with await anyio.connect_tcp(host, port):
                return ""
    except TimeoutError:
        return f"nothing came back within {WAIT_S:g} s"
    except OSError as error:
        return _reason(error)


async def takes_tcp(address: str, port: int) -> bool:
    """Does anything come back for a TCP connection? A refusal does."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock, anyio.move_on_after(WAIT_S):
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, (address, port))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return True
    return False


def _reason(error: OSError) -> str:
    causes = [cause for cause in (error.__cause__, error) if isinstance(cause, OSError)]
    return next((cause.strerror for cause in causes if cause.strerror), str(error))
