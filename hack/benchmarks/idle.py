"""What Shoal costs while nothing changes: memory and CPU of each process on a host with ten services.

Memory is the proportional share (PSS) from smaps_rollup: pages that processes share are counted once in the sum.
"""

from __future__ import annotations

import time

from hack.benchmarks import kernel
from hack.benchmarks.figures import Figure, Report
from hack.benchmarks.host import Place, one_host
from hack.waiting import until

SETTLE_S = 5.0
MIB = 1 << 20
EVERYWHERE = ("nodeagent", "dns")
"""What runs on every host; the rest is the managers'."""


def run(seconds: float = 60.0, services: int = 10) -> Report:
    report = Report(f"idle for {seconds:.0f} s with {services} services")
    with one_host() as place:
        for number in range(services):
            place.create(f"idle{number}", 1)
        until(lambda: all(place.running_tasks(f"idle{number}") == 1 for number in range(services)))
        time.sleep(SETTLE_S)
        measure(place, report, seconds)
    return report


def measure(place: Place, report: Report, seconds: float) -> None:
    pids = place.processes()
    before = {name: kernel.own_cpu_s(pid) for name, pid in pids.items()}
    time.sleep(seconds)
    percent = {name: 100 * (kernel.own_cpu_s(pid) - before[name]) / seconds for name, pid in pids.items()}
    memory = {name: kernel.pss_bytes(pid) / MIB for name, pid in pids.items()}
    managers = [name for name in pids if name not in EVERYWHERE]
    report.figures += [
        Figure("E1 CPU of the control plane, etcd apart", sum(percent[name] for name in managers if name != "etcd"),
               "%", bar=2.0, aim=0.65),
        Figure("E2 CPU of agent and name service", sum(percent[name] for name in EVERYWHERE), "%", bar=1.0, aim=0.4),
        Figure("   CPU of etcd", percent["etcd"], "%"),
        Figure("E3 memory of the control plane with etcd", sum(memory[name] for name in managers), "MB",
               bar=350, aim=180),
        Figure("E4 memory of agent and name service", sum(memory[name] for name in EVERYWHERE), "MB", bar=90, aim=40),
    ]  # fmt: skip
    report.notes += [f"{name:12} {memory[name]:6.1f} MB PSS  {percent[name]:5.2f} % CPU" for name in sorted(pids)]
    report.notes.append(f"load {kernel.load()}")
