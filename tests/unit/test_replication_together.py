"""replication and rollout among all the other controllers, with an agent that plays every node."""

from __future__ import annotations

import pytest

from controllers import CONTROLLERS, load
from shoal.api.objects import Backend, Rollout, Service, Task, Update
from shoal.api.states import DesiredState, RolloutState, TaskState, UpdateOrder
from shoal.api.template import Port
from shoal.machinery.testkit import (
    Behaviour,
    FakeAgent,
    World,
    make_cluster,
    make_network,
    make_node,
    make_service,
)

PUBLISHED = (Port(80, 8080),)


def world_with(behaviour: Behaviour) -> World:
    world = World(*(load(name) for name in CONTROLLERS), agent=FakeAgent(lambda _: behaviour))
    world.put(make_cluster(), make_network(), make_node("n1"), make_node("n2"))
    return world


def web(image: str, order: UpdateOrder) -> Service:
    return make_service("web", replicas=4, image=image, ports=PUBLISHED, update=Update(order=order))


def serving(world: World) -> int:
    """Backends that all nodes route to."""
    return sum(backend.status.ready and backend.status.serving_at is not None for backend in world.objects(Backend))


def live_images(world: World) -> list[str]:
    live = [task for task in world.objects(Task) if task.spec.desired_state is DesiredState.RUNNING]
    assert {task.status.state for task in live} == {TaskState.RUNNING}
    return [task.spec.template.image for task in live]


@pytest.mark.parametrize("order", list(UpdateOrder))
def test_an_update_of_a_published_service_comes_through(order: UpdateOrder) -> None:
    world = world_with(Behaviour(start_s=1, stop_s=2))
    world.put(web("busybox:1", order))
    world.advance(10)
    assert serving(world) == 4
    world.put(web("busybox:2", order))
    world.advance(30)
    assert live_images(world) == ["busybox:2"] * 4
    assert serving(world) == 4
    (rollout,) = world.objects(Rollout)
    assert rollout.status.state is RolloutState.COMPLETED


def test_start_first_always_has_as_many_serving_as_wanted() -> None:
    world = world_with(Behaviour(start_s=3, stop_s=2))
    world.put(web("busybox:1", UpdateOrder.START_FIRST))
    world.advance(10)
    world.put(web("busybox:2", UpdateOrder.START_FIRST))
    for _ in range(250):
        world.advance(0.1)
        assert serving(world) >= 4
    assert live_images(world) == ["busybox:2"] * 4


def test_a_crash_loop_restarts_every_five_seconds_and_no_faster() -> None:
    world = world_with(Behaviour(lives_s=1, exit_code=1))
    world.put(make_service("web"))
    world.advance(60)
    tries = sum(line.startswith("replication") and "TaskReplaced" in line for line in world.journal)
    assert 9 <= tries <= 10
