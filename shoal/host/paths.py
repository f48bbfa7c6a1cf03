"""Where a host keeps what: the state directory (survives a reboot) and the run directory (does not). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    state_dir: Path
    run_dir: Path

    @property
    def identity(self) -> Path:
        return self.state_dir / "host.json"

    @property
    def cluster_key(self) -> Path:
        return self.state_dir / "cluster.key"

    @property
    def lock(self) -> Path:
        """Locked by the running daemon, which writes its process id into it."""
        return self.state_dir / "host.lock"

    @property
    def etcd_pki(self) -> Path:
        return self.state_dir / "pki" / "etcd"

    @property
    def first_root(self) -> Path:
        """The new cluster's root, its key sealed, until etcd holds it."""
        return self.state_dir / "pki" / "first-root.json"

    @property
    def node_pki(self) -> Path:
        return self.state_dir / "pki" / "node"

    @property
    def node_ca(self) -> Path:
        """The cluster's root certificate."""
        return self.node_pki / "ca.crt"

    @property
    def node_chain(self) -> Path:
        """The node's certificate and its key, in one file so that they always fit."""
        return self.node_pki / "node.pem"

    @property
    def agent(self) -> Path:
        return self.state_dir / "agent"

    @property
    def etcd_data(self) -> Path:
        return self.state_dir / "etcd"

    @property
    def logs(self) -> Path:
        return self.state_dir / "logs"

    @property
    def host_socket(self) -> Path:
        return self.run_dir / "host.sock"

    @property
    def api_socket(self) -> Path:
        return self.run_dir / "api.sock"

    @property
    def status_sockets(self) -> Path:
        return self.run_dir / "status"

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    def status_socket(self, process: str) -> Path:
        return self.status_sockets / f"{process}.sock"
