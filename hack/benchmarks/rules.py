"""What one changed backend costs a node's agent, by how many services and containers there are; and what a connection.

The agent's code programs the rules of a real kernel, in a network namespace of its own (`one_node`). What is written is
counted, which says the same on any machine; CPU time is that of the agent and of the programs it runs.
"""

from __future__ import annotations

import json
import subprocess
import sys

from hack.benchmarks import kernel
from hack.benchmarks.figures import Figure, Report, growth_exponent, listed, of_samples, quartiles
from hack.benchmarks.one_node import Costs
from tests.support.lab import REPOSITORY

SIZES = (10, 100, 1000)
BACKENDS = 10
CONTAINERS = 50


def run(rounds: int = 5) -> Report:
    report = Report(f"one changed backend among {', '.join(map(str, SIZES))} services with {BACKENDS} each")
    by_services = {size: measure(size, connects=300 if size in (SIZES[0], SIZES[-1]) else 0) for size in SIZES}
    few, many = by_services[SIZES[0]], by_services[SIZES[-1]]
    by_containers = [(measure(SIZES[0]), measure(SIZES[0], containers=CONTAINERS)) for _ in range(rounds)]
    cpu_s = {1: 0.0, CONTAINERS: 0.0}
    for at, count in enumerate(cpu_s):
        cpu_s[count] = quartiles([pair[at].change_cpu_s for pair in by_containers])[1]
    vip = [_ratio(one) for one in (few, many)]
    report.figures += [
        Figure(f"rules written for one change, {SIZES[-1]} services", many.script_lines, "lines", bar=few.script_lines),
        Figure("   what the kernel tells of it", many.told, "lines", bar=few.told),
        Figure("   forwarding and neighbour entries", many.entries, "", bar=0),
        Figure("   bytes", many.script_bytes, "", bar=1000),
        Figure("F6 growth exponent of its CPU with services",
               growth_exponent({size: one.change_cpu_s for size, one in by_services.items()}), bar=0.3, aim=0.1),
        Figure(f"F6 the same with containers, 1 to {CONTAINERS}", growth_exponent(cpu_s), bar=0.3, aim=0.1),
        of_samples(f"D5 its CPU with {CONTAINERS} containers / with 1",
                   [more.change_cpu_s / one.change_cpu_s for one, more in by_containers], bar=10, aim=1.5),
        Figure(f"   CPU of one change, {SIZES[-1]} services", 1000 * many.change_cpu_s, "ms"),
        Figure("   CPU of the look every 20 s, the same", 1000 * many.look_cpu_s, "ms"),
        Figure("   CPU of the first pass, the same", many.first_cpu_s, "s"),
        Figure(f"D4 connect through a virtual IP, {SIZES[-1]} services / {SIZES[0]}", vip[1] / vip[0],
               bar=1.1, aim=1.03),
    ]  # fmt: skip
    report.notes += [
        f"{size} services: CPU ms per change {1000 * one.change_cpu_s:.1f}, per look {1000 * one.look_cpu_s:.0f},"
        f" first {one.first_cpu_s:.2f} s · connect µs direct {listed(one.direct_us)} virtual IP {listed(one.vip_us)}"
        for size, one in by_services.items()
    ]
    report.notes.append(f"load {kernel.load()}")
    return report


def measure(services: int, *, containers: int = 1, changes: int = 20, connects: int = 0) -> Costs:
    options = {
        "services": services,
        "backends": BACKENDS,
        "containers": containers,
        "changes": changes,
        "connects": connects,
    }
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "hack.benchmarks.one_node",
         *(word for name, value in options.items() for word in (f"--{name}", str(value)))],
        stdout=subprocess.PIPE, text=True, check=True, timeout=600, cwd=REPOSITORY,
    )  # fmt: skip
    return Costs(**json.loads(done.stdout.splitlines()[-1]))


def _ratio(one: Costs) -> float:
    """A connection through a virtual IP, to one without, round by round."""
    return quartiles([vip / direct for vip, direct in zip(one.vip_us, one.direct_us, strict=True)])[1]
