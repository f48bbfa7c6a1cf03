"""Fan-out: every change is encoded once and handed to all who watch its kind, each behind a bounded buffer.

A ring of recent changes per kind lets a client continue where it was; once the ring has dropped what it needs, it is
told `Expired` and lists again. So is a client that reads too slowly: it costs its own buffer, never anybody's time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Final

import anyio

from apiserver import wire
from apiserver.selectors import Selector
from shoal.api.errors import ExpiredError
from shoal.api.objects import Object

RING: Final = 4096
"""Changes per kind that a client may have missed and still continue."""

BUFFER_LINES: Final = 8192
"""Lines one client may be behind; more than a ring, so that a replay always fits."""

BUFFER_BYTES: Final = 32 << 20
"""Bytes one client may be behind."""


class Record:
    """One change of one object, with its lines encoded at most once."""

    __slots__ = ("_body", "_delete", "_put", "_version", "key", "new", "old", "revision")

    def __init__(
        self, revision: int, version: int, key: str, old: Object | None, new: Object | None, body: bytes
    ) -> None:
        self.revision, self.key, self.old, self.new = revision, key, old, new
        self._version, self._body = version, body
        self._put: bytes | None = None
        self._delete: bytes | None = None

    def line_for(self, selector: Selector) -> bytes | None:
        """Return what a watcher with this selector is told: an object that leaves its selection is deleted to it."""
        if self.new is not None and selector.matches(self.new):
            if self._put is None:
                self._put = wire.put_line(self.key, self._version, self._body)
            return self._put
        if self.old is not None and selector.matches(self.old):
            if self._delete is None:
                self._delete = wire.delete_line(self.key, self._version)
            return self._delete
        return None


class Watcher:
    """One client's buffer."""

    def __init__(self, selector: Selector, since: int) -> None:
        self.selector, self.since = selector, since
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._woken = anyio.Event()
        self.cut = ""
        """Why the client is sent away; empty = it is not."""

    def offer(self, record: Record) -> None:
        if self.cut or record.revision <= self.since:
            return
        line = record.line_for(self.selector)
        if line is None:
            return
        self._lines.append(line)
        self._bytes += len(line)
        if len(self._lines) > BUFFER_LINES or self._bytes > BUFFER_BYTES:
            self.send_away("this client reads too slowly: list again, then watch")
        self._woken.set()

    def send_away(self, why: str) -> None:
        self.cut = why
        self._lines.clear()
        self._bytes = 0
        self._woken.set()

    async def take(self, within_s: float) -> bytes:
        """Return all that has come, joined; empty after `within_s` seconds of nothing."""
        if not self._lines and not self.cut:
            with anyio.move_on_after(within_s):
                await self._woken.wait()
        self._woken = anyio.Event()
        taken = b"".join(self._lines)
        self._lines.clear()
        self._bytes = 0
        return taken


class Hub:
    """All watchers, by kind, and the rings they can continue from."""

    def __init__(self, ring: int = RING) -> None:
        self._size = ring
        self._rings: dict[type[Object], deque[Record]] = {}
        self._floors: dict[type[Object], int] = {}
        self._start = 0
        self._watchers: dict[type[Object], set[Watcher]] = {}
        self.published = 0

    def start_at(self, revision: int) -> None:
        """Forget every ring: nothing before `revision` can be replayed, and whoever watches must list again."""
        self._start = revision
        self._rings.clear()
        self._floors.clear()
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.send_away("the store was restored: list again, then watch")

    def publish(self, kind: type[Object], record: Record) -> None:
        ring = self._rings.setdefault(kind, deque())
        ring.append(record)
        if len(ring) > self._size:
            self._floors[kind] = ring.popleft().revision
        self.published += 1
        for watcher in self._watchers.get(kind, ()):
            watcher.offer(record)

    def subscribe(self, kind: type[Object], selector: Selector, since: int) -> Watcher:
        """Return a watcher that first gets what came after `since`; ExpiredError if the ring does not reach back."""
        floor = self._floors.get(kind, self._start)
        if since < floor:
            raise ExpiredError(f"changes up to {floor} are no longer kept, {since} was asked for: list again")
        watcher = Watcher(selector, since)
        for record in self._rings.get(kind, ()):
            watcher.offer(record)
        self._watchers.setdefault(kind, set()).add(watcher)
        return watcher

    def unsubscribe(self, kind: type[Object], watcher: Watcher) -> None:
        self._watchers.get(kind, set()).discard(watcher)

    def is_watched(self, kind: type[Object]) -> bool:
        return bool(self._watchers.get(kind))

    def watchers(self) -> dict[str, int]:
        return {kind.KIND: len(watchers) for kind, watchers in self._watchers.items() if watchers}


async def lines(
    hub: Hub, kind: type[Object], watcher: Watcher, bookmark_s: float, version: Callable[[], int]
) -> AsyncGenerator[bytes, None]:
    """Yield what the client must be sent until it goes, or is sent away with a last line that says why."""
    try:
        while True:
            told = await watcher.take(bookmark_s)
            if watcher.cut:
                yield wire.error_line(ExpiredError.reason, watcher.cut)
                return
            yield told or wire.bookmark_line(version())
    finally:
        hub.unsubscribe(kind, watcher)
