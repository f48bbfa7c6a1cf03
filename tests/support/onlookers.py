"""What is watched from outside while a host is disturbed: an untouched service, its port, what the engine starts."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from tests.support.lab import Host, eventually

BYSTANDER = """
apiVersion: shoal/v1
kind: Service
metadata: {name: bystander}
spec:
  image: shoal/hello:1
  replicas: 2
  ports: ["8099:80"]
  healthcheck: {test: wget -q -O /dev/null http://127.0.0.1/, interval: 2s, startPeriod: 10s}
  stopGracePeriod: 1s
"""

SETTLE_WITHIN_S = 90.0
"""For a loaded machine; a few seconds are usual."""

_numbers = count(1)

_ASK = """
: >"$1"
while [ ! -e "$1.stop" ]; do
  if said=$(curl -fsS -m 5 -o /dev/null -o /dev/null "http://127.0.0.1:$2/" "http://$3:$2/" 2>&1)
  then echo "answered"; else echo "$(date +%T.%N) $said"; fi >>"$1"
  sleep 0.1
done
rm "$1.stop"
"""

_EVENTS = """
docker events --filter type=container --filter event=start --filter event=die --format '{{json .}}' >"$1" &
while [ ! -e "$1.stop" ]; do sleep 0.1; done
kill $!
rm "$1.stop"
"""


@contextmanager
def recording(host: Host, script: str, *arguments: str) -> Iterator[Path]:
    """Run a script on the host. Its first argument is the file to write to; "<file>.stop" tells it to end."""
    path = host.directory / f"record-{next(_numbers)}"
    process = host.start("bash", "-c", script, "bash", str(path), *arguments)
    try:
        eventually(path.exists)
        yield path
    finally:
        stop = Path(f"{path}.stop")
        stop.touch()
        eventually(lambda: not stop.exists() or not host.init_pid)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@dataclass(frozen=True)
class PortWatch:
    """A client that asks a published port, on loopback and the host's own address, ten times a second."""

    path: Path

    def answers(self) -> int:
        return sum(line == "answered" for line in self._lines())

    def failures(self) -> list[str]:
        """When, and what curl said."""
        return [line for line in self._lines() if line != "answered"]

    def _lines(self) -> list[str]:
        return self.path.read_text().splitlines()


@contextmanager
def watching_port(host: Host, port: int) -> Iterator[PortWatch]:
    with recording(host, _ASK, str(port), host.address) as path:
        watch = PortWatch(path)
        eventually(watch.answers)
        yield watch


@dataclass(frozen=True)
class Run:
    """One container's life: when it began, and when it ended (None = it has not), in the engine's nanoseconds."""

    container: str
    slot: str
    task: str
    began: int
    ended: int | None

    @property
    def service(self) -> str:
        return self.slot.partition(".")[0]


@dataclass(frozen=True)
class EngineWatch:
    """Every start and end of a task's container since the watch began."""

    path: Path

    def runs(self) -> list[Run]:
        began: dict[str, list[tuple[int, dict[str, str]]]] = defaultdict(list)
        ended: dict[str, list[int]] = defaultdict(list)
        for event in map(json.loads, self.path.read_text().splitlines()):
            attributes = event["Actor"]["Attributes"]
            if event["Action"] == "start":
                began[event["id"]].append((event["timeNano"], attributes))
            else:
                ended[event["id"]].append(event["timeNano"])
        return [
            Run(
                container,
                f"{attributes.get('com.docker.swarm.service.name')}.{attributes.get('shoal.slot')}",
                attributes.get("shoal.task", container),
                at,
                min((end for end in ended[container] if end > at), default=None),
            )
            for container, starts in began.items()
            for at, attributes in starts
        ]


def doubles(runs: Sequence[Run]) -> list[str]:
    """Tell what was started twice: a task, or two containers of one slot that ran at once."""
    twice = [f"task {task} was started {number} times" for task, number in _more_than_once(run.task for run in runs)]
    by_slot = defaultdict(list)
    for run in runs:
        by_slot[run.slot].append(run)
    overlaps = [
        f"slot {slot} had two containers at once: {one} and {other}"
        for slot, of_slot in by_slot.items()
        for one, other in pairwise(sorted(of_slot, key=lambda run: run.began))
        if one.ended is None or one.ended > other.began
    ]
    return twice + overlaps


@contextmanager
def watching_engine(host: Host) -> Iterator[EngineWatch]:
    with recording(host, _EVENTS) as path:
        yield EngineWatch(path)


@dataclass
class Bystander:
    """A service with a published port that nobody touches, watched from when it ran."""

    host: Host
    port: PortWatch
    engine: EngineWatch
    containers: dict[str, str] = field(default_factory=dict)

    def assert_untouched(self, apart_from: str = "") -> None:
        """Its containers run since before, its port answered always, and nothing on the host was started twice.

        Apart from a service that is updated start-first: its slots have two containers for a while.
        """
        assert running(self.host, "bystander") == self.containers
        assert not self.port.failures()
        twice = doubles([run for run in self.engine.runs() if run.service != apart_from])
        assert not twice, twice
        before = self.port.answers()
        eventually(lambda: self.port.answers() > before)


@contextmanager
def standing_by(host: Host) -> Iterator[Bystander]:
    host.shoal("apply -f -", stdin=BYSTANDER).ok()
    with watching_port(host, 8099) as port, watching_engine(host) as engine:
        yield Bystander(host, port, engine, running(host, "bystander"))


def inspected(host: Host, service: str = "") -> list[dict[str, Any]]:
    """`docker inspect` of the running containers of tasks, or those of one service."""
    label = f"com.docker.swarm.service.name={service}" if service else "shoal.task"
    ids = host.docker(["ps", "-q", "--no-trunc", "--filter", f"label={label}"]).ok().out.split()
    found: list[dict[str, Any]] = json.loads(host.docker(["inspect", *ids]).out) if ids else []
    return [one for one in found if one["State"]["Running"]]


def running(host: Host, service: str = "") -> dict[str, str]:
    """Containers that run, each with when it was started."""
    return {one["Id"]: one["State"]["StartedAt"] for one in inspected(host, service)}


def is_as_desired(host: Host, service: str, replicas: int, generation: str) -> bool:
    """The engine runs one container of that generation per slot; tasks and counts say so, too.

    `generation` is the value of the environment variable ROUND. AssertionError tells what differs. Which numbers the
    slots have is not asked: scaling down gives up those that are out of order first.
    """
    containers = inspected(host, service)
    slots = [one["Config"]["Labels"]["shoal.slot"] for one in containers]
    assert len(slots) == len(set(slots)) == replicas, f"slots {slots} of {service}, {replicas} were asked for"
    generations = {value for one in containers for value in one["Config"]["Env"] if value.startswith("ROUND=")}
    assert generations == {f"ROUND={generation}"} or not replicas, f"{generations} run, ROUND={generation} is wanted"
    tasks = objects(host, f"tasks?fields=spec.service.name={service}")
    wanted = {one["metadata"]["uid"] for one in tasks if one["spec"]["desiredState"] == "running"}
    found = {one["Config"]["Labels"]["shoal.task"] for one in containers}
    assert wanted == found, f"tasks wanted {sorted(wanted)}, tasks with a container {sorted(found)}"
    counts = objects(host, f"services/{service}")[0]["status"]["replicas"]
    assert (counts["desired"], counts["running"], counts["updated"]) == (replicas, replicas, replicas), counts
    return True


def clear(host: Host) -> None:
    """Delete every service, and see its containers go."""
    names = [f"service/{one['metadata']['name']}" for one in objects(host, "services")]
    if names:
        host.shoal(["delete", *names]).ok()
    eventually(lambda: not host.docker("ps -q --no-trunc").ok().out, within=60)


def objects(host: Host, path: str) -> list[dict[str, Any]]:
    """Objects as the API has them: `tasks?fields=spec.node.name=host1`. Much cheaper than `shoal get`."""
    url = f"http://api/shoal/v1/{path}"
    found = json.loads(host.run("curl", "-fsS", "-g", "--unix-socket", "/run/shoal/api.sock", url).ok().out)
    return list(found["items"]) if "items" in found else [found]


def settled(host: Host) -> bool:
    """Every process is up."""
    status = host.status()
    assert status.get("settled"), status.get("processes")
    return True


def revision(host: Host) -> int:
    """The highest revision at which any key under /shoal/ was written."""
    last = host.etcdctl("get --prefix /shoal/ --sort-by=MODIFY --order=DESCEND --limit 1 --keys-only -w json").ok().out
    return int(json.loads(last)["kvs"][0]["mod_revision"])


def _more_than_once(names: Iterator[str]) -> list[tuple[str, int]]:
    return [(name, number) for name, number in Counter(names).items() if number > 1]
