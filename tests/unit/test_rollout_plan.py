"""What a rollout records, whom it grants, when it is complete, and which revisions are kept."""

from __future__ import annotations

import pytest

from controllers.rollout import CONTROLLER as ROLLOUT
from shoal.api.objects import Revision, Watched
from shoal.api.states import Availability, Mode, RestartCondition, RolloutState, TaskState
from shoal.api.template import Placement, Restart
from shoal.machinery.testkit import make_node
from tests.support.stage import Stage

N1, N2 = make_node("n1"), make_node("n2")


def staged(**spec: object) -> Stage:
    stage = Stage(N1, N2)
    stage.deploy(**{"replicas": 3, **spec})
    stage.run(N1, N2)
    return stage


def revision_of(stage: Stage) -> str:
    return stage.services()[0].status.revision


def test_a_new_service_s_rollout_is_complete_and_says_nothing() -> None:
    status = staged().rollout().status
    assert (status.state, status.message, status.started_at) == (RolloutState.COMPLETED, "", None)
    assert status.stable == status.target != ""


def test_a_changed_template_begins_with_the_first_slot() -> None:
    stage = staged()
    stable = revision_of(stage)
    stage.deploy(replicas=3, image="busybox:2")
    stage.settle()
    status = stage.rollout().status
    assert (status.state, status.message) == (RolloutState.UPDATING, "update in progress")
    assert (status.stable, status.target) == (stable, revision_of(stage))
    assert (status.dirty, status.granted) == (("1", "2", "3"), ("1",))
    assert status.watched == {"1": Watched(granted_at=stage.now)}
    assert status.started_at == stage.now


def test_it_is_complete_when_every_slot_runs_the_target() -> None:
    stage = staged()
    stage.deploy(replicas=3, image="busybox:2")
    stage.settle()
    stage.work(N1, N2)
    stage.settle()
    assert stage.rollout().status.state is RolloutState.UPDATING
    stage.run(N1, N2)
    status = stage.rollout().status
    assert (status.state, status.message) == (RolloutState.COMPLETED, "update completed")
    assert status.stable == status.target == revision_of(stage)
    assert status.completed_at is not None


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"replicas": 5}, id="replicas"),
        pytest.param({"placement": Placement(constraints=("node.role == worker",))}, id="constraint all nodes meet"),
    ],
)
def test_a_change_that_restarts_nothing_is_complete_with_that(change: dict[str, object]) -> None:
    stage = staged()
    stage.deploy(**{"replicas": 3, **change})
    stage.settle()
    status = stage.rollout().status
    assert (status.state, status.started_at, status.message) == (RolloutState.COMPLETED, None, "")
    assert status.stable == status.target == revision_of(stage)


def test_a_newer_change_takes_the_place_of_a_rollout_under_way() -> None:
    stage = staged()
    stable = revision_of(stage)
    stage.deploy(replicas=3, image="busybox:2")
    stage.settle()
    stage.sleep(1)
    stage.deploy(replicas=3, image="busybox:3")
    stage.settle()
    status = stage.rollout().status
    assert (status.stable, status.target, status.started_at) == (stable, revision_of(stage), stage.now)
    stage.run(N1, N2)
    assert stage.rollout().status.state is RolloutState.COMPLETED


def test_slots_scaled_away_meanwhile_are_not_waited_for() -> None:
    stage = staged()
    stage.deploy(replicas=3, image="busybox:2")
    stage.settle()
    stage.deploy(replicas=0, image="busybox:2")
    stage.run(N1, N2)
    assert stage.rollout().status.state is RolloutState.COMPLETED


def test_a_slot_added_meanwhile_that_cannot_start_is_not_waited_for() -> None:
    stage = staged(replicas=1)
    stage.deploy(replicas=1, image="busybox:2")
    stage.settle()
    stage.deploy(replicas=2, image="busybox:2")
    stage.settle()
    for task in stage.tasks(lambda task: task.spec.slot == "1"):
        stage.move(task, TaskState.READY if task is stage.current(1) else TaskState.SHUTDOWN, N1)
    stage.settle()
    stage.move(stage.current(1), TaskState.RUNNING)
    stage.settle()
    stage.sleep(5)
    stage.settle()
    assert stage.current(2).status.state is TaskState.PENDING
    assert stage.rollout().status.state is RolloutState.COMPLETED


def test_tasks_that_ran_to_their_end_count_as_updated() -> None:
    once = {"replicas": 1, "restart": Restart(condition=RestartCondition.NONE)}
    stage = staged(**once)
    stage.deploy(**once, image="busybox:2")
    stage.settle()
    stage.work(N1)
    stage.settle()
    stage.work(N1)
    stage.settle()
    stage.move(stage.current(), TaskState.COMPLETE, N1)
    stage.settle()
    stage.sleep(5)
    stage.settle()
    assert stage.rollout().status.state is RolloutState.COMPLETED


def test_a_drained_node_of_a_global_service_is_not_waited_for() -> None:
    stage = Stage(N1, N2)
    stage.deploy(mode=Mode.GLOBAL)
    stage.run(N1, N2)
    stage.deploy(mode=Mode.GLOBAL, image="busybox:2")
    stage.settle()
    stage.put(make_node("n2", availability=Availability.DRAIN))
    stage.run(N1, N2)
    assert stage.rollout().status.state is RolloutState.COMPLETED


def test_a_rollout_deleted_by_hand_is_found_again_from_what_runs() -> None:
    stage = staged()
    stable = revision_of(stage)
    stage.drop(stage.rollout())
    stage.deploy(replicas=3, image="busybox:2")
    stage.settle()
    status = stage.rollout().status
    assert (status.stable, status.target, status.state) == (stable, revision_of(stage), RolloutState.UPDATING)


def test_nothing_is_written_while_nothing_changes() -> None:
    stage = staged()
    assert stage.plan(ROLLOUT).actions == ()
    stage.sleep(100_000)
    plan = stage.plan(ROLLOUT)
    assert (plan.actions, plan.requeue_after) == ((), None)


def numbers(stage: Stage) -> list[int]:
    return sorted(revision.spec.number for revision in stage.cache.all(Revision).values())


def test_the_last_ten_revisions_are_kept() -> None:
    stage = staged(replicas=0)
    for version in range(2, 14):
        stage.deploy(replicas=0, image=f"busybox:{version}")
        stage.settle()
    assert numbers(stage) == list(range(4, 14))


def test_a_revision_in_use_is_kept_however_old() -> None:
    stage = staged(replicas=1)
    stage.controllers = (ROLLOUT,)
    for version in range(2, 14):
        stage.deploy(replicas=1, image=f"busybox:{version}")
        stage.settle()
    assert numbers(stage) == [1, *range(4, 14)]


def test_a_deleted_service_s_rollout_and_revisions_go() -> None:
    stage = staged(replicas=0)
    stage.drop(stage.services()[0])
    stage.settle()
    assert stage.left() == []
