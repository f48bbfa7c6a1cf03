"""Who this host is: `<state-dir>/host.json`. Absent on a host that belongs to no swarm."""

from __future__ import annotations

import secrets
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from shoal.api.errors import TerminalError
from shoal.api.meta import uid_from
from shoal.api.objects import ClusterSpec
from shoal.api.states import Availability, Role
from shoal.machinery.files import write_atomic


class Phase(StrEnum):
    """INITIALISING: its first objects may not be in etcd yet. LEAVING: what it holds may not all be gone yet. A restart
    goes on from there.
    """

    INITIALISING = "initialising"
    MEMBER = "member"
    LEAVING = "leaving"


API_PORT: Final = 2377
"""Where managers serve other hosts, as Swarm's do."""


class EtcdPorts(Struct, frozen=True):
    client: int = 2379
    peer: int = 2380


class Networking(Struct, frozen=True, rename="camel"):
    """What a new cluster's overlay networks are made from; later the cluster's spec says. Swarm's defaults."""

    default_addr_pools: tuple[str, ...] = ClusterSpec().default_addr_pools
    subnet_size: int = ClusterSpec().subnet_size
    data_path_port: int = ClusterSpec().data_path_port

    def of_cluster(self) -> ClusterSpec:
        """Return the spec of the cluster that begins with it."""
        return ClusterSpec(
            default_addr_pools=self.default_addr_pools,
            subnet_size=self.subnet_size,
            data_path_port=self.data_path_port,
        )


class Identity(Struct, frozen=True, rename="camel", kw_only=True):
    phase: Phase
    node: str
    """The node's uid: random, kept for the host's whole membership."""
    name: str
    role: Role
    cluster: str
    """The cluster's uid."""
    incarnation: str
    advertise_addr: str
    etcd_ports: EtcdPorts = EtcdPorts()
    api_port: int = API_PORT
    """Where a manager serves other hosts."""
    availability: Availability = Availability.ACTIVE
    """What the node begins with; later the node's spec says."""
    data_path_addr: str = ""
    """The host's address for overlay traffic; "" = `advertise_addr`."""
    networking: Networking = Networking()
    """What the first host's cluster begins with."""
    managers: tuple[str, ...] = ()
    """Where a worker finds API servers: "10.0.0.1:2377"."""


def random_uid() -> str:
    return uid_from(secrets.token_bytes(16))


def make_first_identity(
    name: str,
    advertise_addr: str,
    etcd_ports: EtcdPorts,
    api_port: int = API_PORT,
    availability: Availability = Availability.ACTIVE,
    data_path_addr: str = "",
    networking: Networking = Networking(),  # noqa: B008 - frozen
) -> Identity:
    """Return the identity of a host that begins a cluster."""
    return Identity(
        phase=Phase.INITIALISING,
        node=random_uid(),
        name=name,
        role=Role.MANAGER,
        cluster=random_uid(),
        incarnation=random_uid(),
        advertise_addr=advertise_addr,
        etcd_ports=etcd_ports,
        api_port=api_port,
        availability=availability,
        data_path_addr=data_path_addr,
        networking=networking,
    )


def load(path: Path) -> Identity | None:
    """Read a host's identity, None if it has none; TerminalError for a file that is not one."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(raw, type=Identity)
    except msgspec.DecodeError as error:
        raise TerminalError(f"{path} is damaged ({error}); restore it from a backup of the state directory") from error


def save(path: Path, identity: Identity) -> None:
    write_atomic(path, msgspec.json.format(msgspec.json.encode(identity), indent=2) + b"\n")
