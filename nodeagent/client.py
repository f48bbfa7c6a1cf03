"""The agent's side of the API server's protocol: a stream of assignments in, statuses and answers out.

Any API server will do; one that does not answer is passed over for the next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import anyio
import msgspec

from nodeagent.tls import NodeTls
from shoal.api import codec
from shoal.api.errors import ForbiddenError, NotFoundError, RemovedError, UnavailableError
from shoal.api.objects import NodeDescription, TaskStatus
from shoal.api.units import Duration
from shoal.machinery.tls import SERVER_NAME

SILENCE_S: Final = 30.0
"""A stream without even a bookmark for so long is dead."""

REPORT_S: Final = 10.0
"""A report that is not acknowledged within this is sent again."""

STREAMED_MOST: Final = 64 << 10
"""Bytes of a report that goes down the stream; a longer one is a request of its own."""


class Report(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What goes to `…/status`; an empty one is a heartbeat."""

    tasks: dict[str, TaskStatus] = {}
    applied: int | None = None
    description: NodeDescription | None = None
    address: str = ""


class Receipt(msgspec.Struct, frozen=True, rename="camel"):
    """The server's answer: its heartbeat period, and the tasks whose status it did not take, with the reason."""

    heartbeat_period: str = ""
    refused: dict[str, str] = {}

    def period_s(self) -> float | None:
        return period_of(self.heartbeat_period)


BEAT: Final = b"\n"


def period_of(text: str) -> float | None:
    """Return a heartbeat period in seconds; None where none was said."""
    return Duration.parse(text).seconds if text else None


class Message(msgspec.Struct, frozen=True, rename="camel"):
    """One line of the stream; `nodeagent.reading` reads the objects in it."""

    type: str = ""
    revision: int = 0
    objects: tuple[msgspec.Raw, ...] = ()
    put: tuple[msgspec.Raw, ...] = ()
    delete: tuple[str, ...] = ()
    managers: tuple[str, ...] = ()
    incarnation: str = ""
    heartbeat_period: str = ""
    id: str = ""
    method: str = ""
    params: dict[str, Any] = {}
    reports: bool = False
    """This server takes reports down the stream."""
    refused: dict[str, str] = {}
    failed: str = ""
    """Why a report has to be said again, "" if it need not."""


_messages = msgspec.json.Decoder(Message)


def read_message(line: bytes) -> Message:
    return _messages.decode(line)


class ApiClient:
    """`urls`: unix:///path or https://host:port, tried in turn. Use as a context manager, inside the event loop."""

    def __init__(self, urls: Sequence[str], node_uid: str, tls: NodeTls | None = None) -> None:
        self._given = tuple(urls)
        self._urls, self._node_uid, self._tls = list(urls), node_uid, tls
        self._at = 0
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._said: anyio.Event | None = None
        """Set when there are lines to send down the stream; None = no stream is open."""
        self._lines: list[bytes] = []
        self._greeted = anyio.Event()
        """The server has said hello, on the stream that is open."""
        self._takes_reports = False
        self._report_number = 0
        self._receipt: Message | None = None
        self._received = anyio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in self._sessions.values():
            await session.close()

    @asynccontextmanager
    async def assignments(self) -> AsyncIterator[AsyncIterator[Message]]:
        """Open the stream. UnavailableError, also from the stream itself, when the server is gone or silent."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=SILENCE_S)
        self._said, self._lines = anyio.Event(), [BEAT]
        try:
            async with AsyncExitStack() as stack:
                call = self._call("GET", "/assignments?watch=1", timeout=timeout, data=self._speaking())
                with anyio.fail_after(SILENCE_S):  # aiohttp's own limit begins only with the answer
                    response = await stack.enter_async_context(call)
                yield self._messages(response)
        except TimeoutError as error:
            raise UnavailableError(f"the API server was silent for {SILENCE_S:g} s") from error
        finally:
            last, self._said = self._said, None
            last.set()
            self._greeted = anyio.Event()
            self._received.set()

    async def _speaking(self) -> AsyncIterator[bytes]:
        """The body of the request for assignments: beats and reports, a line each, as long as the stream is open.

        The first goes at once, since the head of a request is not sent before its body begins.
        """
        while self._said is not None:
            lines, self._lines = self._lines, []
            yield b"".join(lines)
            await self._said.wait()
            self._said = anyio.Event() if self._said is not None else None

    def _say(self, line: bytes) -> bool:
        if self._said is None:
            return False
        self._lines.append(line)
        self._said.set()
        return True

    def beat(self, applied: int | None = None) -> bool:
        """Give a sign of life down the open stream, which is a fiftieth of a report's work; False if none is open.

        `applied`: up to which revision the node's network is programmed, None = nothing new.
        """
        if applied is None and self._lines:
            return self._said is not None  # what waits to be sent is a sign of life as well
        return self._say(b"%d\n" % applied if applied is not None else BEAT)

    async def report(self, report: Report) -> Receipt:
        """Say it and return what the server answers; UnavailableError if that is not known.

        It goes down the stream, waiting for one to be open; as a request of its own if it is long, or if the server
        knows no other way. One at a time.
        """
        body = msgspec.json.encode(report, enc_hook=codec.enc_hook)
        with anyio.move_on_after(REPORT_S):
            await self._greeted.wait()
        if not self._greeted.is_set():
            raise UnavailableError("no API server has answered yet")
        if self._takes_reports and len(body) <= STREAMED_MOST:
            return await self._report_down(body)
        return await self._report_apart(body)

    async def _report_down(self, body: bytes) -> Receipt:
        self._report_number += 1
        self._receipt, self._received = None, anyio.Event()
        if not self._say(b'{"id":"%d","report":%b}\n' % (self._report_number, body)):
            raise UnavailableError("the assignments stream has ended")
        with anyio.move_on_after(REPORT_S):
            await self._received.wait()
        receipt = self._receipt
        if receipt is None or receipt.failed:
            raise UnavailableError(receipt.failed if receipt is not None else "a report was not acknowledged")
        return Receipt(receipt.heartbeat_period, receipt.refused)

    async def _report_apart(self, body: bytes) -> Receipt:
        timeout = aiohttp.ClientTimeout(total=REPORT_S)
        async with self._call("POST", "/status", data=body, timeout=timeout) as response:
            try:
                return msgspec.json.decode(await response.read(), type=Receipt)
            except (aiohttp.ClientError, TimeoutError) as error:
                raise UnavailableError(f"the answer to a report was lost: {error}") from error

    async def answer(self, request_id: str, lines: AsyncIterator[Any]) -> None:
        """Stream an answer as JSON lines; returns when they end or nobody wants more."""

        async def body() -> AsyncIterator[bytes]:
            async for line in lines:
                yield (msgspec.json.encode(line) if line is not None else b"") + b"\n"

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with self._call("POST", f"/answers/{request_id}", data=body(), timeout=timeout):
            pass

    def next_server(self) -> None:
        """The present one failed: go on with the next."""
        self._at = (self._at + 1) % len(self._urls)

    def learn(self, urls: Sequence[str]) -> None:
        """Take what is true now for the servers there are; those it began with stay the last resort.

        It stays with the present server.
        """
        present = self._urls[self._at % len(self._urls)]
        self._urls = list(dict.fromkeys((*urls, *self._given, present)))
        self._at = self._urls.index(present)

    def urls(self) -> tuple[str, ...]:
        """Return the servers it knows, in the order in which they are tried."""
        at = self._at % len(self._urls)
        return (*self._urls[at:], *self._urls[:at])

    @asynccontextmanager
    async def _call(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        url = self._urls[self._at % len(self._urls)]
        base = "http://api" if url.startswith("unix://") else url
        if self._tls is not None:
            self._tls.refresh()
            options["server_hostname"] = SERVER_NAME
        try:
            async with self._session(url).request(
                method, f"{base}/shoal/v1/nodes/{self._node_uid}{path}", **options
            ) as response:
                if response.status >= 400:
                    raise await _refusal(response, url)
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            trouble = self._tls.trouble() if self._tls is not None else ""
            raise UnavailableError(
                trouble or f"the API server at {url} does not answer: {error or type(error).__name__}"
            ) from error

    def _session(self, url: str) -> aiohttp.ClientSession:
        if url not in self._sessions:
            connector = (
                aiohttp.UnixConnector(path=url.removeprefix("unix://"))
                if url.startswith("unix://")
                else aiohttp.TCPConnector(ssl=self._tls.context if self._tls is not None else True)
            )
            self._sessions[url] = aiohttp.ClientSession(connector=connector)
        return self._sessions[url]

    async def _messages(self, response: aiohttp.ClientResponse) -> AsyncIterator[Message]:
        pending = bytearray()
        async for chunk in response.content.iter_any():
            pending += chunk
            if b"\n" not in chunk:
                continue
            *lines, rest = bytes(pending).split(b"\n")
            pending = bytearray(rest)
            for line in lines:
                if line.strip() and (message := self._noted(read_message(line))) is not None:
                    yield message
        raise UnavailableError("the API server ended the assignments stream")

    def _noted(self, message: Message) -> Message | None:
        """Take what is for us alone; return what is for the agent."""
        match message.type:
            case "hello":
                self._takes_reports = message.reports
                self._greeted.set()
            case "receipt":
                if message.id == str(self._report_number):
                    self._receipt = message
                    self._received.set()
                return None
        return message


async def _refusal(response: aiohttp.ClientResponse, url: str) -> Exception:
    text = (await response.text())[:500]
    if response.status == RemovedError.status and _reason(text) == RemovedError.reason:
        return RemovedError(f"the API server at {url} says: {msgspec.json.decode(text)['message']}")
    error = {403: ForbiddenError, 404: NotFoundError}.get(response.status, UnavailableError)
    return error(f"the API server at {url} answered {response.status}: {text}")


def _reason(text: str) -> str:
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return ""
    return str(found.get("reason", "")) if isinstance(found, dict) else ""
