"""Answers on the bridges' addresses, UDP and TCP, from memory; passes foreign names on.

Sockets are bound whether or not the address exists yet, and survive a bridge that is made anew. Who speaks to sockets
in this package speaks to asyncio itself: they have to be bound in ways that anyio does not know.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter as Tally
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

import anyio
import structlog
from anyio import CancelScope
from anyio.abc import TaskGroup
from prometheus_client.metrics import Counter

from nodeagent.dns import wire
from nodeagent.dns.answers import Answers, Door, Elsewhere, failure
from nodeagent.dns.reader import Query, Reader, send
from nodeagent.dns.upstream import receive_framed
from nodeagent.dns.zone import Listener

PORT: Final = 53

BUFFER_BYTES: Final = 1 << 20
"""Queries that wait in the kernel while we are busy; some three thousand."""

MOST_FORWARDED: Final = 512
MOST_FORWARDED_EACH: Final = 64
"""Foreign names looked up at once: for all, and for one asker."""

MOST_CONNECTIONS: Final = 256
MOST_CONNECTIONS_EACH: Final = 16
"""TCP connections at once: for all, and of one asker."""

IDLE_S: Final = 10.0
"""Seconds after which a silent TCP connection is closed."""

OPEN_AGAIN_S: Final = 5.0
"""Seconds before an address that somebody else holds is tried again."""

log = structlog.get_logger()

_queries = Counter("shoal_dns_queries", "Queries by what became of them", ["outcome"])
_own, _foreign, _failed, _refused = (_queries.labels(o) for o in ("own", "foreign", "failed", "over_limit"))


class Forwarder(Protocol):
    async def ask(self, query: bytes, *, over_tcp: bool = False) -> bytes | None: ...


@dataclass
class _Open:
    """The sockets of one listener; TCP may lack where another program holds the port on all addresses."""

    udp: socket.socket
    tcp: socket.socket | None = None
    scope: CancelScope = field(default_factory=CancelScope)


class Server:
    def __init__(self, answers: Answers, upstream: Forwarder, port: int = PORT) -> None:
        self._answers, self._upstream, self._port = answers, upstream, port
        self._open: dict[Listener, _Open] = {}
        self._blocked: dict[Listener, str] = {}
        self._forwarded: Tally[str] = Tally()
        self._connections: Tally[str] = Tally()
        self._group: TaskGroup | None = None
        self._reader = Reader(answers.remembered, self._find)
        self._counted = 0

    def troubles(self) -> list[str]:
        """Why some address cannot be listened on, in sentences."""
        return list(self._blocked.values())

    def addresses(self) -> frozenset[str]:
        """Our own addresses."""
        return frozenset(listener.address for listener in self._open)

    def refresh(self) -> None:
        """Listen where the zone says now. Called after each change of the answers."""
        wanted = self._answers.zone.listeners()
        for listener in self._open.keys() - wanted:
            self._close(listener)
        self._blocked = {listener: why for listener, why in self._blocked.items() if listener in wanted}
        self._listen(wanted - self._open.keys())

    async def run(self) -> None:
        """Answer until cancelled."""
        try:
            async with anyio.create_task_group() as self._group:
                self._group.start_soon(self._reader.run)
                self.refresh()
                while True:
                    await anyio.sleep(OPEN_AGAIN_S)
                    self._count()
                    self._listen(frozenset(self._blocked))
        finally:
            self._group = None
            for listener in list(self._open):
                self._close(listener)
            self._reader.close()

    def _count(self) -> None:
        answered = self._reader.answered
        _own.inc(answered - self._counted)
        self._counted = answered

    def _listen(self, listeners: Iterable[Listener]) -> None:
        if self._group is None:
            return
        for listener in sorted(listeners, key=lambda one: one.address):
            try:
                self._open_sockets(listener)
            except OSError as error:
                if listener not in self._blocked:
                    log.error("names_listener_blocked", address=listener.address, port=self._port, reason=str(error))
                self._blocked[listener] = f"port {self._port} of {listener.address} cannot be listened on: {error}"
            else:
                self._blocked.pop(listener, None)

    def _open_sockets(self, listener: Listener) -> None:
        """Open what is not open yet; OSError if something cannot be."""
        assert self._group is not None
        door = self._answers.door(listener.network)
        found = self._open.get(listener)
        if found is None:
            udp = _bound(listener.address, self._port, socket.SOCK_DGRAM)
            found = self._open[listener] = _Open(udp)
            self._reader.add(udp, door)
            log.info("names_listener_opened", address=listener.address, port=self._port)
        if found.tcp is None:
            found.tcp = _bound(listener.address, self._port, socket.SOCK_STREAM)
            self._group.start_soon(self._accept, found.tcp, door, found.scope)

    def _close(self, listener: Listener) -> None:
        found = self._open.pop(listener)
        found.scope.cancel()
        self._reader.remove(found.udp)
        found.udp.close()
        if found.tcp is not None:
            found.tcp.close()
        log.info("names_listener_closed", address=listener.address, port=self._port)

    def _find(self, query: Query) -> None:
        """Answer what is not remembered."""
        reply = self._answers.answer(query.door, query.asker[0], query.data)
        if isinstance(reply, bytes):
            _own.inc()
            send(query.sock, reply, query.asker)
        elif reply is Elsewhere.FORWARD:
            self._forward(query)

    def _forward(self, query: Query) -> None:
        assert self._group is not None
        if self._takes(query.asker[0]):
            self._group.start_soon(self._forward_udp, query)
        elif (reply := failure(query.data)) is not None:
            send(query.sock, reply, query.asker)

    async def _forward_udp(self, query: Query) -> None:
        reply = await self._ask(query.data, query.asker[0], over_tcp=False)
        if reply is not None:
            send(query.sock, reply, query.asker)

    def _takes(self, asker: str) -> bool:
        """Count one more foreign name that is looked up for an asker, if there may be one more; `_ask` ends it."""
        if self._forwarded[asker] >= MOST_FORWARDED_EACH or self._forwarded.total() >= MOST_FORWARDED:
            _refused.inc()
            return False
        self._forwarded[asker] += 1
        return True

    async def _ask(self, query: bytes, asker: str, *, over_tcp: bool) -> bytes | None:
        try:
            reply = await self._upstream.ask(query, over_tcp=over_tcp)
        finally:
            _take_one(self._forwarded, asker)
        (_foreign if reply is not None else _failed).inc()
        return reply if reply is not None else failure(query)

    async def _accept(self, listening: socket.socket, door: Door, scope: CancelScope) -> None:
        loop = asyncio.get_running_loop()
        with scope:
            async with anyio.create_task_group() as group:
                while True:
                    try:
                        connection, peer = await loop.sock_accept(listening)
                    except OSError:  # the peer is gone again, or we have too many open files
                        await anyio.sleep(0.01)
                        continue
                    group.start_soon(self._converse, connection, peer[0], door)

    async def _converse(self, connection: socket.socket, asker: str, door: Door) -> None:
        """Answer one query after the other, until the asker leaves or is silent."""
        with connection:
            if self._connections[asker] >= MOST_CONNECTIONS_EACH or self._connections.total() >= MOST_CONNECTIONS:
                return
            self._connections[asker] += 1
            try:
                with suppress(OSError, EOFError):
                    while await self._answer_one(connection, asker, door):
                        pass
            finally:
                _take_one(self._connections, asker)

    async def _answer_one(self, connection: socket.socket, asker: str, door: Door) -> bool:
        query = None
        with anyio.move_on_after(IDLE_S):
            query = await receive_framed(connection, wire.MOST_QUERY_BYTES)
        if query is None:
            return False
        reply = self._answers.answer_tcp(door, asker, query)
        if reply is Elsewhere.FORWARD:
            reply = await self._ask(query, asker, over_tcp=True) if self._takes(asker) else failure(query)
        else:
            _own.inc()
        if not isinstance(reply, bytes):
            return False
        with anyio.move_on_after(IDLE_S):
            await asyncio.get_running_loop().sock_sendall(connection, len(reply).to_bytes(2, "big") + reply)
            return True
        return False


def _bound(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """Return a socket on an address, whether this host has it yet or not.

    Shared use is allowed so that a name server on all of the host's addresses can stand beside ours.
    """
    sock = socket.socket(socket.AF_INET, kind)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        sock.bind((address, port))
        if kind is socket.SOCK_STREAM:
            sock.listen(128)
    except OSError:
        sock.close()
        raise
    return sock


_IP_FREEBIND: Final = 15
"""Source: linux/in.h; Python 3.11 has no name for it."""


def _take_one(tally: Tally[str], key: str) -> None:
    tally[key] -= 1
    if not tally[key]:
        del tally[key]
