from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import anyio
import msgspec
import pytest
from structlog.testing import capture_logs

from shoal.api import codec, keys
from shoal.api.errors import TerminalError
from shoal.api.meta import Meta
from shoal.api.objects import Claim, Event, Network, Object
from shoal.machinery.cache import Cache
from shoal.machinery.clock import VirtualClock, quiet
from shoal.machinery.controller import Action, Controller, Create, Plan, Remove, still_exists
from shoal.machinery.factories import make_network
from shoal.machinery.memory import MemoryStore
from shoal.machinery.runner import RESYNC_S, Runner

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class View:
    key: str
    network: Network | None
    claim: Claim | None


def claim_of(name: str) -> Claim:
    return Claim(metadata=Meta(name=f"claims/vni/{name}"), key=f"claims/vni/{name}")


@dataclass
class Toy:
    """A controller that keeps one claim per network, and remembers at which moments it looked at which key."""

    clock: VirtualClock
    looks: list[tuple[float, str]] = field(default_factory=list)
    broken: dict[str, Exception] = field(default_factory=dict)
    again_s: float | None = None

    def observe(self, key: str, cache: Cache) -> View:
        self.looks.append((self.clock.monotonic(), key))
        return View(key, cache.get(Network, keys.network(key)), cache.get(Claim, keys.ROOT + claim_of(key).key))

    def plan(self, view: View, now: datetime) -> Plan:
        if view.key in self.broken:
            raise self.broken[view.key]
        again = timedelta(seconds=self.again_s) if self.again_s is not None else None
        if view.network is not None and view.claim is None:
            claim = Action(
                "Claimed", (Create(claim_of(view.key)),), (still_exists(view.network),), "got it", view.network
            )
            return Plan((claim,), again)
        if view.network is None and view.claim is not None:
            return Plan((Action("Freed", (Remove(view.claim),)),), again)
        return Plan(requeue_after=again, because="all is well")

    def controller(self, **more: Any) -> Controller[View]:
        return Controller(
            name="endpoint",
            watches={
                Network: lambda network: (network.metadata.name,),
                Claim: lambda claim: (claim.key.rsplit("/", 1)[1],),
            },
            observe=self.observe,
            plan=self.plan,
            **more,
        )


class Stage:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store = MemoryStore(self.clock.monotonic)
        self.toy = Toy(self.clock)

    def runner(self, **more: Any) -> Runner:
        return Runner(self.toy.controller(**more), self.store, candidate="test", clock=self.clock, seed=1)

    @asynccontextmanager
    async def running(self, runner: Runner | None = None) -> AsyncIterator[Runner]:
        runner = runner or self.runner()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run)
            await quiet()
            yield runner
            tasks.cancel_scope.cancel()

    def put(self, obj: Object) -> None:
        self.store.put(keys.key_of(obj), codec.encode(obj))

    def remove(self, obj: Object) -> None:
        self.store.remove(keys.key_of(obj))

    def claims(self) -> list[str]:
        return sorted({line.key for line in self.store.history if "claims" in line.key and self.store.peek(line.key)})

    def looked_at(self, key: str) -> int:
        return sum(name == key for _, name in self.toy.looks)


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_what_is_there_and_what_comes_is_reconciled(stage: Stage) -> None:
    stage.put(make_network("a"))
    async with stage.running():
        assert stage.claims() == ["/shoal/claims/vni/a"]
        stage.put(make_network("b"))
        await quiet()
        assert stage.claims() == ["/shoal/claims/vni/a", "/shoal/claims/vni/b"]
        stage.remove(make_network("a"))
        await quiet()
        assert stage.claims() == ["/shoal/claims/vni/b"]


async def test_orphans_are_found_by_what_is_owned(stage: Stage) -> None:
    stage.put(claim_of("gone"))
    async with stage.running():
        assert stage.claims() == []


async def test_after_a_write_the_key_waits_until_the_cache_has_seen_it(stage: Stage) -> None:
    async with stage.running():
        stage.store.hold_watches()
        stage.put(make_network("a"))
        stage.store.release_watches()
        await quiet()
        writes = [line for line in stage.store.history if "claims" in line.key]
        assert len(writes) == 1
        stage.store.hold_watches()
        stage.remove(make_network("a"))
        await quiet()
        looks = stage.looked_at("a")
        stage.store.release_watches()
        await quiet()
        assert stage.looked_at("a") > looks
        assert stage.claims() == []


async def test_a_conflict_is_retried_quietly_until_the_cache_knows_better(stage: Stage) -> None:
    async with stage.running():
        with capture_logs() as logs:
            stage.store.hold_watches()
            stage.put(make_network("a"))
            stage.store.release_watches()
            stage.put(claim_of("a"))
            await stage.clock.run_for(5)
        assert stage.claims() == ["/shoal/claims/vni/a"]
        assert not [line for line in logs if line["log_level"] in ("warning", "error")]


async def test_a_broken_key_backs_off_and_is_logged_while_others_go_on(stage: Stage) -> None:
    stage.toy.broken["a"] = ZeroDivisionError("oh")
    async with stage.running():
        with capture_logs() as logs:
            stage.put(make_network("a"))
            stage.put(make_network("b"))
            await stage.clock.run_for(10)
        assert stage.claims() == ["/shoal/claims/vni/b"]
        failures = [line for line in logs if line["event"] == "reconcile_failed"]
        assert {line["key"] for line in failures} == {"a"}
        assert 5 < len(failures) < 12, "each wait is twice the one before"
        del stage.toy.broken["a"]
        await stage.clock.run_for(60)
        assert len(stage.claims()) == 2


async def test_what_retrying_cannot_help_waits_for_a_change(stage: Stage) -> None:
    stage.toy.broken["a"] = TerminalError("no such thing")
    async with stage.running():
        stage.put(make_network("a"))
        await stage.clock.run_for(30)
        assert stage.looked_at("a") == 1
        del stage.toy.broken["a"]
        stage.put(make_network("a", subnet="10.9.0.0/24"))
        await quiet()
        assert len(stage.claims()) == 1


async def test_a_plan_says_when_it_wants_another_look(stage: Stage) -> None:
    stage.toy.again_s = 7
    stage.put(make_network("a"))
    async with stage.running():
        before = stage.looked_at("a")
        await stage.clock.run_for(6.9)
        assert stage.looked_at("a") == before
        await stage.clock.run_for(0.2)
        assert stage.looked_at("a") == before + 1


async def test_every_key_is_looked_at_now_and_then(stage: Stage) -> None:
    stage.put(make_network("a"))
    async with stage.running():
        before = stage.looked_at("a")
        await stage.clock.run_for(RESYNC_S * 1.3)
        assert stage.looked_at("a") > before


async def test_a_coalescing_controller_lets_changes_gather(stage: Stage) -> None:
    async with stage.running(stage.runner(coalesce_s=0.5)):
        stage.put(make_network("a"))
        await quiet()
        before = stage.looked_at("a")
        for number in range(20):
            stage.put(make_network("a", subnet=f"10.{number}.0.0/24"))
            await stage.clock.run_for(0.05)
        assert stage.looked_at("a") - before <= 4


async def test_one_line_tells_what_a_pass_has_written_and_why(stage: Stage) -> None:
    async with stage.running():
        with capture_logs() as logs:
            stage.put(make_network("a"))
            await quiet()
        (line,) = [line for line in logs if line["event"] == "reconciled" and line["log_level"] == "info"]
        assert (line["controller"], line["key"], line["reasons"]) == ("endpoint", "a", {"Claimed": 1})


async def test_noted_actions_become_events(stage: Stage) -> None:
    async with stage.running():
        network = make_network("a")
        stage.put(network)
        await stage.clock.run_for(3)
        item = stage.store.peek(keys.event("Network", network.metadata.uid, "Claimed"))
        assert item is not None
        assert codec.decode(Event, item.value).message == "got it"


async def test_only_the_leader_works_and_its_successor_misses_nothing(stage: Stage) -> None:
    second = stage.runner()
    async with stage.running(), stage.running(second):
        stage.put(make_network("a"))
        await quiet()
        assert not second.is_leading
        assert second.is_ready
        stage.store.remove("/shoal-leaders/endpoint")
        stage.put(make_network("b"))
        await stage.clock.run_for(12)
        assert len(stage.claims()) == 2


async def test_a_leader_that_was_overtaken_stops_at_its_next_write(stage: Stage) -> None:
    async with stage.running() as runner:
        assert runner.is_leading
        stage.store.remove("/shoal-leaders/endpoint")
        stage.store.put("/shoal-leaders/endpoint", b"another")
        stage.put(make_network("a"))
        await stage.clock.run_for(1)
        assert not runner.is_leading
        assert stage.claims() == []


async def test_what_an_unreadable_object_owns_is_left_alone(stage: Stage) -> None:
    network = make_network("a")
    named = msgspec.structs.replace(network, metadata=msgspec.structs.replace(network.metadata, uid="a" * 25))
    stage.put(claim_of("a" * 25))
    raw = codec.encode(named)
    stage.store.put(keys.key_of(named), raw[: len(raw) - 10])
    async with stage.running():
        await stage.clock.run_for(5)
        assert len(stage.claims()) == 1


async def test_a_store_that_is_away_for_a_minute_is_waited_for(stage: Stage) -> None:
    async with stage.running():
        with capture_logs() as logs:
            stage.store.is_down = True
            stage.store.cut_watches()
            await stage.clock.run_for(60)
        assert len(logs) < 20, "an outage is said once, not in every second"
        stage.store.is_down = False
        stage.put(make_network("a"))
        await stage.clock.run_for(10)
        assert len(stage.claims()) == 1
