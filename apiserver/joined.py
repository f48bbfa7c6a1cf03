"""What people see of a service: its stored bytes, and a status joined from its tasks, rollout and endpoint; likewise of
a network, with its free addresses.

Counts are computed, never stored. A body is made once per change, however many ask; watchers of services also hear
of changes in the joined part, gathered for a moment so that a thousand task changes are a handful of lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import anyio
import msgspec

from apiserver import wire
from apiserver.mirror import ADDRESS_CLAIMS, TASKS_BY_NODE, TASKS_BY_SERVICE, Mirror
from shoal.api import codec, keys
from shoal.api import objects as o
from shoal.api.states import TaskState
from shoal.machinery.cache import Cache, Change
from shoal.machinery.clock import Clock
from shoal.rules.addresses import capacity
from shoal.rules.counts import count

COALESCE_S: Final = 0.1
"""Seconds over which changes of one service's joined part are gathered: quick for people, cheap in a storm."""

RESTS_PER_LOOK: Final = 5.0
"""After a look at what has changed, the next one waits at least for so many times what it took: with thousands of
tasks in motion, services are told of a few times a second, and the counting never takes more than a sixth of a core."""

_encoder = msgspec.json.Encoder(enc_hook=codec.enc_hook, order="deterministic")


def joined_status(service: o.Service, cache: Cache) -> dict[str, Any]:
    """Return what is joined into a service's status. Pure."""
    ref = o.ref_of(service)
    tasks = list(cache.by(TASKS_BY_SERVICE, ref.uid).values())
    nodes = {node.metadata.uid: node for node in _nodes_of(service, tasks, cache)}
    joined: dict[str, Any] = {"replicas": count(service, tasks, nodes)}
    rollout = cache.get(o.Rollout, keys.rollout(ref))
    if rollout is not None:
        joined["rollout"] = rollout.status
    endpoint = cache.get(o.ServiceEndpoint, keys.endpoint(ref))
    if endpoint is not None:
        joined["endpoint"] = endpoint.spec
    pending = pending_reasons(tasks)
    if pending:
        joined["pending"] = pending
    return joined


def _nodes_of(service: o.Service, tasks: list[o.Task], cache: Cache) -> list[o.Node]:
    """Return the nodes that counting needs: all for a global service, else those its tasks are on."""
    if service.spec.mode.is_global:
        return list(cache.all(o.Node).values())
    found = (cache.get(o.Node, keys.node(task.spec.node.uid)) for task in tasks if task.spec.node)
    return [node for node in found if node is not None]


def joined_network(network: o.Network, cache: Cache) -> dict[str, Any]:
    """Return what is joined into a network's status: how many of its addresses are taken. Pure."""
    total = capacity(network)
    if not total:
        return {}
    used = len(cache.by(ADDRESS_CLAIMS, network.metadata.uid))
    return {"addresses": {"total": total, "used": used, "free": max(0, total - used)}}


def network_body(mirror: Mirror, key: str, network: o.Network) -> bytes:
    """Return a network as it is answered; counted anew each time it is asked for."""
    return wire.joined_status(mirror.bytes_of(key), _encoder.encode(joined_network(network, mirror.cache)))


def pending_reasons(tasks: list[o.Task]) -> dict[str, int]:
    """Count why tasks wait; tasks that are merely on their way do not count."""
    waiting = [task for task in tasks if task.spec.desired_state.is_live and task.status.state.rank < _ASSIGNED]
    reasons = Counter(task.status.err for task in waiting if task.status.err)
    return dict(sorted(reasons.items()))


_ASSIGNED: Final = TaskState.ASSIGNED.rank


class Joined:
    """Bodies of services, remade when something they show has changed."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._extras: dict[str, bytes] = {}
        self._bodies: dict[str, bytes] = {}
        self._told: dict[str, bytes] = {}
        """The joined part last told to watchers, by key."""
        self._dirty: set[str] = set()
        self._woken = anyio.Event()

    def body(self, key: str, service: o.Service) -> bytes:
        """Return a service as it is answered."""
        body = self._bodies.get(key)
        if body is None:
            extra = _encoder.encode(joined_status(service, self._mirror.cache))
            self._extras[key] = extra
            body = self._bodies[key] = wire.joined_status(self._mirror.bytes_of(key), extra)
        return body

    def note(self, changes: Sequence[Change], *, is_new: bool = False) -> None:
        """Forget the bodies that these changes outdate; a first sight of the store is nothing to tell anybody."""
        if is_new:
            self.forget()
            return
        for change in changes:
            if change.kind is o.Service:
                self._bodies.pop(change.key, None)
                if change.new is None:
                    self._told.pop(change.key, None)
                    self._extras.pop(change.key, None)
                continue
            for key in self._shown_in(change):
                self._bodies.pop(key, None)
                self._dirty.add(key)
        if self._dirty:
            self._woken.set()

    def begin_telling(self) -> None:
        """Somebody new watches services: what was told to others says nothing of what this one has seen."""
        self._told.clear()
        self._woken.set()

    def was_told(self, key: str) -> None:
        """Note that watchers have just been sent this service's body."""
        self._told[key] = self._extras.get(key, b"")
        self._dirty.discard(key)

    def forget(self) -> None:
        self._extras.clear()
        self._bodies.clear()
        self._told.clear()
        self._dirty.clear()

    def take_changed(self) -> list[tuple[str, o.Service]]:
        """Return the services whose joined part now reads otherwise than last told."""
        dirty, self._dirty = self._dirty, set()
        found = []
        for key in sorted(dirty):
            service = self._mirror.cache.get(o.Service, key)
            if service is None:
                continue
            self.body(key, service)
            if self._extras[key] != self._told.get(key):
                found.append((key, service))
        return found

    async def run(
        self, clock: Clock, is_watched: Callable[[type[o.Object]], bool], tell: Callable[[str, o.Service], None]
    ) -> None:
        """Tell of every service whose joined part has changed, at most once per COALESCE_S; while nobody watches
        services, nothing is counted."""
        rest_s = 0.0
        while True:
            await self._woken.wait()
            self._woken = anyio.Event()
            await clock.sleep(max(COALESCE_S, rest_s))
            if not is_watched(o.Service):
                continue
            began = clock.monotonic()
            for key, service in self.take_changed():
                tell(key, service)
            rest_s = RESTS_PER_LOOK * (clock.monotonic() - began)

    def _shown_in(self, change: Change) -> set[str]:
        """Return the keys of the services whose joined part may show a change."""
        match change.new if change.new is not None else change.old:
            case o.Task(spec=spec):
                return {keys.service(spec.service.name)}
            case o.Rollout(status=status):
                return {keys.service(status.service.name)}
            case o.ServiceEndpoint(spec=endpoint):
                return {keys.service(endpoint.service.name)}
            case o.Node() as node if _matters(change):
                cache = self._mirror.cache
                on_it = {
                    keys.service(task.spec.service.name) for task in cache.by(TASKS_BY_NODE, node.metadata.uid).values()
                }
                return on_it | {key for key, service in cache.all(o.Service).items() if service.spec.mode.is_global}
        return set()


def _matters(change: Change) -> bool:
    """Whether a node's change can change what is counted."""
    if not isinstance(change.old, o.Node) or not isinstance(change.new, o.Node):
        return True
    return _counted(change.old) != _counted(change.new)


def _counted(node: o.Node) -> tuple[Any, ...]:
    return node.spec, node.status.state, node.metadata.labels, node.status.description
