"""A listening socket outlives a moment without file descriptors."""

from __future__ import annotations

import errno
import os
from typing import Any, cast

import anyio
import pytest
from anyio.abc import SocketListener, SocketStream

from shoal.machinery.accepting import serve_connections

pytestmark = pytest.mark.anyio


class Door:
    """A listener that gives what it was told to, then waits."""

    def __init__(self, *events: str | OSError) -> None:
        self._events = list(events)
        self.closed = False

    async def accept(self) -> Any:
        if not self._events:
            await anyio.sleep_forever()
        match self._events.pop(0):
            case OSError() as error:
                raise anyio.BrokenResourceError from error
            case name:
                return name

    async def __aenter__(self) -> Door:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True


async def test_connections_are_served_after_one_that_could_not_be_accepted() -> None:
    door = Door("first", OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "second")
    served: list[str] = []
    both = anyio.Event()

    async def serve(stream: SocketStream) -> None:
        served.append(cast(str, stream))
        if len(served) == 2:
            both.set()

    async with anyio.create_task_group() as group:
        group.start_soon(serve_connections, cast(SocketListener, door), serve, 0.0)
        with anyio.fail_after(5):
            await both.wait()
        group.cancel_scope.cancel()

    assert served == ["first", "second"]
    assert door.closed
