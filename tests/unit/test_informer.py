from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest

from shoal.api import codec, keys
from shoal.api.errors import UnavailableError
from shoal.api.objects import Cluster, Node, Object, Presence, Service, Task
from shoal.machinery.cache import Cache, Change
from shoal.machinery.clock import VirtualClock, quiet
from shoal.machinery.factories import make_cluster, make_node, make_service
from shoal.machinery.informer import DRIFT, RECHECK_S, Informer
from shoal.machinery.memory import MemoryStore
from shoal.machinery.store import Put, Txn

pytestmark = pytest.mark.anyio


class Follower:
    """An informer at work, the changes it told, and a picture made from those changes alone."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store = MemoryStore(self.clock.monotonic)
        self.cache = Cache()
        self.informer = Informer(self.store, self.cache, [Service, Task, Node], self.clock)
        self.informer.subscribe(self._note)
        self.changes: list[Change] = []
        self.told: dict[str, Object] = {}

    def _note(self, changes: Sequence[Change]) -> None:
        self.changes += changes
        for key, old, new in changes:
            assert self.told.get(key) == old, "each change starts where the one before ended"
            if new is None:
                del self.told[key]
            else:
                self.told[key] = new

    def put(self, *objects: Object) -> int:
        for obj in objects:
            self.store.put(keys.key_of(obj), codec.encode(obj))
        return self.store.revision

    def remove(self, obj: Object) -> int:
        return self.store.remove(keys.key_of(obj))

    async def quiet(self) -> None:
        await quiet()

    def names(self, kind: type[Object] = Node) -> list[str]:
        return sorted(obj.metadata.name for obj in self.cache.all(kind).values())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Follower]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.informer.run)
            await self.informer.synced.wait()
            await self.quiet()
            yield self
            assert self.told == {
                key: obj for kind in (Service, Task, Node, Cluster) for key, obj in self.cache.all(kind).items()
            }
            tasks.cancel_scope.cancel()


@pytest.fixture
def follower() -> Follower:
    return Follower()


async def test_it_lists_then_follows(follower: Follower) -> None:
    follower.put(make_node("n1"))
    async with follower.running():
        assert follower.names() == ["n1"]
        revision = follower.put(make_node("n2"))
        follower.remove(make_node("n1"))
        await follower.quiet()
        assert follower.names() == ["n2"]
        assert follower.cache.revision == revision + 1


async def test_a_revision_is_applied_whole_before_anybody_is_told(follower: Follower) -> None:
    seen: list[tuple[int, int]] = []
    follower.informer.subscribe(lambda changes: seen.append((len(changes), len(follower.cache.all(Node)))))
    async with follower.running():
        nodes = [make_node(f"n{number}") for number in range(3)]
        writes = tuple(put_of(node) for node in nodes)
        await follower.store.commit(Txn(writes=writes))
        await follower.quiet()
        assert seen[-1] == (3, 3)


def put_of(obj: Object) -> Put:
    return Put(keys.key_of(obj), codec.encode(obj))


async def test_only_needed_kinds_are_decoded(follower: Follower) -> None:
    async with follower.running():
        follower.store.put("/shoal/secrets/one", b"not JSON at all")
        await follower.quiet()
        assert not follower.cache.unreadable


async def test_after_an_expired_watch_the_difference_is_told_as_ordinary_changes(follower: Follower) -> None:
    follower.put(make_node("n1"), make_node("n2"), make_node("n3"))
    async with follower.running():
        follower.store.hold_watches()
        follower.remove(make_node("n1"))
        follower.put(make_node("n2", cpus=16), make_node("n4"))
        await follower.store.compact(follower.store.revision)
        follower.changes.clear()
        follower.store.cut_watches()
        follower.store.release_watches()
        await follower.quiet()
        assert follower.names() == ["n2", "n3", "n4"]
        assert len(follower.changes) == 3


async def test_it_survives_a_store_that_is_away(follower: Follower) -> None:
    follower.put(make_node("n1"))
    async with follower.running():
        follower.store.is_down = True
        follower.store.cut_watches()
        await follower.clock.run_for(30)
        follower.store.is_down = False
        follower.put(make_node("n2"))
        await follower.clock.run_for(10)
        assert follower.names() == ["n1", "n2"]


async def test_it_waits_for_a_store_that_is_away_at_the_start(follower: Follower) -> None:
    follower.store.is_down = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follower.informer.run)
        await follower.clock.run_for(20)
        assert not follower.informer.synced.is_set()
        follower.store.is_down = False
        await follower.clock.run_for(10)
        assert follower.informer.synced.is_set()
        tasks.cancel_scope.cancel()


async def test_waiting_for_a_revision_returns_once_the_cache_is_there(follower: Follower) -> None:
    async with follower.running():
        reached: list[int] = []

        async def wait() -> None:
            await follower.informer.wait_for(follower.store.revision + 2)
            reached.append(follower.cache.revision)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await follower.quiet()
            follower.put(make_node("n1"))
            await follower.quiet()
            assert not reached
            revision = follower.put(make_node("n2"))
        assert reached == [revision]


async def test_a_refresh_holds_everything_written_before_it_although_the_watch_is_late(follower: Follower) -> None:
    follower.put(make_node("n1"))
    async with follower.running():
        follower.store.hold_watches()
        follower.put(make_node("n2"))
        follower.remove(make_node("n1"))
        await follower.informer.refresh()
        assert follower.names() == ["n2"]
        follower.store.release_watches()
        await follower.quiet()
        assert follower.names() == ["n2"]


async def test_an_object_made_anew_after_a_refresh_is_kept(follower: Follower) -> None:
    async with follower.running():
        follower.store.hold_watches()
        follower.put(make_node("n1"))
        follower.remove(make_node("n1"))
        follower.put(make_node("n1", cpus=2))
        await follower.informer.refresh()
        follower.store.release_watches()
        await follower.quiet()
        assert follower.names() == ["n1"]


async def test_an_event_the_watch_lost_is_found_counted_and_mended(follower: Follower) -> None:
    follower.put(make_node("n1"), make_node("n2"))
    async with follower.running():
        before = DRIFT._value.get()
        lost = keys.key_of(make_node("n1"))
        follower.told.pop(lost)
        follower.cache.set(lost, None)
        await follower.clock.run_for(RECHECK_S * 1.3)
        assert follower.names() == ["n1", "n2"]
        assert DRIFT._value.get() == before + 1


async def test_a_comparison_that_finds_nothing_tells_nothing(follower: Follower) -> None:
    follower.put(make_node("n1"))
    async with follower.running():
        before = DRIFT._value.get()
        follower.changes.clear()
        await follower.clock.run_for(RECHECK_S * 3)
        assert not follower.changes
        assert DRIFT._value.get() == before


async def test_what_cannot_be_read_is_isolated(follower: Follower) -> None:
    service = make_service("web")
    follower.put(service, make_node("n1"))
    async with follower.running():
        raw = codec.encode(service)
        follower.store.put(keys.key_of(service), raw[: len(raw) // 2])
        follower.put(make_node("n2"))
        await follower.quiet()
        assert follower.names() == ["n1", "n2"]
        assert follower.names(Service) == ["web"], "its last readable state stays"
        assert follower.cache.unreadable == {keys.key_of(service): service.metadata.uid}
        follower.put(service)
        await follower.quiet()
        assert not follower.cache.unreadable


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b'{"kind":"Node"}', b"\xff\xfe", b"[" * 5000, codec.encode(make_node("another"))],
    ids=["empty", "list", "wrong kind", "not UTF-8", "deep", "wrong place"],
)
async def test_no_bytes_whatever_stop_the_informer(follower: Follower, raw: bytes) -> None:
    follower.store.put(keys.node("x"), raw)
    async with follower.running():
        assert not follower.names()
        assert keys.node("x") in follower.cache.unreadable
        follower.store.remove(keys.node("x"))
        await follower.quiet()
        assert not follower.cache.unreadable


async def test_a_restored_cluster_replaces_the_cache_although_revisions_went_back(follower: Follower) -> None:
    follower.put(make_cluster(), make_node("n1"), make_node("n2"), make_node("n3"))
    for _ in range(20):
        follower.put(make_node("n2", cpus=1), make_node("n2", cpus=2))
    async with follower.running():
        restored = MemoryStore(follower.clock.monotonic)
        cluster = make_cluster()
        status = msgspec.structs.replace(cluster.status, incarnation="another")
        for obj in (msgspec.structs.replace(cluster, status=status), make_node("n1"), make_node("n4")):
            restored.put(keys.key_of(obj), codec.encode(obj))
        replace_store(follower, restored)
        await follower.clock.run_for(10)
        assert follower.names() == ["n1", "n4"]
        assert follower.cache.revision == restored.revision
        follower.store.put(keys.node(make_node("n5").metadata.uid), codec.encode(make_node("n5")))
        await follower.quiet()
        assert follower.names() == ["n1", "n4", "n5"]


async def test_a_store_that_went_back_without_a_restore_is_not_believed(follower: Follower) -> None:
    follower.put(make_cluster(), make_node("n1"), make_node("n2"))
    async with follower.running():
        older = MemoryStore(follower.clock.monotonic)
        older.put(keys.CLUSTER, codec.encode(make_cluster()))
        replace_store(follower, older)
        await follower.clock.run_for(30)
        assert follower.names() == ["n1", "n2"]


@pytest.mark.parametrize("incarnation", ["the same", "another"])
async def test_a_refresh_from_another_history_is_refused(follower: Follower, incarnation: str) -> None:
    cluster = make_cluster()
    status = msgspec.structs.replace(cluster.status, incarnation="the same")
    follower.put(msgspec.structs.replace(cluster, status=status), make_node("n1"), make_node("n2"))
    async with follower.running():
        other = MemoryStore(follower.clock.monotonic)
        status = msgspec.structs.replace(cluster.status, incarnation=incarnation)
        for obj in (msgspec.structs.replace(cluster, status=status), make_node("n1")):
            other.put(keys.key_of(obj), codec.encode(obj))
        follower.informer._store = other
        with pytest.raises(UnavailableError):
            await follower.informer.refresh()
        assert follower.names() == ["n1", "n2"]


async def test_another_incarnation_in_a_running_watch_lists_again(follower: Follower) -> None:
    cluster = make_cluster()
    follower.put(cluster, make_node("n1"))
    async with follower.running():
        status = msgspec.structs.replace(cluster.status, incarnation="another")
        follower.put(msgspec.structs.replace(cluster, status=status))
        await follower.quiet()
        follower.put(make_node("n2"))
        await follower.quiet()
        assert follower.names() == ["n1", "n2"]


async def test_presences_are_followed_beside_the_rest() -> None:
    clock = VirtualClock()
    store, cache = MemoryStore(clock.monotonic), Cache()
    informer = Informer(store, cache, [Presence, Node], clock, prefixes=(keys.ROOT, keys.LIVE))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(informer.run)
        await informer.synced.wait()
        presence = Presence(metadata=msgspec.structs.replace(make_node().metadata, uid="a" * 25), sequence=1)
        store.put(keys.key_of(presence), codec.encode(presence))
        await quiet()
        assert len(cache.all(Presence)) == 1
        tasks.cancel_scope.cancel()


def replace_store(follower: Follower, store: MemoryStore) -> None:
    """Let the informer find another store at the same place."""
    follower.informer._store = store
    old, follower.store = follower.store, store
    old.cut_watches()
