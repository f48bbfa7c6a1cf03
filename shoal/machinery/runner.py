"""Runs one controller: elects, syncs, observes, plans, applies.

The cache is warm before the election is won, and is listed once more after it, so that no decision of a new leader
rests on less than its predecessor wrote. Then every key is looked at once, and again whenever something it watches
changes; after a write, not before the cache has seen it. One worker per key; what fails waits for its backoff while
other keys go on. A conflict is no failure: somebody else was first, and the key is observed anew.
"""

from __future__ import annotations

import random
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import structlog
from prometheus_client.metrics import Counter, Gauge, Histogram

from shoal.api import keys
from shoal.api.errors import ConflictError, ShoalError, TerminalError, UnavailableError
from shoal.api.objects import Object
from shoal.machinery.cache import Cache, Change
from shoal.machinery.clock import Clock, SystemClock
from shoal.machinery.controller import Controller, Plan
from shoal.machinery.election import TTL_S, Election, Term
from shoal.machinery.events import Recorder
from shoal.machinery.informer import Informer
from shoal.machinery.queue import WorkQueue
from shoal.machinery.store import Store
from shoal.machinery.writer import Outcome, Writer

WORKERS = 16
"""Keys worked on at once: they mostly wait for the store."""

RESYNC_S = 600.0
"""Seconds between looks at every key, jittered by a fifth: a safety net that should never find anything."""

RESTS_PER_PASS = 5.0
"""After a look that was in vain a key rests for so many times what it took, if it took long: with thousands of tasks
in motion, a service is looked at a few times a second, and not anew for each of them."""

THINKS_LONG_S = 0.002
"""A shorter look needs no rest of its own."""

REFRESH_RETRY_S = 0.5

DEPTH = Gauge("shoal_queue_depth", "Keys ready to be reconciled", ["controller"])
SECONDS = Histogram("shoal_reconcile_seconds", "Time of one pass, writes included", ["controller"])
WRITES = Counter("shoal_actions_total", "Actions written", ["controller", "reason"])
CONFLICTS = Counter("shoal_conflicts_total", "Actions dropped because somebody else was first", ["controller"])
ERRORS = Counter("shoal_reconcile_errors_total", "Passes that raised", ["controller", "error"])
LEADER = Gauge("shoal_leader", "1 while this process leads", ["controller"])


@dataclass(frozen=True)
class Pass:
    """What came of looking at one key."""

    plan: Plan
    outcome: Outcome
    rest_s: float = 0.0
    """How long the key is left alone now."""


def kinds_of(controller: Controller[Any]) -> frozenset[type[Object]]:
    """Return every kind a controller needs in its cache."""
    folds = {fold.kind for fold in controller.folds()}
    indexed = {index.kind for index in controller.indexes}
    return frozenset({*controller.watches, *controller.reaches, *controller.reads, *indexed, *folds})


def keys_for(controller: Controller[Any], changes: Iterable[Change], cache: Cache) -> list[str]:
    """Return the keys to look at after changes: those of the old and of the new objects."""
    found: dict[str, None] = {}
    for change in changes:
        kind = change.kind
        named, reached = controller.watches.get(kind), controller.reaches.get(kind)
        if (named is None and reached is None) or _is_ignored(controller, kind, change, cache):
            continue
        for obj in (change.old, change.new):
            if obj is not None and named is not None:
                found.update(dict.fromkeys(named(obj)))
            if obj is not None and reached is not None:
                found.update(dict.fromkeys(reached(obj, cache)))
    return list(found)


def _is_ignored(controller: Controller[Any], kind: type[Object], change: Change, cache: Cache) -> bool:
    ignores = controller.ignores.get(kind)
    if ignores is None or change.old is None or change.new is None:
        return False
    return ignores(change.old, change.new, cache)


def all_keys(controller: Controller[Any], cache: Cache) -> list[str]:
    """Return every key that the cached objects name."""
    found: dict[str, None] = {}
    for kind, mapper in controller.watches.items():
        for obj in cache.all(kind).values():
            found.update(dict.fromkeys(mapper(obj)))
    return list(found)


def reader(cache: Cache) -> Callable[[str], Object | None]:
    """Return what finds the cached object at a key, whatever its kind."""

    def read(key: str) -> Object | None:
        kind = keys.kind_at(key)
        return cache.get(kind, key) if kind is not None else None

    return read


class Runner:
    """Runs `controller` on `store` for as long as it lives; `candidate` names this process to people."""

    def __init__(
        self,
        controller: Controller[Any],
        store: Store,
        *,
        candidate: str,
        clock: Clock | None = None,
        ttl_s: float = TTL_S,
        seed: int | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self._random = random.Random(seed)  # noqa: S311  jitter, no secret
        self._controller, self._clock = controller, clock
        self.cache = Cache(controller.indexes, controller.folds())
        self.election = Election(store, controller.name, candidate, clock, ttl_s=ttl_s)
        prefixes = (keys.ROOT, keys.LIVE) if controller.live else (keys.ROOT,)
        self._informer = Informer(
            store, self.cache, kinds_of(controller), clock, prefixes=prefixes, seed=self._random.getrandbits(32)
        )
        self._informer.subscribe(self._on_changes)
        self._read = reader(self.cache)
        self._writer = Writer(store, controller.name, clock, self.election.fence)
        self._recorder = Recorder(store, controller.name, clock)
        self._queue = self._new_queue()
        self._is_leading = False
        self._resign = anyio.Event()
        self._log = structlog.get_logger().bind(controller=controller.name)
        DEPTH.labels(controller.name).set_function(lambda: len(self._queue))
        LEADER.labels(controller.name).set_function(lambda: float(self._is_leading))

    @property
    def is_ready(self) -> bool:
        """The cache is synced: this process leads, or could take over at once."""
        return self._informer.synced.is_set()

    @property
    def is_leading(self) -> bool:
        return self._is_leading

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._informer.run)
            await self._informer.synced.wait()
            await self.election.run(self._lead)

    async def _lead(self, term: Term) -> None:
        await self._refresh()
        self._queue, self._resign = self._new_queue(), anyio.Event()
        self._queue.reached(self.cache.revision)
        self._is_leading = True
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._recorder.run)
                tasks.start_soon(self._resync)
                tasks.start_soon(self._dispatch)
                await self._resign.wait()
                tasks.cancel_scope.cancel()
        finally:
            self._is_leading = False

    async def _refresh(self) -> None:
        while True:
            try:
                return await self._informer.refresh()
            except ShoalError:
                await self._clock.sleep(REFRESH_RETRY_S)

    def _new_queue(self) -> WorkQueue:
        seed = self._random.getrandbits(32)
        return WorkQueue(self._clock, seed=seed, coalesce_s=self._controller.coalesce_s)

    def _on_changes(self, changes: Sequence[Change]) -> None:
        if self._is_leading:
            self._queue.reached(self.cache.revision)
            for key in keys_for(self._controller, changes, self.cache):
                self._queue.add(key)

    async def _resync(self) -> None:
        while True:
            for key in all_keys(self._controller, self.cache):
                self._queue.add(key)
            await self._clock.sleep(RESYNC_S * self._random.uniform(0.8, 1.2))

    async def _dispatch(self) -> None:
        places = anyio.Semaphore(WORKERS)
        async with anyio.create_task_group() as tasks:
            while True:
                await places.acquire()
                tasks.start_soon(self._work, await self._queue.get(), places)

    async def _work(self, key: str, places: anyio.Semaphore) -> None:
        started = self._clock.monotonic()
        try:
            result = await self._reconcile(key)
        finally:
            places.release()
        if result is not None:
            self._queue.done(key, not_before=result.outcome.revision, rest_s=result.rest_s)
        else:
            self._queue.done(key)
        SECONDS.labels(self._controller.name).observe(self._clock.monotonic() - started)

    async def _reconcile(self, key: str) -> Pass | None:
        """Look at one key, whatever comes; return what came of it, None if that went wrong."""
        log = self._log.bind(key=key)
        try:
            result = await self._pass(key)
        except UnavailableError as error:
            self._note_error(error)
            log.warning("reconcile_interrupted", error=str(error), retry_s=round(self._queue.retry(key), 3))
        except TerminalError as error:
            self._note_error(error)
            log.error("reconcile_abandoned", error=str(error))
        except Exception as error:
            self._note_error(error)
            log.exception("reconcile_failed", error=str(error), retry_s=round(self._queue.retry(key), 3))
        else:
            self._follow_up(key, result, log)
            return result
        return None

    async def _pass(self, key: str) -> Pass:
        """Observe, plan and apply. What an unreadable object owns is left as it is."""
        if any(uid and uid in key for uid in self.cache.unreadable.values()):
            return Pass(Plan(because="an object it depends on cannot be read"), Outcome())
        started = self._clock.monotonic()
        view = self._controller.observe(key, self.cache)
        plan = self._controller.plan(view, self._clock.now()) if view is not None else Plan()
        if not plan.actions:
            took_s = self._clock.monotonic() - started
            return Pass(plan, Outcome(), took_s * RESTS_PER_PASS if took_s > THINKS_LONG_S else 0.0)
        return Pass(plan, await self._writer.apply(plan.actions, self._read, independent=plan.independent))

    def _follow_up(self, key: str, result: Pass, log: Any) -> None:
        plan, outcome = result.plan, result.outcome
        if outcome.conflicts:
            self._note_conflicts(key, outcome.conflicts, log)
        else:
            self._queue.forget(key)
        if plan.requeue_after is not None:
            self._queue.add_after(key, plan.requeue_after.total_seconds())
        reasons = Tally(action.reason for action in outcome.written)
        details = {"because": plan.because} if plan.because else {}
        if reasons:
            log.info("reconciled", revision=outcome.revision, reasons=dict(reasons), **details)
        else:
            log.debug("reconciled", **details)
        for reason, times in reasons.items():
            WRITES.labels(self._controller.name, reason).inc(times)
        for action in outcome.written:
            if action.note and action.about is not None:
                self._recorder.note(action.about, action.reason, action.note, is_warning=action.warning)

    def _note_conflicts(self, key: str, conflicts: Sequence[ConflictError], log: Any) -> None:
        CONFLICTS.labels(self._controller.name).inc(len(conflicts))
        term = self.election.term
        if term is None or any(conflict.key == term.key for conflict in conflicts):
            log.warning("fence_met", election=term.key if term else "")
            self._resign.set()
        self._queue.retry(key)
        log.debug("conflict_met", count=len(conflicts), error=str(conflicts[0]))

    def _note_error(self, error: Exception) -> None:
        ERRORS.labels(self._controller.name, type(error).__name__).inc()
