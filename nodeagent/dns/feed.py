"""How the name service learns what the agent knows: JSON lines on `<run-dir>/names.sock`.

    agent          {"number": 7, "isComplete": false, "put": {key: facts}, "deleted": [key]}
    name service   {"number": 7}        it answers by that from now on

The first message of a connection is complete: what it does not mention is gone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import anyio
import msgspec
import structlog
from anyio.abc import SocketStream
from msgspec import Struct

from nodeagent.dns.zone import Facts
from shoal.machinery.accepting import serve_connections

SOCKET: Final = "names.sock"
"""Below the run directory."""

log = structlog.get_logger()


class News(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What changed, by the keys of objects; `number` is said back."""

    number: int
    is_complete: bool = False
    put: dict[str, Facts] = {}
    deleted: tuple[str, ...] = ()


class Taken(Struct, frozen=True):
    number: int


async def serve(path: Path, take: Callable[[News], None]) -> None:
    """Take news from whoever may open the socket, which is root, until cancelled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = await anyio.create_unix_listener(path, mode=0o600)

    async def listen(stream: SocketStream) -> None:
        async with stream:
            try:
                async for line in lines(stream):
                    news = msgspec.json.decode(line, type=News)
                    take(news)
                    await stream.send(msgspec.json.encode(Taken(news.number)) + b"\n")
            except msgspec.MsgspecError as error:
                log.error("names_unreadable", reason=str(error))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                log.debug("names_feed_broken")

    await serve_connections(listener, listen)


async def lines(stream: SocketStream) -> AsyncIterator[bytes]:
    """Yield each line; what stands behind the last one is dropped. A line may be megabytes long."""
    pending = bytearray()
    async for chunk in stream:
        pending += chunk
        if b"\n" in chunk:
            *whole, rest = bytes(pending).split(b"\n")
            pending = bytearray(rest)
            for line in whole:
                yield line
