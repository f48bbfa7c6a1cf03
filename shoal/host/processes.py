"""Which processes a host's role calls for, in which order, with which command lines. Pure."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shoal.api.errors import RemovedError
from shoal.api.states import Role
from shoal.host.identity import Identity
from shoal.host.paths import Paths

CONTROLLERS = ("replication", "rollout", "placement", "endpoint", "nodes")

CLUSTER = "cluster"
"""A need that is no process: the cluster's first objects are in etcd."""

ETCD_QUOTA_BYTES = 2 << 30
"""etcd raises an alarm and refuses writes beyond it. A thousand nodes with ten thousand tasks need about 100 MB."""

ETCD_HISTORY = "10m"
"""How far back a watch may resume after an interruption; older history is compacted."""

ETCD_MAX_OPERATIONS = 1024
"""Operations in one transaction; Shoal sends at most 100, each with its compares."""


@dataclass(frozen=True)
class Ready:
    """When a process counts as up: its HTTP answer at `path` on a unix socket or, for etcd, on a TLS port."""

    socket: Path | None = None
    path: str = "/readyz"
    tls_port: int = 0


@dataclass(frozen=True)
class Process:
    """`needs` names what must be ready before a start. `stop_within_s`: then SIGTERM becomes SIGKILL."""

    name: str
    argv: tuple[str, ...]
    needs: tuple[str, ...] = ()
    ready: Ready = Ready()
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_within_s: float = 10.0
    final_code: int | None = None
    """An exit code after which it is not started again: it has said that there is nothing left to do."""


def processes_for(identity: Identity, paths: Paths, docker: str, machine: str = "x86_64") -> tuple[Process, ...]:
    """Return what this host runs. `machine` as `uname -m`: etcd 3.4 wants to be persuaded on 64-bit ARM."""
    if identity.role is Role.WORKER:
        return (_dns(identity, paths), _nodeagent(identity, paths, docker, _over_tls(identity, paths), needs=()))
    return (
        _etcd(identity, paths, machine),
        _apiserver(identity, paths),
        *(_controller(name, identity, paths) for name in CONTROLLERS),
        _dns(identity, paths),
        _nodeagent(identity, paths, docker, ("--api", f"unix://{paths.api_socket}"), needs=("apiserver",)),
    )


def stop_order(processes: Iterable[Process]) -> list[list[Process]]:
    """Group processes so that each group may stop together, and nobody outlives what it needs."""
    left = {process.name: process for process in processes}
    groups: list[list[Process]] = []
    while left:
        needed = {need for process in left.values() for need in process.needs}
        group = [process for name, process in left.items() if name not in needed]
        assert group, f"processes need each other in a circle: {sorted(left)}"
        groups.append(group)
        left = {name: process for name, process in left.items() if process not in group}
    return groups


def etcd_url(identity: Identity) -> str:
    return f"https://127.0.0.1:{identity.etcd_ports.client}"


def etcd_options(identity: Identity, paths: Paths) -> tuple[str, ...]:
    """The options by which API servers and controllers find etcd."""
    return (
        "--etcd", etcd_url(identity),
        "--etcd-ca", str(paths.etcd_pki / "ca.crt"),
        "--etcd-cert", str(paths.etcd_pki / "client.crt"),
        "--etcd-key", str(paths.etcd_pki / "client.key"),
    )  # fmt: skip


def _etcd(identity: Identity, paths: Paths, machine: str) -> Process:
    pki, client = paths.etcd_pki, etcd_url(identity)
    peer = f"https://127.0.0.1:{identity.etcd_ports.peer}"
    server = (f"{pki}/server.crt", f"{pki}/server.key", f"{pki}/ca.crt")
    return Process(
        "etcd",
        (
            "etcd",
            "--name", identity.node,
            "--data-dir", str(paths.etcd_data),
            "--listen-client-urls", client,
            "--advertise-client-urls", client,
            "--cert-file", server[0], "--key-file", server[1], "--trusted-ca-file", server[2],
            "--client-cert-auth",
            "--listen-peer-urls", peer,
            "--initial-advertise-peer-urls", peer,
            "--peer-cert-file", server[0], "--peer-key-file", server[1], "--peer-trusted-ca-file", server[2],
            "--peer-client-cert-auth",
            "--initial-cluster", f"{identity.node}={peer}",
            "--initial-cluster-token", identity.cluster,
            "--initial-cluster-state", "new",
            "--auto-compaction-mode", "periodic",
            "--auto-compaction-retention", ETCD_HISTORY,
            "--quota-backend-bytes", str(ETCD_QUOTA_BYTES),
            "--max-txn-ops", str(ETCD_MAX_OPERATIONS),
            "--snapshot-count", "10000",
            "--logger", "zap",
            "--log-level", "warn",
        ),
        ready=Ready(path="/health", tls_port=identity.etcd_ports.client),
        environment={"ETCD_UNSUPPORTED_ARCH": "arm64"} if machine == "aarch64" else {},
    )  # fmt: skip


def _apiserver(identity: Identity, paths: Paths) -> Process:
    options = (
        "--socket", str(paths.api_socket),
        "--cluster-key", str(paths.cluster_key),
        "--listen", f"0.0.0.0:{identity.api_port}",
        "--node", identity.node,
        "--advertise", identity.advertise_addr,
    )  # fmt: skip
    return Process(
        "apiserver",
        _python("apiserver", *etcd_options(identity, paths), *options, *_status("apiserver", paths)),
        needs=("etcd", CLUSTER),
        ready=Ready(paths.api_socket, "/readyz"),
    )


def _controller(name: str, identity: Identity, paths: Paths) -> Process:
    return Process(
        name,
        _python("controllers", name, *etcd_options(identity, paths), *_status(name, paths)),
        needs=("etcd", CLUSTER),
        ready=Ready(paths.status_socket(name), "/readyz"),
    )


def _over_tls(identity: Identity, paths: Paths) -> tuple[str, ...]:
    """How a worker's agent reaches the managers."""
    urls = (("--api", f"https://{address}") for address in identity.managers)
    return (
        *(word for pair in urls for word in pair),
        "--tls-ca", str(paths.node_ca),
        "--tls-chain", str(paths.node_chain),
    )  # fmt: skip


def _nodeagent(identity: Identity, paths: Paths, docker: str, way: tuple[str, ...], needs: tuple[str, ...]) -> Process:
    options = (
        *way,
        "--node", identity.node,
        "--address", identity.advertise_addr,
        "--docker", docker,
        "--state-dir", str(paths.state_dir),
        "--run-dir", str(paths.run_dir),
    )  # fmt: skip
    return Process(
        "nodeagent",
        _python("nodeagent", *options, *_status("nodeagent", paths)),
        needs=needs,
        ready=Ready(paths.status_socket("nodeagent"), "/readyz"),
        final_code=RemovedError.exit_code,
    )


def _dns(identity: Identity, paths: Paths) -> Process:
    """Needs nobody: it answers by what the agent stored until that one speaks to it."""
    options = ("--node", identity.node, "--state-dir", str(paths.state_dir), "--run-dir", str(paths.run_dir))
    return Process(
        "dns",
        _python("nodeagent.dns", *options, *_status("dns", paths)),
        ready=Ready(paths.status_socket("dns"), "/readyz"),
    )


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", module, *arguments)


def _status(name: str, paths: Paths) -> tuple[str, ...]:
    return ("--status-socket", str(paths.status_socket(name)))
