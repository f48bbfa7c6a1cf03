"""A private swarm's manager, without a host, a Docker engine or a network: etcd, an API server with its door for other
hosts, and the controllers, as processes on loopback. What hosts bring, hollow nodes bring.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import anyio
import msgspec

from hack.benchmarks.http import Client
from hack.hollows.children import Child, child
from hack.waiting import until
from shoal.api import codec, keys
from shoal.api import objects as o
from shoal.api.states import Availability, Role
from shoal.host.bootstrap import first_objects
from shoal.host.identity import Identity, Phase, random_uid
from shoal.machinery.authority import Root, make_root
from shoal.machinery.etcd import EtcdStore
from shoal.machinery.pki import Subject, make_authority
from shoal.machinery.sealing import KEY_BYTES
from shoal.machinery.store import Put, Txn
from tests.support.etcd import EtcdProcess, free_ports, running_etcd

CONTROLLERS = ("replication", "rollout", "placement", "endpoint", "nodes")
INGRESS = o.Subnet(subnet="10.0.0.0/16", gateway="10.0.0.1")
"""Every node has an address on the ingress network; the usual /24 ends at some 250 nodes."""


@dataclass(frozen=True)
class Swarm:
    etcd: EtcdProcess
    children: dict[str, Child]
    """API server and controllers, by name."""
    api: Client
    socket: Path
    remote: str
    token: str

    def pids(self) -> dict[str, int]:
        return {"etcd": self.etcd.pid, **{name: one.pid for name, one in self.children.items()}}


@contextmanager
def private_swarm(directory: Path) -> Iterator[Swarm]:
    """Run a swarm of no nodes but its manager, who takes no tasks; its files are in `directory`."""
    (port,) = free_ports(1)
    key = os.urandom(KEY_BYTES)
    secret = directory / "cluster.key"
    secret.touch(mode=0o600)
    secret.write_bytes(key)
    identity = Identity(
        phase=Phase.MEMBER, node=random_uid(), name="manager", role=Role.MANAGER, cluster=random_uid(),
        incarnation=random_uid(), advertise_addr="127.0.0.1", api_port=port, availability=Availability.DRAIN,
    )  # fmt: skip
    socket = directory / "api.sock"
    with running_etcd() as etcd, ExitStack() as stack:
        anyio.run(_found, etcd.url, identity, _root(identity, key))
        commands = {
            "apiserver": [
                "apiserver", "--etcd", etcd.url, "--socket", str(socket), "--cluster-key", str(secret),
                "--listen", f"127.0.0.1:{port}", "--node", identity.node, "--advertise", "127.0.0.1",
            ],
            **{name: ["controllers", name, "--etcd", etcd.url] for name in CONTROLLERS},
        }  # fmt: skip
        children = {name: stack.enter_context(child(name, command, directory)) for name, command in commands.items()}
        api = Client(str(socket))
        token = until(lambda: _token(api), what="the API server")
        yield Swarm(etcd, children, api, socket, f"127.0.0.1:{port}", token)


def _root(identity: Identity, key: bytes) -> Root:
    return make_root(make_authority(Subject("swarm-ca"), datetime.now(UTC)), identity.cluster, key)


def _token(api: Client) -> str:
    try:
        found = api.call("GET", "/shoal/v1/tokens")
    except (OSError, AssertionError):
        return ""
    return str(found["worker"]) if found["managers"] else ""


async def _found(url: str, identity: Identity, root: Root) -> None:
    store = EtcdStore((url,))
    try:
        for obj in first_objects(identity, root, datetime.now(UTC)):
            roomy = _with_room(obj)
            await store.commit(Txn((), (Put(keys.key_of(roomy), codec.encode(roomy)),)))
    finally:
        await store.close()


def _with_room(obj: o.Object) -> o.Object:
    """Give the ingress network room for thousands of nodes."""
    if not isinstance(obj, o.Network) or not obj.spec.ingress:
        return obj
    spec = msgspec.structs.replace(obj.spec, subnets=(INGRESS,))
    return msgspec.structs.replace(obj, spec=spec, status=msgspec.structs.replace(obj.status, subnets=(INGRESS,)))
