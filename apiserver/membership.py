"""Who belongs to the cluster: the root for all to see, joining by token, renewed certificates, leaving, the tokens.

A worker that joins sends a signing request with its token; its uid is made from its key, so that a request that was
overheard and sent again meets the node it made. Whatever the request says of a name or a role is not believed.
"""

from __future__ import annotations

import hmac
from datetime import timedelta
from ipaddress import AddressValueError, IPv4Address
from typing import Final

import anyio
import msgspec
from aiohttp import web
from msgspec import Struct

from apiserver import audit, incoming
from apiserver.attempts import Attempts
from apiserver.mirror import Mirror
from apiserver.objects import json_response
from apiserver.writes import Writes
from shoal.api import keys
from shoal.api import objects as o
from shoal.api.errors import (
    AlreadyExistsError,
    ForbiddenError,
    InvalidError,
    RemovedError,
    ThrottledError,
    UnavailableError,
)
from shoal.api.meta import Meta, derived_uid
from shoal.api.names import node_name_problem
from shoal.api.states import Availability, NodeState, Role
from shoal.api.tokens import parse_token
from shoal.machinery.authority import (
    Secrets,
    fresh_secret,
    open_authority,
    open_secrets,
    seal_secrets,
    token_of,
)
from shoal.machinery.clock import Clock
from shoal.machinery.controller import Action, Create, Replace
from shoal.machinery.pki import Pair, Subject, public_bytes, requested_key, sign
from shoal.rules.claims import make_claim
from shoal.rules.subnets import subnets_of

UNITS: Final = {Role.MANAGER: "swarm-manager", Role.WORKER: "swarm-worker"}
"""Role → organisational unit of its certificates."""


class JoinRequest(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    token: str
    csr: str
    name: str
    address: str
    availability: Availability = Availability.ACTIVE
    data_path: str = ""
    """The host's address for overlay traffic; "" = `address`."""


class JoinAnswer(Struct, frozen=True, rename="camel"):
    """`managers`: where API servers answer, "10.0.0.1:2377"."""

    node: str
    cluster: str
    incarnation: str
    role: Role
    certificate: str
    ca: str
    managers: tuple[str, ...]


class CertificateRequest(Struct, frozen=True, forbid_unknown_fields=True):
    csr: str


class CertificateAnswer(Struct, frozen=True):
    certificate: str
    ca: str


class Tokens(Struct, frozen=True):
    worker: str
    manager: str
    managers: tuple[str, ...]


class RotateRequest(Struct, frozen=True, forbid_unknown_fields=True):
    role: Role


class Membership:
    """`key` is the cluster key: it opens what signs certificates and what tokens are compared with."""

    def __init__(self, mirror: Mirror, writes: Writes, clock: Clock, key: bytes) -> None:
        self._mirror, self._writes, self._clock, self._key = mirror, writes, clock, key
        self._attempts = Attempts()
        self._joining = anyio.Lock()
        self._opened: tuple[str, Pair] = ("", Pair(b"", b""))

    def cluster(self) -> o.Cluster:
        """Return the cluster; UnavailableError while it was not read yet."""
        found = self._mirror.cache.get(o.Cluster, keys.CLUSTER)
        if found is None:
            raise UnavailableError("the cluster's settings have not been read yet")
        return found

    def authority(self) -> Pair:
        """Return what signs nodes' certificates."""
        cluster = self.cluster()
        if self._opened[0] != cluster.status.sealed_ca_key:
            self._opened = (cluster.status.sealed_ca_key, open_authority(cluster, self._key))
        if not self._opened[0]:
            return open_authority(cluster, self._key)  # says that there is none
        return self._opened[1]

    def managers(self) -> tuple[str, ...]:
        """Return where the managers' API servers answer other hosts."""
        nodes = self._mirror.cache.all(o.Node).values()
        return tuple(sorted(node.status.api for node in nodes if node.spec.role is Role.MANAGER and node.status.api))

    def need_member(self, node: str) -> None:
        """RemovedError if a node left or was removed."""
        found = self._mirror.cache.get(o.Node, keys.node(node))
        if found is None:
            raise RemovedError(f"node {node} was removed from this cluster: `shoal leave` there, then join anew")
        if found.status.left_at is not None:
            raise RemovedError(f"node {found.metadata.name} has left this cluster: join anew")

    async def ca(self, request: web.Request) -> web.StreamResponse:
        await self._mirror.fresh()
        certificate = self.cluster().status.ca_certificate
        if not certificate:
            raise UnavailableError("this cluster has no certificate authority yet")
        return json_response(msgspec.json.encode({"certificate": certificate}))

    async def join(self, request: web.Request) -> web.StreamResponse:
        wanted = incoming.understood(await request.read(), JoinRequest)
        await self._mirror.fresh()
        self._need_token(wanted.token, request.remote or "")
        public = requested_key(wanted.csr.encode())
        async with self._joining:
            node = await self._add(wanted, public_bytes(public))
        audit.note(f"node/{node.metadata.name}", "joined")
        cluster = self.cluster()
        answer = JoinAnswer(
            node=node.metadata.uid,
            cluster=cluster.metadata.uid,
            incarnation=cluster.status.incarnation,
            role=node.spec.role,
            certificate=self._signed(wanted.csr, node),
            ca=cluster.status.ca_certificate,
            managers=self.managers(),
        )
        return json_response(msgspec.json.encode(answer), 201)

    async def certificate(self, request: web.Request) -> web.StreamResponse:
        """Renew a node's certificate, for the role it has now."""
        wanted = incoming.understood(await request.read(), CertificateRequest)
        await self._mirror.fresh()
        uid = request.match_info["node"]
        self.need_member(uid)
        node = self._mirror.cache.get(o.Node, keys.node(uid))
        assert node is not None
        answer = CertificateAnswer(self._signed(wanted.csr, node), self.cluster().status.ca_certificate)
        return json_response(msgspec.json.encode(answer))

    async def leave(self, request: web.Request) -> web.StreamResponse:
        """Note that a node leaves. Its certificate is worth nothing from then on."""
        uid = request.match_info["node"]
        now = self._clock.now()

        def action() -> Action:
            self.need_member(uid)
            node = self._mirror.cache.get(o.Node, keys.node(uid))
            assert node is not None
            status = msgspec.structs.replace(node.status, left_at=now)
            return Action("NodeLeft", (Replace(msgspec.structs.replace(node, status=status)),))

        await self._mirror.wait_for(await self._writes.change(action))
        return json_response(b"{}")

    async def tokens(self, request: web.Request) -> web.StreamResponse:
        await self._mirror.fresh()
        cluster = self.cluster()
        return json_response(self._told(cluster, open_secrets(cluster, self._key)))

    async def rotate(self, request: web.Request) -> web.StreamResponse:
        """Make a new secret for one role; the old token stops working at once."""
        wanted = incoming.understood(await request.read(), RotateRequest)
        secret = fresh_secret()

        def action() -> Action:
            cluster = self.cluster()
            found = msgspec.structs.replace(open_secrets(cluster, self._key), **{wanted.role.value: secret})
            sealed = seal_secrets(found, cluster.metadata.uid, self._key)
            status = msgspec.structs.replace(cluster.status, sealed_tokens=sealed)
            return Action("TokenRotated", (Replace(msgspec.structs.replace(cluster, status=status)),))

        await self._mirror.wait_for(await self._writes.change(action))
        audit.note(f"token/{wanted.role.value}", "rotated")
        cluster = self.cluster()
        return json_response(self._told(cluster, open_secrets(cluster, self._key)))

    def _told(self, cluster: o.Cluster, found: Secrets) -> bytes:
        worker, manager = (str(token_of(cluster, found.of(role))) for role in (Role.WORKER, Role.MANAGER))
        return msgspec.json.encode(Tokens(worker, manager, self.managers()))

    def _need_token(self, text: str, address: str) -> None:
        """ForbiddenError unless the token is the present one of a worker; ThrottledError for those who guess."""
        now = self._clock.monotonic()
        if not self._attempts.may_try(address, now):
            raise ThrottledError("too many failed attempts to join from this address: try again in a second")
        cluster = self.cluster()
        token, found = parse_token(text), open_secrets(cluster, self._key)
        if token.digest != token_of(cluster, "").digest:
            self._attempts.failed(address, now)
            raise ForbiddenError("the join token belongs to another cluster")
        is_worker = hmac.compare_digest(token.secret, found.worker)
        is_manager = hmac.compare_digest(token.secret, found.manager)
        if is_manager:
            raise ForbiddenError(
                "joining as a manager is not available yet in this version: use the token of `shoal token worker`"
            )
        if not is_worker:
            self._attempts.failed(address, now)
            raise ForbiddenError(
                "the join token is not valid, or was rotated: `shoal token worker` on a manager prints the present one"
            )

    async def _add(self, wanted: JoinRequest, public: bytes) -> o.Node:
        """Write the node, unless its name, address or key is another's."""
        name, address = _node_name(wanted.name), _node_address(wanted.address)
        data_path = _node_address(wanted.data_path) if wanted.data_path else ""
        for own in {address, data_path} - {""}:
            self._need_outside(own)
        uid = derived_uid("node", self.cluster().metadata.uid, public.hex())
        node = o.Node(
            metadata=Meta(name=name, uid=uid),
            spec=o.NodeSpec(role=Role.WORKER, availability=wanted.availability),
            status=o.NodeStatus(state=NodeState.UNKNOWN, address=address, data_path=data_path),
        )

        def action() -> Action:
            if self._mirror.cache.get(o.Node, keys.node(uid)) is not None:
                raise AlreadyExistsError("this signing request was used already")
            self._need_free(name, address)
            claims = (self._claim(key, node) for key in keys.node_claims(name, address))
            return Action("NodeJoined", (Create(node), *claims), (), f"node {name} joined at {address}", node)

        await self._mirror.wait_for(await self._writes.change(action))
        return node

    def _claim(self, key: str, node: o.Node) -> Create | Replace:
        """Take a name or an address for a node, from whoever had it and is gone: of two servers, only one can."""
        owner = o.owner_of(node)
        held = self._mirror.cache.get(o.Claim, key)
        if held is not None:
            return Replace(msgspec.structs.replace(held, metadata=msgspec.structs.replace(held.metadata, owner=owner)))
        return Create(make_claim(key, owner))

    def _need_outside(self, address: str) -> None:
        """InvalidError if a host's address lies in an overlay network: it would be cut off once it takes part."""
        for network in self._mirror.cache.all(o.Network).values():
            for subnet in subnets_of(network):
                if IPv4Address(address) in subnet:
                    raise InvalidError(
                        f"address: {address} lies in the subnet {subnet} of network {network.metadata.name}; "
                        "give the hosts or the network other addresses"
                    )

    def _need_free(self, name: str, address: str) -> None:
        """AlreadyExistsError if a node that is not down has the name or the address."""
        for node in self._mirror.cache.all(o.Node).values():
            if node.status.state is NodeState.DOWN or node.status.left_at is not None:
                continue
            held = node.metadata.name
            if held == name:
                raise AlreadyExistsError(
                    f"a node called {name} is part of this cluster already: give this host another name "
                    "(`shoal up --name`), or remove that node"
                )
            if node.status.address == address:
                raise AlreadyExistsError(
                    f"node {held} of this cluster has the address {address} already: "
                    "choose another with --advertise-addr, or remove that node"
                )

    def _signed(self, csr: str, node: o.Node) -> str:
        cluster = self.cluster()
        subject = Subject(node.metadata.uid, cluster.metadata.uid, UNITS[node.spec.role])
        lifetime = timedelta(seconds=cluster.spec.certificate_expiry.seconds)
        public = requested_key(csr.encode())
        return sign(self.authority(), public, subject, self._clock.now(), lifetime).decode()


def _node_name(name: str) -> str:
    problem = node_name_problem(name)
    if problem:
        raise InvalidError(f"name: {problem}")
    return name


def _node_address(text: str) -> str:
    """Return an address that other hosts may reach a node at."""
    try:
        address = IPv4Address(text)
    except AddressValueError:
        raise InvalidError(f"address: expected an IPv4 address, found {text[:60]!r}") from None
    if address.is_unspecified or address.is_multicast:
        raise InvalidError(f"address: {address} is no host's address")
    return str(address)
