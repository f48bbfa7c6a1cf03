"""How long an update of many tasks takes: Shoal's, Docker Swarm's, and the same containers replaced by hand.

Three laboratory hosts are a Shoal cluster, three more a Docker swarm; rounds alternate between them, and the hosts
that wait run idle services. Tasks sleep, are killed at once when they stop, and have no published port, since Swarm's
do not work on every kernel; a service of Shoal's with one is measured beside. All settings but parallelism are the
defaults, which both share: stop-first, and five seconds of monitoring at the end.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hack.benchmarks import kernel
from hack.benchmarks.engine import LABEL, Engine
from hack.benchmarks.figures import Report, of_samples
from hack.benchmarks.host import COMMAND, IMAGE, place_of
from hack.benchmarks.http import Client
from hack.waiting import until
from tests.support.cluster import Cluster, each, forming
from tests.support.lab import Host, Lab, remove_folder

TASKS = 60
PARALLELISM = 10
MONITOR_S = 5.0
"""The default of both: how long the last tasks are watched before an update is over."""

LOOK_S = 0.1
"""Between looks at an update's state."""

_numbers = count(1)


def run(rounds: int = 3, tasks: int = TASKS, parallelism: int = PARALLELISM) -> Report:
    report = Report(f"an update of {tasks} tasks, {parallelism} at a time, on three hosts")
    with laboratory() as (cluster, swarm):
        measure(cluster, swarm, report, rounds, tasks, parallelism)
    return report


@contextmanager
def laboratory() -> Iterator[tuple[Cluster, Sequence[Host]]]:
    """A cluster of three hosts, and a swarm of three others."""
    lab = Lab(f"b{os.getpid()}", Path(tempfile.mkdtemp(prefix="shoal-bench-")), tied=True)
    try:
        lab.up(0)
        with forming(lab, 1, 2, 3) as cluster, swarming(lab, 4, 5, 6) as swarm:
            yield cluster, swarm
    finally:
        lab.down()
        remove_folder(lab.directory)


@contextmanager
def swarming(lab: Lab, *numbers: int) -> Iterator[Sequence[Host]]:
    """Make hosts of these numbers a Docker swarm, the first its manager."""
    hosts = [lab.host(number) for number in numbers]
    try:
        for host in hosts:
            host.on()
        each(hosts, lambda host: host.run("hack/images").ok())
        hosts[0].docker(f"swarm init --advertise-addr {hosts[0].address}").ok()
        token = hosts[0].docker("swarm join-token -q worker").ok().out.strip()
        each(hosts[1:], lambda host: host.docker(f"swarm join --token {token} {hosts[0].address}:2377").ok())
        yield hosts
    finally:
        for host in hosts:
            host.off()
            remove_folder(host.directory)


def measure(cluster: Cluster, swarm: Sequence[Host], report: Report, rounds: int, tasks: int, parallelism: int) -> None:
    """A6: each round replaces all tasks of each of the four."""
    plain = Shoal(cluster, "plain", tasks, parallelism)
    served = Shoal(cluster, "served", tasks, parallelism, ports=[{"target": 80}])
    theirs = Swarm(swarm, tasks, parallelism)
    raw = [by_hand([engine_of(host) for host in cluster.hosts], tasks, parallelism)]
    took: dict[str, list[float]] = {"plain": [], "served": [], "swarm": []}
    for number in range(rounds):
        took["swarm"].append(theirs.update())
        took["plain"].append(plain.update())
        took["served"].append(served.update())
        raw.append(by_hand([engine_of(host) for host in cluster.hosts], tasks, parallelism))
        report.notes.append(
            f"round {number + 1}: Swarm {took['swarm'][-1]:.2f} s; Shoal {took['plain'][-1]:.2f} s; with a port "
            f"{took['served'][-1]:.2f} s; by hand and monitored {raw[-1]:.2f} s; load {kernel.load()}"
        )
    report.notes += [f"CPU seconds on the manager, {one.name}: {one.spent()}" for one in (plain, served)]
    least = sorted(raw)[len(raw) // 2]
    ratio = [ours / other for ours, other in zip(took["plain"], took["swarm"], strict=True)]
    report.figures += [
        of_samples(f"A6 update of {tasks} / Docker Swarm's", ratio, bar=0.9),
        of_samples("   the same / by hand, monitored", [one / least for one in took["plain"]], aim=1.15),
        of_samples("   with a published port / by hand, monitored", [one / least for one in took["served"]], aim=1.15),
        of_samples("   Shoal", took["plain"], "s"),
        of_samples("   Shoal, with a published port", took["served"], "s"),
        of_samples("   Docker Swarm", took["swarm"], "s"),
        of_samples("   by hand, monitored", raw, "s"),
    ]


def engine_of(host: Host) -> Engine:
    return Engine(f"/proc/{host.init_pid}/root/run/docker.sock")


def by_hand(engines: Sequence[Engine], tasks: int, parallelism: int) -> float:
    """Replace containers, so many at a time, as fast as the engines can; the monitoring at the end is added."""
    turns = [number % len(engines) for number in range(tasks)]
    body = {"Image": IMAGE, "Cmd": COMMAND, "Labels": {LABEL: "raw"}}
    names = [f"raw{next(_numbers)}" for _ in turns]
    with ThreadPoolExecutor(parallelism) as pool:
        list(pool.map(lambda turn, name: engines[turn].start(name, body), turns, names))
        begun = time.time()
        for first in range(0, tasks, parallelism):
            batch = list(zip(turns, names, strict=True))[first : first + parallelism]
            list(pool.map(lambda one: engines[one[0]].kill(one[1]), batch))
            list(pool.map(lambda one: engines[one[0]].start(f"{one[1]}b", body), batch))
        took = time.time() - begun
    for engine in engines:
        engine.remove_all(LABEL)
    return took + MONITOR_S


class Shoal:
    """A service of Shoal's."""

    def __init__(self, cluster: Cluster, name: str, tasks: int, parallelism: int, **spec: Any) -> None:
        host = cluster.boss
        self._host, self.name, self._tasks = host, name, tasks
        self._api = Client(f"/proc/{host.init_pid}/root/run/shoal/api.sock")
        self._cpu_s: dict[str, float] = {}
        """Of the last update, by process."""
        meta = {"apiVersion": "shoal/v1", "kind": "Service", "metadata": {"name": name}}
        wanted = {
            "image": IMAGE, "command": COMMAND, "replicas": tasks, "stopSignal": "SIGKILL",
            "update": {"parallelism": parallelism}, **spec,
        }  # fmt: skip
        self._api.call("POST", "/shoal/v1/services", {**meta, "spec": wanted})
        until(lambda: self._get()["status"]["replicas"]["running"] == tasks, every_s=LOOK_S)

    def update(self) -> float:
        """Replace all tasks; return the seconds until the update is over."""
        pids = place_of(self._host).processes()
        before, begun = {name: kernel.cpu_s(pid) for name, pid in pids.items()}, time.time()
        spec = {"env": [f"ROUND={next(_numbers)}"]}
        wanted = self._api.call("PATCH", f"/shoal/v1/services/{self.name}", {"spec": spec})["status"]["revision"]
        until(lambda: self._is_over(wanted), every_s=LOOK_S)
        took = time.time() - begun
        self._cpu_s = {name: kernel.cpu_s(pid) - before[name] for name, pid in pids.items()}
        return took

    def spent(self) -> str:
        most_first = sorted(self._cpu_s.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {seconds:.2f}" for name, seconds in most_first)

    def _is_over(self, wanted: str) -> bool:
        status = self._get()["status"]
        is_done = (status["rollout"]["target"], status["rollout"]["state"]) == (wanted, "completed")
        return is_done and status["replicas"]["updated"] == self._tasks

    def _get(self) -> Any:
        return self._api.call("GET", f"/shoal/v1/services/{self.name}")


class Swarm:
    """The same service of a Docker swarm's."""

    def __init__(self, hosts: Sequence[Host], tasks: int, parallelism: int) -> None:
        self._tasks = tasks
        self._api = Client(f"/proc/{hosts[0].init_pid}/root/run/docker.sock")
        self._spec: dict[str, Any] = {
            "Name": "plain",
            "Mode": {"Replicated": {"Replicas": tasks}},
            "TaskTemplate": {"ContainerSpec": {"Image": IMAGE, "Command": COMMAND, "StopSignal": "SIGKILL"}},
            "UpdateConfig": {"Parallelism": parallelism},
        }
        self._id = self._api.call("POST", "/services/create", self._spec)["ID"]
        until(lambda: self._running() == tasks, every_s=LOOK_S)

    def update(self) -> float:
        """Replace all tasks; return the seconds until the update is over."""
        begun = time.time()
        version = self._api.call("GET", f"/services/{self._id}")["Version"]["Index"]
        self._spec["TaskTemplate"]["ContainerSpec"]["Env"] = [f"ROUND={next(_numbers)}"]
        self._api.call("POST", f"/services/{self._id}/update?version={version}", self._spec)
        until(self._is_over, every_s=LOOK_S)
        return time.time() - begun

    def _is_over(self) -> bool:
        found = self._api.call("GET", f"/services/{self._id}").get("UpdateStatus", {})
        return found.get("State") == "completed" and self._running() == self._tasks

    def _running(self) -> int:
        wanted = quote('{"desired-state": ["running"]}')
        found = self._api.call("GET", f"/tasks?filters={wanted}")
        return sum(one["Status"]["State"] == "running" for one in found)
