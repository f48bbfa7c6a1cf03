"""A process dies at any one step of an update: the update ends as it would have, and nothing is done twice."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.lab import Host, eventually
from tests.support.onlookers import SETTLE_WITHIN_S, Bystander, Run, doubles, is_as_desired, settled
from tests.support.onlookers import running as containers
from tests.support.steps import Kill, killing
from tests.support.user import Plain, get, service, shell, tasks

VICTIMS = ("rollout", "replication", "placement", "apiserver", "nodeagent", "etcd")
REPLICAS = 2
ENDS = {"start-first": "completed", "stop-first": "completed", "back": "rollback_completed", "paused": "paused"}
"""How an update ends, by what it is like: two that are good, and two whose image does not exist."""

USUAL_STEPS = {"start-first": 45, "stop-first": 50, "back": 15, "paused": 12}
"""Roughly how many it has: a sample is drawn from so many; the last ones may be beyond its end."""


@dataclass
class Sweeping:
    """A service that is updated again and again, a process dying each time."""

    host: Host
    bystander: Bystander
    asked: int = 0
    """Numbers what was asked for; `generation` is what of it runs."""
    generation: int = 0
    is_steady: bool = False
    seen: dict[str, int] = field(default_factory=dict)
    """The most steps seen, by what the update was like."""

    def run(self, victim: str, kind: str, at: int) -> bool:
        """Update while the victim dies at a step; False if there was no such step."""
        self._steady()
        before, started = containers(self.host, "swept"), len(self._runs())
        is_good = ENDS[kind] == "completed"
        self.asked = wanted = self.asked + 1
        with killing(self.host, victim, at) as kill:
            self._apply(kind, wanted)
            eventually(lambda: self._has_ended(kind, wanted), within=SETTLE_WITHIN_S)
            eventually(lambda: settled(self.host), within=SETTLE_WITHIN_S)
        self.seen[kind] = max(self.seen.get(kind, 0), len(kill.steps))
        told = f"{victim} died at step {at}: {_around(kill)}"
        self.generation = wanted if is_good else self.generation
        if kind != "paused":
            self._await_generation()
        assert self._state() == ENDS[kind], told
        made = [task for task in tasks(self.host, "swept") if f"ROUND={wanted}" in task["spec"]["template"]["env"]]
        assert len(made) == (REPLICAS if is_good else 1), f"{told}; made were {[_brief(one) for one in made]}"
        runs = self._runs()[started:]
        assert len(runs) == (REPLICAS if is_good else 0), f"{told}; started were {runs}"
        assert kind != "stop-first" or not doubles(self._runs()[-2 * REPLICAS :]), told
        if not is_good:
            assert containers(self.host, "swept") == before, told
        self.bystander.assert_untouched(apart_from="swept")
        self.is_steady = kind != "paused"
        return kill.is_done

    def _steady(self) -> None:
        """Have a good generation completed: at first, and after an update that stays paused."""
        if not self.is_steady:
            self.asked = self.generation = self.asked + 1
            self._apply("start-first", self.generation)
            eventually(lambda: self._has_ended("start-first", self.generation), within=SETTLE_WITHIN_S)
            self._await_generation()
            self.is_steady = True

    def _await_generation(self) -> None:
        eventually(lambda: is_as_desired(self.host, "swept", REPLICAS, str(self.generation)), within=SETTLE_WITHIN_S)

    def _apply(self, kind: str, generation: int) -> None:
        action = {"back": "rollback"}.get(kind, "pause")
        order = kind if kind.endswith("first") else "stop-first"
        spec: dict[str, Any] = {
            "replicas": REPLICAS, "env": [f"ROUND={generation}"], "ports": ["8097:80"],
            "restart": {"condition": "none"}, "rollback": {"monitor": "300ms"},
            "update": {"order": order, "failureAction": action, "monitor": "300ms"},
        }  # fmt: skip
        if ENDS[kind] != "completed":
            spec["image"] = "shoal/hello:none"
        manifest = service("swept", **spec, **shell("sleep 1000000"))
        eventually(lambda: self.host.shoal("apply -d -f -", stdin=manifest).ok(), within=SETTLE_WITHIN_S, every=0.2)

    def _has_ended(self, kind: str, generation: int) -> bool:
        found = self._service()
        rollout = found["status"]["rollout"]
        is_known = rollout["target"] == found["status"]["revision"] and rollout["state"] == ENDS[kind]
        assert is_known, rollout
        env = found["spec"]["env"]
        return (f"ROUND={generation}" in env) is (kind != "back")

    def _state(self) -> str:
        return str(self._service()["status"]["rollout"]["state"])

    def _service(self) -> Plain:
        return get(self.host, "services/swept")

    def _runs(self) -> list[Run]:
        return sorted(
            (run for run in self.bystander.engine.runs() if run.service == "swept"), key=lambda run: run.began
        )


def _around(kill: Kill) -> str:
    return " | ".join(kill.steps[max(0, kill.at - 2) : kill.at + 1])


def _brief(task: Plain) -> str:
    return f"{task['metadata']['name']} {task['status']['state']} {task['status'].get('err', '')}"


@pytest.fixture(scope="module")
def swept(lasting_rough_host: Host, bystander: Bystander) -> Sweeping:
    return Sweeping(lasting_rough_host, bystander)


def test_a_process_killed_at_a_step_of_an_update_changes_nothing_about_its_end(
    rough_host: Host, swept: Sweeping, seed: int, full: bool
) -> None:
    """With --full each process at every step of each kind of update; otherwise each process once."""
    chance = random.Random(seed)
    for victim in VICTIMS:
        kind = chance.choice(list(ENDS))
        at = chance.randint(1, USUAL_STEPS[kind])
        if not full:
            print(f"{victim} at step {at} of an update, {kind}: {'killed' if swept.run(victim, kind, at) else 'over'}")
    for kind in ENDS if full else ():
        at, left = 1, set(VICTIMS)
        while left:
            left = {victim for victim in VICTIMS if swept.run(victim, kind, at)}
            at += 1
    print("steps of an update:", swept.seen)
