"""Keeps a Cache true: lists, then watches, and lists again whenever the watch cannot go on.

Callers never learn of gaps: a new list is merged into the cache, and the difference reaches subscribers as ordinary
changes. A batch is applied whole before anybody is called. What cannot be decoded is reported and isolated: its last
readable state stays, and `Cache.unreadable` names it.

Every few minutes everything is listed once more and compared, because a watch that silently loses an event cannot be
noticed otherwise (etcd before 3.4.31 has lost some after compactions). What that finds is counted and logged.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence

import anyio
import msgspec
import structlog
from prometheus_client.metrics import Counter

from shoal.api import codec, keys
from shoal.api.errors import ExpiredError, ShoalError, UnavailableError
from shoal.api.objects import Cluster, Object
from shoal.machinery.cache import Cache, Change
from shoal.machinery.clock import Clock
from shoal.machinery.store import Batch, Event, Item, Listing, Store

RECHECK_S = 300.0
"""Seconds between comparisons of the cache with a fresh list, jittered by a fifth."""

GRACE_S = 5.0
"""Seconds a comparison waits for the watch to reach the list's revision before it judges."""

FIRST_RETRY_S, LAST_RETRY_S = 0.2, 5.0
"""Backoff while the store is away; it doubles."""

DRIFT = Counter("shoal_cache_drift_total", "Objects a comparison found different from the cache: lost events")
RELISTS = Counter("shoal_relists_total", "Times everything was listed anew", ["why"])

Subscriber = Callable[[Sequence[Change]], None]
_log = structlog.get_logger()


class Informer:
    """Fills `cache` with the objects of `kinds` under `prefixes`, whose first one gives the cache its revision.

    Subscribers are called after every batch, also with no changes where it held no object of these kinds. They must
    not block.
    `keep` is handed the bytes of every object that enters the cache, just before it does.
    """

    def __init__(
        self,
        store: Store,
        cache: Cache,
        kinds: Collection[type[Object]],
        clock: Clock,
        *,
        prefixes: Sequence[str] = (keys.ROOT,),
        seed: int = 0,
        keep: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self.cache = cache
        self._keep = keep
        self.synced = anyio.Event()
        self._store, self._clock, self._prefixes = store, clock, tuple(prefixes)
        self._kinds = frozenset(kinds) | {Cluster}
        self._random = random.Random(seed)  # noqa: S311  jitter, no secret
        self._subscribers: list[Subscriber] = []
        self._waiters: list[tuple[int, anyio.Event]] = []
        self._deletions: list[dict[str, int]] = []
        self._seen: dict[str, int] = {}
        self._incarnation = ""
        self._is_away = False

    def subscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)

    async def run(self) -> None:
        """Keep the cache true until cancelled."""
        async with anyio.create_task_group() as tasks:
            for prefix in self._prefixes:
                tasks.start_soon(self._follow, prefix)
            await self.synced.wait()
            while True:
                await self._clock.sleep(RECHECK_S * self._random.uniform(0.8, 1.2))
                await self._recheck()

    async def wait_for(self, revision: int) -> None:
        """Return once everything is synced and the cache is at least at `revision`."""
        await self.synced.wait()
        if self.cache.revision < revision:
            event = anyio.Event()
            self._waiters.append((revision, event))
            await event.wait()

    async def refresh(self) -> None:
        """List now and merge: afterwards the cache holds everything written before the call. UnavailableError."""
        await self.synced.wait()
        for prefix in self._prefixes:
            await self._list_beside_watch(prefix, 0)

    # Following one prefix.

    async def _follow(self, prefix: str) -> None:
        retry_s = FIRST_RETRY_S
        why = "started"
        while True:
            try:
                revision = await self._relist(prefix, why)
                self._note_back(prefix)
                retry_s = FIRST_RETRY_S
                async with self._store.watch(prefix, revision) as batches:
                    async for batch in batches:
                        self._apply(prefix, batch)
                        why = "watched"
                why = "ended"
            except ExpiredError as error:
                if why == "expired":  # at once the first time, but a store that expires every watch is not stormed
                    await self._clock.sleep(retry_s * self._random.uniform(0.75, 1.25))
                why = "expired"
                _log.info("watch_restarted", prefix=prefix, error=str(error))
            except ShoalError as error:
                why = "broken"
                self._note_away(prefix, error)
                await self._clock.sleep(retry_s * self._random.uniform(0.75, 1.25))
                retry_s = min(LAST_RETRY_S, retry_s * 2)

    def _note_away(self, prefix: str, error: ShoalError) -> None:
        if not self._is_away:
            self._is_away = True
            _log.warning("store_lost", prefix=prefix, error=str(error))

    def _note_back(self, prefix: str) -> None:
        if self._is_away:
            self._is_away = False
            _log.info("store_found", prefix=prefix, revision=self.cache.revision)

    def _apply(self, prefix: str, batch: Batch) -> None:
        """Apply one batch whole, then tell everybody. Repeated events are dropped."""
        seen = self._seen.get(prefix, 0)
        if batch.revision < seen:
            return
        changes: list[Change] = []
        for event in batch.events if batch.revision > seen else ():
            kind = keys.kind_at(event.key)
            if kind in self._kinds and (change := self._take(kind, event)) is not None:
                changes.append(change)
        self._advance(prefix, batch.revision, changes)
        incarnation = self._incarnation_in_cache()
        if self._incarnation and incarnation != self._incarnation:
            raise ExpiredError(f"the cluster was restored: incarnation {incarnation}")
        self._incarnation = incarnation

    def _take(self, kind: type[Object], event: Event) -> Change | None:
        key, value, revision = event
        if value is None:
            for deletions in self._deletions:
                deletions[key] = revision
            self.cache.unreadable.pop(key, None)
            return self.cache.set(key, None)
        obj = self._decode(kind, key, value, revision)
        return self.cache.set(key, obj) if obj is not None else None

    def _advance(self, prefix: str, revision: int, changes: Sequence[Change]) -> None:
        self._seen[prefix] = revision
        if prefix == self._prefixes[0]:
            self.cache.revision = revision
        for subscriber in self._subscribers:
            subscriber(changes)
        if not self.synced.is_set() and len(self._seen) == len(self._prefixes):
            self.synced.set()
        self._wake_waiters(self.cache.revision)

    def _wake_waiters(self, revision: float) -> None:
        if any(wanted <= revision for wanted, _ in self._waiters):
            for wanted, event in self._waiters:
                if wanted <= revision:
                    event.set()
            self._waiters = [one for one in self._waiters if one[0] > revision]

    def _incarnation_in_cache(self) -> str:
        cluster = self.cache.get(Cluster, keys.CLUSTER)
        return cluster.status.incarnation if cluster is not None else self._incarnation

    # Listing and merging.

    async def _relist(self, prefix: str, why: str) -> int:
        """List and merge with no watch open on the prefix; return the revision to watch from."""
        listing = await self._store.list(prefix)
        RELISTS.labels(why).inc()
        incarnation = self._incarnation_in(listing)
        if self._incarnation and incarnation != self._incarnation:
            _log.warning("incarnation_changed", old=self._incarnation, new=incarnation, revision=listing.revision)
            self._incarnation = incarnation
            self._replace(prefix, listing)
        elif listing.revision >= self._seen.get(prefix, 0):
            self._advance(prefix, listing.revision, self._merge(prefix, listing, {}))
            self._incarnation = self._incarnation_in_cache()
        elif prefix == self._prefixes[0]:
            seen = self._seen[prefix]
            raise UnavailableError(
                f"the store went back from revision {seen} to {listing.revision}, not restored by us"
            )
        else:
            self._replace(prefix, listing)
        return listing.revision

    def _incarnation_in(self, listing: Listing) -> str:
        item = next((item for item in listing.items if item.key == keys.CLUSTER), None)
        cluster = self._decode(Cluster, item.key, item.value, item.revision) if item is not None else None
        return cluster.status.incarnation if isinstance(cluster, Cluster) else self._incarnation

    def _merge(self, prefix: str, listing: Listing, deletions: Mapping[str, int]) -> list[Change]:
        """Take from a list what is newer than the cache, and drop what it shows to be gone.

        `deletions` are those a watch has delivered since the list was asked for. An object missing from the list
        although it was written before it is gone; one written later is not the list's business.
        """
        changes: list[Change] = []
        for item in listing.items:
            kind = keys.kind_at(item.key)
            if kind in self._kinds and deletions.get(item.key, 0) < item.revision:
                changes += _only(self._take_item(kind, item))
        listed = {item.key for item in listing.items}
        for key, revision in self._cached(prefix):
            if key not in listed and revision <= listing.revision:
                changes += _only(self.cache.set(key, None))
        for key in [key for key in self.cache.unreadable if key.startswith(prefix) and key not in listed]:
            del self.cache.unreadable[key]
        return changes

    def _take_item(self, kind: type[Object], item: Item) -> Change | None:
        cached = self.cache.get(kind, item.key)
        if cached is not None and cached.metadata.resource_version >= item.revision:
            return None
        obj = self._decode(kind, item.key, item.value, item.revision)
        return self.cache.set(item.key, obj) if obj is not None else None

    def _replace(self, prefix: str, listing: Listing) -> None:
        """Take a list from another history, whose revisions cannot be compared with the cache's."""
        before = {key: self.cache.set(key, None) for key, _ in self._cached(prefix)}
        old = {key: change.old for key, change in before.items() if change is not None}
        for item in listing.items:
            kind = keys.kind_at(item.key)
            if kind in self._kinds:
                self._take_item(kind, item)
        new = {
            key: self.cache.get(kind, key) for key, _ in self._cached(prefix) if (kind := keys.kind_at(key)) is not None
        }
        changes = [
            Change(key, old.get(key), new.get(key)) for key in sorted({*old, *new}) if old.get(key) != new.get(key)
        ]
        self._wake_waiters(math.inf)
        self._advance(prefix, listing.revision, changes)

    def _cached(self, prefix: str) -> list[tuple[str, int]]:
        return [
            (key, obj.metadata.resource_version)
            for kind in self._kinds
            for key, obj in self.cache.all(kind).items()
            if key.startswith(prefix)
        ]

    async def _list_beside_watch(self, prefix: str, grace_s: float) -> int:
        """List and merge while the watch goes on; return how many objects the watch had missed.

        Whatever the list shows to be older than what the watch has delivered is not taken. UnavailableError if the
        list comes from another history: whoever follows the prefix will have to take that in first.
        """
        deletions: dict[str, int] = {}
        seen_before = self._seen[prefix]
        self._deletions.append(deletions)
        try:
            listing = await self._store.list(prefix)
            heard = await self._hear(prefix, listing.revision, grace_s)
            seen = self._seen[prefix]
            incarnation = self._incarnation_in(listing)
            if listing.revision < seen_before or (self._incarnation and incarnation != self._incarnation):
                raise UnavailableError(f"the store at revision {listing.revision} is not the one seen at {seen_before}")
            changes = self._merge(prefix, listing, deletions)
            self._advance(prefix, max(seen, listing.revision), changes)
            return sum(_is_drift(change, heard, listing.revision) for change in changes)
        finally:
            self._deletions.remove(deletions)

    async def _hear(self, prefix: str, listed: int, grace_s: float) -> int:
        """Return the revision up to which a watch must have delivered everything.

        One that says nothing for the whole grace had nothing to say up to the list's revision.
        """
        if grace_s and prefix == self._prefixes[0] and self._seen[prefix] < listed:
            with self._clock.timeout(grace_s) as grace:
                await self.wait_for(listed)
            if grace.cancelled_caught:
                return max(listed, self._seen[prefix])
        return self._seen[prefix]

    async def _recheck(self) -> None:
        for prefix in self._prefixes:
            try:
                drift = await self._list_beside_watch(prefix, GRACE_S)
            except ShoalError:
                return  # the watch notices it as well, and says so
            RELISTS.labels("rechecked").inc()
            if drift:
                DRIFT.inc(drift)
                _log.warning("cache_mended", prefix=prefix, objects=drift, revision=self.cache.revision)

    def _decode(self, kind: type[Object], key: str, value: bytes, revision: int) -> Object | None:
        """Return the object; None, reported once, if these bytes are none that belongs at this key."""
        try:
            obj = codec.decode(kind, value, revision)
            if keys.key_of(obj) != key:
                raise ValueError(f"it says it belongs at {keys.key_of(obj)}")
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            if key not in self.cache.unreadable:
                _log.error("object_unreadable", object=key, revision=revision, error=str(error))
            found = _UID.search(value)
            self.cache.unreadable[key] = found[1].decode() if found else ""
            return None
        self.cache.unreadable.pop(key, None)
        if self._keep is not None:
            self._keep(key, value)
        return obj


_UID = re.compile(rb'"uid"\s*:\s*"([0-9a-z]{25})"')


def _only(change: Change | None) -> list[Change]:
    return [change] if change is not None else []


def _is_drift(change: Change, seen: int, listed: int) -> bool:
    """Tell whether a watch at revision `seen` ought to have delivered what a list at `listed` showed."""
    if change.new is None:
        return seen >= listed
    return change.new.metadata.resource_version <= seen
