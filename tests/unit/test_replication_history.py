"""Which tasks are forgotten, and what a deleted service leaves behind: nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from shoal.api.codec import with_meta
from shoal.api.objects import Task
from shoal.api.states import DesiredState, NodeState, TaskState
from shoal.api.template import Restart
from shoal.api.units import Duration
from shoal.machinery.clock import VirtualClock
from shoal.machinery.testkit import make_cluster, make_node, make_service, make_task
from shoal.rules.history import surplus
from tests.support.stage import Stage

N1 = make_node("n1")


def staged(replicas: int = 2, **spec: object) -> Stage:
    stage = Stage(N1)
    stage.deploy(replicas=replicas, **spec)
    stage.run(N1)
    return stage


def tasks_of(states: str) -> list[Task]:
    """One task per letter, oldest first: r(unning), f(ailed), s(hutdown), p(ending)."""
    letters = {"r": TaskState.RUNNING, "f": TaskState.FAILED, "s": TaskState.SHUTDOWN, "p": TaskState.PENDING}
    made = []
    for number, letter in enumerate(states):
        task = make_task(make_service(), 1, uid=f"t{number}", state=letters[letter])
        made.append(with_meta(task, created_at=VirtualClock.START + timedelta(seconds=number)))
    return made


@pytest.mark.parametrize(
    ("states", "limit", "gone"),
    [
        pytest.param("fffffr", 5, ["t0"], id="oldest first"),
        pytest.param("ffffr", 5, [], id="within the limit, the running one included"),
        pytest.param("fffffffr", 2, ["t0", "t1", "t2", "t3", "t4", "t5"], id="small limit"),
        pytest.param("ffr", 0, ["t0", "t1"], id="no history"),
        pytest.param("fffff", 0, ["t0", "t1", "t2", "t3"], id="the current one stays though it failed"),
        pytest.param("rrrfr", 2, ["t3"], id="what runs stays"),
        pytest.param("fpffr", 3, ["t0", "t2"], id="what has not ended stays"),
        pytest.param("ffffffff", -1, [], id="negative: all stay"),
    ],
)
def test_surplus(states: str, limit: int, gone: list[str]) -> None:
    tasks = tasks_of(states)
    found = surplus(tasks, tasks[-1].metadata.uid, limit)
    assert [task.metadata.uid for task in found] == gone
    assert surplus(tasks[::-1], tasks[-1].metadata.uid, limit) == found


@pytest.mark.parametrize(
    ("limit", "spec", "kept"),
    [
        pytest.param(5, {}, 5, id="Swarm's default"),
        pytest.param(2, {}, 2, id="the cluster's"),
        pytest.param(0, {}, 1, id="none but the current one"),
        pytest.param(2, {"restart": Restart(max_attempts=7, delay=Duration.of(1))}, 8, id="the attempts and one"),
        pytest.param(-1, {}, 11, id="all"),
    ],
)
def test_history_limit(limit: int, spec: dict[str, object], kept: int) -> None:
    stage = Stage(N1, make_cluster(task_history_limit=limit))
    stage.deploy(**spec)
    stage.run(N1)
    for _ in range(10):
        for task in stage.live():
            stage.move(task, TaskState.FAILED)
        stage.run(N1)
    assert len(stage.tasks()) == kept


def test_a_deleted_service_s_tasks_are_stopped_first_and_deleted_then() -> None:
    stage = staged()
    (service,) = stage.services()
    stage.drop(service)
    stage.settle()
    assert {task.spec.desired_state for task in stage.tasks()} == {DesiredState.REMOVE}
    assert stage.slots() == []
    stage.work(N1)
    stage.settle()
    assert stage.left() == []


def test_tasks_that_no_agent_has_are_deleted_with_their_service_at_once() -> None:
    stage = Stage(N1)
    stage.deploy(replicas=3)
    stage.settle()
    stage.drop(stage.services()[0])
    stage.settle()
    assert stage.left() == []


def test_a_service_of_the_same_name_made_anew_has_nothing_to_do_with_the_old_tasks() -> None:
    stage = staged()
    old = {task.metadata.uid for task in stage.tasks()}
    (service,) = stage.services()
    stage.drop(service)
    stage.settle()
    again = with_meta(service, uid="another")
    stage.put(again)
    plan = stage.controllers[0].plan(stage.controllers[0].observe("another", stage.cache), stage.now)
    for action in plan.actions:
        stage.apply(action, "replication")
    assert len(stage.live()) == 2
    assert not old & {task.metadata.uid for task in stage.live()}


def test_tasks_of_a_node_that_is_down_wait_until_they_are_orphaned() -> None:
    stage = staged(replicas=1)
    stage.put(make_node("n1", state=NodeState.DOWN))
    stage.drop(stage.services()[0])
    stage.settle()
    (task,) = stage.tasks()
    assert task.spec.desired_state is DesiredState.REMOVE
    stage.put(replace(task, status=replace(task.status, state=TaskState.ORPHANED)))
    stage.settle()
    assert stage.left() == []


def test_a_task_whose_slot_is_gone_is_let_go() -> None:
    stage = staged(replicas=1)
    stray = make_task(stage.services()[0], 7, node=N1)
    stage.put(stray)
    stage.settle()
    assert stage.fresh(stray).spec.desired_state is DesiredState.REMOVE
    stage.work(N1)
    stage.settle()
    assert [task.spec.slot for task in stage.tasks()] == ["1"]


def test_scaling_down_a_slot_with_a_long_history_forgets_it_whole() -> None:
    stage = staged(replicas=1, restart=Restart(max_attempts=150, delay=Duration(0)))
    for _ in range(120):
        stage.move(stage.current(), TaskState.FAILED)
        stage.settle()
        stage.work(N1)
    assert len(stage.tasks()) == 121
    stage.deploy(replicas=0, restart=Restart(max_attempts=150, delay=Duration(0)))
    assert all(len(action.steps) < 50 for action in stage.plan().actions)
    stage.run(N1)
    assert stage.tasks() == []
