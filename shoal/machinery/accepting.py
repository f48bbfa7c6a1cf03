"""Serves the connections of a listening socket, also after a moment without a free file descriptor."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

import anyio
import structlog
from anyio.abc import SocketListener, SocketStream

AGAIN_S: Final = 1.0
"""Seconds until a connection is accepted that could not be; the kernel keeps it that long."""

log = structlog.get_logger()


async def serve_connections(
    listener: SocketListener, serve: Callable[[SocketStream], Coroutine[Any, Any, None]], again_s: float = AGAIN_S
) -> None:
    """Serve each connection in a task of its own, until cancelled; closes the listener."""
    async with listener, anyio.create_task_group() as group:
        while True:
            try:
                stream = await listener.accept()
            except anyio.BrokenResourceError as error:
                log.warning("accept_failed", reason=str(error.__cause__))
                await anyio.sleep(again_s)
            else:
                group.start_soon(serve, stream)
