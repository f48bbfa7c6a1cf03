"""One leader per controller, by an etcd lease.

Whoever creates the election's key, bound to a lease of its own, leads until the key is gone. The key's create
revision is the leader's *fence*: each of its writes compares it, so that a leader which was paused, and does not know
yet that another took over, cannot write any more. The lease only decides when somebody else may try.

A leader steps down by its own monotonic clock when it could not renew the lease within the lease's time, and at once
when the lease is gone. Ending in order revokes the lease, and the next one takes over at once; a killed leader's
successor waits until the lease has run out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
import msgspec
import structlog

from shoal.api import keys
from shoal.api.errors import ConflictError, ExpiredError, NotFoundError, ShoalError, UnavailableError
from shoal.machinery.clock import Clock
from shoal.machinery.store import Compare, CreatedAt, Put, Store, Txn, Unchanged

TTL_S = 5.0
"""Seconds a dead leader's lease lives: the longest a takeover takes."""

RETRY_S = 0.5
"""Seconds between attempts to reach a store that does not answer."""

RESIGN_S = 2.0
"""Seconds an orderly end may spend on telling the store."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class Term:
    """One spell of leading, which began at `revision`."""

    key: str
    revision: int

    @property
    def fence(self) -> Compare:
        return CreatedAt(self.key, self.revision)


class Election:
    """Campaigns for `name` as `candidate` (any text that tells people who it is)."""

    def __init__(self, store: Store, name: str, candidate: str, clock: Clock, *, ttl_s: float = TTL_S) -> None:
        self.term: Term | None = None
        self._store, self._candidate, self._clock, self._ttl_s = store, candidate, clock, ttl_s
        self._key = keys.election(name)
        self._is_away = False

    def fence(self) -> Compare | None:
        """Return what each write must compare. UnavailableError when not leading: such a write must not happen."""
        if self.term is None:
            raise UnavailableError(f"not the leader of {self._key} any more")
        return self.term.fence

    async def run(self, lead: Callable[[Term], Awaitable[None]]) -> None:
        """Campaign for ever; call `lead` with each term won, and cancel it when the term is over.

        `lead` may return to give the term up. What it raises ends the campaign.
        """
        while True:
            try:
                await self._campaign_once(lead)
                self._is_away = False
            except ShoalError as error:
                if isinstance(error, UnavailableError):
                    self._note_away(error)
                await self._clock.sleep(RETRY_S)

    def _note_away(self, error: ShoalError) -> None:
        if not self._is_away:
            self._is_away = True
            _log.warning("campaign_interrupted", election=self._key, error=str(error))

    async def _campaign_once(self, lead: Callable[[Term], Awaitable[None]]) -> None:
        await self._until_vacant()
        asked = self._clock.monotonic()
        lease = await self._store.lease_grant(self._ttl_s)
        try:
            value = msgspec.json.encode({"leader": self._candidate, "since": self._clock.now()})
            txn = Txn((Unchanged(self._key, 0),), (Put(self._key, value, lease),))
            try:
                revision = await self._store.commit(txn)
            except ConflictError:
                return
            await self._lead(Term(self._key, revision), lease, asked + self._ttl_s, lead)
        finally:
            await self._resign(lease)

    async def _until_vacant(self) -> None:
        """Return when nobody leads. Looks again after each TTL, should a watch keep silent."""
        while True:
            listing = await self._store.list(self._key)
            if all(item.key != self._key for item in listing.items):
                return
            self._is_away = False
            with self._clock.timeout(self._ttl_s):
                await self._until_deleted(listing.revision)

    async def _until_deleted(self, since: int) -> None:
        try:
            async with self._store.watch(self._key, since) as batches:
                async for batch in batches:
                    if any(event.key == self._key and event.value is None for event in batch.events):
                        return
        except ExpiredError:
            return

    async def _lead(self, term: Term, lease: int, deadline: float, lead: Callable[[Term], Awaitable[None]]) -> None:
        self.term = term
        _log.info("leadership_won", election=self._key, revision=term.revision)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._work, term, lead, tasks.cancel_scope)
                why = await self._keep(lease, deadline)
                self.term = None
                _log.warning("leadership_lost", election=self._key, revision=term.revision, error=why)
                tasks.cancel_scope.cancel()
        finally:
            self.term = None

    async def _work(self, term: Term, lead: Callable[[Term], Awaitable[None]], scope: anyio.CancelScope) -> None:
        await lead(term)
        self.term = None
        scope.cancel()

    async def _keep(self, lease: int, deadline: float) -> str:
        """Renew the lease three times within its time; return why it is lost."""
        while True:
            await self._clock.sleep(self._ttl_s / 3)
            renewed = 0.0
            with self._clock.timeout(deadline - self._clock.monotonic()):
                try:
                    renewed = await self._renew(lease)
                except NotFoundError as error:
                    return str(error)
            if not renewed:
                return f"the lease could not be renewed for {self._ttl_s:g} s"
            deadline = renewed

    async def _renew(self, lease: int) -> float:
        """Renew, as often as it takes; return the moment until which the lease surely lives."""
        while True:
            asked = self._clock.monotonic()
            try:
                return asked + min(self._ttl_s, await self._store.lease_keep_alive(lease))
            except NotFoundError:
                raise
            except ShoalError:
                await self._clock.sleep(self._ttl_s / 10)

    async def _resign(self, lease: int) -> None:
        with anyio.CancelScope(shield=True), self._clock.timeout(RESIGN_S):
            try:
                await self._store.lease_revoke(lease)
            except ShoalError as error:
                _log.debug("resignation_unheard", election=self._key, error=str(error))
