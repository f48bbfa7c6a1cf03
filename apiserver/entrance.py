"""How connections from other hosts come in: strangers are bounded, members of the cluster are not.

Whoever has shown a certificate of the cluster is a member. Everybody else costs us memory and arithmetic for nothing:

    accepted ──► waits in line ──► handshake ──► a member: no more limits
                                            └──► a stranger: so many, for so long, with so many bytes

A line per address and one for all are served in the order in which connections came, so that a thousand agents that
come back at once are all let in, a few at a time, and one address cannot take the turns of others.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, cast

import anyio
import structlog
from aiohttp import web
from msgspec import Struct

AGAIN_S: Final = 1.0
"""Seconds until the next try to accept, where there is no descriptor left for a connection."""

TELL_EVERY_S: Final = 1.0
"""Seconds between two log lines about connections that were turned away."""

WRITE_BYTES: Final = 32 << 10
"""What may wait inside a connection's TLS for a client that reads slowly; asyncio's own limit is 512 KiB, and what was
needed once is kept."""

BACKLOG: Final = 4096
"""Connections that the kernel holds for us; it takes the smaller of this and net.core.somaxconn."""

log = structlog.get_logger()


class Limits(Struct, frozen=True):
    """What strangers may take, by address and in all."""

    waiting_each: int = 4096
    waiting: int = 8192
    """Connections in line, a socket each: two for each of a thousand agents that come from one address."""
    shaking_each: int = 64
    shaking: int = 256
    """Handshakes at once: some 50 kB each."""
    strangers_each: int = 32
    strangers: int = 256
    """Connections without a certificate of the cluster: of hosts that join."""
    handshake_s: float = 10.0
    patience_s: float = 30.0
    """Seconds in line, handshake included. Clients of ours give up long before."""
    stranger_s: float = 30.0
    stranger_bytes: int = 64 << 10
    """A request to join is 2 kB."""


LIMITS: Final = Limits()


class Places:
    """So many for each address, and so many in all. Pure bookkeeping."""

    def __init__(self, each: int, total: int) -> None:
        self._each, self._total = each, total
        self._taken: Counter[str] = Counter()
        self.count = 0

    def enter(self, address: str) -> bool:
        """Take a place if there is one."""
        if self.count >= self._total or self._taken[address] >= self._each:
            return False
        self._taken[address] += 1
        self.count += 1
        return True

    def leave(self, address: str) -> None:
        self._taken[address] -= 1
        self.count -= 1
        if not self._taken[address]:
            del self._taken[address]


class Turns:
    """So many at a time for each address, and in all; the others wait, in the order in which they came."""

    def __init__(self, each: int, total: int) -> None:
        self._each, self._all = each, anyio.Semaphore(total)
        self._lines: dict[str, anyio.Semaphore] = {}
        self._users: Counter[str] = Counter()

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        line = self._lines.setdefault(address, anyio.Semaphore(self._each))
        self._users[address] += 1
        try:
            async with line, self._all:
                yield
        finally:
            self._users[address] -= 1
            if not self._users[address]:
                del self._users[address], self._lines[address]


class Entrance:
    """Accepts connections on `listening` and hands them to the runner's server.

    `is_member` says whether a certificate, as Python spells one that TLS has verified, is one of the cluster's.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        context: ssl.SSLContext,
        is_member: Callable[[dict[str, object]], bool],
        limits: Limits,
    ) -> None:
        self._runner, self._context, self._is_member, self.limits = runner, context, is_member, limits
        self.waiting = Places(limits.waiting_each, limits.waiting)
        self.strangers = Places(limits.strangers_each, limits.strangers)
        self._turns = Turns(limits.shaking_each, limits.shaking)
        self._refused = 0
        self._last_refused = ""

    async def run(self, listening: socket.socket) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as group:
            group.start_soon(self._tell)
            while True:
                try:
                    connection, address = await loop.sock_accept(listening)
                except ConnectionError:  # gone again before it was accepted
                    continue
                except OSError as error:
                    log.warning("connection_not_accepted", reason=error.strerror or str(error))
                    await anyio.sleep(AGAIN_S)
                    continue
                if self.waiting.enter(address[0]):
                    group.start_soon(self._receive, connection, address[0])
                else:
                    connection.close()
                    self.refused(address[0])

    async def _receive(self, connection: socket.socket, address: str) -> None:
        """Let one connection in when it is its turn; it goes on by itself then."""
        is_in = False
        try:
            with anyio.move_on_after(self.limits.patience_s) as waiting:
                async with self._turns.turn(address):
                    await self._shake(connection, address)
                    is_in = True
            if waiting.cancelled_caught:
                self.refused(address)
        except OSError as error:  # TLS errors are among these
            log.debug("handshake_failed", address=address, reason=str(error))
        finally:
            self.waiting.leave(address)
            if not is_in:
                connection.close()

    async def _shake(self, connection: socket.socket, address: str) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: Newcomer(self, address),
            connection,
            ssl=self._context,
            ssl_handshake_timeout=self.limits.handshake_s,
        )

    def handler(self) -> asyncio.Protocol:
        """Return what speaks HTTP on one connection."""
        server = self._runner.server
        assert server is not None
        return cast(asyncio.Protocol, server())

    def is_member(self, transport: asyncio.BaseTransport) -> bool:
        return self._is_member(transport.get_extra_info("peercert") or {})

    def refused(self, address: str) -> None:
        self._refused += 1
        self._last_refused = address

    async def _tell(self) -> None:
        while True:
            await anyio.sleep(TELL_EVERY_S)
            if self._refused:
                log.warning("connections_refused", count=self._refused, address=self._last_refused)
                self._refused = 0


class Newcomer(asyncio.Protocol):
    """A connection after its handshake: a member's is handed over whole; a stranger's is counted and ends."""

    def __init__(self, entrance: Entrance, address: str) -> None:
        self._entrance, self._address = entrance, address
        self._handler: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None
        self._end: asyncio.TimerHandle | None = None
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        speaking = cast(asyncio.Transport, transport)
        speaking.set_write_buffer_limits(WRITE_BYTES)
        if self._entrance.is_member(speaking):
            handler = self._entrance.handler()
            speaking.set_protocol(handler)
            handler.connection_made(speaking)
        elif self._entrance.strangers.enter(self._address):
            self._transport, self._handler = speaking, self._entrance.handler()
            self._end = asyncio.get_running_loop().call_later(self._entrance.limits.stranger_s, speaking.abort)
            self._handler.connection_made(speaking)
        else:
            self._entrance.refused(self._address)
            speaking.abort()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._handler is None or self._transport is None:
            return
        if self._received > self._entrance.limits.stranger_bytes:
            self._entrance.refused(self._address)
            self._transport.abort()
        else:
            self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self._handler.eof_received() if self._handler is not None else None

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._handler is not None:
            self._handler.resume_writing()

    def connection_lost(self, reason: Exception | None) -> None:
        if self._end is not None:
            self._end.cancel()
        if self._handler is not None:
            self._entrance.strangers.leave(self._address)
            self._handler.connection_lost(reason)
            self._handler = None
