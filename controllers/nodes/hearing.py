"""Who was heard when, by this process's monotonic clock: what Presences say, stamped as they arrive.

An API server is fresh while its `sequence` changes. Nothing is concluded from its time stamps, from a Presence seen
for the first time, or from one that stands still. When none was fresh for a while, counting starts anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from controllers.nodes.plan import Heard
from shoal.api.objects import Node, Presence
from shoal.machinery.cache import Fold

FRESH_S = 3.0
"""Seconds after which an API server that did not write is not fresh: it writes once a second; three may be slow."""


@dataclass
class _Server:
    presence: Presence
    heard: frozenset[str]
    changed_at: float | None = None
    """When `sequence` last moved; None = was seen only once."""


class Known(Fold[Node]):
    """Since when this process has known each node."""

    kind = Node

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.since: dict[str, float] = {}
        self._monotonic = monotonic

    def change(self, old: Node | None, new: Node | None) -> None:
        if new is None and old is not None:
            self.since.pop(old.metadata.uid, None)
        elif new is not None:
            self.since.setdefault(new.metadata.uid, self._monotonic())


class Hearing(Fold[Presence]):
    kind = Presence

    def __init__(self, monotonic: Callable[[], float], known: Known) -> None:
        self._monotonic, self._known = monotonic, known
        self._servers: dict[str, _Server] = {}
        self._counting_since = monotonic()
        self._fresh_at: float | None = None
        self._heard_at: dict[str, float] = {}
        self._heard_by: dict[str, str] = {}
        self._fell_at: dict[str, float] = {}
        self._crowded_at = float("-inf")
        """When a fresh API server last had connections waiting at its door."""
        self._served_at_home: dict[str, str] = {}
        """Node uid → the API server that runs on it."""

    def change(self, old: Presence | None, new: Presence | None) -> None:
        if new is None:
            if old is not None:
                self._servers.pop(old.metadata.uid, None)
            return
        uid = new.metadata.uid
        before = self._servers.get(uid)
        server = self._servers[uid] = _Server(new, frozenset(new.heard))
        self._served_at_home[new.node] = uid
        if before is None or before.presence.sequence == new.sequence:
            server.changed_at = before.changed_at if before is not None else None
            return
        now = server.changed_at = self._monotonic()
        if self._fresh_at is None or now - self._fresh_at > FRESH_S:
            self._counting_since = now
        self._fresh_at = now
        if new.arriving:
            self._crowded_at = now
        for node in before.heard - server.heard:
            if self._heard_by.get(node) == uid:
                self._fell_at[node] = now
        self._heard_at.update(dict.fromkeys(server.heard, now))
        self._heard_by.update(dict.fromkeys(server.heard, uid))

    def listen(self) -> Heard | None:
        """Return what is known now, None if no API server is fresh."""
        now = self._monotonic()
        fresh = [s for s in self._servers.values() if s.changed_at is not None and now - s.changed_at <= FRESH_S]
        if not fresh:
            return None
        heard = frozenset[str]().union(*(server.heard for server in fresh))
        self._forget(self._heard_at.keys() - self._known.since.keys() - heard)
        told = {
            node: now - self._fell_at.get(node, now)
            for server in fresh
            for node in server.presence.silent
            if node not in heard and self._heard_by.get(node) == server.presence.metadata.uid
        }
        silent = {uid: now - self._last_sign(uid) for uid in self._known.since if uid not in heard}
        falls = {uid: now - at for uid, at in self._fell_at.items()}
        falls.update({uid: now - self._heard_at[uid] for uid in silent if uid in self._heard_at})
        unserved = frozenset(uid for uid in silent if self._is_unserved(uid, [server.presence for server in fresh]))
        return Heard(heard, silent, told, falls, now - self._counting_since, unserved, crowded_s=now - self._crowded_at)

    def _is_unserved(self, node: str, fresh: Collection[Presence]) -> bool:
        """Whether a node has yet to find an API server: all are new, or the one that heard it is gone.

        Not so if that one ran on the node itself.
        """
        server = self._heard_by.get(node)
        if server is None:
            return not any(node in presence.silent for presence in fresh)
        is_gone = all(server != presence.metadata.uid for presence in fresh)
        return is_gone and self._served_at_home.get(node) != server

    def _forget(self, removed: Iterable[str]) -> None:
        for uid in removed:
            for known in (self._heard_at, self._heard_by, self._fell_at, self._served_at_home):
                known.pop(uid, None)

    def _last_sign(self, uid: str) -> float:
        """Return when a node was last heard, or from when on it could have been."""
        return max(self._counting_since, self._heard_at.get(uid, self._known.since[uid]))
