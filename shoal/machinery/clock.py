"""Time, as a thing that is handed in: the system's own, or a test's that moves only when told."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import anyio
import anyio.lowlevel


class Clock(Protocol):
    def now(self) -> datetime:
        """Return the time of day, aware and in UTC: for what people read and what is stored."""

    def monotonic(self) -> float:
        """Return seconds that never run backwards: for every wait and every lease."""

    def timeout(self, seconds: float) -> AbstractContextManager[anyio.CancelScope]:
        """Cancel what runs inside after `seconds`; `cancelled_caught` then tells. `math.inf` = never."""

    async def sleep(self, seconds: float) -> None: ...


async def wait(clock: Clock, event: anyio.Event, seconds: float) -> bool:
    """Wait for the event at most `seconds`; return whether it came."""
    if event.is_set():
        await anyio.lowlevel.checkpoint()
        return True
    if math.isinf(seconds):  # no timer, and no scope that nothing will ever cancel: thousands of tasks wait like this
        await event.wait()
        return True
    with clock.timeout(seconds):
        await event.wait()
    return event.is_set()


CALM_ROUNDS = 5
"""Rounds of the event loop without a runnable task: a cancellation takes some to arrive."""


async def quiet() -> None:
    """Let every other task run until it waits for something: what a test does before it looks.

    `anyio.wait_all_tasks_blocked` is the same, but sleeps a real tenth of a second between two looks.
    """
    me, calm = asyncio.current_task(), 0
    while calm < CALM_ROUNDS:
        is_busy = any(_is_runnable(task) for task in asyncio.all_tasks() if task is not me)
        calm = 0 if is_busy else calm + 1
        await anyio.lowlevel.checkpoint()


def _is_runnable(task: asyncio.Task[Any]) -> bool:
    waits_for = getattr(task, "_fut_waiter", None)
    return waits_for is None or bool(waits_for.done())


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def timeout(self, seconds: float) -> AbstractContextManager[anyio.CancelScope]:
        return anyio.move_on_after(None if math.isinf(seconds) else seconds)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class VirtualClock:
    """A test's clock: it stands still until `advance` or `run_for` moves it, and then wakes sleepers in order."""

    START = datetime(2026, 1, 1, tzinfo=UTC)

    def __init__(self, start: datetime = START) -> None:
        self._start, self._elapsed = start, 0.0
        self._sleepers: list[tuple[float, int, anyio.CancelScope]] = []
        self._sequence = itertools.count()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return self._elapsed

    @contextmanager
    def timeout(self, seconds: float) -> Iterator[anyio.CancelScope]:
        with anyio.CancelScope() as scope:
            if seconds <= 0:
                scope.cancel()
            elif not math.isinf(seconds):
                heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._sequence), scope))
            yield scope

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        with self.timeout(seconds):
            await anyio.sleep_forever()

    def advance(self, seconds: float) -> None:
        """Move the time and wake whoever is due, without letting them run yet."""
        self._elapsed += seconds
        while self._sleepers and self._sleepers[0][0] <= self._elapsed:
            heapq.heappop(self._sleepers)[2].cancel()

    async def run_for(self, seconds: float) -> None:
        """Move the time from sleeper to sleeper, letting every task run until it waits again."""
        end = self._elapsed + seconds
        await quiet()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.advance(max(0.0, self._sleepers[0][0] - self._elapsed))
            await quiet()
        self.advance(max(0.0, end - self._elapsed))
        await quiet()
