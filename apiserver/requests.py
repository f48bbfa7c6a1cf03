"""Requests to agents: sent down the assignments stream, answered by a POST whose lines go to whoever asked."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from shoal.api.errors import NotFoundError, UnavailableError

BUFFER: Final = 64
"""Lines of an answer that may wait for whoever asked; then the agent waits."""

MAX_LINE: Final = 1 << 20
"""Bytes of one line of an answer; a longer one is no answer of our agent's."""

Line = Mapping[str, Any]


class Outbox:
    """What one connected agent has yet to be sent besides its assignments."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.woken = anyio.Event()
        self.is_reporting = False
        """A report of its is being written."""

    def put(self, message: Mapping[str, Any]) -> None:
        self.lines.append(msgspec.json.encode(message) + b"\n")
        self.woken.set()


class Requests:
    """All requests under way, by id."""

    def __init__(self) -> None:
        self._outboxes: dict[str, Outbox] = {}
        self._waiting: dict[str, tuple[str, MemoryObjectSendStream[Line]]] = {}

    @property
    def connected(self) -> frozenset[str]:
        """The nodes that can be asked."""
        return frozenset(self._outboxes)

    def connect(self, node: str, outbox: Outbox) -> None:
        """A node's stream is open; a newer one takes over from an older, and what the older was asked is over."""
        if node in self._outboxes:
            self._give_up(node)
        self._outboxes[node] = outbox

    def disconnect(self, node: str, outbox: Outbox) -> None:
        """A node's stream ended: whoever waits for an answer of its is told so."""
        if self._outboxes.get(node) is outbox:
            del self._outboxes[node]
            self._give_up(node)

    def _give_up(self, node: str) -> None:
        for asked, send in list(self._waiting.values()):
            if asked == node:
                send.close()

    @asynccontextmanager
    async def ask(
        self, node: str, method: str, params: Mapping[str, Any]
    ) -> AsyncIterator[MemoryObjectReceiveStream[Line]]:
        """Put a request to a node and yield the lines of its answer; UnavailableError if it is not connected."""
        outbox = self._outboxes.get(node)
        if outbox is None:
            raise UnavailableError("not connected")
        number = secrets.token_hex(8)
        send, receive = anyio.create_memory_object_stream[Line](BUFFER)
        self._waiting[number] = (node, send)
        outbox.put({"type": "request", "id": number, "method": method, "params": params})
        try:
            async with receive:
                yield receive
        finally:
            if self._waiting.pop(number, None) is not None:
                outbox.put({"type": "cancel", "id": number})
            send.close()

    async def answered(self, node: str, number: str, chunks: AsyncIterator[bytes]) -> None:
        """Pass an answer's lines on until it ends, or until nobody wants more."""
        asked, send = self._waiting.get(number, ("", None))
        if send is None or asked != node:
            raise NotFoundError(f"nobody waits for the answer {number[:40]}")
        try:
            async for line in _lines(chunks):
                await send.send(line)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return
        finally:
            self._waiting.pop(number, None)  # however it ended: whoever asked must not wait for more
            send.close()


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[Line]:
    """Split into JSON lines; empty ones are signs of life, and what is no object is dropped."""
    pending = b""
    async for chunk in chunks:
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            if (found := _decoded(line)) is not None:
                yield found
        if len(pending) > MAX_LINE:
            return
    if (found := _decoded(pending)) is not None:
        yield found


def _decoded(line: bytes) -> Line | None:
    try:
        found = msgspec.json.decode(line) if line.strip() else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
