"""Answers /healthz, /readyz and /metrics on a process's unix socket.

A few lines of HTTP of our own, one request per connection: a web server's library would cost each process 10 MB.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream

from shoal.machinery.accepting import serve_connections

PATIENCE_S: Final = 5.0
"""Seconds for a whole request and its answer."""

HEAD_BYTES: Final = 8 << 10
"""The most that a request's head may have; nobody sends a body."""

_PHRASES: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Unavailable"}
_TEXT: Final = "text/plain; charset=utf-8"


@dataclass
class Health:
    """What the status socket answers. `not_ready` says why the process is not ready yet, "" once it is."""

    not_ready: Callable[[], str] = field(default=lambda: "starting")


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    content_type: str = _TEXT


@asynccontextmanager
async def answering_status(path: Path | None, health: Health) -> AsyncIterator[None]:
    """Answer on a unix socket for root; with None, on nothing."""
    if path is None:
        yield
        return

    async def serve(stream: ByteStream) -> None:
        async with stream:
            await _serve(stream, health)

    path.parent.mkdir(parents=True, exist_ok=True)
    before = os.umask(0o177)
    try:
        listener = await anyio.create_unix_listener(path)
    finally:
        os.umask(before)
    async with anyio.create_task_group() as group:
        group.start_soon(serve_connections, listener, serve)
        yield
        group.cancel_scope.cancel()


async def _serve(stream: ByteStream, health: Health) -> None:
    """Answer one request; who breaks off, or says nothing, is let go."""
    with anyio.move_on_after(PATIENCE_S):
        try:
            head = await BufferedByteReceiveStream(stream).receive_until(b"\r\n\r\n", HEAD_BYTES)
            method, answer = read(head, health)
            await stream.send(written(answer, with_body=method != "HEAD"))
        except anyio.DelimiterNotFound:
            await stream.send(written(Answer(400, b"a request of at most 8 KiB is expected\n")))
        except (anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return


def read(head: bytes, health: Health) -> tuple[str, Answer]:
    """Return a request's method, and what to answer."""
    words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return "", Answer(400, b"this is no HTTP request\n")
    method, target, _ = words
    if method not in ("GET", "HEAD"):
        return method, Answer(405, b"only GET and HEAD are answered\n")
    return method, _answer(target.partition("?")[0], health)


def _answer(path: str, health: Health) -> Answer:
    match path:
        case "/healthz":
            return Answer(200, b"ok\n")
        case "/readyz":
            why = health.not_ready()
            return Answer(503 if why else 200, f"{why or 'ok'}\n".encode())
        case "/metrics":
            return _metrics()
    return Answer(404, b"there are /healthz, /readyz and /metrics\n")


def _metrics() -> Answer:
    # The whole package, as it adds what the process uses: 3 MB, for those who are asked for it.
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return Answer(200, generate_latest(), CONTENT_TYPE_LATEST)


def written(answer: Answer, *, with_body: bool = True) -> bytes:
    """Return an answer as bytes; one to HEAD has no body."""
    head = (
        f"HTTP/1.1 {answer.status} {_PHRASES[answer.status]}\r\n"
        f"Content-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
    return head + answer.body if with_body else head
