"""The door for other hosts: TCP with mutual TLS, who is behind a certificate, and the end of stale connections.

The server's own certificate is made here, of the cluster's authority, and never leaves memory.
"""

from __future__ import annotations

import random
import socket
import ssl
from asyncio import BaseTransport
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import anyio
import structlog
from aiohttp import web

from apiserver.entrance import BACKLOG, LIMITS, Entrance, Limits
from apiserver.identity import ADMIN, NOBODY, Identity
from apiserver.membership import UNITS, Membership
from shoal.api.errors import InvalidError, RemovedError, ShoalError, UnavailableError
from shoal.api.states import Role
from shoal.machinery.pki import Subject, issue
from shoal.machinery.tls import SERVER_NAME, load_pair, server_context

SWEEP_S: Final = 1.0
"""Seconds between looks for connections of nodes that were removed, or whose certificate has ended."""

AGAIN_S: Final = 1.0
"""Seconds before another try to begin listening."""

_ROLES: Final = {unit: role for role, unit in UNITS.items()}

log = structlog.get_logger()


class Connections:
    """Open connections of nodes, with when their certificates end."""

    def __init__(self, membership: Membership, now: Callable[[], float]) -> None:
        self._membership, self._now = membership, now
        self._open: dict[BaseTransport, tuple[str, float]] = {}

    def note(self, transport: BaseTransport | None, identity: Identity) -> None:
        """Remember a connection on which a node spoke."""
        if transport is not None and identity.node and not identity.admin:
            self._open[transport] = (identity.node, identity.until)

    def sweep(self) -> None:
        """Cut what may not go on, forget what is closed."""
        for transport, (node, until) in list(self._open.items()):
            if transport.is_closing():
                del self._open[transport]
            elif self._now() > until or self._is_removed(node):
                log.info("connection_cut", node=node)
                transport.abort()  # type: ignore[attr-defined]  # every socket's transport can
                del self._open[transport]

    def _is_removed(self, node: str) -> bool:
        try:
            self._membership.need_member(node)
        except RemovedError:
            return True
        return False


class Listener:
    """`address`: "0.0.0.0:2377". `node`: this manager's own uid. `hosts`: more names for its certificate."""

    def __init__(
        self,
        membership: Membership,
        connections: Connections,
        address: str,
        node: str,
        hosts: tuple[str, ...],
        limits: Limits = LIMITS,
    ) -> None:
        self._membership, self._connections, self._limits = membership, connections, limits
        self.entrance: Entrance | None = None
        self.host, self.port = split_address(address)
        self._node, self._hosts = node, hosts
        self.trouble = f"port {self.port} is not open yet"

    def arriving(self) -> int:
        """Return how many connections wait in line, or in their handshake."""
        return self.entrance.waiting.count if self.entrance is not None else 0

    async def run(self, runner: web.AppRunner) -> None:
        """Listen until cancelled, with a certificate that never ends."""
        context = await self._first_context()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._renew, context)
            tasks.start_soon(self._sweep)
            await self._serve(runner, context)

    async def _first_context(self) -> ssl.SSLContext:
        """Wait for the cluster's authority."""
        while True:
            try:
                authority = self._membership.authority()
                return server_context(authority.certificate)
            except UnavailableError as error:
                self.trouble = str(error)
            except ShoalError as error:
                self._say(str(error))
            await anyio.sleep(AGAIN_S / 4)

    async def _serve(self, runner: web.AppRunner, context: ssl.SSLContext) -> None:
        self._load(context)
        self.entrance = Entrance(runner, context, self._is_member, self._limits)
        with await self._open() as listening:
            self.trouble = ""
            log.info("listener_opened", address=self.host, port=self.port)
            await self.entrance.run(listening)

    async def _open(self) -> socket.socket:
        """Begin to listen, as soon as the port can be had."""
        while True:
            try:
                family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
                listening = socket.create_server((self.host, self.port), family=family, backlog=BACKLOG)
                listening.setblocking(False)
                return listening
            except OSError as error:
                self._say(f"port {self.port} cannot be opened for other hosts: {error.strerror or error}")
            await anyio.sleep(AGAIN_S)

    def _is_member(self, certificate: Mapping[str, Any]) -> bool:
        """Whether a certificate is one of this cluster's. Whether its node still belongs to it is asked per request."""
        return bool(certificate) and bool(identity_in(certificate, self._membership.cluster().metadata.uid).node)

    def _say(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            log.error("listener_blocked", reason=trouble)

    def _load(self, context: ssl.SSLContext) -> float:
        """Give the context a fresh certificate; returns for how many seconds it is good."""
        cluster = self._membership.cluster()
        lifetime = timedelta(seconds=cluster.spec.certificate_expiry.seconds)
        subject = Subject(self._node, cluster.metadata.uid, UNITS[Role.MANAGER])
        hosts = tuple(dict.fromkeys((SERVER_NAME, self._node, "localhost", "127.0.0.1", *self._hosts)))
        pair = issue(self._membership.authority(), subject, datetime.now(UTC), lifetime, hosts=hosts, server=True)
        load_pair(context, pair)
        return lifetime.total_seconds()

    async def _renew(self, context: ssl.SSLContext) -> None:
        left = self._membership.cluster().spec.certificate_expiry.seconds
        while True:
            await anyio.sleep(left * random.uniform(0.5, 0.8))  # noqa: S311 -- spreads load only
            try:
                left = self._load(context)
                log.info("certificate_renewed", node=self._node)
            except ShoalError as error:
                log.warning("certificate_not_renewed", node=self._node, reason=str(error))
                left = AGAIN_S

    async def _sweep(self) -> None:
        while True:
            await anyio.sleep(SWEEP_S)
            self._connections.sweep()


def split_address(address: str) -> tuple[str, int]:
    """Read "0.0.0.0:2377"; InvalidError if it is no such thing."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidError(f"--listen: expected ADDRESS:PORT, found {address!r}")
    return host, int(port)


def identify(request: web.Request, cluster: Callable[[], str]) -> Identity:
    """Return who asks: on the unix socket an admin, over TLS whom the certificate names, if it is of this cluster."""
    transport = request.transport
    if transport is None:
        return NOBODY
    if transport.get_extra_info("sslcontext") is None:
        return ADMIN
    return identity_in(transport.get_extra_info("peercert") or {}, cluster())


def identity_in(certificate: Mapping[str, Any], cluster: str) -> Identity:
    """Read a certificate that TLS has verified, as Python spells it. Pure."""
    subject = {name: value for part in certificate.get("subject", ()) for name, value in part}
    role = _ROLES.get(subject.get("organizationalUnitName", ""))
    node = subject.get("commonName", "")
    if role is None or not node or not cluster or subject.get("organizationName") != cluster:
        return NOBODY
    return Identity(node=node, role=role, until=float(ssl.cert_time_to_seconds(certificate["notAfter"])))
