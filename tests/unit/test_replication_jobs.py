"""Jobs: every slot completes once per iteration, so many at a time; failed ones are restarted by policy."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from shoal.api.objects import Node, Service, Task
from shoal.api.states import Availability, DesiredState, Mode, NodeState, RestartCondition, RolloutState, TaskState
from shoal.api.template import Placement, Restart
from shoal.api.units import Duration
from shoal.machinery.testkit import make_node
from tests.support.stage import Stage

N1, N2, N3 = (make_node(name) for name in ("n1", "n2", "n3"))
COMPLETE, FAILED, RUNNING = TaskState.COMPLETE, TaskState.FAILED, TaskState.RUNNING


def write(stage: Stage, **spec: Any) -> Service:
    """Write a job as the API server does: each time a new iteration."""
    old = next(iter(stage.services()), None)
    stage.deploy(**{"mode": Mode.JOB, **spec})
    (new,) = stage.services()
    if old is not None:
        stage.put(replace(new, status=replace(new.status, job_iteration=old.status.job_iteration + 1)))
    stage.settle()
    return new


def staged(*nodes: Node, **spec: Any) -> Stage:
    stage = Stage(*(nodes or (N1,)))
    write(stage, **spec)
    return stage


def alive(stage: Stage) -> list[Task]:
    return [task for task in stage.live() if not task.status.state.is_terminal]


def alive_slots(stage: Stage) -> list[str]:
    return [task.spec.slot for task in alive(stage)]


def end(stage: Stage, slot: str | int, state: TaskState) -> None:
    stage.move(stage.current(slot), state, N1)
    stage.settle()


def done(stage: Stage) -> list[str]:
    return [task.spec.slot for task in stage.tasks() if task.status.state is COMPLETE]


@pytest.mark.parametrize(
    ("spec", "slots"),
    [
        pytest.param({}, ["1"], id="one-unless-told"),
        pytest.param({"replicas": 3}, ["1", "2", "3"], id="all-at-once-unless-told"),
        pytest.param({"replicas": 5, "max_concurrent": 2}, ["1", "2"], id="so-many-at-a-time"),
        pytest.param({"replicas": 2, "max_concurrent": 9}, ["1", "2"], id="no-more-than-all"),
        pytest.param({"replicas": 2, "max_concurrent": 0}, [], id="none-at-a-time"),
    ],
)
def test_what_starts_first(spec: dict[str, Any], slots: list[str]) -> None:
    stage = staged(**spec)
    assert alive_slots(stage) == slots
    assert {task.spec.desired_state for task in alive(stage)} <= {DesiredState.COMPLETE}


def test_a_completed_task_makes_room_for_the_next_until_all_have_completed() -> None:
    stage = staged(replicas=3, max_concurrent=2)
    end(stage, 1, COMPLETE)
    assert alive_slots(stage) == ["2", "3"]
    end(stage, 3, COMPLETE)
    assert alive_slots(stage) == ["2"]
    end(stage, 2, COMPLETE)
    assert (alive(stage), done(stage)) == ([], ["1", "2", "3"])
    assert {task.spec.desired_state for task in stage.tasks()} == {DesiredState.COMPLETE}
    stage.sleep(1000)
    before = stage.revision
    stage.settle()
    assert stage.revision == before


def test_a_completed_task_stays_completed_whatever_becomes_of_its_node() -> None:
    stage = staged(replicas=1)
    end(stage, 1, COMPLETE)
    stage.node("n1", state=NodeState.DOWN)
    stage.settle()
    stage.node("n1", availability=Availability.DRAIN)
    stage.settle()
    assert (alive(stage), done(stage)) == ([], ["1"])


@pytest.mark.parametrize("condition", [None, RestartCondition.ANY, RestartCondition.ON_FAILURE])
def test_a_failed_task_is_restarted_after_the_delay_and_counts_meanwhile(condition: RestartCondition | None) -> None:
    stage = staged(replicas=2, max_concurrent=1, restart=Restart(condition=condition, delay=Duration.of(3)))
    end(stage, 1, FAILED)
    assert [(t.spec.slot, t.spec.desired_state) for t in alive(stage)] == [("1", DesiredState.READY)]
    stage.sleep(3)
    stage.settle()
    assert [(t.spec.slot, t.spec.desired_state) for t in alive(stage)] == [("1", DesiredState.COMPLETE)]
    end(stage, 1, COMPLETE)
    assert alive_slots(stage) == ["2"]


@pytest.mark.parametrize(
    ("restart", "tries"),
    [
        pytest.param(Restart(condition=RestartCondition.NONE), 1, id="never"),
        pytest.param(Restart(max_attempts=2, delay=Duration(0)), 3, id="attempts"),
    ],
)
def test_a_slot_that_may_not_be_restarted_is_over_and_the_others_go_on(restart: Restart, tries: int) -> None:
    stage = staged(replicas=2, max_concurrent=1, restart=restart)
    for _ in range(tries):
        assert alive_slots(stage) == ["1"]
        end(stage, 1, FAILED)
        stage.settle()
    assert alive_slots(stage) == ["2"]
    end(stage, 2, COMPLETE)
    assert (alive(stage), done(stage)) == ([], ["2"])


def test_a_task_of_a_lost_node_is_replaced_at_once() -> None:
    stage = staged(N1, N2, replicas=1)
    stage.move(stage.current(1), RUNNING, N1)
    stage.node("n1", state=NodeState.DOWN)
    stage.settle()
    assert [(t.spec.desired_state, t.spec.node) for t in alive(stage) if t.status.state is not RUNNING] == [
        (DesiredState.COMPLETE, None)
    ]


def test_whatever_is_written_runs_the_job_once_more() -> None:
    stage = staged(replicas=2)
    for slot in (1, 2):
        end(stage, slot, COMPLETE)
    write(stage, replicas=2, force_update=1)
    assert {(t.spec.slot, t.spec.job_iteration) for t in stage.tasks()} == {("1", 1), ("2", 1)}
    assert alive_slots(stage) == ["1", "2"]


def test_running_tasks_of_the_old_iteration_stop_before_the_new_one_s_run() -> None:
    stage = staged(replicas=2)
    for slot in (1, 2):
        stage.move(stage.current(slot), RUNNING, N1)
    stage.settle()
    write(stage, replicas=1)
    old = [task for task in stage.tasks() if task.spec.job_iteration == 0]
    assert {task.spec.desired_state for task in old} == {DesiredState.REMOVE}
    (new,) = alive(stage)
    assert (new.spec.slot, new.spec.desired_state) == ("1", DesiredState.READY)
    for task in old:
        stage.move(task, TaskState.SHUTDOWN)
    stage.settle()
    assert [(t.spec.slot, t.spec.job_iteration, t.spec.desired_state) for t in stage.tasks()] == [
        ("1", 1, DesiredState.COMPLETE)
    ]


def test_a_job_s_rollout_is_complete_at_once() -> None:
    stage = staged(replicas=2)
    stage.move(stage.current(1), RUNNING, N1)
    new = write(stage, replicas=2, image="busybox:2")
    status = stage.rollout().status
    assert (status.state, status.stable, status.target) == (
        RolloutState.COMPLETED, new.status.revision, new.status.revision,
    )  # fmt: skip
    assert {task.spec.revision for task in alive(stage)} == {new.status.revision}


def test_a_deleted_job_leaves_nothing() -> None:
    stage = staged(replicas=2)
    end(stage, 1, COMPLETE)
    stage.move(stage.current(2), RUNNING, N1)
    for service in stage.services():
        stage.drop(service)
    stage.run(N1)
    assert stage.left() == []


def on_nodes(stage: Stage) -> list[str]:
    return sorted(task.spec.node.name for task in alive(stage) if task.spec.node is not None)


@pytest.mark.parametrize(
    ("changes", "gets_one"),
    [
        pytest.param({}, True, id="ready"),
        pytest.param({"state": NodeState.DOWN}, False, id="down"),
        pytest.param({"availability": Availability.DRAIN}, False, id="drained"),
        pytest.param({"availability": Availability.PAUSE}, False, id="paused"),
        pytest.param({"labels": {"disk": "hdd"}}, False, id="constraint not met"),
    ],
)
def test_a_global_job_runs_on_every_eligible_node_also_on_later_ones(changes: dict[str, Any], gets_one: bool) -> None:
    placement = Placement(constraints=("node.labels.disk != hdd",))
    stage = staged(N1, mode=Mode.GLOBAL_JOB, placement=placement)
    stage.node("n2", **changes)
    stage.settle()
    assert on_nodes(stage) == (["n1", "n2"] if gets_one else ["n1"])


def test_a_node_completes_once_and_again_in_the_next_iteration() -> None:
    stage = staged(N1, N2, mode=Mode.GLOBAL_JOB)
    for task in alive(stage):
        stage.move(task, COMPLETE)
    stage.settle()
    assert alive(stage) == []
    write(stage, mode=Mode.GLOBAL_JOB, force_update=1)
    assert on_nodes(stage) == ["n1", "n2"]


def test_a_drained_node_s_task_stops_and_is_tried_again_when_the_node_is_back() -> None:
    stage = staged(N1, N2, mode=Mode.GLOBAL_JOB)
    for task in alive(stage):
        stage.move(task, RUNNING)
    stage.node("n2", availability=Availability.DRAIN)
    stage.settle()
    assert on_nodes(stage) == ["n1"]
    for task in stage.tasks(lambda task: not task.spec.desired_state.is_live):
        stage.move(task, TaskState.SHUTDOWN)
    stage.node("n2")
    stage.settle()
    assert on_nodes(stage) == ["n1", "n2"]
