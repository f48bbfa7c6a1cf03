"""A host on which nothing happens: nothing is written, and each process says how it is."""

from __future__ import annotations

import json
import time

import pytest

from tests.support.lab import Host, eventually
from tests.support.onlookers import Bystander, revision, settled

IDLE_S = 15.0
FULL_IDLE_S = 60.0

OBSERVABLE = ("apiserver", "replication", "rollout", "placement", "endpoint", "nodes", "dns", "nodeagent")
SETTLED_S = 3.0
"""Without a write for so long, the last change is over."""


def test_nothing_is_written_while_nothing_happens(rough_host: Host, bystander: Bystander, full: bool) -> None:
    eventually(lambda: settled(rough_host), within=60)
    eventually(lambda: revision_stays(rough_host, SETTLED_S), within=60)
    before = cpu_seconds(rough_host)
    idle_s = FULL_IDLE_S if full else IDLE_S

    assert revision_stays(rough_host, idle_s)

    for name, seconds in cpu_seconds(rough_host).items():
        print(f"{name}: {100 * (seconds - before[name]) / idle_s:.1f} % of a CPU while idle")
    bystander.assert_untouched()


@pytest.mark.parametrize("process", OBSERVABLE)
def test_each_process_tells_its_health_and_metrics(rough_host: Host, process: str) -> None:
    eventually(lambda: settled(rough_host), within=60)
    assert ask(rough_host, process, "healthz") == "ok"
    assert ask(rough_host, process, "readyz") == "ok"
    metrics = ask(rough_host, process, "metrics")
    assert "process_resident_memory_bytes" in metrics
    if process not in ("apiserver", "dns", "nodeagent"):
        assert f'shoal_leader{{controller="{process}"}} 1.0' in metrics
        assert f'shoal_queue_depth{{controller="{process}"}}' in metrics


def test_metrics_count_the_tasks_that_run(rough_host: Host, bystander: Bystander) -> None:
    def counted() -> bool:
        metrics = ask(rough_host, "apiserver", "metrics")
        return 'shoal_service_tasks_running{service="bystander"} 2.0' in metrics

    eventually(counted)


def revision_stays(host: Host, seconds: float) -> bool:
    before = revision(host)
    time.sleep(seconds)
    return revision(host) == before


def ask(host: Host, process: str, what: str) -> str:
    socket = f"/run/shoal/status/{process}.sock"
    return host.run("curl", "-fsS", "-m", "5", "--unix-socket", socket, f"http://host/{what}").ok().out.strip()


def cpu_seconds(host: Host) -> dict[str, float]:
    """What each process has used since it began."""
    ticks = json.loads(host.run("getconf", "CLK_TCK").ok().out)
    found = {}
    for one in host.status()["processes"]:
        fields = host.read(f"/proc/{one['pid']}/stat").rpartition(")")[2].split()
        found[one["name"]] = (int(fields[11]) + int(fields[12])) / ticks
    return found
