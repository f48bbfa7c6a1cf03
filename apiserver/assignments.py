"""What a node is told: which objects belong to it, and what changes in that. Pure.

    itself · the cluster's defaults · its own tasks
    the networks it is attached to, those its live tasks are on, and the ingress network
    the secrets and configs that its tasks use which are wanted alive and have not ended
    every attachment, endpoint and backend of those networks · the endpoint and backends of each published service
    the backends of its own tasks

One `Picture` per connected node. A change is offered to the pictures it may concern; each then judges its own keys,
so that a task's change costs work for its node alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from apiserver.mirror import (
    ATTACHMENTS_BY_NETWORK,
    ATTACHMENTS_BY_NODE,
    BACKENDS_BY_NETWORK,
    BACKENDS_BY_NODE,
    BACKENDS_BY_SERVICE,
    BY_UID,
    ENDPOINTS_BY_NETWORK,
    INGRESS_NETWORKS,
    PUBLISHED_ENDPOINTS,
    TASKS_BY_NODE,
)
from shoal.api import keys
from shoal.api import objects as o
from shoal.machinery.cache import Cache, Change, Index
from shoal.rules.following import is_waiting
from shoal.rules.networks import networks_used

_ORDERED: Final[tuple[type[o.Object], ...]] = (
    o.Cluster, o.Node, o.Secret, o.Config, o.Network, o.Attachment, o.ServiceEndpoint, o.Backend, o.Task,
)  # fmt: skip
_ORDER: Final = {kind: at for at, kind in enumerate(_ORDERED)}
"""What a task needs comes before it."""

_FILES: Final = (o.Secret, o.Config)

_BY_NETWORK: Final[tuple[Index[Any], ...]] = (ATTACHMENTS_BY_NETWORK, ENDPOINTS_BY_NETWORK, BACKENDS_BY_NETWORK)


def sent_first(cache_keys: Iterable[str]) -> list[str]:
    """Order keys so that what others need comes first."""
    return sorted(cache_keys, key=lambda key: (_ORDER.get(keys.kind_at(key) or o.Task, 0), key))


def networks_of(cache: Cache, node_uid: str) -> frozenset[str]:
    """Return the uids of the networks a node takes part in."""
    used = {network.metadata.uid for network in cache.by(INGRESS_NETWORKS, "").values()}
    used |= {one.spec.network.uid for one in cache.by(ATTACHMENTS_BY_NODE, node_uid).values()}
    for task in cache.by(TASKS_BY_NODE, node_uid).values():
        used |= _live_uses(task, node_uid)
    return frozenset(used)


def _live_uses(obj: o.Object | None, node_uid: str) -> set[str]:
    """Return the networks that a task or an Attachment keeps on a node: none if it is over, or elsewhere."""
    match obj:
        case o.Attachment():
            return {obj.spec.network.uid} if obj.spec.node.uid == node_uid else set()
        case o.Task() if obj.spec.node is not None and obj.spec.node.uid == node_uid:
            return set() if obj.status.state.is_terminal else set(networks_used(obj))
    return set()


def files_of(cache: Cache, node_uid: str) -> frozenset[str]:
    """Return the keys of the secrets and configs a node needs now; another of the same name is not the one meant."""
    needs = (_live_files(task, node_uid) for task in cache.by(TASKS_BY_NODE, node_uid).values())
    return frozenset(key for need in needs for key, uid in need if _uid_at(cache, key) == uid)


def _live_files(obj: o.Object | None, node_uid: str) -> frozenset[tuple[str, str]]:
    """Return (key, uid) of what a task needs as files: nothing if it is to end, has ended, or is another node's."""
    if not isinstance(obj, o.Task) or obj.spec.node is None or obj.spec.node.uid != node_uid:
        return _NONE
    template = obj.spec.template
    if not (template.secrets or template.configs) or obj.spec.evicted:
        return _NONE
    if not obj.spec.desired_state.is_live or obj.status.state.is_terminal:
        return _NONE
    secrets = ((keys.prefix_of(o.Secret) + use.source, use.uid) for use in template.secrets)
    return frozenset((*secrets, *((keys.prefix_of(o.Config) + use.source, use.uid) for use in template.configs)))


_NONE: Final[frozenset[tuple[str, str]]] = frozenset()


def _uid_at(cache: Cache, key: str) -> str:
    kind = keys.kind_at(key)
    found = cache.get(kind, key) if kind is not None else None
    return found.metadata.uid if found is not None else ""


def wanted(cache: Cache, node_uid: str, networks: frozenset[str]) -> set[str]:
    """Return the keys of everything a node is told."""
    return own(cache, node_uid) | alike(cache, networks)


def own(cache: Cache, node_uid: str) -> set[str]:
    """Return the keys of what a node is told of itself."""
    found: set[str] = {keys.CLUSTER, keys.node(node_uid)} | files_of(cache, node_uid)
    found |= cache.by(TASKS_BY_NODE, node_uid).keys() | cache.by(BACKENDS_BY_NODE, node_uid).keys()
    return {key for key in found if (kind := keys.kind_at(key)) is not None and cache.get(kind, key) is not None}


def alike(cache: Cache, networks: frozenset[str]) -> set[str]:
    """Return the keys of what all nodes on the same networks are told."""
    found: set[str] = set()
    for uid in networks:
        found |= of_network(cache, uid)
    for key, endpoint in cache.by(PUBLISHED_ENDPOINTS, "").items():
        found |= {key} | cache.by(BACKENDS_BY_SERVICE, endpoint.spec.service.uid).keys()
    return found


_ALIKE: Final = frozenset((o.Network, o.Attachment, o.ServiceEndpoint, o.Backend))
"""The kinds of what `alike` finds."""

MOST_BLOCKS: Final = 8
"""Sets of networks whose objects are kept together: most nodes are on the mesh's alone."""


class Block(msgspec.Struct, frozen=True):
    """What all nodes on the same networks are told: each key's version, and all of it as it is sent."""

    versions: dict[str, int]
    body: bytes


class Blocks:
    """What many nodes are told alike, gathered once: a thousand that come at once are each told of all the others."""

    def __init__(self) -> None:
        self._blocks: dict[frozenset[str], Block] = {}

    def offer(self, changes: Sequence[Change]) -> None:
        """Forget what was gathered before these changes, if they concern it."""
        if self._blocks and any(change.kind in _ALIKE for change in changes):
            self.forget()

    def forget(self) -> None:
        self._blocks.clear()

    def get(self, cache: Cache, networks: frozenset[str], body_of: Callable[[str], bytes]) -> Block:
        found = self._blocks.get(networks)
        if found is None:
            told = sent_first(alike(cache, networks))
            found = Block({key: _version(cache, key) for key in told}, b",".join(map(body_of, told)))
            if len(self._blocks) < MOST_BLOCKS:
                self._blocks[networks] = found
        return found


def of_network(cache: Cache, uid: str) -> set[str]:
    """Return the keys of a network and of all that belongs to it."""
    found = set(cache.by(BY_UID[o.Network], uid))
    for index in _BY_NETWORK:
        found |= cache.by(index, uid).keys()
    return found


def is_wanted(cache: Cache, node_uid: str, networks: frozenset[str], files: frozenset[str], obj: o.Object) -> bool:
    """Whether a node is told of one object: `wanted`, asked about one."""
    match obj:
        case o.Cluster():
            return True
        case o.Node():
            return obj.metadata.uid == node_uid
        case o.Task():
            return obj.spec.node is not None and obj.spec.node.uid == node_uid
        case o.Secret() | o.Config():
            return keys.key_of(obj) in files
        case o.Network():
            return obj.metadata.uid in networks
        case o.Attachment():
            return obj.spec.network.uid in networks
        case o.ServiceEndpoint():
            return _is_published(obj) or any(on.network.uid in networks for on in obj.spec.networks)
        case o.Backend():
            return (
                obj.spec.node.uid == node_uid
                or any(one.network.uid in networks for one in obj.spec.addresses)
                or keys.endpoint(obj.spec.service) in cache.by(PUBLISHED_ENDPOINTS, "")
            )
    return False


def for_agents(obj: o.Object) -> o.Object:
    """Leave out what only managers may know: sealed keys and tokens."""
    if not isinstance(obj, o.Cluster):
        return obj
    status = msgspec.structs.replace(obj.status, sealed_ca_key="", sealed_tokens="")
    return msgspec.structs.replace(obj, status=status)


class Picture:
    """What one connected node has been sent, and what it has yet to be told."""

    def __init__(self, node_uid: str) -> None:
        self.node_uid = node_uid
        self.networks: frozenset[str] = frozenset()
        self.files: frozenset[str] = frozenset()
        self._sent: dict[str, int] = {}
        self._pending: set[str] = set()
        self._networks_moved = self._files_moved = False
        self._republished: set[str] = set()
        """Uids of services that publish ports now, or do so no more."""
        self.others_moved = False
        """Something is routed otherwise, here or elsewhere: the node must say how far it is, even if told nothing."""

    def complete(self, cache: Cache, blocks: Blocks, body_of: Callable[[str], bytes]) -> bytes:
        """Return one complete set as it is sent, dependencies first."""
        self.networks, self.files = networks_of(cache, self.node_uid), files_of(cache, self.node_uid)
        block = blocks.get(cache, self.networks, body_of)
        more = own(cache, self.node_uid) - block.versions.keys()
        self._sent = block.versions | {key: _version(cache, key) for key in more}
        self._forget()
        needed = {key for key in more if _ORDER[keys.kind_at(key) or o.Task] < _ORDER[o.Network]}
        before, after = (map(body_of, sent_first(some)) for some in (needed, more - needed))
        return b",".join(body for body in (*before, block.body, *after) if body)

    def offer(self, change: Change) -> None:
        """Note a change that may concern this node."""
        kind = change.kind
        if kind is o.Task or kind is o.Attachment:
            before, after = _live_uses(change.old, self.node_uid), _live_uses(change.new, self.node_uid)
            self._networks_moved |= not before <= after or not after <= self.networks
        if kind is o.Task:
            self._files_moved |= _live_files(change.old, self.node_uid) != _live_files(change.new, self.node_uid)
        elif kind is o.Network:
            self._networks_moved = True
        elif kind is o.Backend:
            self.others_moved |= isinstance(change.new, o.Backend) and is_waiting(change.new)
        elif kind is o.ServiceEndpoint:
            self.others_moved |= _is_withdrawn(change)
            if _is_published(change.old) != _is_published(change.new):
                self._republished |= {
                    one.spec.service.uid for one in (change.old, change.new) if isinstance(one, o.ServiceEndpoint)
                }
        self._pending.add(change.key)

    @property
    def is_behind(self) -> bool:
        return bool(self._pending) or self.others_moved

    def take(self, cache: Cache) -> tuple[list[str], list[str]]:
        """Return what to put, dependencies first, and what to delete, dependencies last."""
        if self._files_moved:
            files = files_of(cache, self.node_uid)
            self._pending |= files ^ self.files
            self.files = files
        if self._networks_moved:
            networks = networks_of(cache, self.node_uid)
            for uid in networks ^ self.networks:
                self._pending |= of_network(cache, uid)
            self.networks = networks
        for uid in self._republished:
            self._pending |= cache.by(BACKENDS_BY_SERVICE, uid).keys()
        put, delete = [], []
        for key in self._pending:
            kind = keys.kind_at(key)
            obj = cache.get(kind, key) if kind is not None else None
            if obj is not None and is_wanted(cache, self.node_uid, self.networks, self.files, obj):
                if self._sent.get(key) != obj.metadata.resource_version:
                    put.append(key)
                    self._sent[key] = obj.metadata.resource_version
            elif self._sent.pop(key, None) is not None:
                delete.append(key)
        self._forget()
        return sent_first(put), sent_first(delete)[::-1]

    def _forget(self) -> None:
        self._pending.clear()
        self._republished.clear()
        self._networks_moved = self._files_moved = self.others_moved = False


def _version(cache: Cache, key: str) -> int:
    kind = keys.kind_at(key)
    obj = cache.get(kind, key) if kind is not None else None
    return obj.metadata.resource_version if obj is not None else 0


def _node_of(obj: o.Object | None) -> str:
    """Return the uid of the node a task is on, "" if it is on none."""
    return obj.spec.node.uid if isinstance(obj, o.Task) and obj.spec.node is not None else ""


def _is_at(change: Change, node_uid: str) -> bool:
    return any(isinstance(obj, o.Attachment) and obj.spec.node.uid == node_uid for obj in (change.old, change.new))


def _is_published(obj: o.Object | None) -> bool:
    return isinstance(obj, o.ServiceEndpoint) and bool(obj.spec.ports)


def _is_withdrawn(change: Change) -> bool:
    """Whether an Endpoint was changed in a way that waits until every node has followed."""
    old, new = change.old, change.new
    if not isinstance(old, o.ServiceEndpoint) or not any(one.vip for one in old.spec.networks):
        return False
    return not isinstance(new, o.ServiceEndpoint) or old.spec.networks != new.spec.networks


class Pictures:
    """The pictures of all connected nodes, found by what may concern them."""

    def __init__(self) -> None:
        self._by_node: dict[str, list[Picture]] = {}

    def add(self, picture: Picture) -> None:
        self._by_node.setdefault(picture.node_uid, []).append(picture)

    def remove(self, picture: Picture) -> None:
        left = [one for one in self._by_node.get(picture.node_uid, []) if one is not picture]
        if left:
            self._by_node[picture.node_uid] = left
        else:
            self._by_node.pop(picture.node_uid, None)

    def nodes(self) -> set[str]:
        return set(self._by_node)

    def offer(self, changes: Sequence[Change]) -> tuple[set[Picture], set[Picture]]:
        """Hand changes to the pictures they may concern; return who has something to tell at once, and who soon.

        Another node's attachment can wait a little: when many nodes come at once each is told of many in one message.
        What it is needed for makes the message go at once, and takes it along.
        """
        now: set[Picture] = set()
        soon: set[Picture] = set()
        for change in changes:
            for picture in self._concerned(change):
                picture.offer(change)
                can_wait = change.kind is o.Attachment and not _is_at(change, picture.node_uid)
                (soon if can_wait else now).add(picture)
        return now, soon - now

    def _concerned(self, change: Change) -> list[Picture]:
        kind = change.kind
        if kind is o.Task:
            before, after = _node_of(change.old), _node_of(change.new)
            here = self._by_node.get(after, [])
            return here if before in ("", after) else [*self._by_node.get(before, ()), *here]
        if kind is o.Node:
            obj = change.new if change.new is not None else change.old
            return self._by_node.get(obj.metadata.uid, []) if obj is not None else []
        if kind in _FILES:
            return [p for pictures in self._by_node.values() for p in pictures if change.key in p.files]
        if kind in _ORDER:
            return [picture for pictures in self._by_node.values() for picture in pictures]
        return []
