from __future__ import annotations

import anyio
import pytest

from shoal.api import codec, keys
from shoal.api.objects import Event, Object
from shoal.machinery.clock import VirtualClock, quiet
from shoal.machinery.events import OBJECT_BURST, TTL_S, Recorder
from shoal.machinery.factories import make_node, make_service
from shoal.machinery.memory import MemoryStore
from shoal.machinery.store import Txn

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def store(clock: VirtualClock) -> MemoryStore:
    return MemoryStore(clock.monotonic)


@pytest.fixture
def recorder(store: MemoryStore, clock: VirtualClock) -> Recorder:
    return Recorder(store, "replication", clock)


def stored(store: MemoryStore, about: Object, reason: str) -> Event | None:
    item = store.peek(keys.event(about.KIND, about.metadata.uid, reason))
    return codec.decode(Event, item.value) if item is not None else None


async def test_what_repeats_is_one_event_with_a_count(
    recorder: Recorder, store: MemoryStore, clock: VirtualClock
) -> None:
    web = make_service("web")
    for number in range(3):
        recorder.note(web, "TaskFailed", f"number {number}", is_warning=True)
        clock.advance(0.1)
    await recorder.flush()
    event = stored(store, web, "TaskFailed")
    assert event is not None
    assert (event.count, event.message, event.type) == (3, "number 2", "Warning")
    assert event.first_at is not None
    assert event.last_at is not None
    assert (event.last_at - event.first_at).total_seconds() == pytest.approx(0.2)


async def test_a_successor_goes_on_counting(recorder: Recorder, store: MemoryStore, clock: VirtualClock) -> None:
    web = make_service("web")
    recorder.note(web, "TaskCreated")
    await recorder.flush()
    successor = Recorder(store, "replication", clock)
    successor.note(web, "TaskCreated")
    await successor.flush()
    event = stored(store, web, "TaskCreated")
    assert event is not None
    assert event.count == 2
    assert event.first_at == VirtualClock.START


async def test_events_expire(recorder: Recorder, store: MemoryStore, clock: VirtualClock) -> None:
    recorder.note(make_service("web"), "TaskCreated")
    await recorder.flush()
    clock.advance(TTL_S + 1)
    store.expire_leases()
    assert stored(store, make_service("web"), "TaskCreated") is None


async def test_events_of_a_minute_share_a_lease(recorder: Recorder, store: MemoryStore, clock: VirtualClock) -> None:
    for number in range(10):
        recorder.note(make_node(f"n{number}"), "NodeDown")
        await recorder.flush()
        clock.advance(1)
    assert len(store._leases) == 1


async def test_one_noisy_object_is_limited_and_still_counted(
    recorder: Recorder, store: MemoryStore, clock: VirtualClock
) -> None:
    web = make_service("web")
    commits: list[Txn] = []
    store.before_commit = commits.append
    for _ in range(200):
        recorder.note(web, "TaskFailed")
        await recorder.flush()
        clock.advance(0.5)
    assert len(commits) <= OBJECT_BURST + 11
    clock.advance(60)
    await recorder.flush()
    event = stored(store, web, "TaskFailed")
    assert event is not None
    assert event.count == 200


async def test_a_store_that_is_away_costs_the_events_and_nothing_else(recorder: Recorder, store: MemoryStore) -> None:
    store.is_down = True
    for number in range(2000):
        recorder.note(make_node(f"n{number}"), "NodeDown")
    await recorder.flush()
    store.is_down = False
    recorder.note(make_service("web"), "TaskCreated")


async def test_it_writes_by_itself_and_once_more_at_the_end(
    recorder: Recorder, store: MemoryStore, clock: VirtualClock
) -> None:
    web = make_service("web")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.run)
        recorder.note(web, "TaskCreated")
        await clock.run_for(2)
        assert stored(store, web, "TaskCreated") is not None
        recorder.note(web, "ScaledDown")
        await quiet()
        tasks.cancel_scope.cancel()
    assert stored(store, web, "ScaledDown") is not None
