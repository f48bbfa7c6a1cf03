"""A TCP proxy on loopback, to cut, hold back and lose what two processes say to each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.abc import SocketStream
from anyio.streams.stapled import MultiListener


class Proxy:
    """Carries connections to 127.0.0.1:`port` while `is_open`; what is on the way waits while answers are held."""

    def __init__(self, listener: MultiListener[SocketStream], port: int) -> None:
        self.port: int = listener.listeners[0].extra(anyio.abc.SocketAttribute.local_port)
        self.is_open = True
        self.accepted = 0
        """Connections carried so far."""
        self._listener, self._target = listener, port
        self._connections: set[anyio.CancelScope] = set()
        self._answers = anyio.Event()
        self._answers.set()

    def cut(self) -> None:
        """Break all connections, and each new one, until `mend`."""
        self.is_open = False
        for connection in self._connections:
            connection.cancel()

    def mend(self) -> None:
        self.is_open = True

    def hold_answers(self) -> None:
        """Let requests through and keep the answers: the connections stay up and silent."""
        self._answers = anyio.Event()

    def release_answers(self) -> None:
        self._answers.set()

    async def serve(self) -> None:
        await self._listener.serve(self._carry)

    async def _carry(self, client: SocketStream) -> None:
        async with client:
            if not self.is_open:
                return
            self.accepted += 1
            with anyio.CancelScope() as scope:
                self._connections.add(scope)
                await self._join(client, scope)
            self._connections.discard(scope)

    async def _join(self, client: SocketStream, scope: anyio.CancelScope) -> None:
        try:
            server = await anyio.connect_tcp("127.0.0.1", self._target)
        except OSError:
            return
        async with server, anyio.create_task_group() as tasks:
            tasks.start_soon(self._copy, server, client, scope, self._wait_for_answers)
            tasks.start_soon(self._copy, client, server, scope, None)

    async def _wait_for_answers(self) -> None:
        await self._answers.wait()

    @staticmethod
    async def _copy(
        source: SocketStream, sink: SocketStream, scope: anyio.CancelScope, gate: Callable[[], Awaitable[None]] | None
    ) -> None:
        """Carry one direction; its end is the connection's."""
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for chunk in source:
                if gate is not None:
                    await gate()
                await sink.send(chunk)
        scope.cancel()


@asynccontextmanager
async def running_proxy(port: int) -> AsyncIterator[Proxy]:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        proxy = Proxy(listener, port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(proxy.serve)
            try:
                yield proxy
            finally:
                tasks.cancel_scope.cancel()
