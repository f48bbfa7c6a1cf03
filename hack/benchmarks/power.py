"""How long after a host's power cut its tasks run on the others: three hosts with real engines, default settings."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hack.benchmarks import kernel
from hack.benchmarks.figures import Report, listed, of_samples
from hack.benchmarks.host import COMMAND, IMAGE
from hack.waiting import until
from tests.support.cluster import Cluster, forming
from tests.support.lab import Lab, remove_folder
from tests.support.user import service

REPLICAS = 9
NAME = "powered"


def run(rounds: int = 5) -> Report:
    report = Report(f"a power cut, {REPLICAS} replicas on three hosts")
    with three_hosts() as cluster:
        measure(cluster, report, rounds)
    return report


@contextmanager
def three_hosts() -> Iterator[Cluster]:
    """A laboratory of three hosts, one cluster; it ends with us."""
    directory = Path(tempfile.mkdtemp(prefix="shoal-bench-"))
    lab = Lab(f"b{os.getpid()}", directory, tied=True)
    try:
        lab.up(0)
        with forming(lab, 1, 2, 3) as cluster:
            yield cluster
    finally:
        lab.down()
        remove_folder(directory)


def measure(cluster: Cluster, report: Report, rounds: int) -> None:
    """A4: each round cuts the third host's power while it runs a third of the tasks, and brings it back."""
    seen: list[float] = []
    elsewhere: list[float] = []
    for _ in range(rounds):
        _spread(cluster)
        load = kernel.load()
        down_s, running_s = cut_power(cluster, NAME, REPLICAS)
        seen.append(down_s)
        elsewhere.append(running_s)
        report.notes.append(f"down after {down_s:.2f} s, all elsewhere after {running_s:.2f} s; load {load}")
        cluster.restore()
    report.figures += [
        of_samples("A4 power cut until all tasks run elsewhere", elsewhere, "s", bar=10.0),
        of_samples("   until the node is seen down", seen, "s"),
    ]
    report.notes.append(f"A4 samples, s: {listed(elsewhere)}")


def cut_power(cluster: Cluster, name: str, replicas: int) -> tuple[float, float]:
    """Cut the third host's power; return the seconds until it is seen down, and until the others run all replicas."""
    cut_at = time.monotonic()
    cluster.three.off()
    until(lambda: cluster.nodes()[cluster.three.name] == "down")
    down_s = time.monotonic() - cut_at
    until(lambda: cluster.running_on(name, *cluster.hosts[:2]) == replicas)
    return down_s, time.monotonic() - cut_at


def _spread(cluster: Cluster) -> None:
    manifest = service(NAME, image=IMAGE, command=COMMAND, stopSignal="SIGKILL", replicas=REPLICAS)
    cluster.boss.shoal(["apply", "-d", "-f", "-"], stdin=manifest).ok()
    until(lambda: cluster.running(NAME) == {host.name: REPLICAS // 3 for host in cluster.hosts})
