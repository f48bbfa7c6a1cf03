"""The handles by which tests make the memory store misbehave; its contract is in tests/contract/test_store.py."""

from __future__ import annotations

import anyio
import pytest

from shoal.api.errors import ExpiredError, NotFoundError, UnavailableError
from shoal.machinery.memory import MemoryStore, Written
from shoal.machinery.store import Put, Txn

pytestmark = pytest.mark.anyio


async def test_held_watches_deliver_only_after_release() -> None:
    store = MemoryStore()
    store.hold_watches()
    async with store.watch("/t/", 1) as watch:
        store.put("/t/a", b"1")
        with anyio.move_on_after(0.01) as scope:
            await anext(watch)
        assert scope.cancelled_caught
        store.release_watches()
        assert (await anext(watch)).events[0].value == b"1"


async def test_a_cut_watch_expires() -> None:
    store = MemoryStore()
    async with store.watch("/t/", 1) as watch:
        store.cut_watches()
        with pytest.raises(ExpiredError):
            await anext(watch)


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not-applied"])
async def test_a_failed_commit_leaves_the_outcome_unknown(applied: bool) -> None:
    store = MemoryStore()
    store.fail_commits(applied=applied)
    with pytest.raises(UnavailableError):
        await store.commit(Txn(writes=(Put("/t/a", b"1"),)))
    assert (store.peek("/t/a") is not None) is applied
    assert await store.commit(Txn(writes=(Put("/t/b", b"1"),)))


async def test_history_holds_every_write_and_the_hook_sees_every_transaction() -> None:
    store, seen = MemoryStore(), []
    store.before_commit = seen.append
    txn = Txn(writes=(Put("/t/a", b"1"), Put("/t/b", b"2")))
    assert await store.commit(txn) == 2
    assert store.history == [Written(2, "/t/a", b"1"), Written(2, "/t/b", b"2")]
    assert seen == [txn]


async def test_leases_end_by_the_given_clock() -> None:
    now = 0.0
    store = MemoryStore(lambda: now)
    lease = await store.lease_grant(5)
    await store.commit(Txn(writes=(Put("/t/a", b"1", lease),)))
    now = 4.0
    assert await store.lease_keep_alive(lease) == 5
    now = 8.9
    assert await store.get("/t/a")
    now = 9.0
    assert await store.get("/t/a") is None
    with pytest.raises(NotFoundError):
        await store.lease_keep_alive(lease)
