"""What the host daemon says of itself, as `shoal status` shows it."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec import Struct

from shoal.host.identity import Identity
from shoal.host.supervisor import Unit


class ProcessReport(Struct, frozen=True, rename="camel"):
    name: str
    state: str
    pid: int
    started_at: datetime | None
    restarts: int
    last_end: str
    """How it ended last: "signal 9", "exit code 1"; "" = it has not."""
    waits_for: tuple[str, ...]
    healthy: bool


class HostReport(Struct, frozen=True, rename="camel"):
    pid: int
    version: str
    name: str
    state_dir: str
    run_dir: str
    logs: str
    docker: str
    identity: Identity | None
    """None: this host belongs to no cluster."""
    node_state: str
    """As the cluster sees it; "" while the API server does not answer."""
    settled: bool
    """Everything that is wanted is up."""
    problems: tuple[str, ...]
    processes: tuple[ProcessReport, ...]


def report_process(unit: Unit, waits_for: tuple[str, ...], healthy: bool) -> ProcessReport:
    started_at = datetime.fromtimestamp(unit.started_at, UTC) if unit.started_at else None
    pid = unit.child.pid if unit.child is not None else 0
    return ProcessReport(
        unit.process.name, unit.state, pid, started_at, unit.restarts.total, unit.last_end, waits_for, healthy
    )
