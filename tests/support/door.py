"""An API server that serves other hosts over TLS on loopback, and hosts that knock."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import msgspec

from apiserver.entrance import LIMITS, Limits
from apiserver.listener import Listener
from apiserver.membership import UNITS
from shoal.api import objects as o
from shoal.api.states import Role
from shoal.host.joining import Remote
from shoal.machinery.authority import make_root, with_root
from shoal.machinery.factories import make_cluster, make_network, make_node
from shoal.machinery.memory import MemoryStore
from shoal.machinery.pki import Pair, Subject, issue, make_authority
from shoal.machinery.tls import SERVER_NAME, client_context
from tests.support import eventually
from tests.support.api import Api, running_api

KEY = bytes(range(32))
BOSS = make_node("boss", role=Role.MANAGER, address="10.0.0.1")


@dataclass
class Door:
    api: Api
    authority: Pair
    cluster: o.Cluster
    remote: Remote
    folder: Path

    async def token(self, role: str = "worker") -> str:
        _, found = await self.api.get("tokens")
        return str(found[role])

    def certified(
        self, node: o.Node, *, authority: Pair | None = None, cluster: str = "", unit: str = "",
        lifetime: timedelta = timedelta(days=1), ago: timedelta = timedelta(),
    ) -> Path:  # fmt: skip
        """Return a file with a node's certificate and key, signed by the cluster's authority unless told otherwise."""
        subject = Subject(node.metadata.uid, cluster or self.cluster.metadata.uid, unit or UNITS[node.spec.role])
        pair = issue(authority or self.authority, subject, datetime.now(UTC) - ago, lifetime)
        path = self.folder / f"{node.metadata.name}.{abs(hash(pair.certificate))}.pem"
        path.write_bytes(pair.certificate + pair.key)
        return path

    @asynccontextmanager
    async def client(self, chain: Path | None = None) -> AsyncIterator[Client]:
        """A client with a certificate, or without one."""
        context = client_context(self.authority.certificate, chain)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            yield Client(session, self.remote)


@dataclass
class Client:
    session: aiohttp.ClientSession
    remote: Remote

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return (status, decoded body)."""
        data = msgspec.json.encode(body) if body is not None else None
        async with self.session.request(method, self.url(path), data=data, server_hostname=SERVER_NAME) as answer:
            raw = await answer.read()
            return answer.status, msgspec.json.decode(raw) if answer.content_type == "application/json" else raw

    def url(self, path: str) -> str:
        return f"https://{self.remote}{path if path.startswith('/') else '/shoal/v1/' + path}"


@asynccontextmanager
async def open_door(
    folder: Path,
    authority: Pair | None = None,
    limits: Limits = LIMITS,
    store: MemoryStore | None = None,
    **spec: Any,
) -> AsyncIterator[Door]:
    """Run an API server of a cluster with one manager; `spec` are the cluster's settings."""
    authority = authority or make_authority(Subject("swarm-ca"), datetime.now(UTC))
    cluster = make_cluster(**spec)
    root = make_root(authority, cluster.metadata.uid, KEY)
    cluster = msgspec.structs.replace(cluster, status=with_root(cluster.status, root))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with running_api(folder, store, cluster_key=KEY) as api, anyio.create_task_group() as tasks:
        status = msgspec.structs.replace(BOSS.status, api=f"127.0.0.1:{port}")
        await api.seed(
            cluster, msgspec.structs.replace(BOSS, status=status), make_network("ingress", subnet="10.255.0.0/24")
        )
        server = api.server
        listener = Listener(server.membership, server.connections, f"127.0.0.1:{port}", BOSS.metadata.uid, (), limits)
        tasks.start_soon(listener.run, api.runner)

        async def is_open() -> bool:
            return not listener.trouble

        await eventually(is_open)
        yield Door(api, authority, cluster, Remote("127.0.0.1", port), folder)
        tasks.cancel_scope.cancel()
