"""Shoal's processes die at any moment, while services change: nothing that runs is disturbed, and all ends as asked."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from tests.support.lab import Host, Output, eventually
from tests.support.onlookers import SETTLE_WITHIN_S, Bystander, is_as_desired, running, settled

SUPERVISED = ("etcd", "apiserver", "replication", "rollout", "placement", "endpoint", "nodes", "dns", "nodeagent")
LONGEST_WAIT_S = 1.5
"""From the first of two changes; by then both are usually under way."""

SHORT_ROUNDS = 1
FULL_ROUNDS = 10

MANIFEST = """
apiVersion: shoal/v1
kind: Service
metadata: {{name: moving}}
spec:
  image: shoal/hello:1
  replicas: {replicas}
  env: [ROUND={generation}]
  ports: ["8098:80"]
  restart: {{delay: 100ms}}
  stopGracePeriod: 1s
"""


@dataclass
class Moving:
    """A service that is changed all the time, and what it should be."""

    host: Host
    chance: random.Random = field(default_factory=random.Random)
    replicas: int = 2
    generation: int = 1
    said: list[str] = field(default_factory=list)

    def change(self) -> None:
        """Ask for something else, in one of the ways people do, or take a container away."""
        way = self.chance.choice((self._apply, self._scale, self._lose_a_container, self._remove_and_apply))
        self.said.append(way.__name__)
        way()

    def apply(self) -> None:
        manifest = MANIFEST.format(replicas=self.replicas, generation=self.generation)
        self._ask(lambda: self.host.shoal("apply -d -f -", stdin=manifest))

    def _apply(self) -> None:
        self.generation += 1
        self.replicas = self.chance.randint(1, 4)
        self.apply()

    def _scale(self) -> None:
        self.replicas = self.chance.randint(1, 4)
        self._ask(lambda: self.host.shoal(f"scale -d moving={self.replicas}"))

    def _lose_a_container(self) -> None:
        containers = sorted(running(self.host, "moving"))
        if containers:
            self.host.docker(["rm", "-f", self.chance.choice(containers)])

    def _remove_and_apply(self) -> None:
        self._ask(lambda: self.host.shoal("delete -d --ignore-not-found service moving"))
        self._apply()

    def _ask(self, command: Callable[[], Output]) -> None:
        """Say it until it was heard: a command whose server died has failed, or nobody knows."""
        eventually(lambda: command().ok(), within=SETTLE_WITHIN_S, every=0.2)

    def is_as_desired(self) -> bool:
        return is_as_desired(self.host, "moving", self.replicas, str(self.generation))


@pytest.fixture(scope="module")
def changing(lasting_rough_host: Host, bystander: Bystander) -> Moving:
    found = Moving(lasting_rough_host)
    found.apply()
    return found


@pytest.fixture
def moving(rough_host: Host, changing: Moving, seed: int, request: pytest.FixtureRequest) -> Moving:
    changing.chance = random.Random(f"{seed} {request.node.name}")
    return changing


def kill_one(name: str) -> Callable[[Host], None]:
    return lambda host: host.kill(name) and None


def kill_daemon(host: Host) -> None:
    """Its processes die with it, and `shoal up` starts them again."""
    pids = processes(host)
    host.kill("host")
    eventually(lambda: all(host.run("kill", "-0", str(pid)).code != 0 for pid in pids))
    host.up()


def kill_all(host: Host) -> None:
    """All at once, by one command; some may die with the daemon before it is their turn."""
    host.run("kill", "-9", str(host.pid("host")), *map(str, processes(host)))
    host.up()


def processes(host: Host) -> list[int]:
    return [one["pid"] for one in host.status()["processes"] if one["pid"]]


WAYS: dict[str, Callable[[Host], None]] = {
    **{name: kill_one(name) for name in SUPERVISED},
    "the host daemon": kill_daemon,
    "everything": kill_all,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_kill_disturbs_nothing_that_runs(moving: Moving, bystander: Bystander, way: str, full: bool) -> None:
    host = moving.host
    with ThreadPoolExecutor(1) as people:
        for _ in range(FULL_ROUNDS if full else SHORT_ROUNDS):
            moment = moving.chance.uniform(0, LONGEST_WAIT_S)
            changes = people.submit(lambda: [moving.change() for _ in range(2)])
            time.sleep(moment)
            WAYS[way](host)
            changes.result()
            eventually(lambda: settled(host), within=SETTLE_WITHIN_S)
            eventually(moving.is_as_desired, within=SETTLE_WITHIN_S)
            bystander.assert_untouched()
    print(way, moving.said)
