"""The work queue: which key to look at next, and when.

A key is queued once, however often it is added, and handed out to one worker at a time. It may wait for a moment
(`add_after`; the earliest wins), for a revision the cache has not seen yet (`done(key, not_before=…)`), or for its
backoff after a failure. Retries of all keys together are slowed by a token bucket, so that a store that is away is
not hammered. Backoff is jittered, from a seed.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random

import anyio

from shoal.machinery.clock import Clock, wait

BASE_S = 0.05
"""First backoff; doubles with each failure in a row."""

MAX_S = 60.0
"""Longest backoff: a key that fails for ever is still looked at once a minute."""

RETRIES_PER_S = 10.0
RETRY_BURST = 100
"""All keys' retries together: a burst, then so many a second."""


MOST_RESTS = 1000
"""Rests noted before those that are over are forgotten: keys of what is long gone must not pile up."""


class TokenBucket:
    """Tells how long each taker has to wait so that no more than `rate` a second pass after a burst."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate, self._burst, self._tokens, self._at = rate, burst, float(burst), now

    def take(self, now: float) -> float:
        """Take one token, on credit if need be; return the seconds until it is there."""
        self._refill(now)
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate)

    def try_take(self, now: float) -> bool:
        """Take one token only if it is there."""
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _refill(self, now: float) -> None:
        self._tokens = min(float(self._burst), self._tokens + (now - self._at) * self._rate)
        self._at = now


class WorkQueue:
    """Keys that want a look. One consumer calls `get`; whoever got a key calls `done`."""

    def __init__(self, clock: Clock, *, seed: int = 0, coalesce_s: float = 0.0) -> None:
        self._clock, self._coalesce_s = clock, coalesce_s
        self._random = random.Random(seed)  # noqa: S311  jitter, no secret
        self._bucket = TokenBucket(RETRIES_PER_S, RETRY_BURST, clock.monotonic())
        self._ready: dict[str, None] = {}
        self._active: set[str] = set()
        self._dirty: set[str] = set()
        self._due: dict[str, float] = {}
        self._timers: list[tuple[float, int, str]] = []
        self._gates: dict[str, int] = {}
        self._gated: list[tuple[int, str]] = []
        self._rests: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._revision = 0
        self._sequence = itertools.count()
        self._wake = anyio.Event()

    def __len__(self) -> int:
        """Keys that could be handed out now."""
        return len(self._ready)

    @property
    def is_idle(self) -> bool:
        """Nothing is ready or being worked on; keys may wait for their time."""
        return not self._ready and not self._active

    def add(self, key: str) -> None:
        """Queue a key now, or as soon as its worker, its gate or its rest lets it."""
        if key in self._active or key in self._gates:
            self._dirty.add(key)
            return
        rest = self._rests.get(key)
        if rest is not None and rest > self._clock.monotonic():
            self._schedule(key, rest)
            return
        self._make_ready(key)

    def add_after(self, key: str, seconds: float) -> None:
        """Queue a key later, unless it is queued for an earlier moment already."""
        if seconds <= 0:
            self.add(key)
        else:
            self._schedule(key, self._clock.monotonic() + seconds)

    def retry(self, key: str) -> float:
        """Queue a key after its backoff; return the wait in seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        backoff = min(MAX_S, BASE_S * 2.0 ** min(failures - 1, 30)) * self._random.uniform(0.75, 1.25)
        seconds: float = max(backoff, min(MAX_S, self._bucket.take(self._clock.monotonic())))
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: str) -> None:
        """Note that a key went well: its next failure is a first one."""
        self._failures.pop(key, None)

    def done(self, key: str, *, not_before: int = 0, rest_s: float = 0.0) -> None:
        """Give a key back. It is not handed out again before the cache has reached revision `not_before`.

        Nor before it has rested, by `rest_s` or the queue's own `coalesce_s`, whichever is longer.
        """
        self._active.discard(key)
        rest_s = max(rest_s, self._coalesce_s)
        if rest_s:
            now = self._clock.monotonic()
            if len(self._rests) > MOST_RESTS:
                self._rests = {other: until for other, until in self._rests.items() if until > now}
            self._rests[key] = now + rest_s
        if not_before > self._revision:
            self._gates[key] = not_before
            heapq.heappush(self._gated, (not_before, key))
        elif key in self._dirty:
            self._dirty.discard(key)
            self.add(key)

    def reached(self, revision: int) -> None:
        """Note the revision the cache is at; a smaller one than before (another store) opens every gate."""
        limit = math.inf if revision < self._revision else revision
        self._revision = revision
        while self._gated and self._gated[0][0] <= limit:
            gate, key = heapq.heappop(self._gated)
            if self._gates.get(key) == gate:
                del self._gates[key]
                if key in self._dirty and key not in self._active:
                    self._dirty.discard(key)
                    self.add(key)

    async def get(self) -> str:
        """Wait for the next key, oldest first."""
        while True:
            seconds = self._promote()
            if self._ready:
                key = next(iter(self._ready))
                del self._ready[key]
                self._due.pop(key, None)
                self._active.add(key)
                return key
            self._wake = anyio.Event()
            await wait(self._clock, self._wake, seconds)

    def clear(self) -> None:
        """Forget every key, gate and backoff."""
        for part in (self._ready, self._dirty, self._due, self._gates, self._rests, self._failures):
            part.clear()
        self._timers.clear()
        self._gated.clear()

    def _make_ready(self, key: str) -> None:
        self._ready.setdefault(key)
        self._wake.set()

    def _schedule(self, key: str, due: float) -> None:
        if key in self._ready or self._due.get(key, math.inf) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._timers, (due, next(self._sequence), key))
        self._wake.set()

    def _promote(self) -> float:
        """Queue whose moment has come; return the seconds until the next one."""
        now = self._clock.monotonic()
        while self._timers and self._timers[0][0] <= now:
            due, _, key = heapq.heappop(self._timers)
            if self._due.get(key) == due:
                del self._due[key]
                self._rests.pop(key, None)
                self.add(key)
        return self._timers[0][0] - now if self._timers else math.inf
