"""The store in this server's memory: objects by kind and key, with the bytes they travel as.

Filled by the informer, read by every handler. A relist, whatever its cause, reaches the listeners as a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio

from apiserver import wire
from apiserver.vault import SEALED, shown
from shoal.api import codec
from shoal.api import objects as o
from shoal.api.errors import ConflictError, UnavailableError
from shoal.api.keys import CLUSTER, kind_at
from shoal.machinery.cache import Cache, Change, Index
from shoal.rules.networks import networks_used


def _owner(obj: o.Object) -> tuple[str, ...]:
    return (obj.metadata.owner.uid,) if obj.metadata.owner else ()


def _port(claim: o.Claim) -> tuple[str, ...]:
    parts = claim.key.split("/")
    return (f"{parts[2]}/{parts[3]}",) if parts[:2] == ["claims", "port"] and len(parts) >= 5 else ()


def _network(claim: o.Claim) -> tuple[str, ...]:
    parts = claim.key.split("/")
    return (parts[1].rpartition(".")[2],) if parts[0] == "addresses" and len(parts) == 3 else ()


TASKS_BY_NODE = Index(o.Task, lambda task: (task.spec.node.uid,) if task.spec.node else ())
TASKS_BY_SERVICE = Index(o.Task, lambda task: (task.spec.service.uid,))
TASKS_BY_SERVICE_NAME = Index(o.Task, lambda task: (task.spec.service.name,))
TASKS_BY_NETWORK = Index(o.Task, lambda task: tuple(networks_used(task)))
REVISIONS_BY_SERVICE = Index(o.Revision, lambda revision: (revision.spec.service.uid,))
BACKENDS_BY_SERVICE = Index(o.Backend, lambda backend: (backend.spec.service.uid,))
BACKENDS_BY_NETWORK = Index(o.Backend, lambda backend: tuple(one.network.uid for one in backend.spec.addresses))
ATTACHMENTS_BY_NODE = Index(o.Attachment, lambda attachment: (attachment.spec.node.uid,))
ADDRESS_CLAIMS = Index(o.Claim, _network)
"""A network's uid → the claims on its addresses."""
ATTACHMENTS_BY_NETWORK = Index(o.Attachment, lambda attachment: (attachment.spec.network.uid,))
ENDPOINTS_BY_NETWORK = Index(o.ServiceEndpoint, lambda endpoint: tuple(on.network.uid for on in endpoint.spec.networks))
BACKENDS_BY_NODE = Index(o.Backend, lambda backend: (backend.spec.node.uid,))
PUBLISHED_ENDPOINTS = Index(o.ServiceEndpoint, lambda endpoint: ("",) if endpoint.spec.ports else ())
INGRESS_NETWORKS = Index(o.Network, lambda network: ("",) if network.spec.ingress else ())
REFERENCES_TO = Index(o.Reference, lambda reference: (reference.to.uid,))
PORT_CLAIMS = Index(o.Claim, _port)
"""`tcp/8080` → the claims on it."""

BY_UID: Mapping[type[o.Object], Index[Any]] = {
    kind: Index(kind, lambda obj: (obj.metadata.uid,) if obj.metadata.uid else ()) for kind in o.KINDS.values()
}
BY_OWNER: Mapping[type[o.Object], Index[Any]] = {
    kind: Index(kind, _owner) for kind in (o.Task, o.Slot, o.Claim, o.Reference, o.Backend, o.Revision)
}
NODES_BY_NAME = Index(o.Node, lambda node: (node.metadata.name,))

INDEXES: tuple[Index[Any], ...] = (
    TASKS_BY_NODE, TASKS_BY_SERVICE, TASKS_BY_SERVICE_NAME, REVISIONS_BY_SERVICE, BACKENDS_BY_SERVICE,
    TASKS_BY_NETWORK, ATTACHMENTS_BY_NODE, ADDRESS_CLAIMS,
    BACKENDS_BY_NODE, PUBLISHED_ENDPOINTS, INGRESS_NETWORKS, BACKENDS_BY_NETWORK,
    ATTACHMENTS_BY_NETWORK, ENDPOINTS_BY_NETWORK, REFERENCES_TO, PORT_CLAIMS, NODES_BY_NAME,
    *BY_UID.values(), *BY_OWNER.values(),
)  # fmt: skip

FIELD_INDEXES: Mapping[tuple[type[o.Object], str], Index[Any]] = {
    (o.Task, "spec.node.uid"): TASKS_BY_NODE,
    (o.Task, "spec.service.uid"): TASKS_BY_SERVICE,
    (o.Task, "spec.service.name"): TASKS_BY_SERVICE_NAME,
    (o.Revision, "spec.service.uid"): REVISIONS_BY_SERVICE,
    (o.Backend, "spec.service.uid"): BACKENDS_BY_SERVICE,
    (o.Attachment, "spec.network.uid"): ATTACHMENTS_BY_NETWORK,
    **{(kind, "metadata.owner.uid"): index for kind, index in BY_OWNER.items()},
    **{(kind, "metadata.uid"): index for kind, index in BY_UID.items()},
}
"""What a field selector can be answered from without looking at every object."""

CATCH_UP_S = 1.0
"""How long to wait, after a conflict, for the watch to bring what this server has not seen."""

READ_WAIT_S = 5.0
"""How long a read waits for the watch to bring what this server has written; etcd answers in milliseconds."""


Listener = Callable[[int, Sequence[Change], bool], None]
"""(revision, what changed, whether all of it is the first sight of a store) → None."""


class Mirror:
    """The cache, plus bytes, plus who waits for which revision."""

    def __init__(self) -> None:
        self.cache = Cache(INDEXES)
        self.synced = False
        self.written = 0
        """The newest revision this server has written: what its reads must at least show."""
        self.listeners: list[Listener] = []
        self.resets: list[Callable[[int], None]] = []
        """Called with the revision of a first listing (or of a restored store's) before anything of it is shown."""
        self._raw: dict[str, bytes] = {}
        """Stored bytes that nobody has asked for yet, by key; `_wires` holds the others, with their version."""
        self._wires: dict[str, bytes] = {}
        self._incarnation = ""
        self._waiting: list[tuple[int, anyio.Event]] = []

    @property
    def revision(self) -> int:
        return self.cache.revision

    def read(self, key: str) -> o.Object | None:
        """Return what lies at a key, whatever its kind."""
        kind = kind_at(key)
        return self.cache.get(kind, key) if kind is not None else None

    @property
    def base(self) -> int:
        """What is added to every revision that leaves this server, so that versions survive a restore."""
        cluster = self.cache.get(o.Cluster, CLUSTER)
        return cluster.status.revision_base if cluster is not None else 0

    def version(self, revision: int) -> int:
        return revision + self.base

    def keep(self, key: str, raw: bytes) -> None:
        """Note the bytes of an object that is about to enter the cache."""
        self._raw[key] = raw
        self._wires.pop(key, None)

    def bytes_of(self, key: str) -> bytes:
        """Return an object as it is answered: its stored bytes, and its version."""
        found = self._wires.get(key)
        if found is None:
            obj = self.read(key)
            assert obj is not None
            raw = self._raw.pop(key)
            if isinstance(obj, SEALED):
                raw = codec.encode(shown(obj))
            found = self._wires[key] = wire.spliced(raw, self.version(obj.metadata.resource_version))
        return found

    def changed(self, changes: Sequence[Change]) -> None:
        """Tell the listeners what changed, then whoever waited for this revision. Called by the informer."""
        if self.revision == 0:
            return  # the other prefix came first; nothing is shown before /shoal/ is listed
        incarnation = self._incarnation_now()
        is_new = not self.synced or incarnation != self._incarnation
        self._incarnation, self.synced = incarnation, True
        if is_new:
            self.written = 0
            for reset in self.resets:
                reset(self.revision)
        for change in changes:
            if change.new is None:
                self._raw.pop(change.key, None)
                self._wires.pop(change.key, None)
        for listener in self.listeners:
            listener(self.revision, changes, is_new)
        due = [event for wanted, event in self._waiting if wanted <= self.revision or is_new]
        self._waiting = [waiter for waiter in self._waiting if waiter[1] not in due]
        for event in due:
            event.set()

    def _incarnation_now(self) -> str:
        cluster = self.cache.get(o.Cluster, CLUSTER)
        return cluster.status.incarnation if cluster is not None else self._incarnation

    async def wait_for(self, revision: int, within_s: float = READ_WAIT_S) -> None:
        """Return once the cache has reached a revision; UnavailableError if it does not in time."""
        if self.synced and revision <= self.revision:
            return
        event = anyio.Event()
        waiter = (revision, event)
        self._waiting.append(waiter)
        with anyio.move_on_after(within_s):
            await event.wait()
            return
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        raise UnavailableError("the server has not caught up with the store yet: try again in a moment")

    async def catch_up(self, seen: int, *conflicts: ConflictError) -> None:
        """Wait a moment, after conflicts met at revision `seen`, for what this server has not seen yet."""
        found = [one.found for one in conflicts if isinstance(one.found, int)]
        try:
            await self.wait_for(max([seen + 1, *found]), CATCH_UP_S)
        except UnavailableError:
            return  # the conflict was with something already seen, or the next attempt will tell

    async def fresh(self) -> Cache:
        """Return the cache once it shows everything this server has written."""
        await self.wait_for(self.written)
        return self.cache
