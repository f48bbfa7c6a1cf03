"""One task per eligible node."""

from __future__ import annotations

import pytest

from shoal.api.objects import Node
from shoal.api.states import Availability, DesiredState, Mode, NodeState, RestartCondition, TaskState
from shoal.api.template import Placement, Restart
from shoal.api.units import Duration
from shoal.machinery.testkit import make_node
from tests.support.stage import Stage, running_on, twin_of

N1, N2, N3 = (make_node(name) for name in ("n1", "n2", "n3"))
ACTIVE, PAUSE, DRAIN = Availability.ACTIVE, Availability.PAUSE, Availability.DRAIN


def staged(*nodes: Node, **spec: object) -> Stage:
    stage = Stage(*nodes)
    stage.deploy(mode=Mode.GLOBAL, **spec)
    stage.run(*nodes)
    return stage


def where(stage: Stage) -> list[str]:
    return sorted(task.spec.node.name for task in stage.live() if task.spec.node is not None)


def test_every_node_gets_one_task_with_its_node_from_the_start() -> None:
    stage = Stage(N1, N2)
    stage.deploy(mode=Mode.GLOBAL)
    stage.settle()
    assert where(stage) == ["n1", "n2"]
    for task in stage.live():
        assert task.spec.node is not None
        assert task.spec.slot == task.spec.node.uid
        assert task.status.state is TaskState.PENDING


@pytest.mark.parametrize(
    ("changes", "gets_one"),
    [
        pytest.param({}, True, id="ready"),
        pytest.param({"state": NodeState.UNKNOWN}, True, id="not yet heard of: waits in placement"),
        pytest.param({"state": NodeState.DOWN}, False, id="down"),
        pytest.param({"availability": DRAIN}, False, id="drained"),
        pytest.param({"availability": PAUSE}, False, id="paused"),
        pytest.param({"labels": {"disk": "hdd"}}, False, id="constraint not met"),
    ],
)
def test_nodes_that_join(changes: dict[str, object], gets_one: bool) -> None:
    stage = staged(N1, placement=Placement(constraints=("node.labels.disk != hdd",)))
    stage.node("n2", **changes)
    stage.settle()
    assert where(stage) == (["n1", "n2"] if gets_one else ["n1"])


def test_a_removed_node_s_tasks_and_slots_are_deleted() -> None:
    stage = staged(N1, N2)
    stage.drop(N2)
    stage.settle()
    assert [task.spec.slot for task in stage.tasks()] == [N1.metadata.uid]
    assert stage.slots() == [N1.metadata.uid]


@pytest.mark.parametrize(
    "changes",
    [pytest.param({"availability": DRAIN}, id="drain"), pytest.param({"state": NodeState.DOWN}, id="down")],
)
def test_a_node_out_of_use_is_left_and_taken_again(changes: dict[str, object]) -> None:
    stage = staged(N1, N2)
    stage.put(make_node("n2", **changes))  # type: ignore[arg-type]
    stage.settle()
    assert where(stage) == ["n1"]
    assert stage.settle() is None
    stage.put(N2)
    stage.run(N1, N2)
    assert where(stage) == ["n1", "n2"]
    assert running_on(stage) == {"n1": [N1.metadata.uid], "n2": [N2.metadata.uid]}


def test_a_node_that_returns_runs_nothing_new_before_the_old_task_has_stopped() -> None:
    stage = staged(N1)
    stage.put(make_node("n1", state=NodeState.DOWN))
    stage.settle()
    stage.put(N1)
    stage.settle()
    assert stage.current(N1.metadata.uid).spec.desired_state is DesiredState.READY


def test_a_paused_node_keeps_its_task_but_gets_no_other() -> None:
    stage = staged(N1)
    before = stage.live()
    stage.put(make_node("n1", availability=PAUSE))
    stage.deploy(mode=Mode.GLOBAL, image="busybox:2")
    stage.settle()
    assert stage.live() == before
    stage.move(before[0], TaskState.FAILED)
    stage.settle()
    assert stage.live() == []
    stage.put(N1)
    stage.run(N1)
    assert [task.spec.template.image for task in stage.live()] == ["busybox:2"]


def test_a_constraint_that_no_longer_matches_takes_the_task_away() -> None:
    nodes = (make_node("n1", labels={"tier": "front"}), make_node("n2", labels={"tier": "front"}))
    stage = staged(*nodes, placement=Placement(constraints=("node.labels.tier == front",)))
    kept = stage.current(nodes[0].metadata.uid)
    stage.put(make_node("n2", labels={"tier": "back"}))
    stage.run(*nodes)
    assert stage.tasks() == [kept]


def test_scaling_and_labels_of_others_do_not_matter() -> None:
    stage = staged(N1, N2)
    before = stage.tasks()
    stage.put(make_node("n2", labels={"any": "thing"}))
    stage.settle()
    assert stage.tasks() == before


def test_attempts_count_per_node() -> None:
    policy = Restart(condition=RestartCondition.ANY, max_attempts=1, delay=Duration.of(1))
    stage = staged(N1, N2, restart=policy)
    for _ in range(2):
        stage.move(stage.current(N1.metadata.uid), TaskState.FAILED)
        stage.run(N1, N2)
    assert where(stage) == ["n2"]
    stage.deploy(mode=Mode.GLOBAL, restart=policy, image="busybox:2")
    stage.run(N1, N2)
    assert where(stage) == ["n1", "n2"]


def test_a_second_task_of_a_node_is_shut_down() -> None:
    stage = staged(N1)
    kept = stage.current(N1.metadata.uid)
    twin = twin_of(kept)
    stage.put(twin)
    stage.settle()
    assert stage.live() == [kept]
    assert stage.fresh(twin).spec.desired_state is DesiredState.SHUTDOWN


def test_a_deleted_service_s_tasks_go() -> None:
    stage = staged(N1, N2)
    (service,) = stage.services()
    stage.drop(service)
    stage.settle()
    assert {task.spec.desired_state for task in stage.tasks()} == {DesiredState.REMOVE}
    stage.work(N1, N2)
    stage.settle()
    assert stage.left() == []
