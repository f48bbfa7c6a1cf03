"""The store in memory: the same contract as etcd's, for tests, with handles to make it misbehave.

Nothing here waits for time: leases end when `monotonic` says so, noticed at the next call (or by `expire_leases`).
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

import anyio
import anyio.lowlevel

from shoal.api.errors import ExpiredError, InvariantError, NotFoundError, ShoalError, UnavailableError
from shoal.machinery.store import (
    Batch,
    Compare,
    Delete,
    Event,
    Item,
    Listing,
    NoneUnder,
    Put,
    Seen,
    Txn,
    Write,
    check_txn,
    conflict_of,
)


class Written(NamedTuple):
    """One line of the store's history; `value` None = deleted."""

    revision: int
    key: str
    value: bytes | None


@dataclass
class _Entry:
    value: bytes
    created: int
    modified: int
    lease: int


@dataclass
class _Lease:
    ttl_s: float
    ends_at: float
    keys: set[str] = field(default_factory=set)


class MemoryStore:
    """A store that lives and dies with the test.

    `history` is everything ever written, in order. `before_commit` is called with every transaction before it is
    looked at and may raise (a crash). `hold_watches` makes caches stale, `cut_watches` makes informers list again,
    `fail_commits` loses answers, `is_down` makes every call fail.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.revision = 1
        self.compacted = 0
        self.history: list[Written] = []
        self.before_commit: Callable[[Txn], None] | None = None
        self.is_down = False
        self._monotonic = monotonic
        self._entries: dict[str, _Entry] = {}
        self._keys: list[str] = []
        self._leases: dict[int, _Lease] = {}
        self._next_lease = 1
        self._watches: set[_Watch] = set()
        self.are_watches_held = False
        self._failures: deque[bool] = deque()

    # The contract.

    async def get(self, key: str) -> Item | None:
        await self._enter()
        return self.peek(key)

    async def list(self, prefix: str) -> Listing:
        await self._enter()
        return Listing(
            tuple(Item(key, self._entries[key].value, self._entries[key].modified) for key in self._under(prefix)),
            self.revision,
        )

    async def commit(self, txn: Txn) -> int:
        check_txn(txn)
        await self._enter()
        return self.commit_now(txn)

    @asynccontextmanager
    async def watch(self, prefix: str, since: int) -> AsyncIterator[AsyncIterator[Batch]]:
        await self._enter()
        watch = _Watch(self, prefix, since)
        if since < self.compacted:
            watch.error = ExpiredError(f"revision {since} was compacted; history begins after {self.compacted}")
        elif since > self.revision:
            watch.error = ExpiredError(f"revision {since} lies ahead of the store's {self.revision}: it went back")
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    async def lease_grant(self, ttl_s: float) -> int:
        await self._enter()
        lease, self._next_lease = self._next_lease, self._next_lease + 1
        ttl_s = max(1, ceil(ttl_s))
        self._leases[lease] = _Lease(ttl_s, self._monotonic() + ttl_s)
        return lease

    async def lease_keep_alive(self, lease: int) -> float:
        await self._enter()
        found = self._leases.get(lease)
        if found is None:
            raise NotFoundError(f"lease {lease} is gone")
        found.ends_at = self._monotonic() + found.ttl_s
        return found.ttl_s

    async def lease_revoke(self, lease: int) -> None:
        await self._enter()
        self._end_lease(lease)

    async def compact(self, revision: int) -> None:
        await self._enter()
        if revision > self.revision:
            raise InvariantError(f"revision {revision} cannot be compacted: the store is at {self.revision}")
        self.compacted = max(self.compacted, revision)

    async def close(self) -> None:
        """Do nothing: others may share the store."""

    # Handles for tests.

    def peek(self, key: str) -> Item | None:
        """Return a value without waiting."""
        entry = self._entries.get(key)
        return None if entry is None else Item(key, entry.value, entry.modified)

    def commit_now(self, txn: Txn) -> int:
        """Commit without waiting, as `commit` does once it is its turn."""
        if self.before_commit is not None:
            self.before_commit(txn)
        is_lost = bool(self._failures)
        if is_lost and not self._failures.popleft():
            raise UnavailableError("the store did not answer a commit; it was not applied, but who knows")
        for compare in txn.compares:
            self._check(compare)
        for write in txn.writes:
            if isinstance(write, Put) and write.lease and write.lease not in self._leases:
                raise NotFoundError(f"lease {write.lease} of {write.key} is gone")
        self._apply(txn.writes)
        if is_lost:
            raise UnavailableError("the store did not answer a commit; it was applied, but who knows")
        return self.revision

    def put(self, key: str, value: bytes) -> int:
        """Write one key without waiting or failing, as somebody else; return the revision."""
        self._apply([Put(key, value)])
        return self.revision

    def remove(self, key: str) -> int:
        """Delete one key, as `put` writes one."""
        self._apply([Delete(key)])
        return self.revision

    def hold_watches(self) -> None:
        """Deliver nothing more until `release_watches`: every cache grows stale."""
        self.are_watches_held = True

    def release_watches(self) -> None:
        self.are_watches_held = False
        self._wake_watches()

    def cut_watches(self) -> None:
        """Let every open watch raise `ExpiredError` after what it has delivered."""
        for watch in self._watches:
            watch.error = ExpiredError("the watch was cut by the test")
        self._wake_watches()

    def fail_commits(self, times: int = 1, *, applied: bool) -> None:
        """Lose the answers of the next commits: they raise `UnavailableError`, applied or not."""
        self._failures.extend([applied] * times)

    def expire_leases(self) -> None:
        """End the leases whose time is over. Every call does it; this is for when nobody calls."""
        now = self._monotonic()
        for lease in [lease for lease, found in self._leases.items() if found.ends_at <= now]:
            self._end_lease(lease)

    # How it works.

    async def _enter(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.is_down:
            raise UnavailableError("the store is down")
        self.expire_leases()

    def _under(self, prefix: str) -> Sequence[str]:
        found = []
        for at in range(bisect_left(self._keys, prefix), len(self._keys)):
            if not self._keys[at].startswith(prefix):
                break
            found.append(self._keys[at])
        return found

    def _check(self, compare: Compare) -> None:
        if isinstance(compare, NoneUnder):
            at = bisect_left(self._keys, compare.prefix)
            key = self._keys[at] if at < len(self._keys) and self._keys[at].startswith(compare.prefix) else ""
        else:
            key = compare.key
        entry = self._entries.get(key)
        conflict = conflict_of(compare, Seen(key, entry.created, entry.modified) if entry else None)
        if conflict is not None:
            raise conflict

    def _apply(self, writes: Sequence[Write]) -> None:
        effective = [write for write in writes if isinstance(write, Put) or write.key in self._entries]
        if not effective:
            return
        self.revision += 1
        for write in effective:
            if isinstance(write, Put):
                self._put(write)
            else:
                self._delete(write.key)
        self._wake_watches()

    def _put(self, put: Put) -> None:
        old = self._entries.get(put.key)
        if old is None:
            insort(self._keys, put.key)
        elif old.lease in self._leases:
            self._leases[old.lease].keys.discard(put.key)
        if put.lease:
            self._leases[put.lease].keys.add(put.key)
        created = old.created if old else self.revision
        self._entries[put.key] = _Entry(put.value, created, self.revision, put.lease)
        self.history.append(Written(self.revision, put.key, put.value))

    def _delete(self, key: str) -> None:
        old = self._entries.pop(key)
        del self._keys[bisect_left(self._keys, key)]
        if old.lease in self._leases:
            self._leases[old.lease].keys.discard(key)
        self.history.append(Written(self.revision, key, None))

    def _end_lease(self, lease: int) -> None:
        found = self._leases.pop(lease, None)
        if found is None or not found.keys:
            return
        self.revision += 1
        for key in sorted(found.keys):
            self._delete(key)
        self._wake_watches()

    def _wake_watches(self) -> None:
        for watch in self._watches:
            watch.wake.set()


class _Watch:
    """An open watch. An iterator that may be cancelled at any wait and asked again, which a generator could not."""

    def __init__(self, store: MemoryStore, prefix: str, since: int) -> None:
        self.error: ShoalError | None = None
        self.wake = anyio.Event()
        self._store, self._prefix = store, prefix
        self._at = bisect_right(store.history, since, key=lambda line: line.revision)

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        await anyio.lowlevel.checkpoint()
        while True:
            if self.error is not None:
                raise self.error
            batch = None if self._store.are_watches_held else self._next()
            if batch is not None:
                return batch
            self.wake = anyio.Event()
            await self.wake.wait()

    def _next(self) -> Batch | None:
        """Step over the history up to the next revision that concerns this watch."""
        history = self._store.history
        while self._at < len(history):
            first = self._at
            while self._at < len(history) and history[self._at].revision == history[first].revision:
                self._at += 1
            lines = history[first : self._at]
            kept = tuple(
                Event(line.key, line.value, line.revision) for line in lines if line.key.startswith(self._prefix)
            )
            if kept:
                return Batch(lines[0].revision, kept)
        return None
