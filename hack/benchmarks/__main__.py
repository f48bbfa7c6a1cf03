"""Runs benchmarks and prints their figures: `hack/bench [replicas | placements | idle | names | network | …]`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from hack.benchmarks import hollow, idle, names, network, placements, power, replicas, rollout, rules
from hack.benchmarks.figures import Report, table


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="hack/bench", description=__doc__)
    known = ["replicas", "placements", "idle", "names", "network", "rules", "power", "rollout", "hollow"]
    parser.add_argument("what", nargs="*", choices=[*known, []], help="all, if none is named")
    parser.add_argument(
        "--rounds", type=int, default=5, help="of replicas, names, network, rules and power; 3 at most of rollout"
    )
    parser.add_argument("--sizes", default="1000,3000,10000", help="of placements and hollow: numbers of tasks")
    parser.add_argument("--nodes", type=int, default=1000, help="of hollow (default 1000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of idling")
    given = parser.parse_args(arguments)
    sizes = [int(size) for size in given.sizes.split(",")]
    benchmarks: dict[str, Callable[[], Report]] = {
        "replicas": lambda: replicas.run(rounds=given.rounds),
        "placements": lambda: placements.run(sizes),
        "idle": lambda: idle.run(seconds=given.seconds),
        "names": lambda: names.run(rounds=given.rounds),
        "network": lambda: network.run(rounds=given.rounds),
        "rules": lambda: rules.run(rounds=given.rounds),
        "power": lambda: power.run(rounds=given.rounds),
        "rollout": lambda: rollout.run(rounds=min(given.rounds, 3)),
        "hollow": lambda: hollow.run(given.nodes, sizes),
    }
    reports = []
    for name in given.what or benchmarks:
        print(f"running {name} …", file=sys.stderr, flush=True)
        reports.append(benchmarks[name]())
    machine = os.uname()
    stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    print(f"{stamp}, {os.cpu_count()} CPUs, {machine.sysname} {machine.release}, {machine.machine}\n")
    print(table(reports))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
