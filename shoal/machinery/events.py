"""Tells people what happened: aggregated, rate limited, expiring events outside the watched prefix.

One Event per object and reason, with a count and its first and last time. `note` only remembers; a task of its own
writes once a second, at most a handful of events on average, and drops what it cannot: nothing waits for an event.
They hang on leases that are shared by all events of a minute, and are gone an hour later.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import anyio
import msgspec
import structlog

from shoal.api import codec, keys
from shoal.api import objects as o
from shoal.api.errors import NotFoundError, ShoalError
from shoal.api.meta import Meta, Owner
from shoal.machinery.clock import Clock
from shoal.machinery.queue import TokenBucket
from shoal.machinery.store import Put, Store, Txn

TTL_S = 3600.0
"""Seconds an event stays after it last happened."""

LEASE_SHARED_S = 60.0
"""Seconds during which new events share a lease."""

FLUSH_S = 1.0
"""Seconds between writes: what repeats within is one write."""

PER_S, BURST = 5.0, 50
"""All events of this process: so many writes a second after a burst."""

OBJECT_PER_S, OBJECT_BURST = 0.1, 10
"""Events about one object."""

LIMIT = 500
"""Events remembered at most; the rest is dropped."""

_log = structlog.get_logger()


class Recorder:
    """Records events from `source` (a controller's or process's name)."""

    def __init__(self, store: Store, source: str, clock: Clock) -> None:
        self._store, self._source, self._clock = store, source, clock
        self._pending: dict[str, o.Event] = {}
        self._written: dict[str, o.Event] = {}
        self._objects: dict[str, TokenBucket] = {}
        self._all = TokenBucket(PER_S, BURST, clock.monotonic())
        self._lease, self._lease_at = 0, 0.0
        self._dropped = 0
        self._wake = anyio.Event()

    def note(self, about: o.Object | Owner, reason: str, message: str = "", *, is_warning: bool = False) -> None:
        """Remember that something happened; never blocks and never fails."""
        owner = about if isinstance(about, Owner) else o.owner_of(about)
        key = keys.event(owner.kind, owner.uid, reason)
        now = self._clock.now()
        before = self._pending.get(key)
        if before is None and len(self._pending) >= LIMIT:
            self._dropped += 1
            return
        self._pending[key] = o.Event(
            metadata=Meta(name=f"{owner.name}.{reason}", created_at=before.first_at if before else now),
            about=owner,
            reason=reason,
            message=message,
            source=self._source,
            type="Warning" if is_warning else "Normal",
            count=before.count + 1 if before else 1,
            first_at=before.first_at if before else now,
            last_at=now,
        )
        self._wake.set()

    async def run(self) -> None:
        """Write what is remembered, until cancelled; then once more, if the store answers at once."""
        try:
            while True:
                await self._wake.wait()
                await self._clock.sleep(FLUSH_S)
                await self.flush()
                if not self._pending:
                    self._wake = anyio.Event()
        finally:
            with anyio.CancelScope(shield=True), self._clock.timeout(FLUSH_S):
                await self.flush()

    async def flush(self) -> None:
        """Write the events that the rates allow now; on failure they are dropped."""
        batch = self._take()
        if not batch:
            return
        try:
            merged = {key: await self._merged(key, event) for key, event in batch.items()}
            lease = await self._lease_for_now()
            await self._store.commit(
                Txn(writes=tuple(Put(key, codec.encode(event), lease) for key, event in merged.items()))
            )
        except NotFoundError:
            self._lease = 0
        except ShoalError as error:
            _log.debug("events_dropped", count=len(batch), error=str(error))
        else:
            self._remember(merged)

    def _take(self) -> Mapping[str, o.Event]:
        """Take what may be written now. What exceeds its object's rate stays, and goes on counting."""
        now = self._clock.monotonic()
        batch: dict[str, o.Event] = {}
        for key, event in list(self._pending.items()):
            bucket = self._objects.setdefault(event.about.uid, TokenBucket(OBJECT_PER_S, OBJECT_BURST, now))
            if not bucket.try_take(now):
                continue
            if not self._all.try_take(now):
                break
            batch[key] = self._pending.pop(key)
        if self._dropped:
            _log.debug("events_dropped", count=self._dropped, error="too many at once")
            self._dropped = 0
        return batch

    async def _merged(self, key: str, event: o.Event) -> o.Event:
        """Add what is stored already, by this process or the one before it."""
        before = self._written.get(key) or await self._stored(key)
        if before is None:
            return event
        first: datetime | None = before.first_at or event.first_at
        meta = msgspec.structs.replace(event.metadata, created_at=first)
        return msgspec.structs.replace(event, metadata=meta, first_at=first, count=before.count + event.count)

    async def _stored(self, key: str) -> o.Event | None:
        item = await self._store.get(key)
        try:
            return codec.decode(o.Event, item.value) if item is not None else None
        except (ValueError, msgspec.MsgspecError):
            return None

    async def _lease_for_now(self) -> int:
        now = self._clock.monotonic()
        if not self._lease or now - self._lease_at >= LEASE_SHARED_S:
            self._lease = await self._store.lease_grant(TTL_S)
            self._lease_at = now
        return self._lease

    def _remember(self, written: Mapping[str, o.Event]) -> None:
        self._written.update(written)
        if len(self._written) > 4 * LIMIT:
            self._written.clear()
        if len(self._objects) > 4 * LIMIT:
            self._objects.clear()
