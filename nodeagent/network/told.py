"""What a node is told of its networks, service by service, so that a change can be looked at by itself. Pure.

Tunnels and rules are computed as a whole and compared with what was. Mostly a few services changed, of thousands: then
both sides are computed of these alone. Their difference is the same, because no two services share a key of what is
computed (an address, a published port). Where two do for a moment, as one comes before the other has gone, both count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from nodeagent.assignments import Assignments
from shoal.api.objects import Attachment, Backend, Cluster, ClusterSpec, Network, Object, ServiceEndpoint


@dataclass(frozen=True)
class Frame:
    """What concerns everybody."""

    networks: tuple[Network, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    port: int = ClusterSpec().data_path_port
    """UDP port of all tunnels."""

    @staticmethod
    def of(assignments: Assignments) -> Frame:
        cluster = assignments.cluster()
        return Frame(
            tuple(assignments.of(Network).values()),
            tuple(assignments.of(Attachment).values()),
            (cluster.spec if cluster is not None else ClusterSpec()).data_path_port,
        )


@dataclass(frozen=True, eq=False)
class Share:
    """What concerns one service; compared by identity."""

    objects: Mapping[str, ServiceEndpoint | Backend] = field(default_factory=dict)
    """Its Endpoint and its Backends, by key."""
    keys: frozenset[str | int] = frozenset()
    """Its addresses, with their masks, and the numbers of its published ports."""

    def changed(self, objects: Mapping[str, ServiceEndpoint | Backend | None]) -> Share:
        """After some of it became something else, or None; itself if that makes no difference."""
        kept = {key: obj for key, obj in {**self.objects, **objects}.items() if obj is not None}
        if kept == self.objects:
            return self
        return Share(kept, frozenset(key for obj in kept.values() for key in _keys(obj)))


@dataclass(frozen=True)
class Told:
    frame: Frame = Frame()
    shares: Mapping[str, Share] = field(default_factory=dict)
    """By the service's uid."""
    source: Mapping[str, Object] = field(default_factory=dict, compare=False, repr=False)
    """The objects it was made from."""

    def after(self, assignments: Assignments) -> Told:
        """What the node is told by these assignments; what is as it was stays the same object."""
        before, now = self.source, assignments.objects
        if before is now:
            return self
        changed: dict[str, Object | None] = {key: obj for key, obj in now.items() if before.get(key) is not obj}
        if len(before) + sum(key not in before for key in changed) > len(now):
            changed |= dict.fromkeys(before.keys() - now.keys())
        frame = self.frame
        if any(isinstance(before.get(key, now.get(key)), Network | Attachment | Cluster) for key in changed):
            frame = Frame.of(assignments)
        return Told(self.frame if frame == self.frame else frame, self._shares(changed), now)

    def only(self, services: Collection[str]) -> Told:
        """The same of some services alone."""
        return Told(self.frame, {uid: self.shares[uid] for uid in services if uid in self.shares})

    def endpoints(self) -> Iterator[ServiceEndpoint]:
        return (obj for obj in self._objects() if isinstance(obj, ServiceEndpoint))

    def backends(self) -> Iterator[Backend]:
        return (obj for obj in self._objects() if isinstance(obj, Backend))

    def _objects(self) -> Iterator[ServiceEndpoint | Backend]:
        """By service, so that of two that have the same port for a moment it is always the same one that wins."""
        return (obj for uid in sorted(self.shares) for obj in self.shares[uid].objects.values())

    def _shares(self, changed: Mapping[str, Object | None]) -> Mapping[str, Share]:
        """After objects changed, those of other kinds among them."""
        by_service: dict[str, dict[str, ServiceEndpoint | Backend | None]] = {}
        for key, obj in changed.items():
            known = obj if obj is not None else self.source[key]
            if isinstance(known, ServiceEndpoint | Backend):
                by_service.setdefault(known.spec.service.uid, {})[key] = known if obj is not None else None
        if not by_service:
            return self.shares
        shares = dict(self.shares)
        for uid, objects in by_service.items():
            shares[uid] = shares.get(uid, Share()).changed(objects)
            if not shares[uid].objects:
                del shares[uid]
        return shares


def apart(old: Told, new: Told) -> tuple[Told, Told]:
    """Return both without the services that make no difference; whole where it is not for services alone to make."""
    if old.frame != new.frame:
        return old, new
    uids = old.shares.keys() | new.shares.keys()
    moved = {uid for uid in uids if old.shares.get(uid) is not new.shares.get(uid)}
    both = [share for told in (old, new) for share in told.only(moved).shares.values()]
    keys = frozenset[str | int]().union(*(share.keys for share in both))
    moved |= {uid for uid, share in new.shares.items() if not share.keys.isdisjoint(keys)}
    return old.only(moved), new.only(moved)


def _keys(obj: ServiceEndpoint | Backend) -> Iterator[str | int]:
    if isinstance(obj, Backend):
        yield from (one.address for one in obj.spec.addresses)
    else:
        yield from (on.vip for on in obj.spec.networks if on.vip)
        yield from (port.published for port in obj.spec.ports if port.published)
