"""The command line's way to the API server: requests, streams, and errors turned back into ours.

Works on plain data: what a newer server adds is shown, not lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any, Final, TypeVar
from urllib.parse import quote

import aiohttp
import anyio
import msgspec

from shoal.api.errors import (
    AlreadyExistsError,
    ConflictError,
    ExpiredError,
    Fault,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    ShoalError,
    UnavailableError,
)

T = TypeVar("T")
Plain = dict[str, Any]

ROOT: Final = "/shoal/v1/"
CONNECT_S: Final = 5.0
"""Seconds a connection may take: the socket is local."""

SILENCE_S: Final = 30.0
"""Seconds without a line after which a watch is dead: bookmarks come every few seconds."""

_MAX_LINE: Final = 32 << 20
"""Bytes of one line of a stream."""

_ERRORS: Final[Mapping[str, type[ShoalError]]] = {
    kind.reason: kind for kind in (NotFoundError, AlreadyExistsError, ForbiddenError, ExpiredError, UnavailableError)
}


class Client:
    """One connection's worth of calls; made by `connected`."""

    def __init__(self, session: aiohttp.ClientSession, base: str, where: str) -> None:
        self._session, self._base, self._where = session, base, where

    async def call(self, method: str, path: str, body: Any = None, **query: str | int) -> Any:
        """Send one request and return the answer; a ShoalError for everything that goes wrong."""
        async with self._answer(method, path, body, query) as answer:
            return msgspec.json.decode(await answer.read())

    async def lines(self, path: str, silence_s: float | None = None, **query: str | int) -> AsyncIterator[Plain]:
        """Yield a stream's JSON lines; UnavailableError when it breaks or stays silent for `silence_s`."""
        async with self._answer("GET", path, None, query) as answer:
            while True:
                try:
                    with anyio.fail_after(silence_s):
                        line = await answer.content.readline()
                except TimeoutError as error:
                    raise UnavailableError(f"nothing came from {self._where} for {silence_s:.0f} s") from error
                if not line:
                    return
                yield msgspec.json.decode(line)

    async def list(self, plural: str, labels: str = "", fields: str = "") -> tuple[list[Plain], int]:
        """Return all objects of a kind and the version they are true at."""
        found = await self.call("GET", plural, **_selectors(labels, fields))
        return found["items"], found["resourceVersion"]

    async def get(self, plural: str, name: str) -> Plain:
        found: Plain = await self.call("GET", one(plural, name))
        return found

    async def watch(self, plural: str, since: int, labels: str = "", fields: str = "") -> AsyncIterator[Plain]:
        """Yield changes after `since`; ExpiredError when the caller must list again."""
        async for line in self.lines(plural, SILENCE_S, watch=1, since=since, **_selectors(labels, fields)):
            if line["type"] == "error":
                raise _error(line, 410)
            yield line

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: Any, query: Mapping[str, str | int]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        data = None if body is None else BytesIO(msgspec.json.encode(body))  # large bytes would block the loop
        url = self._base + (path if path.startswith("/") else ROOT + path)
        try:
            async with self._session.request(
                method, url, data=data, params=query or None, headers={"Content-Type": "application/json"}
            ) as answer:
                if answer.status >= 400:
                    raise _error(_decoded(await answer.read()), answer.status)
                yield answer
        except aiohttp.ClientConnectorError as error:
            raise UnavailableError(self._absent(error)) from error
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            unknown = "" if method == "GET" else "; whether it did what was asked is not known: ask again"
            raise UnavailableError(
                f"the API server at {self._where} broke off: {error or type(error).__name__}{unknown}"
            ) from error

    def _absent(self, error: aiohttp.ClientConnectorError) -> str:
        if isinstance(error.os_error, PermissionError):
            return f"may not open {self._where}: use sudo, or join the group docker"
        return (
            f"no API server answers at {self._where}: start Shoal with `shoal up`, run this on a manager, "
            "or name another with --api"
        )


@asynccontextmanager
async def connected(api: str) -> AsyncIterator[Client]:
    """Yield a client of `unix:///path`, `/path` or `http://host:port`."""
    path = api.removeprefix("unix://")
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
    if path.startswith("/"):
        connector: aiohttp.BaseConnector = aiohttp.UnixConnector(path)
        base = "http://shoal"
    elif api.startswith("http://"):
        connector, base = aiohttp.TCPConnector(), api.rstrip("/")
    else:
        raise InvalidError(f"--api: expected unix:///path or http://host:port, found {api!r}")
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=_MAX_LINE) as session:
        yield Client(session, base, path)


def run(api: str, work: Callable[[Client], Awaitable[T]]) -> T:
    """Run a command's work with a client; errors come out as ShoalErrors, never in groups."""

    async def main() -> T:
        async with connected(api) as client:
            return await work(client)

    try:
        return anyio.run(main)
    except BaseExceptionGroup as group:
        raise _first(group) from group


def one(plural: str, name: str) -> str:
    return f"{plural}/{quote(name, safe='')}"


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {key: value for key, value in (("labels", labels), ("fields", fields)) if value}


def _decoded(body: bytes) -> Plain:
    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError:
        found = {"message": body.decode(errors="replace")[:500]}
    return found if isinstance(found, dict) else {"message": str(found)[:500]}


def _error(answer: Plain, status: int) -> ShoalError:
    """Return the error an answer tells of."""
    reason, message = answer.get("reason", ""), answer.get("message") or f"the API server answered with status {status}"
    faults = answer.get("faults") or []
    if reason == ConflictError.reason:
        return ConflictError("", message=message)
    if status in (400, 413, 422):
        return InvalidError(msgspec.convert(faults, list[Fault]) if faults else message)
    return _ERRORS.get(reason, UnavailableError if status == 503 else ShoalError)(message)
