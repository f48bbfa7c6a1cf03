"""How long Shoal takes to run containers, against the same containers started by hand on the same engine.

Rounds alternate between Shoal and the raw engine. The raw time of a round is that of its best parallelism. Both ends
are the engine's own: the moment of its last `start` event, and a listing of what runs.
"""

from __future__ import annotations

import time
from itertools import count
from typing import Any

from hack.benchmarks import kernel
from hack.benchmarks.engine import LABEL, Engine
from hack.benchmarks.figures import Report, listed, of_samples
from hack.benchmarks.host import COMMAND, IMAGE, SERVICE_LABEL, Place, one_host
from hack.waiting import until

PARALLELISMS = (3, 6, 12)
NETWORK = "raw"
_numbers = count(1)


def run(rounds: int = 5, replicas: int = 30, singles: int = 9, heals: int = 5) -> Report:
    report = Report(f"{replicas} replicas on one engine")
    with one_host() as place:
        warm_up(place)
        many(place, report, rounds, replicas)
        one(place, report, singles)
        heal(place, report, heals)
    return report


def warm_up(place: Place) -> None:
    place.engine.ensure_network(NETWORK, "10.77.0.0/16")
    _raw(place.engine, 3, 3)
    _shoal(place, 3)


def many(place: Place, report: Report, rounds: int, replicas: int) -> None:
    """A1: the ratio, with its raw samples."""
    raw: list[float] = []
    shoal: list[float] = []
    seen: list[float] = []
    for number in range(rounds):
        ours = _shoal(place, replicas) if number % 2 else None
        tries = {width: _raw(place.engine, replicas, width) for width in PARALLELISMS}
        ours = ours or _shoal(place, replicas)
        raw.append(min(tries.values()))
        shoal.append(ours["engine"])
        seen.append(ours["api"])
        told = ", ".join(f"{width} at once {seconds:.2f}" for width, seconds in tries.items())
        report.notes.append(
            f"round {number + 1}: raw {told}; Shoal {ours['engine']:.2f} s, shown running after {ours['api']:.2f} s, "
            f"{ours['cpu']:.2f} CPU s of Shoal's processes; load {kernel.load()}"
        )
    ratios = [ours / theirs for ours, theirs in zip(shoal, raw, strict=True)]
    report.figures += [
        of_samples(f"A1 time to {replicas} replicas / raw", ratios, bar=1.15, aim=1.10),
        of_samples(f"   time to {replicas} replicas", shoal, "s"),
        of_samples(f"   raw start of {replicas}", raw, "s"),
        of_samples("   until the API shows them / raw", [a / b for a, b in zip(seen, raw, strict=True)]),
    ]


def one(place: Place, report: Report, rounds: int) -> None:
    """A2: what Shoal adds to the start of one container."""
    added: list[float] = []
    for _ in range(rounds):
        raw = _raw(place.engine, 1, 1)
        ours = _shoal(place, 1)["engine"]
        added.append(1000 * (ours - raw))
    report.figures.append(of_samples("A2 one replica minus raw start", added, "ms", bar=350, aim=100))
    report.notes.append(f"A2 samples, ms: {listed(added)}")


def heal(place: Place, report: Report, rounds: int) -> None:
    """A3: how long after a container's death and the restart delay its replacement runs."""
    for delay_s in (0, 5):
        name = f"heal{delay_s}"
        place.create(name, 3, restart={"delay": f"{delay_s}s"})
        until(lambda name=name: place.running_tasks(name) == 3)  # type: ignore[misc]
        took: list[float] = []
        for _ in range(rounds):
            until(lambda: len(place.engine.running(SERVICE_LABEL)) == 3)
            until(lambda name=name: place.running_tasks(name) == 3)  # type: ignore[misc]
            with place.engine.happening("die") as deaths, place.engine.happening("start") as starts:
                place.engine.kill(place.engine.running(SERVICE_LABEL)[0])
                took.append(starts.nth(1) - deaths.nth(1) - delay_s)
        place.delete(name)
        report.figures.append(of_samples(f"A3 self-heal minus delay of {delay_s} s", took, "s", bar=0.65, aim=0.5))
        report.notes.append(f"A3 samples with a delay of {delay_s} s: {listed(took)}")


def _raw(engine: Engine, replicas: int, parallelism: int) -> float:
    """Start containers by hand and return the seconds it took; they are counted, and removed again."""
    bodies = {f"raw{next(_numbers)}": _body(number) for number in range(replicas)}
    seconds = engine.start_all(bodies, parallelism)
    assert len(engine.running(LABEL)) == replicas
    engine.remove_all(LABEL)
    return seconds


def _body(number: int) -> dict[str, Any]:
    """The same container, as people make it by hand: the same kind of network, an address of its own."""
    return {
        "Image": IMAGE,
        "Cmd": COMMAND,
        "Labels": {LABEL: "raw"},
        "HostConfig": {"NetworkMode": NETWORK},
        "NetworkingConfig": {"EndpointsConfig": {NETWORK: {"IPAMConfig": {"IPv4Address": f"10.77.1.{number + 10}"}}}},
    }


def _shoal(place: Place, replicas: int) -> dict[str, float]:
    """Run a service and return seconds until the engine runs all of it, until the API says so, and CPU seconds."""
    name = f"many{next(_numbers)}"
    pids = place.processes().values()
    cpu = kernel.total_cpu_s(pids)
    with place.engine.happening("start") as starts:
        begun = time.time()
        place.create(name, replicas)
        engine = starts.nth(replicas) - begun
    until(lambda: place.running_tasks(name) == replicas)
    shown = time.time() - begun
    assert len(place.engine.running(SERVICE_LABEL)) == replicas
    spent = kernel.total_cpu_s(pids) - cpu
    place.delete(name)
    return {"engine": engine, "api": shown, "cpu": spent}
