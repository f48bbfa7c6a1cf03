"""Updates and rollbacks among all controllers, with an agent that plays every node, killed before any write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from controllers import CONTROLLERS, load
from shoal.api.objects import Claim, Rollout, RolloutStatus, Service, ServiceEndpoint, Task, Update
from shoal.api.states import FailureAction, Mode, PublishMode, RolloutState, TaskState, UpdateOrder
from shoal.api.template import Placement, Port, Restart
from shoal.api.units import Duration
from shoal.machinery.testkit import (
    Behaviour,
    Crash,
    FakeAgent,
    World,
    make_cluster,
    make_network,
    make_node,
    make_service,
)
from shoal.rules import attempts
from tests.support.scenario import Watchdog

PUBLISHED = (Port(80, 8080),)


def behave(task: Task) -> Behaviour:
    """`:bad` cannot be pulled, `:crash` ends after a second, `:ill` after eight; every other image runs."""
    image = task.spec.template.image
    if image.endswith(":bad"):
        return Behaviour(fails_at=TaskState.READY)
    if image.endswith((":crash", ":ill")):
        return Behaviour(lives_s=1 if image.endswith(":crash") else 8, exit_code=3, start_s=0.5)
    return Behaviour(start_s=0.5, stop_s=0.5)


def make_world() -> World:
    world = World(*(load(name) for name in CONTROLLERS), agent=FakeAgent(behave))
    world.put(make_cluster(), make_network(), make_node("n1"), make_node("n2"))
    return world


def web(image: str = "app:1", **spec: Any) -> Service:
    return make_service("web", **{"image": image, "replicas": 4, "ports": PUBLISHED, **spec})


def deployed(**spec: Any) -> World:
    world = make_world()
    world.put(web(**spec))
    world.advance(10)
    return world


def status(world: World) -> RolloutStatus:
    (rollout,) = (one for one in world.objects(Rollout) if one.status.service.name == "web")
    return rollout.status


def service(world: World) -> Service:
    (found,) = (one for one in world.objects(Service) if one.metadata.name == "web")
    return found


def running(world: World) -> Counter[str]:
    """Image → slots that run it."""
    live = {
        (task.spec.slot, task.spec.template.image)
        for task in world.objects(Task)
        if task.spec.desired_state.is_live and task.status.state is TaskState.RUNNING
    }
    return Counter(image for _, image in live)


def made(world: World) -> int:
    """How many tasks were ever made."""
    return sum("TaskCreated" in line or "TaskUpdated" in line or "TaskReplaced" in line for line in world.journal)


def grants(world: World, seconds: float) -> list[int]:
    """How many slots have been granted, each time that changed."""
    seen: list[int] = []
    for _ in range(int(seconds * 4)):
        world.advance(0.25)
        count = len(status(world).granted)
        if not seen or seen[-1] != count:
            seen.append(count)
    return seen


@pytest.mark.parametrize("mode", [Mode.REPLICATED, Mode.GLOBAL])
def test_batches_are_as_large_as_asked_for(mode: Mode) -> None:
    world = make_world()
    world.put(*(make_node(f"n{number}") for number in range(3, 6)))
    count = {"replicas": 5} if mode is Mode.REPLICATED else {"replicas": None}
    update = Update(parallelism=2, delay=Duration.of(10))
    world.put(web(mode=mode, update=update, **count))
    world.advance(10)
    world.put(web("app:2", mode=mode, update=update, **count))
    assert grants(world, 50) == [2, 4, 5, 0]
    assert (status(world).state, running(world)) == (RolloutState.COMPLETED, {"app:2": 5})


@pytest.mark.parametrize("order", list(UpdateOrder))
def test_an_image_that_cannot_be_pulled_stops_no_old_task_and_is_rolled_back(order: UpdateOrder) -> None:
    update = Update(order=order, failure_action=FailureAction.ROLLBACK)
    world = deployed(update=update)
    world.put(web("app:bad", update=update))
    for _ in range(80):
        world.advance(0.25)
        assert running(world)["app:1"] == 4
    found = status(world)
    assert found.state is RolloutState.ROLLBACK_COMPLETED
    assert (service(world).spec.image, service(world).status.previous_spec) == ("app:1", None)
    message = service(world).status.attempt.message
    assert message.startswith("update rolled back due to failure or early termination of task ")
    assert message.endswith("could not become ready")
    assert found.stable == found.target == service(world).status.revision


def test_a_crashing_image_pauses_after_the_first_slot_and_the_rest_goes_on() -> None:
    slowly = Update(delay=Duration.of(5))
    world = deployed(update=slowly)
    world.put(web("app:crash", update=slowly))
    world.advance(60)
    assert status(world).state is RolloutState.PAUSED
    assert "failed, task: non-zero exit (3)" in status(world).message
    assert running(world)["app:1"] == 3
    assert status(world).granted == ("1",)


def test_a_task_that_lasts_longer_than_the_monitoring_is_no_failure() -> None:
    world = deployed(replicas=1)
    world.put(web("app:ill", replicas=1))
    world.advance(20)
    assert status(world).state is RolloutState.COMPLETED


def test_continue_brings_even_what_fails_everywhere() -> None:
    update = Update(failure_action=FailureAction.CONTINUE)
    world = deployed(update=update)
    world.put(web("app:crash", update=update))
    world.advance(60)
    assert (status(world).state, len(status(world).failures)) == (RolloutState.COMPLETED, 4)


HOST_PORT = (Port(80, 9090, mode=PublishMode.HOST),)


@pytest.mark.parametrize(
    ("impossible", "why", "kept"),
    [
        pytest.param(
            {"placement": Placement(constraints=("node.labels.disk == tape",))},
            "scheduling constraints not satisfied on 2 nodes", 4, id="no-such-node",
        ),
        pytest.param(
            {"ports": HOST_PORT}, "host-mode port already in use on 2 nodes", 3, id="a-port-that-is-exhausted",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("action", "state"),
    [(FailureAction.PAUSE, RolloutState.PAUSED), (FailureAction.ROLLBACK, RolloutState.ROLLBACK_COMPLETED)],
)
def test_a_task_that_never_fits_fails_its_update_at_the_deadline(
    action: FailureAction, state: RolloutState, impossible: dict[str, Any], why: str, kept: int
) -> None:
    """An old task gives way only where its leaving could make room on its node: it cannot move that to another."""
    update = Update(failure_action=action, deadline=Duration.of(60))
    world = deployed(update=update)
    world.put(make_service("holder", image="holds:1", mode=Mode.GLOBAL, ports=HOST_PORT))
    world.advance(10)
    world.put(web("app:2", update=update, **impossible))
    world.advance(55)
    assert (status(world).state, running(world)["app:1"]) == (RolloutState.UPDATING, kept)
    world.advance(25)
    assert (status(world).state, running(world)["app:1"]) == (state, kept if action is FailureAction.PAUSE else 4)
    told = status(world).message + service(world).status.attempt.message
    assert f"still pending after 1m, no suitable node ({why})" in told


def test_a_rollback_takes_its_ports_back() -> None:
    update = Update(failure_action=FailureAction.ROLLBACK)
    world = deployed(update=update)
    world.put(web("app:bad", ports=(Port(80, 9090),), update=update))
    world.remove(*(claim for claim in world.objects(Claim) if claim.key == "claims/port/tcp/8080/ingress"))
    world.advance(30)
    ports = [claim.key for claim in world.objects(Claim) if claim.key.startswith("claims/port/")]
    assert ports == ["claims/port/tcp/8080/ingress"]
    (endpoint,) = world.objects(ServiceEndpoint)
    assert (endpoint.spec.ports, endpoint.spec.message) == (PUBLISHED, "")


def test_a_rollback_that_fails_too_pauses() -> None:
    update = Update(failure_action=FailureAction.ROLLBACK)
    world = deployed(update=update)
    agent = world.agent
    assert agent is not None
    world.put(web("app:crash", update=update))
    world.advance(2)
    agent.behave = lambda task: Behaviour(lives_s=1, exit_code=3)
    world.advance(30)
    assert status(world).state is RolloutState.ROLLBACK_PAUSED
    assert status(world).message.startswith("rollback paused due to failure or early termination of task ")


def test_scaling_during_an_update_mixes_nothing_up() -> None:
    world = deployed()
    world.put(web("app:2"))
    world.advance(3)
    world.put(web("app:2", replicas=7))
    world.advance(3)
    world.put(web("app:2", replicas=5))
    world.advance(40)
    assert (status(world).state, running(world)) == (RolloutState.COMPLETED, {"app:2": 5})


def test_scaling_neither_resumes_a_paused_update_nor_brings_more_of_what_failed() -> None:
    slowly = Update(delay=Duration.of(5))
    world = deployed(update=slowly)
    world.put(web("app:crash", update=slowly))
    world.advance(20)
    world.put(web("app:crash", update=slowly, replicas=6))
    world.advance(20)
    assert status(world).state is RolloutState.PAUSED
    assert running(world)["app:1"] == 5


def ask(world: World, change: Callable[[Service], Service]) -> None:
    world.keep(change(service(world)))


def test_pausing_and_resuming_by_hand() -> None:
    world = deployed()
    world.put(web("app:2"))
    world.advance(2)
    ask(world, lambda one: replace(one, status=attempts.paused(one.status)))
    world.advance(30)
    assert (status(world).state, status(world).message) == (RolloutState.PAUSED, "update paused by hand")
    assert 0 < running(world)["app:2"] < 4
    ask(world, lambda one: replace(one, status=attempts.resumed(one.status)))
    world.advance(30)
    assert (status(world).state, running(world)) == (RolloutState.COMPLETED, {"app:2": 4})


def test_a_newer_update_takes_over_and_no_slot_is_left_at_the_one_between() -> None:
    world = deployed()
    first = status(world).stable
    world.put(web("app:2"))
    world.advance(3)
    world.put(web("app:3"))
    assert status(world).stable == first
    world.advance(60)
    assert (status(world).state, running(world)) == (RolloutState.COMPLETED, {"app:3": 4})


def test_failures_of_tasks_that_were_told_to_stop_never_count() -> None:
    """A node is drained in the middle of an update: its new tasks stop early, and are made anew elsewhere."""
    world = deployed(update=Update(parallelism=0))
    world.put(web("app:2", update=Update(parallelism=0)))
    world.advance(2)
    drained = make_node("n1")
    world.put(replace(drained, spec=replace(drained.spec, availability="drain")))
    world.advance(30)
    assert (status(world).state, running(world)) == (RolloutState.COMPLETED, {"app:2": 4})


SLOW = Restart(delay=Duration.of(3))

STORIES: dict[str, tuple[str, Update, RolloutState, str]] = {
    "a good update": ("app:2", Update(parallelism=2), RolloutState.COMPLETED, "app:2"),
    "start-first": ("app:2", Update(order=UpdateOrder.START_FIRST), RolloutState.COMPLETED, "app:2"),
    "a bad one, rolled back": (
        "app:crash", Update(failure_action=FailureAction.ROLLBACK), RolloutState.ROLLBACK_COMPLETED, "app:1",
    ),
    "a bad one, paused": ("app:bad", Update(), RolloutState.PAUSED, "app:1"),
}  # fmt: skip


def tell(image: str, update: Update, before: int | None = None) -> tuple[World, bool]:
    """Update two slots until that is over; every process dies before the write numbered `before`, if it comes to it."""
    world = deployed(replicas=2, update=update, restart=SLOW)
    watchdog = Watchdog(world)
    world.budget = before
    try:
        world.put(web(image, replicas=2, update=update, restart=SLOW))
        world.advance(25)
        is_killed = False
    except Crash:
        world.restart()
        is_killed = True
    world.budget = None
    world.advance(40)
    watchdog.check()
    return world, is_killed


@pytest.mark.parametrize("story", STORIES)
def test_killed_before_any_write_it_ends_the_same_with_no_task_more(story: str) -> None:
    image, update, state, runs = STORIES[story]
    calm, _ = tell(image, update)
    assert (status(calm).state, running(calm)) == (state, {runs: 2})
    number, is_killed = 0, True
    while is_killed:
        world, is_killed = tell(image, update, before=number)
        assert (status(world).state, running(world)) == (state, {runs: 2}), f"killed before write {number}"
        assert status(world).target == status(calm).target
        if state is not RolloutState.PAUSED:
            assert made(world) == made(calm), f"killed before write {number}"
        number += 1
    assert number > 20
