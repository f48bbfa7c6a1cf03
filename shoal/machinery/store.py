"""The store's contract. Every implementation (etcd, in memory) passes `tests/contract/test_store.py`.

In etcd's own words:

- *Ordered*: events come by revision, and no revision comes twice or late.
- *Reliable*: a watch never skips an event; if it cannot continue it raises `ExpiredError`, and the caller lists again.
- *Atomic*: the events of one revision are delivered in one `Batch`.
- `list` returns items and the revision they are true at; `watch(prefix, since=revision)` starts right after it.
- Every write carries what it read: a transaction commits only if all its `compares` hold, else `ConflictError`.
- A write whose answer was lost raises `UnavailableError` and its outcome is unknown: read before you retry.

Values are bytes here; `shoal.api.codec` turns them into objects.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from msgspec import Struct

MAX_OPERATIONS = 100
"""Operations in one transaction; etcd's own default limit is 128."""

MAX_TRANSACTION_BYTES = 1 << 20
"""Bytes of keys and values in one transaction; etcd's own default limit is 1.5 MiB."""


class Item(NamedTuple):
    key: str
    value: bytes
    revision: int
    """etcd's mod revision: when this value was written."""


class Listing(NamedTuple):
    items: tuple[Item, ...]
    """Sorted by key."""
    revision: int
    """The store's revision all items are true at; watch from here."""


class Event(NamedTuple):
    key: str
    value: bytes | None
    """None = deleted."""
    revision: int


class Batch(NamedTuple):
    """What changed, in order. `events` is empty in a bookmark: nothing changed up to `revision`."""

    revision: int
    events: tuple[Event, ...]


class Unchanged(Struct, frozen=True, tag=True):
    """Holds if `key` was last written at `revision`; 0 = does not exist."""

    key: str
    revision: int


class Exists(Struct, frozen=True, tag=True):
    key: str


class NoneUnder(Struct, frozen=True, tag=True):
    """Holds if no key starts with `prefix`."""

    prefix: str


class CreatedAt(Struct, frozen=True, tag=True):
    """Holds if `key` exists and was created at `revision`: an election is still mine."""

    key: str
    revision: int


Compare = Unchanged | Exists | NoneUnder | CreatedAt


class Put(Struct, frozen=True, tag=True):
    key: str
    value: bytes
    lease: int = 0
    """etcd lease the key dies with; 0 = none."""


class Delete(Struct, frozen=True, tag=True):
    """Deletes one key; deleting what is not there is no error."""

    key: str


Write = Put | Delete


class Txn(Struct, frozen=True):
    """All of `writes`, if all of `compares` hold; at most MAX_OPERATIONS and MAX_TRANSACTION_BYTES; a key once."""

    compares: tuple[Compare, ...] = ()
    writes: tuple[Write, ...] = ()


class Store(Protocol):
    async def get(self, key: str) -> Item | None:
        """Return the newest value (a quorum read), or None."""

    async def list(self, prefix: str) -> Listing:
        """Return everything under `prefix` at one revision, paged inside (never one huge message)."""

    async def commit(self, txn: Txn) -> int:
        """Commit and return the revision; `ConflictError` if a compare failed, naming the key that disagreed."""

    def watch(self, prefix: str, since: int) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """Deliver every batch after revision `since`, bookmarks among them; `ExpiredError` once it cannot."""

    async def lease_grant(self, ttl_s: float) -> int: ...

    async def lease_keep_alive(self, lease: int) -> float:
        """Renew and return the time left in seconds; `NotFoundError` if the lease is gone."""

    async def lease_revoke(self, lease: int) -> None: ...

    async def compact(self, revision: int) -> None:
        """Forget history up to `revision`."""

    async def close(self) -> None: ...


def chunked(writes: Sequence[Write], size: int = MAX_OPERATIONS) -> list[Sequence[Write]]:
    """Split independent writes into transaction-sized pieces, by number and by bytes."""
    chunks: list[Sequence[Write]] = []
    current: list[Write] = []
    room = MAX_TRANSACTION_BYTES
    for write in writes:
        cost = len(write.key) + (len(write.value) if isinstance(write, Put) else 0)
        if current and (len(current) >= size or cost > room):
            chunks.append(current)
            current, room = [], MAX_TRANSACTION_BYTES
        current.append(write)
        room -= cost
    if current:
        chunks.append(current)
    return chunks
