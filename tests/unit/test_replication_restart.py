"""When a task that ended is replaced, and how soon: the restart policy."""

from __future__ import annotations

from datetime import timedelta

import pytest

from shoal.api.objects import Task
from shoal.api.states import Availability, DesiredState, NodeState, RestartCondition, TaskState
from shoal.api.template import Restart
from shoal.api.units import Duration
from shoal.machinery.clock import VirtualClock
from shoal.machinery.testkit import make_node
from tests.support.stage import Stage

NOW = VirtualClock.START + timedelta(hours=1)
N1 = make_node("n1")
ANY, ON_FAILURE, NONE = RestartCondition.ANY, RestartCondition.ON_FAILURE, RestartCondition.NONE


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def staged(replicas: int = 1, **restart: object) -> Stage:
    stage = Stage(N1)
    stage.deploy(replicas=replicas, restart=Restart(**restart))  # type: ignore[arg-type]
    stage.run(N1)
    return stage


def fail(stage: Stage, slot: int = 1, state: TaskState = TaskState.FAILED) -> Task:
    """End a slot's task and let the controllers see it."""
    task = stage.current(slot)
    stage.move(task, state, err="exit code 1")
    stage.settle()
    return task


@pytest.mark.parametrize(
    ("condition", "state", "restarts"),
    [
        pytest.param(ANY, TaskState.COMPLETE, True, id="any: also what ended well"),
        pytest.param(ANY, TaskState.FAILED, True, id="any: what failed"),
        pytest.param(ANY, TaskState.REJECTED, True, id="any: what was rejected"),
        pytest.param(ON_FAILURE, TaskState.COMPLETE, False, id="on-failure: not what ended well"),
        pytest.param(ON_FAILURE, TaskState.FAILED, True, id="on-failure: what failed"),
        pytest.param(ON_FAILURE, TaskState.SHUTDOWN, True, id="on-failure: what was stopped"),
        pytest.param(NONE, TaskState.FAILED, False, id="none: nothing"),
        pytest.param(NONE, TaskState.COMPLETE, False, id="none: nothing, however it ended"),
    ],
)
def test_condition(condition: RestartCondition, state: TaskState, restarts: bool) -> None:
    stage = staged(condition=condition, delay=Duration(0))
    ended = fail(stage, state=state)
    assert stage.fresh(ended).spec.desired_state is DesiredState.SHUTDOWN
    assert [task.spec.replaces for task in stage.live()] == ([ended.metadata.uid] if restarts else [])


def test_a_replacement_waits_prepared_for_the_delay_five_seconds_unless_told_otherwise() -> None:
    stage = staged()
    fail(stage)
    assert stage.current().spec.desired_state is DesiredState.READY
    assert stage.settle() == seconds(5)
    stage.sleep(4.9)
    assert stage.settle() == seconds(0.1)
    stage.sleep(0.1)
    stage.settle()
    assert stage.current().spec.desired_state is DesiredState.RUNNING


def test_a_delay_stamped_by_a_clock_ahead_of_ours_waits_no_longer_than_it_is() -> None:
    stage = staged(delay=Duration.of(5))
    fail(stage)
    stage.now -= timedelta(hours=1)
    assert stage.settle() == seconds(5)


def test_a_task_that_fails_within_its_own_delay_waits_for_that_delay_first() -> None:
    stage = staged(delay=Duration.of(10))
    fail(stage)
    stage.sleep(1)
    rejected = fail(stage, state=TaskState.REJECTED)
    assert stage.current() == stage.fresh(rejected)
    assert stage.settle() == seconds(9)
    stage.sleep(9)
    stage.settle()
    assert stage.current().spec.replaces == rejected.metadata.uid
    assert stage.settle() == seconds(10)


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_max_attempts_counts_restarts_of_a_slot(attempts: int) -> None:
    stage = staged(replicas=2, condition=ANY, max_attempts=attempts, delay=Duration.of(1))
    for _ in range(attempts):
        fail(stage)
        stage.run(N1)
        assert stage.current(1).status.state is TaskState.RUNNING
    fail(stage)
    stage.run(N1)
    assert (stage.live_slots(), stage.slots()) == (["2"], ["1", "2"])
    fail(stage, slot=2)
    stage.run(N1)
    assert stage.live_slots() == ["2"]


def test_attempts_are_forgotten_with_a_new_revision() -> None:
    stage = staged(condition=ANY, max_attempts=1, delay=Duration.of(1))
    for _ in range(2):
        fail(stage)
        stage.run(N1)
    assert stage.live() == []
    stage.deploy(restart=Restart(condition=ANY, max_attempts=1, delay=Duration.of(1)), image="busybox:2")
    stage.run(N1)
    assert stage.live_slots() == ["1"]
    fail(stage)
    stage.run(N1)
    assert stage.live_slots() == ["1"]


def test_a_failed_slot_still_counts_when_scaling() -> None:
    stage = staged(replicas=2, condition=NONE)
    fail(stage, slot=1)
    stage.deploy(replicas=3, restart=Restart(condition=NONE))
    stage.run(N1)
    assert stage.live_slots() == ["2", "3"]
    assert stage.slots() == ["1", "2", "3"]


def test_attempts_outside_the_window_are_forgiven() -> None:
    stage = staged(condition=ANY, max_attempts=2, window=Duration.of(60), delay=Duration.of(1))
    for _ in range(5):
        stage.sleep(40)
        fail(stage)
        stage.run(N1)
        assert stage.live_slots() == ["1"]
    for _ in range(2):
        fail(stage)
        stage.run(N1)
    assert stage.live_slots() == []
    stage.sleep(3600)
    stage.run(N1)
    assert stage.live_slots() == [], "what was given up stays so, however much time goes by"


def test_history_is_kept_long_enough_to_count_attempts() -> None:
    stage = staged(condition=ANY, max_attempts=8, delay=Duration.of(1))
    for _ in range(20):
        if stage.live():
            fail(stage)
            stage.run(N1)
    assert len(stage.tasks()) == 9
    assert stage.live() == []


def test_a_crash_loop_keeps_no_more_than_the_history_limit() -> None:
    stage = staged()
    for _ in range(12):
        fail(stage)
        stage.run(N1)
        assert len(stage.tasks()) <= 5
    assert stage.current().status.state is TaskState.RUNNING


def drain(stage: Stage) -> None:
    stage.put(make_node("n1", availability=Availability.DRAIN))


def test_a_drained_node_s_task_is_replaced_without_delay_once_it_has_stopped() -> None:
    stage = staged()
    old = stage.current()
    drain(stage)
    stage.settle()
    assert stage.fresh(old).spec.desired_state is DesiredState.SHUTDOWN
    assert stage.current().spec.desired_state is DesiredState.READY
    stage.move(old, TaskState.SHUTDOWN)
    stage.settle()
    assert stage.current().spec.desired_state is DesiredState.RUNNING


def test_a_replacement_waits_a_minute_at_most_for_the_old_task() -> None:
    stage = staged()
    drain(stage)
    assert stage.settle() == seconds(60)
    stage.sleep(60)
    stage.settle()
    assert stage.current().spec.desired_state is DesiredState.RUNNING


@pytest.mark.parametrize(
    ("changes", "moves"),
    [
        pytest.param({}, False, id="ready"),
        pytest.param({"availability": Availability.PAUSE}, False, id="paused"),
        pytest.param({"state": NodeState.UNKNOWN}, False, id="unknown"),
        pytest.param({"availability": Availability.DRAIN}, True, id="drained"),
        pytest.param({"state": NodeState.DOWN}, True, id="down"),
        pytest.param(None, True, id="removed"),
    ],
)
def test_which_nodes_tasks_leave(changes: dict[str, object] | None, moves: bool) -> None:
    stage = staged(replicas=2)
    before = stage.live()
    stage.drop(N1) if changes is None else stage.put(make_node("n1", **changes))  # type: ignore[arg-type]
    stage.settle()
    assert stage.live_slots() == ["1", "2"]
    assert (stage.live() != before) is moves


@pytest.mark.parametrize("loss", ["down", "removed"])
def test_a_lost_node_s_task_is_replaced_at_once(loss: str) -> None:
    stage = staged()
    old = stage.current()
    stage.put(make_node("n1", state=NodeState.DOWN)) if loss == "down" else stage.drop(N1)
    stage.settle()
    new = stage.current()
    assert (new.spec.replaces, new.spec.desired_state) == (old.metadata.uid, DesiredState.RUNNING)


def test_a_task_on_a_lost_node_is_remembered_until_the_node_is_removed() -> None:
    stage = staged()
    old = stage.current()
    stage.put(make_node("n1", state=NodeState.DOWN))
    stage.settle()
    assert stage.fresh(old).status.state is TaskState.RUNNING
    stage.drop(N1)
    stage.settle()
    assert old.metadata.uid not in [task.metadata.uid for task in stage.tasks()]


def test_a_task_that_waits_on_a_node_that_is_drained_moves_on_with_the_delay_it_has_left() -> None:
    stage = staged(delay=Duration.of(30))
    fail(stage)
    stage.work(N1)
    stage.sleep(10)
    drain(stage)
    stage.work()
    waiting = stage.current()
    assert stage.settle() is not None
    assert stage.current().spec.replaces == waiting.metadata.uid
    stage.move(waiting, TaskState.SHUTDOWN)
    assert stage.settle() == seconds(20)


def test_an_evicted_task_is_replaced_by_policy_once_its_node_gave_it_up() -> None:
    stage = staged()
    old = fail(stage, state=TaskState.REJECTED)
    assert stage.current().spec.replaces == old.metadata.uid
    assert stage.current().spec.desired_state is DesiredState.READY


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.REJECTED, TaskState.ORPHANED])
def test_a_new_leader_doubles_nothing(state: TaskState) -> None:
    """Nothing is remembered between passes, so a second pass after any failure is what a new leader would do."""
    stage = staged()
    fail(stage, state=state)
    assert len(stage.live()) == 1
    assert stage.plan().actions == ()
