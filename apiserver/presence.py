"""What this server hears of the agents: kept in memory, published as one small object.

Written once a second, so that controllers see this server is fresh, and at once when a node comes or falls silent, or
when one has programmed what others wait for. A thousand nodes cost one write a second.

Silence is measured in time that this server could listen in (`Attention`): while it was held up, by too much to do or
by too few processors, beats lie unread in its sockets, and whoever sent them is not to blame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import anyio
import structlog

from shoal.api import codec, keys
from shoal.api import objects as o
from shoal.api.errors import NotFoundError, ShoalError
from shoal.api.meta import Meta
from shoal.machinery.cache import Change
from shoal.machinery.clock import Clock, wait
from shoal.machinery.store import Delete, Put, Store, Txn
from shoal.rules.following import is_waiting

EVERY_S: Final = 1.0
"""Seconds between presences: what controllers judge freshness by."""

SOON_S: Final = 0.05
"""Seconds between a change worth telling at once and its write, so that many changes are one write."""

LEASE_S: Final = 15.0
"""A presence outlives its server by so much at most."""

LOOK_S: Final = 0.5
"""Seconds between looks at whether this process still gets around to things."""

LOOK_MOST_S: Final = 0.75
"""What the time between two looks counts at most. A beat is read within three turns of the event loop, and a look comes
at most once a turn: in a period of 5 s there are seven turns at least, however long each of them takes."""

log = structlog.get_logger()


class Attention:
    """A clock that goes on only while this process gets around to reading what came."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seconds, self._looked_at = 0.0, clock.monotonic()

    def seconds(self) -> float:
        """Return for how long this process has been listening."""
        return self._seconds + min(self._clock.monotonic() - self._looked_at, LOOK_MOST_S)

    async def run(self) -> None:
        """Look at the clock again and again, for ever."""
        while True:
            self._seconds, self._looked_at = self.seconds(), self._clock.monotonic()
            await self._clock.sleep(LOOK_S)


class Presences:
    """Beats and applied revisions of the agents that report to this server.

    `node`: the one this server runs on, if it is known.
    """

    def __init__(self, uid: str, store: Store, clock: Clock, period_s: Callable[[], float], node: str = "") -> None:
        self.uid, self._node = uid, node
        self.arriving: Callable[[], int] = lambda: 0
        """How many connections wait at this server's door."""
        self._attention = Attention(clock)
        self._store, self._clock, self._period_s = store, clock, period_s
        self._beats: dict[str, float] = {}
        self._applied: dict[str, int] = {}
        self._told_heard: frozenset[str] = frozenset()
        self._told_applied: dict[str, int] = {}
        self._awaited = 0
        """The newest revision at which a backend changed so that others wait to see it applied."""
        self._sequence = 0
        self._lease = 0
        self._renewed_at = 0.0
        self._soon = anyio.Event()

    def beat(self, node: str, applied: int | None = None) -> None:
        """An agent was heard."""
        if node not in self._told_heard:
            self._soon.set()
        self._beats[node] = self._attention.seconds()
        if applied is not None and applied > self._applied.get(node, 0):
            self._applied[node] = applied
            if self._told_applied.get(node, 0) < self._awaited:
                self._soon.set()

    def changed(self, revision: int, changes: Sequence[Change], is_new: bool) -> None:
        """Note which revisions are waited for, and forget nodes that were removed or have left."""
        for change in changes:
            if isinstance(change.new, o.Backend) and is_waiting(change.new):
                self._awaited = revision
            if isinstance(change.old, o.Node) and _is_gone(change.new):
                self._beats.pop(change.old.metadata.uid, None)
                self._applied.pop(change.old.metadata.uid, None)

    def forget(self, revision: int) -> None:
        """Another store: revisions applied in the old one mean nothing."""
        self._applied.clear()
        self._awaited = revision

    def now(self) -> o.Presence:
        """Return the present state: a node is silent after a period without a beat."""
        moment, period = self._attention.seconds(), self._period_s()
        heard = sorted(node for node, at in self._beats.items() if moment - at < period)
        return o.Presence(
            metadata=Meta(name=self.uid, uid=self.uid),
            heard=tuple(heard),
            silent=tuple(sorted(self._beats.keys() - set(heard))),
            applied={node: self._applied[node] for node in sorted(self._applied)},
            sequence=self._sequence,
            node=self._node,
            arriving=self.arriving(),
        )

    async def run(self) -> None:
        """Publish until cancelled, then take the presence back, if the store answers at once."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._attention.run)
                while True:
                    await self._publish()
                    if await wait(self._clock, self._soon, EVERY_S):
                        await self._clock.sleep(SOON_S)
                    self._soon = anyio.Event()
        finally:
            with anyio.CancelScope(shield=True), self._clock.timeout(EVERY_S):
                await self._withdraw()

    async def _publish(self) -> None:
        self._sequence += 1
        presence = self.now()
        try:
            lease = await self._leased()
            put = Put(keys.presence(self.uid), codec.encode(presence), lease)
            await self._store.commit(Txn((), (put,)))
        except NotFoundError:
            self._lease = 0
        except ShoalError as error:
            log.debug("presence_unpublished", reason=str(error))
        else:
            self._told_heard, self._told_applied = frozenset(presence.heard), presence.applied

    async def _leased(self) -> int:
        """Return a lease that lives, renewed when a third of its time has passed."""
        now = self._clock.monotonic()
        if not self._lease:
            self._lease, self._renewed_at = await self._store.lease_grant(LEASE_S), now
        elif now - self._renewed_at > LEASE_S / 3:
            await self._store.lease_keep_alive(self._lease)
            self._renewed_at = now
        return self._lease

    async def _withdraw(self) -> None:
        try:
            await self._store.commit(Txn((), (Delete(keys.presence(self.uid)),)))
        except ShoalError as error:
            log.debug("presence_unpublished", reason=str(error))


def _is_gone(obj: o.Object | None) -> bool:
    return not isinstance(obj, o.Node) or obj.status.left_at is not None
