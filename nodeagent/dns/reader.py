"""Reads queries over UDP in a thread of its own, and answers at once what is remembered.

    socket ──► reader thread: remembered? ──► answer
                     │ no
                     ▼
               event loop: finds, packs and remembers it, or asks elsewhere

Half the price of an answer is the event loop's turn, and a loop that is busy with news from the agent answers nobody.
So most queries never reach it. The thread only looks answers up: whatever changes, changes in the event loop.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

import anyio
from anyio import to_thread

from nodeagent.dns import wire
from nodeagent.dns.answers import Door

BATCH: Final = 64
"""Queries read from one socket before the others have their turn."""

MOST_HANDED_OVER: Final = 1024
"""Queries that wait for the event loop; what comes beyond is dropped, as the kernel would, and asked again."""


class Query(NamedTuple):
    """A query that is not answered yet, and where it came in."""

    sock: socket.socket
    door: Door
    asker: tuple[str, int]
    data: bytes


class Reader:
    """`remembered` answers at once or with None, in the thread; `find` gets the rest, in the event loop."""

    def __init__(self, remembered: Callable[[Door, str, bytes], bytes | None], find: Callable[[Query], None]) -> None:
        self._remembered, self._find = remembered, find
        self._doors: dict[int, tuple[socket.socket, Door]] = {}
        self._ready = select.epoll()
        self._handed_over: deque[Query] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake, self._waking = socket.socketpair()
        self._ready.register(self._wake.fileno(), select.EPOLLIN)
        self.answered = 0
        """Queries answered by the thread."""

    def add(self, sock: socket.socket, door: Door) -> None:
        """Read a socket from now on."""
        self._doors[sock.fileno()] = (sock, door)
        self._ready.register(sock.fileno(), select.EPOLLIN)

    def remove(self, sock: socket.socket) -> None:
        """Read it no more; to be called before it is closed."""
        self._ready.unregister(sock.fileno())
        del self._doors[sock.fileno()]

    async def run(self) -> None:
        """Read until cancelled."""
        self._loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as group:
            group.start_soon(to_thread.run_sync, self._read_all)
            try:
                await anyio.sleep_forever()
            finally:
                self._waking.send(b"end")

    def close(self) -> None:
        self._ready.close()
        self._wake.close()
        self._waking.close()

    def _read_all(self) -> None:
        while True:
            for number, _ in self._ready.poll():
                if number == self._wake.fileno():
                    return
                if found := self._doors.get(number):
                    self._read(*found)

    def _read(self, sock: socket.socket, door: Door) -> None:
        """Answer what has come in, at most a batch."""
        remembered, receive = self._remembered, sock.recvfrom
        try:
            for _ in range(BATCH):
                data, asker = receive(wire.MOST_QUERY_BYTES + 1)
                answer = remembered(door, asker[0], data)
                if answer is not None:
                    self.answered += 1
                    send(sock, answer, asker)
                else:
                    self._hand_over(Query(sock, door, asker, data))
        except OSError:  # nothing more has come in, or the socket was closed
            return

    def _hand_over(self, query: Query) -> None:
        """Leave a query to the event loop, which is woken for the first one that waits."""
        if len(self._handed_over) >= MOST_HANDED_OVER:
            return
        self._handed_over.append(query)
        if len(self._handed_over) == 1 and self._loop is not None:
            self._loop.call_soon_threadsafe(self._take_over)

    def _take_over(self) -> None:
        """In the event loop: see to what waits, a batch at a time, so that others have their turn."""
        for _ in range(BATCH):
            if not self._handed_over:
                return
            self._find(self._handed_over.popleft())
        if self._handed_over and self._loop is not None:
            self._loop.call_soon(self._take_over)


def send(sock: socket.socket, answer: bytes, asker: tuple[str, int]) -> None:
    """Send over UDP: what the kernel does not take is lost, and asked for again."""
    with suppress(OSError):
        sock.sendto(answer, asker)
