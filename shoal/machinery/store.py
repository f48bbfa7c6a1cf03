"""The store's contract. Every implementation (etcd, in memory) passes `tests/contract/test_store.py`.

In etcd's own words:

- *Ordered*: events come by revision, and no revision comes twice or late.
- *Reliable*: a watch never skips an event; if it cannot continue it raises `ExpiredError`, and the caller lists again.
- *Atomic*: the events of one revision are delivered in one `Batch`.
- `list` returns items and the revision they are true at; `watch(prefix, since=revision)` starts right after it.
- Every write carries what it read: a transaction commits only if all its `compares` hold, else `ConflictError`.
- A write whose answer was lost raises `UnavailableError` and its outcome is unknown: read before you retry.
- A watch hears of its prefix only: what is written beside it wakes nobody, and moves no position. So its position
  reaches every revision of a commit that changed something under the prefix, and need not reach others.

Values are bytes here; `shoal.api.codec` turns them into objects.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from msgspec import Struct

from shoal.api.errors import ConflictError, InvariantError

MAX_OPERATIONS = 100
"""Operations in one transaction; etcd's own default limit is 128."""

MAX_COMPARES = 128
"""Compares in one transaction: etcd's own default limit."""

MAX_TRANSACTION_BYTES = 1 << 20
"""Bytes of keys and values in one transaction; etcd's own default limit is 1.5 MiB."""


MAX_VALUE_BYTES = 1_450_000
"""Bytes of a transaction with a single write, which may be a large config; etcd's own limit is 1.5 MiB in all."""


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
    """What one revision changed under the prefix, in order."""

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
    """All of `writes`, if all of `compares` hold.

    At most MAX_OPERATIONS writes, MAX_COMPARES compares and MAX_TRANSACTION_BYTES; each key is written once.
    """

    compares: tuple[Compare, ...] = ()
    writes: tuple[Write, ...] = ()


class Store(Protocol):
    async def get(self, key: str) -> Item | None:
        """Return the newest value (a quorum read), or None."""

    async def list(self, prefix: str) -> Listing:
        """Return everything under `prefix` at one revision, paged inside (never one huge message)."""

    async def commit(self, txn: Txn) -> int:
        """Commit and return the revision; `ConflictError` if a compare failed, naming the key that disagreed.

        A transaction that changes nothing returns the store's revision as it is. `NotFoundError` if a lease is gone,
        `InvariantError` if the transaction is malformed; nothing is written then.
        """

    def watch(self, prefix: str, since: int) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """Deliver every batch after revision `since`; `ExpiredError` once it cannot.

        A broken connection is mended inside. Expired is a position that was compacted or that the store has not
        reached (it was restored from a backup).
        """

    async def lease_grant(self, ttl_s: float) -> int:
        """Return a new lease; it lives at least `ttl_s` after each renewal, rounded up to whole seconds."""

    async def lease_keep_alive(self, lease: int) -> float:
        """Renew and return the time left in seconds; `NotFoundError` if the lease is gone."""

    async def lease_revoke(self, lease: int) -> None:
        """End a lease and delete its keys; revoking what is gone is no error."""

    async def compact(self, revision: int) -> None:
        """Forget history up to `revision`; compacting twice is no error, `InvariantError` for the future."""

    async def close(self) -> None: ...


class Seen(NamedTuple):
    """What a compare found at its key, or first under its prefix."""

    key: str
    created: int
    modified: int


def conflict_of(compare: Compare, seen: Seen | None) -> ConflictError | None:
    """Return None if the compare holds on what was seen, else the error that names the key and both values."""
    match compare:
        case NoneUnder(prefix) if seen is not None:
            return ConflictError(seen.key, 0, seen.modified, f"{seen.key} exists: {prefix} is not empty")
        case Exists(key) if seen is None:
            return ConflictError(key, "any", 0, f"{key} does not exist any more")
        case Unchanged(key, revision) if revision != (seen.modified if seen else 0):
            return ConflictError(key, revision, seen.modified if seen else 0)
        case CreatedAt(key, revision) if seen is None or seen.created != revision:
            created = seen.created if seen else 0
            message = f"{key} was created at {created}, not at {revision}: it is not mine any more"
            return ConflictError(key, revision, created, message)
    return None


def prefix_end(prefix: str) -> str:
    """Return the first key after all that start with `prefix`; "" = there is no end.

    Text sorts as its UTF-8 does, so this is etcd's range too.
    """
    for at in range(len(prefix) - 1, -1, -1):
        if prefix[at] < "\U0010ffff":
            following = ord(prefix[at]) + 1
            return prefix[:at] + ("\ue000" if following == 0xD800 else chr(following))  # no surrogates in UTF-8
    return ""


def check_txn(txn: Txn) -> None:
    """Raise `InvariantError` for a transaction that etcd would refuse whatever it holds."""
    if len(txn.writes) > MAX_OPERATIONS or len(txn.compares) > MAX_COMPARES:
        raise InvariantError(
            f"a transaction has {len(txn.writes)} writes and {len(txn.compares)} compares; "
            f"at most {MAX_OPERATIONS} and {MAX_COMPARES} are possible"
        )
    keys = [write.key for write in txn.writes]
    if "" in keys:
        raise InvariantError("a write has an empty key")
    if len(set(keys)) < len(keys):
        raise InvariantError(f"a key is written twice in one transaction: {sorted(keys)}")
    size = sum(_size(write) for write in txn.writes)
    limit = MAX_VALUE_BYTES if len(txn.writes) == 1 else MAX_TRANSACTION_BYTES
    if size > limit:
        raise InvariantError(f"a transaction has {size} bytes; at most {limit} are possible")


def _size(write: Write) -> int:
    return len(write.key.encode()) + (len(write.value) if isinstance(write, Put) else 0)


def chunked(writes: Sequence[Write], size: int = MAX_OPERATIONS) -> list[Sequence[Write]]:
    """Split independent writes into transaction-sized pieces, by number and by bytes."""
    chunks: list[Sequence[Write]] = []
    current: list[Write] = []
    room = MAX_TRANSACTION_BYTES
    for write in writes:
        cost = _size(write)
        if current and (len(current) >= size or cost > room):
            chunks.append(current)
            current, room = [], MAX_TRANSACTION_BYTES
        current.append(write)
        room -= cost
    if current:
        chunks.append(current)
    return chunks
