"""How many slots a replicated service has, and which ones go."""

from __future__ import annotations

import pytest

from shoal.api.objects import Slot
from shoal.api.states import DesiredState, TaskState
from shoal.api.template import NetworkUse, Port
from shoal.machinery.controller import Create
from shoal.machinery.testkit import make_node, make_service, make_task
from shoal.rules.slots import Occupied, lowest_free, pick_victims
from tests.support.stage import Stage, running_on

N1, N2, N3 = (make_node(name) for name in ("n1", "n2", "n3"))


def test_one_task_per_slot_is_made_each_with_its_slot_key() -> None:
    stage = Stage()
    service = stage.deploy(replicas=3)
    actions = stage.plan().actions
    assert [tuple(type(step) for step in action.steps) for action in actions] == [(Create, Create)] * 3
    stage.settle()
    assert stage.live_slots() == ["1", "2", "3"]
    for task in stage.live():
        assert task.metadata.name == f"web.{task.spec.slot}.{task.metadata.uid}"
        assert task.metadata.owner is not None
        assert task.metadata.owner.uid == service.metadata.uid
        assert stage.current(task.spec.slot) is task


def test_a_service_without_replicas_given_gets_one_task() -> None:
    stage = Stage()
    stage.deploy()
    stage.settle()
    assert stage.live_slots() == ["1"]


@pytest.mark.parametrize(
    ("spec", "state"),
    [
        pytest.param({}, TaskState.PENDING, id="nothing published"),
        pytest.param({"ports": (Port(80, 8080),)}, TaskState.NEW, id="mesh port"),
        pytest.param({"ports": (Port(80, 8080, mode="host"),)}, TaskState.PENDING, id="host port"),
        pytest.param({"networks": (NetworkUse("front"),)}, TaskState.NEW, id="overlay"),
        pytest.param({"networks": (NetworkUse("host"),)}, TaskState.PENDING, id="host network"),
    ],
)
def test_a_task_that_needs_an_address_waits_for_it(spec: dict[str, object], state: TaskState) -> None:
    stage = Stage()
    stage.deploy(**spec)
    stage.settle()
    assert stage.current().status.state is state


def test_scaling_leaves_other_tasks_alone() -> None:
    stage = Stage(N1)
    stage.deploy(replicas=3)
    stage.run(N1)
    before = {task.metadata.uid: task for task in stage.tasks()}
    stage.deploy(replicas=5)
    stage.run(N1)
    assert stage.live_slots() == ["1", "2", "3", "4", "5"]
    assert {uid: task for task in stage.tasks() if (uid := task.metadata.uid) in before} == before
    stage.deploy(replicas=3)
    stage.run(N1)
    assert {task.metadata.uid: task for task in stage.tasks()} == before


def test_scaling_up_fills_the_lowest_free_numbers() -> None:
    stage = Stage(N1, N2)
    stage.deploy(replicas=4)
    stage.settle()
    for task, node in zip(stage.live(), (N1, N1, N1, N2), strict=True):
        stage.move(task, TaskState.RUNNING, node)
    stage.deploy(replicas=3)
    stage.run(N1, N2)
    assert stage.slots() == ["1", "2", "4"]
    stage.deploy(replicas=5)
    stage.settle()
    assert stage.slots() == ["1", "2", "3", "4", "5"]


def test_a_slot_given_up_is_wanted_gone_and_its_task_deleted_once_it_stopped() -> None:
    stage = Stage(N1)
    stage.deploy(replicas=2)
    stage.run(N1)
    stage.deploy(replicas=1)
    stage.settle()
    (leaving,) = stage.tasks(lambda task: not task.spec.desired_state.is_live)
    assert (leaving.spec.slot, leaving.spec.desired_state) == ("2", DesiredState.REMOVE)
    assert stage.slots() == ["1"]
    stage.work(N1)
    stage.settle()
    assert [task.spec.slot for task in stage.tasks()] == ["1"]


def test_a_slot_filled_again_waits_for_the_task_that_is_still_leaving_it() -> None:
    stage = Stage(N1)
    stage.deploy(replicas=2)
    stage.run(N1)
    stage.deploy(replicas=1)
    stage.settle()
    stage.deploy(replicas=2)
    stage.settle()
    assert stage.current(2).spec.desired_state is DesiredState.READY
    stage.work(N1)
    stage.settle()
    assert stage.current(2).spec.desired_state is DesiredState.RUNNING


def test_scaling_to_nothing_and_back() -> None:
    stage = Stage(N1)
    stage.deploy(replicas=2)
    stage.run(N1)
    stage.deploy(replicas=0)
    stage.run(N1)
    assert (stage.tasks(), stage.slots()) == ([], [])
    stage.deploy(replicas=2)
    stage.run(N1)
    assert running_on(stage) == {"n1": ["1", "2"]}


def test_a_task_deleted_by_hand_is_replaced() -> None:
    stage = Stage(N1)
    stage.deploy(replicas=2)
    stage.run(N1)
    stage.drop(stage.current(1))
    stage.run(N1)
    assert stage.live_slots() == ["1", "2"]


def test_a_slot_deleted_by_hand_is_written_again_for_the_task_that_lives_there() -> None:
    stage = Stage(N1)
    stage.deploy(replicas=1)
    stage.run(N1)
    task = stage.current(1)
    (slot,) = stage.cache.all(Slot).values()
    stage.drop(slot)
    stage.run(N1)
    assert stage.live() == [task]
    assert stage.current(1) == task


def test_lowest_free_numbers_skip_what_is_taken() -> None:
    assert lowest_free({"1", "3"}, 3) == ["2", "4", "5"]


WEB = make_service(replicas=7)
RUNNING, PREPARING = TaskState.RUNNING, TaskState.PREPARING


def occupied(*tasks: tuple[object, TaskState]) -> list[Occupied]:
    made = []
    for number, (node, state) in enumerate(tasks, 1):
        made.append(Occupied(str(number), make_task(WEB, number, node=node, state=state)))  # type: ignore[arg-type]
    return made


SEVEN = occupied(
    (N1, RUNNING), (N2, RUNNING), (N2, RUNNING), (N3, RUNNING), (N3, RUNNING), (N3, RUNNING), (None, TaskState.PENDING)
)  # fmt: skip


@pytest.mark.parametrize(
    ("count", "victims"),
    [
        pytest.param(1, ["7"], id="unassigned first"),
        pytest.param(2, ["7", "6"], id="then the most loaded node"),
        pytest.param(4, ["7", "6", "5", "3"], id="until all are loaded alike"),
        pytest.param(6, ["7", "6", "5", "3", "4", "2"], id="then the highest numbers"),
    ],
)
def test_scaling_down_evens_out_nodes(count: int, victims: list[str]) -> None:
    assert pick_victims(SEVEN, count) == victims


@pytest.mark.parametrize(
    ("slots", "victims"),
    [
        pytest.param(occupied((N1, RUNNING), (N1, PREPARING), (N1, RUNNING)), ["2"], id="not running"),
        pytest.param(occupied((N1, PREPARING), (N2, RUNNING)), ["1"], id="not running, nodes alike"),
        pytest.param([*occupied((N1, RUNNING), (N1, RUNNING)), Occupied("3", None)], ["3"], id="vacant"),
        pytest.param(
            [
                Occupied("1", make_task(WEB, 1, node=N2, state=TaskState.FAILED, desired=DesiredState.SHUTDOWN)),
                *(Occupied(str(n), make_task(WEB, n, node=N1)) for n in (2, 3)),
            ],
            ["1"],
            id="dead for good",
        ),
        pytest.param([Occupied(str(n), make_task(WEB, n, node=N1)) for n in (9, 10)], ["10"], id="numbers, not text"),
    ],
)
def test_scaling_down_prefers_what_does_not_run(slots: list[Occupied], victims: list[str]) -> None:
    assert pick_victims(slots, len(victims)) == victims
