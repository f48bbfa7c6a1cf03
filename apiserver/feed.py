"""What keeps the mirror true: list, then watch; after any break list again and pass on only what differs."""

from __future__ import annotations

import structlog

from apiserver.mirror import Mirror
from shoal.api import codec, keys
from shoal.api import objects as o
from shoal.api.errors import ExpiredError, UnavailableError
from shoal.machinery.cache import Change
from shoal.machinery.clock import Clock
from shoal.machinery.store import Batch, Listing, Store

RETRY_S = 0.2
"""Seconds between attempts to reach the store; one process, so no herd."""

log = structlog.get_logger()


async def feed(store: Store, mirror: Mirror, clock: Clock) -> None:
    """Carry one watch over /shoal/ into the mirror, for ever."""
    while True:
        try:
            await _list_and_watch(store, mirror)
        except ExpiredError as error:
            log.info("watch_restarted", reason=str(error))
        except UnavailableError as error:
            log.warning("store_lost", reason=str(error))
        await clock.sleep(RETRY_S)


async def _list_and_watch(store: Store, mirror: Mirror) -> None:
    listing = await store.list(keys.ROOT)
    load(mirror, listing)
    async with store.watch(keys.ROOT, listing.revision) as batches:
        async for batch in batches:
            apply(mirror, batch)


def load(mirror: Mirror, listing: Listing) -> None:
    """Make the mirror equal to a listing. A store that went back was restored: nothing before it counts any more."""
    is_new = not mirror.synced or listing.revision < mirror.revision
    if is_new:
        mirror.forget(listing.revision)
    items = sorted(listing.items, key=lambda item: item.key != keys.CLUSTER)
    changes = [change for item in items if (change := _take(mirror, item.key, item.value, item.revision))]
    for key in mirror.cache.keys() - {item.key for item in items}:
        if change := _take(mirror, key, None, listing.revision):
            changes.append(change)
    mirror.synced = True
    mirror.reached(listing.revision, changes, is_new=is_new)


def apply(mirror: Mirror, batch: Batch) -> None:
    """Bring what one revision changed, all of it at once."""
    changes = [change for event in batch.events if (change := _take(mirror, event.key, event.value, event.revision))]
    mirror.reached(batch.revision, changes)


def _take(mirror: Mirror, key: str, raw: bytes | None, revision: int) -> Change | None:
    """Put one value into the mirror; what cannot be read is reported and, like a deleted one, not shown."""
    new: o.Object | None = None
    if raw is not None:
        try:
            new = codec.decode_at(key, raw, revision)
        except ValueError as error:
            log.error("object_unreadable", key=key, revision=revision, reason=str(error))
    change = mirror.cache.set(key, new)
    if change is not None:
        mirror.keep(key, raw if new is not None else None, revision)
    return change
