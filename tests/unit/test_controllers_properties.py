"""Every controller, alone and with the others, is deterministic, convergent, interruptible and safe."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers import CONTROLLERS, load
from shoal.machinery.testkit import Crash, World, make_service
from tests.support.scenario import Deed, Pass, Watchdog, deeds, idle_writes, make_world, outcome

seeds = st.integers(0, 1 << 32)
examples = settings(
    max_examples=settings.default.max_examples // 6  # type: ignore[union-attr]  # each is a whole history
)


def run(world: World, deeds: Sequence[Deed]) -> None:
    watchdog = Watchdog(world)
    for deed in deeds:
        deed.do(world)
        world.settle()
        watchdog.check()
    world.advance(20)
    watchdog.check()


@pytest.mark.parametrize("name", CONTROLLERS)
def test_every_controller_is_declared_under_its_own_name(name: str) -> None:
    controller = load(name)
    assert controller.name == name
    assert controller.watches


@examples
@given(deeds, seeds)
def test_decisions_do_not_depend_on_order_and_nothing_forbidden_happens(deeds: list[Deed], seed: int) -> None:
    world = make_world(seed)
    run(world, deeds)
    assert world.settle() == 0, "a settled world stays as it is"


@examples
@given(deeds, seeds, st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_a_crash_before_any_write_leads_to_the_same_end(deeds: list[Deed], seed: int, crashes: list[int]) -> None:
    calm, crashing = make_world(), make_world(seed)
    watchdog = Watchdog(crashing)
    deeds = [*deeds, Pass(20)]
    for deed in deeds:
        deed.do(calm)
        calm.settle()
    for number, deed in enumerate(deeds):
        crashing.budget = crashes[number % len(crashes)]
        try:
            deed.do(crashing)
            crashing.settle()
        except Crash:
            crashing.restart()
            crashing.settle()
        watchdog.check()
    for world in (calm, crashing):
        world.advance(30)
    watchdog.check()
    assert services_of(crashing) == services_of(calm)


def services_of(world: World) -> dict[str, list[str]]:
    """Which services have which slots filled; of numbered slots how many, as it depends on what runs at that moment
    which of them a smaller service gives up."""
    found: dict[str, list[str]] = outcome(world)["tasks"]
    return {
        name: sorted("#" if task.split(":")[0].isdecimal() else task.split(":")[0] for task in tasks)
        for name, tasks in found.items()
    }


@examples
@given(deeds, seeds, st.sampled_from(sorted(CONTROLLERS)))
def test_a_stale_cache_meets_conflicts_and_makes_no_twin(deeds: list[Deed], seed: int, stale: str) -> None:
    world = make_world(seed)
    watchdog = Watchdog(world)
    for deed in deeds:
        deed.do(world)
        world.hold(stale)
        for _ in range(2):
            world.resync(stale)
            for _ in range(200):
                world.step()
            world.clock.advance(1)
        world.release(stale)
        world.settle()
        watchdog.check()


@pytest.mark.parametrize("replicas", [0, 1, 7])
def test_an_idle_cluster_writes_nothing(replicas: int) -> None:
    world = make_world()
    world.put(make_service("a", replicas=replicas))
    world.advance(10)
    before = world.store.revision
    world.advance(60)
    assert idle_writes(world, before) == []
    world.restart()
    world.advance(60)
    assert idle_writes(world, before) == []
