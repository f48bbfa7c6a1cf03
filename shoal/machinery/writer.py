"""Typed, owned, fenced and batched writes: every write of objects goes through here.

A write is an `Action` (what belongs together) and a way to find what its author had read. `prepare` turns it into
compares and bytes, and is pure: it checks who may write what, moves `generation` and the time stamps, and drops what
would change nothing. The `Writer` packs prepared actions of all callers into transactions, a few under way at once.

When a packed transaction meets a conflict, the action that holds the disagreeing key is tried alone and the rest
again together, so a conflict only ever hits its own action. When an answer is lost, the keys are read to learn the
outcome: every write compares, so asking again can never write twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from shoal.api import codec, ownership
from shoal.api.errors import ConflictError, InvariantError, ShoalError, UnavailableError
from shoal.api.keys import key_of
from shoal.api.meta import Meta
from shoal.api.objects import Object
from shoal.machinery.clock import Clock
from shoal.machinery.controller import Action, Create, Remove, Replace, Step
from shoal.machinery.store import (
    MAX_COMPARES,
    MAX_OPERATIONS,
    MAX_TRANSACTION_BYTES,
    Compare,
    CreatedAt,
    Delete,
    NoneUnder,
    Put,
    Store,
    Txn,
    Unchanged,
    Write,
)

LANES = 4
"""Transactions under way at once: enough to hide the round trip, few enough to batch under load."""

QUIET_TURNS = 4
"""Turns of the event loop without a new caller after which a transaction sets off: a runner's workers, woken by one
revision, come within two or three of each other."""

ROUNDS = 3
"""Conflicts a packed transaction survives before its actions are tried one by one."""

Reader = Callable[[str], Object | None]
"""Finds what was read at a key, with its resource version; None if nothing was."""


class Prepared(msgspec.Struct, frozen=True):
    """An action as the store takes it. `writes` is empty where everything is as wanted already."""

    compares: tuple[Compare, ...]
    writes: tuple[Write, ...]
    cost: int
    """Bytes of keys and values."""


def prepare(action: Action, read: Reader, actor: str, now: datetime) -> Prepared:
    """Check, complete and encode one action. Pure.

    InvariantError if the actor may not write it; ConflictError if `read` knows another version than the action does.
    """
    compares = dict.fromkeys(action.compares)
    writes: list[Write] = []
    cost = 0
    for step in action.steps:
        key, expected, write = _prepare_step(step, read, actor, now)
        compares[Unchanged(key, expected)] = None
        if write is not None:
            writes.append(write)
            cost += len(key) + (len(write.value) if isinstance(write, Put) else 0)
    if len(writes) >= MAX_OPERATIONS or len(compares) >= MAX_COMPARES:
        raise InvariantError(
            f"{action.reason} is {len(writes)} writes and {len(compares)} compares at once; "
            f"at most {MAX_OPERATIONS - 1} and {MAX_COMPARES - 1} go"
        )
    return Prepared(tuple(compares), tuple(writes), cost)


def _prepare_step(step: Step, read: Reader, actor: str, now: datetime) -> tuple[str, int, Write | None]:
    if isinstance(step, Create):
        key = key_of(step.obj)
        ownership.check(actor, None, step.obj)
        return key, 0, Put(key, codec.encode(stamped(step.obj, None, now)))
    new = step.new if isinstance(step, Replace) else step.obj
    key, expected = key_of(new), new.metadata.resource_version
    if expected == 0:
        raise InvariantError(f"{key} was never read, so it cannot be replaced or removed")
    old = read(key)
    found = old.metadata.resource_version if old is not None else 0
    if old is None or found != expected:
        raise ConflictError(key, expected, found)
    if isinstance(step, Remove):
        ownership.check(actor, old, None)
        return key, expected, Delete(key)
    if is_same(old, new):
        return key, expected, None
    ownership.check(actor, old, new)
    return key, expected, Put(key, codec.encode(stamped(new, old, now)))


def is_same(old: Object, new: Object) -> bool:
    """Tell whether two states of an object differ in nothing but what the writer itself fills in."""
    if type(old) is not type(new):
        return False
    values = zip(new.__struct_fields__, msgspec.structs.astuple(old), msgspec.structs.astuple(new), strict=True)
    for name, was, wanted in values:
        if was is not wanted and name != "metadata" and was != wanted:
            return False
    if old.metadata is new.metadata:
        return True
    kept = {name: getattr(old.metadata, name) for name in _FILLED}
    same: bool = old.metadata == msgspec.structs.replace(new.metadata, **kept)
    return same


_FILLED = ("generation", "created_at", "updated_at", "resource_version", "schema")


def stamped(new: Object, old: Object | None, now: datetime) -> Object:
    """Return the object with its generation and times as they have to be stored, and no resource version."""
    meta: Meta = new.metadata
    if old is None:
        has_spec = "spec" in new.__struct_fields__
        filled = {"generation": int(has_spec), "created_at": meta.created_at or now, "updated_at": now}
    else:
        moved = getattr(old, "spec", None) != getattr(new, "spec", None)
        filled = {
            "generation": old.metadata.generation + moved,
            "created_at": old.metadata.created_at,
            "updated_at": now,
        }
    return codec.with_meta(new, resource_version=0, **filled)


@dataclass
class Pack:
    """Prepared actions that may share a transaction: within etcd's limits, and none touches what another writes."""

    compares: dict[Compare, None] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    cost: int = 0
    _written: set[str] = field(default_factory=set)

    def takes(self, item: Prepared) -> bool:
        if not self.writes and not self.compares:
            return True
        if (
            len(self.writes) + len(item.writes) >= MAX_OPERATIONS
            or len(self.compares) + len(item.compares) >= MAX_OPERATIONS
            or self.cost + item.cost > MAX_TRANSACTION_BYTES
        ):
            return False
        for write in item.writes:
            if write.key in self._written:
                return False
        return not any(map(self._writes_what, item.compares))

    def _writes_what(self, compare: Compare) -> bool:
        if isinstance(compare, NoneUnder):
            return any(key.startswith(compare.prefix) for key in self._written)
        return compare.key in self._written

    def add(self, item: Prepared) -> None:
        for compare in item.compares:
            self.compares[compare] = None
        for write in item.writes:
            self.writes.append(write)
            self._written.add(write.key)
        self.cost += item.cost

    def txn(self, fence: Compare | None) -> Txn:
        fences = (fence,) if fence is not None else ()
        return Txn((*fences, *self.compares), tuple(self.writes))


class _Call:
    """What one caller has to write: how many of its entries nobody carries yet, how many are not done."""

    def __init__(self, entries: int) -> None:
        self.untaken = self.undone = entries
        self.over = anyio.Event()


@dataclass(eq=False)
class _Entry:
    """One prepared action on its way: `revision` or `error` once `done`."""

    item: Prepared
    call: _Call
    taken: bool = False
    done: bool = False
    revision: int = 0
    error: ShoalError | None = None

    def take(self) -> None:
        self.taken = True
        self.call.untaken -= 1

    def mentions(self, key: str) -> bool:
        return any(
            key.startswith(compare.prefix) if isinstance(compare, NoneUnder) else compare.key == key
            for compare in self.item.compares
        )

    def finish(self, revision: int = 0, error: ShoalError | None = None) -> None:
        """Say how it went; the first word counts."""
        if self.done:
            return
        self.revision, self.error, self.done = revision, error, True
        self.call.undone -= 1
        if not self.call.undone:
            self.call.over.set()


@dataclass(frozen=True)
class Outcome:
    """What became of a plan's actions: the written ones and the last revision (0 = nothing was written)."""

    written: tuple[Action, ...] = ()
    revision: int = 0
    conflicts: tuple[ConflictError, ...] = ()


class Writer:
    """Writes as `actor`; `fence` gives the compare that a leader's every write carries, or None."""

    def __init__(
        self, store: Store, actor: str, clock: Clock, fence: Callable[[], Compare | None] = lambda: None
    ) -> None:
        self._store, self._actor, self._clock, self._fence = store, actor, clock, fence
        self._pending: deque[_Entry] = deque()
        self._lanes = anyio.Semaphore(LANES)

    async def commit(self, action: Action, read: Reader) -> int:
        """Write one action and return its revision, 0 if nothing had to be written.

        Concurrent callers share transactions. ConflictError if somebody was first; UnavailableError if it could not
        be learnt whether it was written.
        """
        (entry,) = await self._settle([prepare(action, read, self._actor, self._clock.now())])
        if entry.error is not None:
            raise entry.error
        return entry.revision

    async def apply(self, actions: Sequence[Action], read: Reader, *, independent: bool = False) -> Outcome:
        """Write a plan's actions.

        In order, where neighbours share transactions and the first conflict drops the rest; or, when `independent`,
        side by side, where a conflict drops one action only. UnavailableError ends it; what was written stays.
        """
        ready: list[_Ready] = []
        conflicts: list[ConflictError] = []
        now = self._clock.now()
        for action in actions:
            try:
                ready.append(_Ready(action, prepare(action, read, self._actor, now)))
            except ConflictError as error:
                conflicts.append(error)
                if not independent:
                    break
        ready = [one for one in ready if one.item.writes]
        outcome = await (self._apply_independent(ready) if independent else self._apply_in_order(ready))
        return Outcome(outcome.written, outcome.revision, (*conflicts, *outcome.conflicts))

    async def _apply_independent(self, ready: Sequence[_Ready]) -> Outcome:
        entries = await self._settle([one.item for one in ready])
        conflicts: list[ConflictError] = []
        written: list[Action] = []
        for one, entry in zip(ready, entries, strict=True):
            if entry.error is None:
                written.append(one.action)
            elif isinstance(entry.error, ConflictError):
                conflicts.append(entry.error)
            else:
                raise entry.error
        return Outcome(tuple(written), max((entry.revision for entry in entries), default=0), tuple(conflicts))

    async def _apply_in_order(self, ready: Sequence[_Ready]) -> Outcome:
        written: list[Action] = []
        revision = 0
        todo = deque(_grouped(ready))
        while todo:
            group = todo.popleft()
            (entry,) = await self._settle([_merged(group)])
            if entry.error is None:
                revision = entry.revision
                written += [one.action for one in group]
            elif not isinstance(entry.error, ConflictError):
                raise entry.error
            elif len(group) > 1:
                todo.extendleft([one] for one in reversed(group))
            else:
                return Outcome(tuple(written), revision, (entry.error,))
        return Outcome(tuple(written), revision)

    async def _settle(self, items: Sequence[Prepared]) -> list[_Entry]:
        """Queue prepared actions and return when each is done, carrying transactions oneself where a lane is free."""
        call = _Call(len(items))
        entries = [_Entry(item, call) for item in items]
        for entry in entries:
            if entry.item.writes:
                self._pending.append(entry)
            else:
                entry.take()
                entry.finish()
        try:
            await self._carry_all(call)
        finally:
            if call.untaken:  # the caller went away before anybody carried these
                self._pending = deque(entry for entry in self._pending if entry.call is not call)
        return entries

    async def _carry_all(self, call: _Call) -> None:
        if call.untaken <= MAX_OPERATIONS:
            await self._drain(call)
            return
        async with anyio.create_task_group() as tasks:
            for _ in range(LANES):
                tasks.start_soon(self._drain, call)

    async def _drain(self, call: _Call) -> None:
        while call.untaken:
            await self._await_company()
            async with self._lanes:
                pack, batch = self._take()
                if batch:
                    with anyio.CancelScope(shield=True):  # others wait for what we carry, so a caller's end waits too
                        await self._carry(batch, pack, ROUNDS)
        if call.undone:
            await call.over.wait()

    async def _await_company(self) -> None:
        """Let callers that are about to write join in: a few turns of the loop save whole transactions."""
        seen, quiet = len(self._pending), 0
        while quiet < QUIET_TURNS and len(self._pending) < MAX_OPERATIONS:
            await checkpoint()
            quiet = 0 if len(self._pending) > seen else quiet + 1
            seen = len(self._pending)

    def _take(self) -> tuple[Pack, list[_Entry]]:
        """Take from the front of the queue what fits into one transaction."""
        pack, batch = Pack(), list[_Entry]()
        while self._pending and pack.takes(self._pending[0].item):
            entry = self._pending.popleft()
            entry.take()
            pack.add(entry.item)
            batch.append(entry)
        return pack, batch

    async def _carry(self, batch: Sequence[_Entry], pack: Pack, rounds: int) -> None:
        """Write a batch and tell each of its entries how it went, whatever happens."""
        try:
            fence = self._fence()
            revision = await self._commit(pack.txn(fence))
        except ConflictError as error:
            is_fenced = isinstance(fence, CreatedAt) and fence.key == error.key
            if len(batch) > 1 and not is_fenced:
                await self._carry_apart(batch, error, rounds)
            for entry in batch:
                entry.finish(error=error)
        except ShoalError as error:
            for entry in batch:
                entry.finish(error=error)
        else:
            for entry in batch:
                entry.finish(revision)
        finally:
            for entry in batch:
                entry.finish(error=UnavailableError("the write's carrier failed; its outcome is unknown"))

    async def _carry_apart(self, batch: Sequence[_Entry], error: ConflictError, rounds: int) -> None:
        """Try the entries that hold the disagreeing key alone, and the rest again together."""
        guilty = [entry for entry in batch if entry.mentions(error.key)]
        if not guilty or rounds == 0:
            guilty = list(batch)
        rest = [entry for entry in batch if entry not in guilty]
        for entry in guilty:
            await self._carry([entry], _packed([entry.item]), 0)
        if rest:
            await self._carry(rest, _packed(entry.item for entry in rest), rounds - 1)

    async def _commit(self, txn: Txn) -> int:
        """Commit, and find out about a lost answer: the keys tell whether it was written."""
        try:
            return await self._store.commit(txn)
        except UnavailableError:
            landed = await self._landed_at(txn)
        if landed:
            return landed
        try:
            return await self._store.commit(txn)  # safe: if the first one lands after all, this one conflicts
        except ConflictError:
            landed = await self._landed_at(txn)
            if not landed:
                raise
            return landed

    async def _landed_at(self, txn: Txn) -> int:
        """Return the revision at which the transaction was written, 0 if it was not (yet)."""
        for write in txn.writes:
            if isinstance(write, Put):
                item = await self._store.get(write.key)
                if item is not None and item.value == write.value:
                    return item.revision
        if any(isinstance(write, Put) for write in txn.writes):
            return 0
        listings = [await self._store.list(write.key) for write in txn.writes]
        gone = all(
            item.key != write.key for write, found in zip(txn.writes, listings, strict=True) for item in found.items
        )
        return max((found.revision for found in listings), default=0) if gone else 0


class _Ready(msgspec.Struct, frozen=True):
    action: Action
    item: Prepared


def _packed(items: Iterable[Prepared]) -> Pack:
    pack = Pack()
    for item in items:
        pack.add(item)
    return pack


def _merged(group: Sequence[_Ready]) -> Prepared:
    pack = _packed(one.item for one in group)
    return Prepared(tuple(pack.compares), tuple(pack.writes), pack.cost)


def _grouped(ready: Sequence[_Ready]) -> list[list[_Ready]]:
    """Split ordered actions into runs of neighbours that may share a transaction."""
    groups: list[list[_Ready]] = []
    pack = Pack()
    for one in ready:
        if not groups or not pack.takes(one.item):
            groups.append([])
            pack = Pack()
        groups[-1].append(one)
        pack.add(one.item)
    return groups
