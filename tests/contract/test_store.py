"""What every store promises (the docstrings of shoal/machinery/store.py), asked of each implementation."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from random import Random

import anyio
import pytest

from shoal.api.errors import ConflictError, ExpiredError, InvariantError, NotFoundError
from shoal.machinery.etcd import EtcdStore
from shoal.machinery.memory import MemoryStore
from shoal.machinery.store import (
    MAX_COMPARES,
    MAX_OPERATIONS,
    MAX_TRANSACTION_BYTES,
    MAX_VALUE_BYTES,
    Batch,
    Compare,
    CreatedAt,
    Delete,
    Event,
    Exists,
    NoneUnder,
    Put,
    Store,
    Txn,
    Unchanged,
    Write,
    chunked,
)
from tests.support import eventually
from tests.support.etcd import EtcdProcess

pytestmark = pytest.mark.anyio
_numbers = itertools.count(1)


@pytest.fixture(params=["memory", "etcd"])
async def store(request: pytest.FixtureRequest, etcd: EtcdProcess) -> AsyncIterator[Store]:
    found: Store = MemoryStore() if request.param == "memory" else EtcdStore([etcd.url])
    yield found
    await found.close()


@pytest.fixture
def prefix() -> str:
    """A place of the test's own."""
    return f"/contract/{next(_numbers)}/"


async def put(store: Store, key: str, value: bytes = b"x", *compares: Compare) -> int:
    return await store.commit(Txn(compares, (Put(key, value),)))


async def delete(store: Store, key: str) -> int:
    return await store.commit(Txn((), (Delete(key),)))


async def now(store: Store) -> int:
    return (await store.list("/nothing/here/")).revision


async def take(watch: AsyncIterator[Batch], events: int) -> list[Batch]:
    """Read batches until they hold so many events."""
    batches: list[Batch] = []
    with anyio.fail_after(10):
        while sum(len(batch.events) for batch in batches) < events:
            batches.append(await anext(watch))
    return batches


def keys(batches: Sequence[Batch]) -> list[list[str]]:
    return [[event.key for event in batch.events] for batch in batches if batch.events]


class TestReading:
    async def test_get_returns_what_was_put_and_its_revision(self, store: Store, prefix: str) -> None:
        revision = await put(store, prefix + "a", b"\x00\xff")
        assert await store.get(prefix + "a") == (prefix + "a", b"\x00\xff", revision)

    async def test_get_of_what_is_not_there_is_none(self, store: Store, prefix: str) -> None:
        await put(store, prefix + "ab")
        assert await store.get(prefix + "a") is None

    async def test_an_empty_value_is_a_value(self, store: Store, prefix: str) -> None:
        revision = await put(store, prefix + "a", b"")
        assert await store.get(prefix + "a") == (prefix + "a", b"", revision)

    async def test_list_is_sorted_by_key_and_true_at_its_revision(self, store: Store, prefix: str) -> None:
        revisions = {name: await put(store, prefix + name) for name in ("b", "a", "c")}
        listing = await store.list(prefix)
        assert [(item.key, item.revision) for item in listing.items] == [
            (prefix + name, revisions[name]) for name in "abc"
        ]
        assert listing.revision >= revisions["c"]

    async def test_list_of_nothing_still_has_a_revision(self, store: Store, prefix: str) -> None:
        revision = await put(store, prefix + "a")
        listing = await store.list(prefix + "none/")
        assert listing.items == ()
        assert listing.revision >= revision

    async def test_a_prefix_takes_in_all_that_start_with_it_and_nothing_else(self, store: Store, prefix: str) -> None:
        inside = [prefix + "a/", prefix + "a/1", prefix + "a/é", prefix + "a/\U0010ffff", prefix + "a/~"]
        outside = [prefix + "a", prefix + "a-", prefix + "a.", prefix + "a0", prefix + "b/1"]
        await store.commit(Txn((), tuple(Put(key, b"") for key in inside + outside)))
        listing = await store.list(prefix + "a/")
        assert sorted(item.key for item in listing.items) == sorted(inside)

    async def test_the_empty_prefix_takes_in_everything(self, store: Store, prefix: str) -> None:
        await put(store, prefix + "a")
        await put(store, "\x01" + prefix)
        found = {item.key for item in (await store.list("")).items}
        assert {prefix + "a", "\x01" + prefix} <= found

    async def test_many_small_items_are_listed_whole(self, store: Store, prefix: str) -> None:
        wanted = [f"{prefix}{number:05}" for number in range(1700)]
        for chunk in chunked([Put(key, b"x") for key in wanted]):
            await store.commit(Txn((), tuple(chunk)))
        assert [item.key for item in (await store.list(prefix)).items] == wanted

    async def test_a_list_may_be_larger_than_any_message(self, store: Store, prefix: str) -> None:
        value = b"v" * 400_000
        for number in range(200):
            await put(store, f"{prefix}{number:03}", value)
        listing = await store.list(prefix)
        assert len(listing.items) == 200
        assert all(item.value == value for item in listing.items)
        for chunk in chunked([Delete(item.key) for item in listing.items]):
            await store.commit(Txn((), tuple(chunk)))

    async def test_a_paged_list_is_true_at_one_revision_while_others_write(self, store: Store, prefix: str) -> None:
        """Each writer moves all of a generation at once, so that a torn list would show two."""
        names = [f"{prefix}{number:04}" for number in range(1200)]
        for chunk in chunked([Put(key, b"0") for key in names]):
            await store.commit(Txn((), tuple(chunk)))

        async def move() -> None:
            """Swap a mark from the last key to the first and back: a list must hold it exactly once."""
            at = names[0]
            await put(store, at, b"mark")
            while True:
                to = names[-1] if at == names[0] else names[0]
                await store.commit(Txn((), (Put(at, b"0"), Put(to, b"mark"))))
                at = to

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(move)
            await eventually(lambda: store.get(names[-1]))
            for _ in range(10):
                marks = [item.key for item in (await store.list(prefix)).items if item.value == b"mark"]
                assert len(marks) <= 1
            tasks.cancel_scope.cancel()
        assert [item.value for item in (await store.list(prefix)).items].count(b"mark") == 1


class TestCommitting:
    async def test_revisions_grow(self, store: Store, prefix: str) -> None:
        revisions = [await put(store, prefix + "a") for _ in range(3)]
        assert revisions == sorted(set(revisions))

    async def test_all_writes_of_a_transaction_have_its_revision(self, store: Store, prefix: str) -> None:
        await put(store, prefix + "old")
        revision = await store.commit(
            Txn((), (Put(prefix + "a", b"1"), Delete(prefix + "old"), Put(prefix + "b", b"")))
        )
        listing = await store.list(prefix)
        assert [(item.key, item.revision) for item in listing.items] == [
            (prefix + "a", revision),
            (prefix + "b", revision),
        ]

    async def test_deleting_what_is_not_there_is_no_error_and_moves_nothing(self, store: Store, prefix: str) -> None:
        revision = await put(store, prefix + "a")
        assert await delete(store, prefix + "b") == revision

    async def test_a_transaction_of_compares_alone_moves_nothing(self, store: Store, prefix: str) -> None:
        revision = await put(store, prefix + "a")
        assert await store.commit(Txn((Exists(prefix + "a"),))) == revision

    async def test_a_transaction_may_have_the_largest_number_of_writes_and_compares(
        self, store: Store, prefix: str
    ) -> None:
        names = [f"{prefix}{number}" for number in range(MAX_COMPARES)]
        compares = tuple(Unchanged(name, 0) for name in names)
        writes: tuple[Write, ...] = tuple(Put(name, b"x") for name in names[:MAX_OPERATIONS])
        revision = await store.commit(Txn(compares, writes))
        listing = await store.list(prefix)
        assert {item.revision for item in listing.items} == {revision}
        assert len(listing.items) == MAX_OPERATIONS
        with pytest.raises(ConflictError):
            await store.commit(Txn(compares, writes))

    async def test_a_transaction_may_have_the_largest_size(self, store: Store, prefix: str) -> None:
        room = MAX_TRANSACTION_BYTES - 2 * len(prefix + "a")
        halves = (Put(prefix + "a", b"x" * (room // 2)), Put(prefix + "b", b"x" * (room // 2)))
        assert await store.commit(Txn((), halves))

    @pytest.mark.parametrize(
        "txn",
        [
            pytest.param(Txn((), tuple(Put(f"/n/{n}", b"") for n in range(MAX_OPERATIONS + 1))), id="too-many-writes"),
            pytest.param(Txn(tuple(Exists(f"/n/{n}") for n in range(MAX_COMPARES + 1))), id="too-many-compares"),
            pytest.param(Txn((), (Put("/n/a", b"x" * MAX_VALUE_BYTES),)), id="too-large"),
            pytest.param(
                Txn((), (Put("/n/a", b"x" * MAX_TRANSACTION_BYTES), Put("/n/b", b""))), id="too-large-together"
            ),
            pytest.param(Txn((), (Put("/n/a", b"1"), Delete("/n/a"))), id="a-key-twice"),
            pytest.param(Txn((), (Put("", b"1"),)), id="an-empty-key"),
        ],
    )
    async def test_what_etcd_could_never_commit_is_a_bug_of_ours(self, store: Store, txn: Txn) -> None:
        with pytest.raises(InvariantError):
            await store.commit(txn)
        assert (await store.list("/n/")).items == ()

    async def test_of_concurrent_writers_with_one_version_one_wins(self, store: Store, prefix: str) -> None:
        """Twenty writers add one each to a counter: none is lost."""
        key = prefix + "counter"
        await put(store, key, b"0")

        async def add() -> None:
            while True:
                item = await store.get(key)
                assert item is not None
                try:
                    await put(store, key, str(int(item.value) + 1).encode(), Unchanged(key, item.revision))
                except ConflictError:
                    continue
                return

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(add)
        found = await store.get(key)
        assert found is not None
        assert found.value == b"20"


async def _seen_revision(store: Store, prefix: str) -> dict[str, int]:
    """Make `written` (put twice), `reborn` (put, deleted, put); return modified and created revisions."""
    await put(store, prefix + "written")
    modified = await put(store, prefix + "written")
    old = await put(store, prefix + "reborn")
    await delete(store, prefix + "reborn")
    created = await put(store, prefix + "reborn")
    last = await put(store, prefix + "reborn")
    return {"modified": modified, "old": old, "created": created, "last": last}


class TestComparing:
    async def test_each_compare_holds_exactly_when_it_says(self, store: Store, prefix: str) -> None:
        revisions = await _seen_revision(store, prefix)
        written, reborn, absent = prefix + "written", prefix + "reborn", prefix + "absent"
        modified, created, last = revisions["modified"], revisions["created"], revisions["last"]
        cases: list[tuple[Compare, bool]] = [
            (Unchanged(written, modified), True),
            (Unchanged(written, modified - 1), False),
            (Unchanged(written, modified + 1), False),
            (Unchanged(written, 0), False),
            (Unchanged(absent, 0), True),
            (Unchanged(absent, modified), False),
            (Exists(written), True),
            (Exists(absent), False),
            (NoneUnder(prefix + "none/"), True),
            (NoneUnder(written + "/"), True),
            (NoneUnder(prefix), False),
            (NoneUnder(written), False),
            (CreatedAt(reborn, created), True),
            (CreatedAt(reborn, last), False),
            (CreatedAt(reborn, revisions["old"]), False),
            (CreatedAt(reborn, 0), False),
            (CreatedAt(absent, 0), False),
            (CreatedAt(absent, created), False),
        ]
        for compare, holds in cases:
            found = True
            try:
                await store.commit(Txn((compare,)))
            except ConflictError:
                found = False
            assert (compare, found) == (compare, holds)

    async def test_one_failed_compare_stops_every_write(self, store: Store, prefix: str) -> None:
        revision = await put(store, prefix + "a", b"old")
        with pytest.raises(ConflictError):
            await store.commit(
                Txn(
                    (Unchanged(prefix + "a", revision), Exists(prefix + "none")),
                    (Put(prefix + "a", b"new"), Put(prefix + "b", b"new")),
                )
            )
        assert (await store.list(prefix)).items == ((prefix + "a", b"old", revision),)

    async def test_a_conflict_names_the_key_and_both_values(self, store: Store, prefix: str) -> None:
        a, b = prefix + "a", prefix + "b"
        first, second = await put(store, a), await put(store, b)
        with pytest.raises(ConflictError) as conflict:
            await store.commit(Txn((Unchanged(a, first), Unchanged(b, first)), (Put(a, b"y"),)))
        assert (conflict.value.key, conflict.value.expected, conflict.value.found) == (b, first, second)
        assert b in str(conflict.value)

    async def test_a_conflict_under_a_prefix_names_the_key_found_there(self, store: Store, prefix: str) -> None:
        revision = await put(store, prefix + "refs/1")
        with pytest.raises(ConflictError) as conflict:
            await store.commit(Txn((NoneUnder(prefix + "refs/"),), (Put(prefix + "a", b""),)))
        assert (conflict.value.key, conflict.value.found) == (prefix + "refs/1", revision)

    async def test_an_election_that_was_lost_and_won_again_is_another_one(self, store: Store, prefix: str) -> None:
        mine = await put(store, prefix + "leader", b"me", Unchanged(prefix + "leader", 0))
        await put(store, prefix + "a", b"1", CreatedAt(prefix + "leader", mine))
        await delete(store, prefix + "leader")
        with pytest.raises(ConflictError):
            await put(store, prefix + "a", b"2", CreatedAt(prefix + "leader", mine))
        await put(store, prefix + "leader", b"me")
        with pytest.raises(ConflictError):
            await put(store, prefix + "a", b"2", CreatedAt(prefix + "leader", mine))


class TestWatching:
    async def test_a_watch_starts_right_after_its_revision(self, store: Store, prefix: str) -> None:
        first = await put(store, prefix + "a", b"1")
        second = await put(store, prefix + "a", b"2")
        async with store.watch(prefix, first) as watch:
            assert (await take(watch, 1)) == [Batch(second, (Event(prefix + "a", b"2", second),))]

    async def test_list_then_watch_misses_and_repeats_nothing(self, store: Store, prefix: str) -> None:
        """While somebody writes: what the list held plus what the watch brought is what was written."""
        written: dict[str, int] = {}

        async def write() -> None:
            for number in range(200):
                written[f"{prefix}{number}"] = await put(store, f"{prefix}{number}")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await eventually(lambda: store.get(prefix + "20"))
            listing = await store.list(prefix)
            seen = [(item.key, item.revision) for item in listing.items]
            async with store.watch(prefix, listing.revision) as watch:
                for batch in await take(watch, 200 - len(seen)):
                    seen += [(event.key, event.revision) for event in batch.events]
        assert len(seen) == 200
        assert dict(seen) == written

    async def test_events_come_in_the_order_of_revisions(self, store: Store, prefix: str) -> None:
        since = await now(store)
        async with store.watch(prefix, since) as watch:
            async with anyio.create_task_group() as tasks:
                for number in range(50):
                    tasks.start_soon(put, store, f"{prefix}{number}")
            revisions = [batch.revision for batch in await take(watch, 50)]
        assert revisions == sorted(set(revisions))
        assert revisions[0] > since

    @pytest.mark.parametrize("is_open", [True, False], ids=["while-open", "from-history"])
    async def test_the_events_of_one_revision_come_in_one_batch(self, store: Store, prefix: str, is_open: bool) -> None:
        since = await put(store, prefix + "old")

        async def write() -> list[list[str]]:
            """Three transactions, one of them larger than etcd's own message limit for watches."""
            many = tuple(Put(f"{prefix}{number:03}", b"x" * 9_000) for number in range(MAX_OPERATIONS))
            await store.commit(Txn((), (Put(prefix + "a", b""), Delete(prefix + "old"))))
            for _ in range(3):
                await store.commit(Txn((), many))
            await put(store, prefix + "end")
            return [[prefix + "a", prefix + "old"], *[[write.key for write in many]] * 3, [prefix + "end"]]

        if is_open:
            async with store.watch(prefix, since) as watch:
                wanted = await write()
                found = keys(await take(watch, 303))
        else:
            wanted = await write()
            async with store.watch(prefix, since) as watch:
                found = keys(await take(watch, 303))
        assert [sorted(batch) for batch in found] == [sorted(batch) for batch in wanted]

    async def test_a_deletion_is_an_event_without_a_value(self, store: Store, prefix: str) -> None:
        since = await put(store, prefix + "a")
        revision = await delete(store, prefix + "a")
        async with store.watch(prefix, since) as watch:
            assert (await take(watch, 1))[0].events == (Event(prefix + "a", None, revision),)

    async def test_a_watch_brings_only_what_is_under_its_prefix(self, store: Store, prefix: str) -> None:
        since = await now(store)
        await store.commit(Txn((), (Put(prefix + "b/1", b""), Put(prefix + "a/1", b""), Put(prefix + "a", b""))))
        await put(store, prefix + "a0")
        await put(store, prefix + "a/2")
        async with store.watch(prefix + "a/", since) as watch:
            assert keys(await take(watch, 2)) == [[prefix + "a/1"], [prefix + "a/2"]]

    async def test_a_watch_over_everything_hears_all(self, store: Store, prefix: str) -> None:
        since = await now(store)
        async with store.watch("", since) as watch:
            await put(store, prefix + "a")
            await put(store, "\x01" + prefix)
            assert keys(await take(watch, 2)) == [[prefix + "a"], ["\x01" + prefix]]

    async def test_a_watch_over_the_root_sleeps_through_what_is_written_beside_it(
        self, store: Store, prefix: str
    ) -> None:
        since = await now(store)
        await put(store, f"/shoal-live{prefix}")
        await put(store, f"/shoal-leaders{prefix}")
        both = await store.commit(Txn((), (Put(f"/shoal{prefix}", b""), Put(f"/shoal-events{prefix}", b""))))
        async with store.watch("/shoal/", since) as watch:
            assert await take(watch, 1) == [Batch(both, (Event(f"/shoal{prefix}", b"", both),))]

    async def test_waiting_for_a_batch_can_be_given_up_and_taken_up_again(self, store: Store, prefix: str) -> None:
        async with store.watch(prefix, await now(store)) as watch:
            with anyio.move_on_after(0.05) as scope:
                await anext(watch)
            assert scope.cancelled_caught
            await put(store, prefix + "a")
            assert keys(await take(watch, 1)) == [[prefix + "a"]]

    async def test_several_watches_hear_the_same(self, store: Store, prefix: str) -> None:
        since = await now(store)
        async with store.watch(prefix, since) as one, store.watch(prefix, since) as other:
            for number in range(10):
                await put(store, f"{prefix}{number}")
            assert await take(one, 10) == await take(other, 10)

    async def test_an_error_in_the_body_of_a_watch_comes_out_as_it_is(self, store: Store, prefix: str) -> None:
        with pytest.raises(ConflictError):
            async with store.watch(prefix, await now(store)):
                raise ConflictError("key")


class TestCompacting:
    async def test_a_position_before_the_compaction_is_expired(self, store: Store, prefix: str) -> None:
        since = await put(store, prefix + "a")
        await put(store, prefix + "a")
        await store.compact(await put(store, prefix + "a"))
        with anyio.fail_after(10):
            async with store.watch(prefix, since) as watch:
                for _ in range(2):
                    with pytest.raises(ExpiredError):
                        await anext(watch)

    async def test_a_position_at_the_compaction_goes_on(self, store: Store, prefix: str) -> None:
        await put(store, prefix + "a")
        since = await delete(store, prefix + "a")
        await store.compact(since)
        await put(store, prefix + "b")
        async with store.watch(prefix, since) as watch:
            assert keys(await take(watch, 1)) == [[prefix + "b"]]

    async def test_a_watch_under_way_does_not_notice(self, store: Store, prefix: str) -> None:
        async with store.watch(prefix, await now(store)) as watch:
            await put(store, prefix + "first")
            await take(watch, 1)
            for _ in range(3):
                await put(store, prefix + "a")
                await store.compact(await put(store, prefix + "b"))
            assert keys(await take(watch, 6)) == [[prefix + "a"], [prefix + "b"]] * 3

    async def test_items_survive(self, store: Store, prefix: str) -> None:
        revision = await put(store, prefix + "a")
        await store.compact(await put(store, prefix + "b"))
        assert await store.get(prefix + "a") == (prefix + "a", b"x", revision)

    async def test_compacting_twice_is_no_error_and_the_future_is(self, store: Store, prefix: str) -> None:
        revision = await put(store, prefix + "a")
        await store.compact(revision)
        await store.compact(revision)
        with pytest.raises(InvariantError):
            await store.compact(revision + 1000)

    async def test_a_position_the_store_never_reached_is_expired(self, store: Store, prefix: str) -> None:
        with anyio.fail_after(10):
            async with store.watch(prefix, await now(store) + 1000) as watch:
                with pytest.raises(ExpiredError):
                    await anext(watch)


class TestLeasing:
    async def test_keys_die_with_their_lease_in_one_revision(self, store: Store, prefix: str) -> None:
        lease = await store.lease_grant(60)
        await put(store, prefix + "stays")
        since = await store.commit(Txn((), (Put(prefix + "a", b"", lease), Put(prefix + "b", b"", lease))))
        async with store.watch(prefix, since) as watch:
            await store.lease_revoke(lease)
            batches = await take(watch, 2)
        assert [sorted(batch) for batch in keys(batches)] == [[prefix + "a", prefix + "b"]]
        assert all(event.value is None for batch in batches for event in batch.events)
        assert [item.key for item in (await store.list(prefix)).items] == [prefix + "stays"]

    async def test_a_lease_not_renewed_ends(self, store: Store, prefix: str) -> None:
        lease = await store.lease_grant(1)
        await store.commit(Txn((), (Put(prefix + "a", b"", lease),)))
        assert await store.get(prefix + "a")

        async def is_gone() -> bool:
            return await store.get(prefix + "a") is None

        await eventually(is_gone)
        with pytest.raises(NotFoundError):
            await store.lease_keep_alive(lease)

    async def test_renewing_tells_the_time_left(self, store: Store) -> None:
        lease = await store.lease_grant(60)
        assert 0 < await store.lease_keep_alive(lease) <= 60

    async def test_a_key_put_again_without_the_lease_outlives_it(self, store: Store, prefix: str) -> None:
        lease = await store.lease_grant(60)
        await store.commit(Txn((), (Put(prefix + "a", b"", lease),)))
        await put(store, prefix + "a")
        await store.lease_revoke(lease)
        assert await store.get(prefix + "a")

    async def test_a_write_under_a_lease_that_is_gone_writes_nothing(self, store: Store, prefix: str) -> None:
        lease = await store.lease_grant(60)
        await store.lease_revoke(lease)
        with pytest.raises(NotFoundError):
            await store.commit(Txn((), (Put(prefix + "a", b""), Put(prefix + "b", b"", lease))))
        assert (await store.list(prefix)).items == ()

    async def test_revoking_what_is_gone_is_no_error(self, store: Store) -> None:
        lease = await store.lease_grant(60)
        await store.lease_revoke(lease)
        await store.lease_revoke(lease)
        with pytest.raises(NotFoundError):
            await store.lease_keep_alive(lease)


class TestTwins:
    """What the suite does not think of: random histories come out the same, to the last revision."""

    async def test_both_stores_tell_the_same_story(self, own_etcd: EtcdProcess, seed: int) -> None:
        random = Random(seed)
        memory, etcd = MemoryStore(), EtcdStore([own_etcd.url])
        leases: list[tuple[int, int]] = []
        for number in range(400):
            if number % 40 == 0:
                leases.append((await memory.lease_grant(600), await etcd.lease_grant(600)))
            if number % 55 == 54:
                gone = leases.pop(random.randrange(len(leases)))
                await memory.lease_revoke(gone[0])
                await etcd.lease_revoke(gone[1])
            revision = memory.revision
            here, there = _random_txn(random, revision, leases)
            assert await _outcome(memory, here) == await _outcome(etcd, there), here
        assert await memory.list("/") == await etcd.list("/")
        assert await _story(memory) == await _story(etcd)
        await etcd.close()


_NAMES = ("/a", "/a/1", "/a/2", "/a/2/x", "/b", "/b/é")


def _random_txn(random: Random, revision: int, leases: Sequence[tuple[int, int]]) -> tuple[Txn, Txn]:
    """Return one transaction in the words of both stores: their lease ids differ."""
    compares = tuple(_random_compare(random, revision) for _ in range(random.choice((0, 0, 1, 1, 2))))
    here: list[Write] = []
    there: list[Write] = []
    for name in random.sample(_NAMES, random.randint(0, 4)):
        if random.random() < 0.3:
            here.append(Delete(name))
            there.append(Delete(name))
            continue
        lease = random.choice([(0, 0), *leases])
        value = random.randbytes(random.randint(0, 3))
        here.append(Put(name, value, lease[0]))
        there.append(Put(name, value, lease[1]))
    return Txn(compares, tuple(here)), Txn(compares, tuple(there))


def _random_compare(random: Random, revision: int) -> Compare:
    name, at = random.choice(_NAMES), random.choice((0, *range(max(1, revision - 8), revision + 1)))
    return random.choice((Unchanged(name, at), CreatedAt(name, at), Exists(name), NoneUnder(name)))


async def _outcome(store: Store, txn: Txn) -> object:
    try:
        return await store.commit(txn)
    except ConflictError as error:
        return (error.key, error.expected, error.found, str(error))


async def _story(store: Store) -> list[Batch]:
    """Everything from the beginning, until a mark at the end."""
    await put(store, "/end")
    batches: list[Batch] = []
    async with store.watch("/", 1) as watch:
        while not any(event.key == "/end" for batch in batches[-1:] for event in batch.events):
            batches += await take(watch, 1)
    return batches
