"""Foreign names, asked of the host's resolvers.

The resolvers are tried in their order; one that has just failed comes last for a while. When one is silent for a
second the next is asked as well, and the first good answer wins.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Callable, Collection, Sequence
from ipaddress import ip_address
from itertools import cycle, islice
from pathlib import Path
from typing import Final

import anyio
from anyio import Event

from nodeagent.dns import wire

PORT: Final = 53

NEXT_AFTER_S: Final = 1.0
"""Seconds of silence after which the next resolver is asked as well."""

ANSWER_WITHIN_S: Final = 3.5
"""Seconds for the whole search: the engine's resolver, which asks us, gives up after four."""

ASKED_LAST_S: Final = 10.0
"""Seconds for which a resolver that failed is asked after the others."""

LEAST_ATTEMPTS: Final = 3

MOST_RESOLVERS: Final = 3
"""Of resolv.conf. Source: resolv.conf(5), MAXNS."""

LOOK_EVERY_S: Final = 1.0
"""Seconds between two looks at whether resolv.conf has changed; only while somebody asks."""


class HostResolvers:
    """The name servers in resolv.conf, as they are now."""

    def __init__(self, path: Path = Path("/etc/resolv.conf")) -> None:
        self._path = path
        self._found: tuple[str, ...] = ()
        self._mark: tuple[int, int, int] | None = None
        self._looked_at = float("-inf")

    def addresses(self) -> tuple[str, ...]:
        """Return the addresses in order; none if there is no such file."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self._look()
        return self._found

    def _look(self) -> None:
        try:
            seen = self._path.stat()
            mark = (seen.st_ino, seen.st_mtime_ns, seen.st_size)
            if mark != self._mark:
                self._found, self._mark = parse_resolv_conf(self._path.read_text(errors="replace")), mark
        except OSError:
            self._found, self._mark = (), None


def parse_resolv_conf(text: str) -> tuple[str, ...]:
    """Return the name servers of a resolv.conf, the first three, each once. Pure."""
    words = (line.split() for line in text.splitlines())
    found = (line[1] for line in words if len(line) > 1 and line[0] == "nameserver")
    return tuple(dict.fromkeys(address for address in found if _is_address(address)))[:MOST_RESOLVERS]


class Upstream:
    """`resolvers`: whom to ask, in order. `ours`: addresses that are our own, never asked."""

    def __init__(
        self, resolvers: Callable[[], Sequence[str]], ours: Callable[[], Collection[str]], port: int = PORT
    ) -> None:
        self._resolvers, self._ours, self._port = resolvers, ours, port
        self._failed_at: dict[str, float] = {}

    async def ask(self, query: bytes, *, over_tcp: bool = False) -> bytes | None:
        """Return a resolver's answer to a query, under the query's own id; None if none has one."""
        order = self._order()
        if not order:
            return None
        attempts = islice(cycle(order), max(len(order), LEAST_ATTEMPTS))
        with anyio.move_on_after(ANSWER_WITHIN_S) as scope:
            search = _Search(secrets.token_bytes(2) + query[2:], scope, over_tcp)
            async with anyio.create_task_group() as group:
                for resolver in attempts:
                    if resolver not in search.failed_with_answer:
                        await self._begin(group, search, resolver)
        found = search.answer or search.failure
        return query[:2] + found[2:] if found is not None else None

    async def _begin(self, group: anyio.abc.TaskGroup, search: _Search, resolver: str) -> None:
        """Ask one, and return when it has failed or it is another one's turn."""
        ended = Event()
        group.start_soon(self._attempt, search, resolver, ended)
        with anyio.move_on_after(NEXT_AFTER_S):
            await ended.wait()
        if resolver not in search.failed_with_answer:
            self._failed_at[resolver] = time.monotonic()

    async def _attempt(self, search: _Search, resolver: str, ended: Event) -> None:
        try:
            answer = await exchange(search.query, resolver, self._port, over_tcp=search.over_tcp)
        except (OSError, EOFError):
            ended.set()
            return
        if wire.rcode_of(answer) in (wire.SERVFAIL, wire.REFUSED):
            search.failure = answer
            search.failed_with_answer.add(resolver)
        else:
            search.answer = answer
            search.scope.cancel()
        ended.set()

    def _order(self) -> list[str]:
        ours = self._ours()
        recently = time.monotonic() - ASKED_LAST_S
        known = [address for address in self._resolvers() if address not in ours]
        return sorted(known, key=lambda address: self._failed_at.get(address, float("-inf")) > recently)


class _Search:
    """One query on its way, and what came back."""

    def __init__(self, query: bytes, scope: anyio.CancelScope, over_tcp: bool) -> None:
        self.query, self.scope, self.over_tcp = query, scope, over_tcp
        self.answer: bytes | None = None
        self.failure: bytes | None = None
        """A resolver's word that it has no answer: better than none."""
        self.failed_with_answer: set[str] = set()


async def exchange(query: bytes, address: str, port: int, *, over_tcp: bool, source: str = "") -> bytes:
    """Ask one resolver, from an address of ours if one is given, and from a port of our own.

    OSError or EOFError if it cannot be asked. It may be silent for ever.
    """
    loop = asyncio.get_running_loop()
    family, target = _target(address, port)
    with socket.socket(family, socket.SOCK_STREAM if over_tcp else socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        if source:
            sock.bind((source, 0))
        await loop.sock_connect(sock, target)
        if over_tcp:
            await loop.sock_sendall(sock, len(query).to_bytes(2, "big") + query)
        else:
            sock.send(query)
        while True:
            answer = await (receive_framed(sock) if over_tcp else loop.sock_recv(sock, wire.TCP_BYTES))
            if wire.answers_to(query, answer):
                return answer


async def receive_framed(sock: socket.socket, most: int = wire.TCP_BYTES) -> bytes:
    """Read one message with its length before it; EOFError at the end, or where one is longer than `most`."""
    length = int.from_bytes(await _receive_exactly(sock, 2), "big")
    if length > most:
        raise EOFError
    return await _receive_exactly(sock, length)


async def _receive_exactly(sock: socket.socket, count: int) -> bytes:
    loop, found = asyncio.get_running_loop(), b""
    while len(found) < count:
        chunk = await loop.sock_recv(sock, count - len(found))
        if not chunk:
            raise EOFError
        found += chunk
    return found


def _target(address: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]:
    plain, _, zone = address.partition("%")
    if ":" not in plain:
        return socket.AF_INET, (plain, port)
    return socket.AF_INET6, (plain, port, 0, _interface(zone))


def _interface(zone: str) -> int:
    """The number of a link-local address's interface, 0 without; OSError if there is no such interface."""
    if not zone:
        return 0
    return int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)


def _is_address(text: str) -> bool:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True
