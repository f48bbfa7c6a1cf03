from __future__ import annotations

from itertools import pairwise

import pytest

from shoal.machinery.clock import VirtualClock
from shoal.machinery.queue import MAX_S, TokenBucket, WorkQueue

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def queue(clock: VirtualClock) -> WorkQueue:
    return WorkQueue(clock)


async def test_a_key_added_twice_is_handed_out_once(queue: WorkQueue) -> None:
    queue.add("a")
    queue.add("b")
    queue.add("a")
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert queue.is_idle is False
    assert len(queue) == 0


async def test_a_key_being_worked_on_waits_for_its_worker(queue: WorkQueue) -> None:
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert await queue.get() == "a"


async def test_the_earliest_moment_wins(queue: WorkQueue, clock: VirtualClock) -> None:
    queue.add_after("a", 5)
    queue.add_after("a", 2)
    queue.add_after("a", 9)
    clock.advance(1.9)
    queue.add_after("b", 0)
    assert await queue.get() == "b"
    clock.advance(0.2)
    assert await queue.get() == "a"
    queue.done("a")
    clock.advance(100)
    queue.add("c")
    assert await queue.get() == "c", "the later moments of a are forgotten"


async def test_a_key_waits_until_the_cache_has_seen_its_own_write(queue: WorkQueue) -> None:
    queue.add("a")
    await queue.get()
    queue.add("a")
    queue.done("a", not_before=10)
    queue.reached(9)
    assert len(queue) == 0
    queue.reached(10)
    assert await queue.get() == "a"


async def test_a_gate_alone_wakes_nobody(queue: WorkQueue) -> None:
    queue.add("a")
    await queue.get()
    queue.done("a", not_before=10)
    queue.reached(10)
    assert len(queue) == 0


async def test_a_store_that_went_back_opens_every_gate(queue: WorkQueue) -> None:
    queue.reached(50)
    queue.add("a")
    await queue.get()
    queue.add("a")
    queue.done("a", not_before=60)
    queue.reached(7)
    assert await queue.get() == "a"


async def test_backoff_doubles_up_to_its_limit_and_success_resets_it(queue: WorkQueue, clock: VirtualClock) -> None:
    waits = []
    for _ in range(20):
        waits.append(queue.retry("a"))
        clock.advance(waits[-1] + 0.001)
        assert await queue.get() == "a"
        queue.done("a")
    assert waits[0] < 0.1
    assert all(later > earlier for earlier, later in pairwise(waits[:9]))
    assert max(waits) <= MAX_S * 1.25
    queue.forget("a")
    assert queue.retry("a") < 0.1


async def test_a_change_is_looked_at_at_once_although_the_key_is_backing_off(queue: WorkQueue) -> None:
    for _ in range(5):
        queue.retry("a")
    queue.add("a")
    assert await queue.get() == "a"


async def test_retries_of_all_keys_together_are_slowed(queue: WorkQueue) -> None:
    waits = [queue.retry(f"k{number}") for number in range(300)]
    assert max(waits[:100]) < 0.1
    assert waits[-1] > 10


async def test_after_a_pass_a_coalescing_queue_lets_changes_gather(clock: VirtualClock) -> None:
    queue = WorkQueue(clock, coalesce_s=0.5)
    queue.add("a")
    await queue.get()
    queue.done("a")
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    clock.advance(0.51)
    assert await queue.get() == "a"


def test_a_token_bucket_refills_but_not_beyond_its_burst() -> None:
    bucket = TokenBucket(rate=2, burst=3, now=0)
    assert [bucket.try_take(0) for _ in range(4)] == [True, True, True, False]
    assert bucket.try_take(0.5)
    assert not bucket.try_take(0.5)
    assert [bucket.try_take(100) for _ in range(4)] == [True, True, True, False]


async def test_a_key_rests_for_as_long_as_its_worker_asks(queue: WorkQueue, clock: VirtualClock) -> None:
    queue.add("big")
    assert await queue.get() == "big"
    queue.done("big", rest_s=3.0)
    queue.add("big")
    assert len(queue) == 0
    clock.advance(3.01)
    assert await queue.get() == "big"
