"""How a slot gets another revision: what makes its task dirty, and in which order it is replaced."""

from __future__ import annotations

import pytest

from shoal.api.objects import Service, Update
from shoal.api.states import DesiredState, Mode, RestartCondition, RolloutState, TaskState, UpdateOrder
from shoal.api.template import Placement, Port, Reservations, Resources, Restart
from shoal.api.units import Cpus, Duration
from shoal.machinery.controller import Plan
from shoal.machinery.testkit import make_node, make_rollout
from tests.support.stage import Stage, revisions_of, serve, twin_of

N1 = make_node("n1", labels={"disk": "ssd"})
N2 = make_node("n2", labels={"disk": "hdd"})
START_FIRST = Update(order=UpdateOrder.START_FIRST)
PUBLISHED = (Port(80, 8080),)
HUGE = Resources(reservations=Reservations(cpus=Cpus.parse(64)))


def staged(**spec: object) -> Stage:
    stage = Stage(N1, N2)
    stage.deploy(**spec)
    stage.run(N1, N2)
    return stage


@pytest.mark.parametrize(
    ("change", "restarts"),
    [
        pytest.param({}, False, id="nothing"),
        pytest.param({"replicas": 4}, False, id="replicas"),
        pytest.param({"labels": {"tier": "front"}}, False, id="service labels"),
        pytest.param({"update": Update(parallelism=7), "rollback": START_FIRST}, False, id="update settings"),
        pytest.param({"placement": Placement(constraints=("node.labels.disk != tape",))}, False, id="placement, fits"),
        pytest.param({"placement": Placement(constraints=("node.labels.disk == tape",))}, True, id="placement, unfit"),
        pytest.param({"image": "busybox:2"}, True, id="image"),
        pytest.param({"env": ("A=1",)}, True, id="env"),
        pytest.param({"ports": (Port(80, 8080),)}, True, id="ports"),
        pytest.param({"container_labels": {"a": "b"}}, True, id="container labels"),
        pytest.param({"restart": Restart(condition=RestartCondition.NONE)}, True, id="restart policy"),
        pytest.param({"force_update": 1}, True, id="forced"),
    ],
)
def test_what_restarts_a_task(change: dict[str, object], restarts: bool) -> None:
    stage = staged(replicas=2)
    before = {task.metadata.uid for task in stage.tasks()}
    stage.deploy(**{"replicas": 2, **change})
    stage.run(N1, N2)
    kept = before & {task.metadata.uid for task in stage.live()}
    assert kept == (set() if restarts else before)


def test_a_constraint_change_replaces_only_tasks_whose_node_no_longer_fits() -> None:
    stage = staged(replicas=2)
    on_n1 = next(task for task in stage.live() if task.spec.node is not None and task.spec.node.name == "n1")
    stage.deploy(replicas=2, placement=Placement(constraints=("node.labels.disk == ssd",)))
    stage.run(N1)
    assert on_n1 in stage.live()
    assert {task.spec.node.name for task in stage.live() if task.spec.node} == {"n1"}


def test_back_to_a_template_that_tasks_still_run_replaces_nothing() -> None:
    stage = staged(replicas=2)
    before = stage.tasks()
    stage.deploy(replicas=2, image="busybox:2")
    stage.deploy(replicas=2)
    stage.run(N1, N2)
    assert stage.tasks() == before


def planned(service: Service, stage: Stage, **rollout: object) -> Plan:
    stage.put(make_rollout(service, **rollout))  # type: ignore[arg-type]
    return stage.plan()


def test_nothing_is_replaced_nor_added_before_rollout_has_taken_up_the_new_revision() -> None:
    stage = staged(replicas=2)
    old = stage.services()[0]
    new = stage.deploy(replicas=3, image="busybox:2")
    plan = planned(new, stage, target=old.status.revision)
    assert (plan.actions, plan.because) == ((), "waits for rollout to take up the service's newest revision")


def test_only_granted_slots_are_replaced() -> None:
    stage = staged(replicas=3)
    old = stage.services()[0]
    new = stage.deploy(replicas=3, image="busybox:2")
    state = {"state": RolloutState.UPDATING, "stable": old.status.revision, "dirty": ("1", "2", "3")}
    plan = planned(new, stage, granted=("2",), **state)
    assert [action.note for action in plan.actions] == ["web.2: updated"]


def test_a_slot_that_waits_for_its_grant_is_restarted_with_the_stable_revision() -> None:
    stage = staged(replicas=2, restart=Restart(delay=Duration(0)))
    old = stage.services()[0]
    new = stage.deploy(replicas=2, image="busybox:2", restart=Restart(delay=Duration(0)))
    stage.put(make_rollout(new, state=RolloutState.UPDATING, stable=old.status.revision, dirty=("1", "2"), granted=()))
    stage.controllers = stage.controllers[:1]
    stage.move(stage.current(1), TaskState.FAILED)
    stage.settle()
    assert revisions_of(stage.live()) == {old.status.revision}


@pytest.mark.parametrize(
    ("state", "is_target"),
    [
        pytest.param(RolloutState.UPDATING, True, id="while updating: the target"),
        pytest.param(RolloutState.PAUSED, False, id="while paused: the stable one"),
        pytest.param(RolloutState.ROLLBACK_PAUSED, False, id="while a rollback is paused: the stable one"),
        pytest.param(RolloutState.COMPLETED, True, id="afterwards: the target"),
    ],
)
def test_a_new_slot_s_revision(state: RolloutState, is_target: bool) -> None:
    stage = staged(replicas=1)
    old = stage.services()[0]
    new = stage.deploy(replicas=2, image="busybox:2")
    stage.put(make_rollout(new, state=state, stable=old.status.revision, dirty=("1",)))
    stage.controllers = stage.controllers[:1]
    stage.settle()
    assert stage.current(2).spec.revision == (new if is_target else old).status.revision
    assert stage.current(1).spec.revision == old.status.revision


def test_stop_first_prepares_the_new_task_then_stops_the_old_one_and_starts_the_new_one_once_it_has_stopped() -> None:
    stage = staged(replicas=1)
    old = stage.current()
    stage.deploy(replicas=1, image="busybox:2")
    stage.settle()
    new = stage.current()
    assert stage.fresh(old).spec.desired_state is DesiredState.RUNNING
    assert (new.spec.desired_state, new.spec.replaces) == (DesiredState.READY, old.metadata.uid)
    stage.move(new, TaskState.PREPARING, N1)
    stage.settle()
    assert stage.fresh(old).spec.desired_state is DesiredState.RUNNING, "the image is still being pulled"
    stage.move(new, TaskState.READY)
    stage.settle()
    assert stage.fresh(old).spec.desired_state is DesiredState.SHUTDOWN
    assert stage.fresh(new).spec.desired_state is DesiredState.READY
    stage.move(old, TaskState.SHUTDOWN)
    stage.settle()
    assert stage.fresh(new).spec.desired_state is DesiredState.RUNNING


@pytest.mark.parametrize(
    ("template", "err", "stops"),
    [
        pytest.param({}, "", False, id="it is not placed yet"),
        pytest.param({}, "no suitable node (host-mode port already in use on 1 node)", True, id="the old one's port"),
        pytest.param({"placement": Placement(constraints=("node.labels.disk == tape",))}, "no suitable node", False,
                     id="the old one's node would not do either"),
        pytest.param({"resources": HUGE}, "no suitable node", False, id="too large for any node"),
    ],
)  # fmt: skip
def test_a_new_task_that_waits_for_what_the_old_one_holds_lets_it_stop(
    template: dict[str, object], err: str, stops: bool
) -> None:
    stage = staged(replicas=1)
    old = stage.current()
    stage.deploy(replicas=1, image="busybox:2", **template)
    stage.settle()
    stage.move(stage.current(), TaskState.PENDING, err=err)
    stage.settle()
    assert stage.fresh(old).spec.desired_state is (DesiredState.SHUTDOWN if stops else DesiredState.RUNNING)


def test_a_task_that_cannot_be_prepared_leaves_the_old_one_running_however_often_it_is_tried() -> None:
    stage = staged(replicas=1)
    old = stage.current()
    stage.deploy(replicas=1, image="busybox:2")
    for _ in range(3):
        stage.settle()
        stage.move(stage.current(), TaskState.REJECTED, N1, err="no such image")
        stage.settle()
        assert stage.current().spec.desired_state is DesiredState.READY
        stage.sleep(5)
    stage.settle()
    assert stage.fresh(old).spec.desired_state is DesiredState.RUNNING


def test_an_old_task_that_never_stops_holds_an_update_up_for_a_minute() -> None:
    stage = staged(replicas=1)
    stage.deploy(replicas=1, image="busybox:2")
    stage.settle()
    stage.sleep(100)
    stage.move(stage.current(), TaskState.READY, N1)
    wait = stage.settle()
    assert wait is not None
    stage.now += wait
    stage.settle()
    assert wait.total_seconds() == 60
    assert stage.current().spec.desired_state is DesiredState.RUNNING


def test_an_old_task_that_never_got_a_node_holds_nothing_up() -> None:
    stage = Stage(N1)
    stage.deploy(replicas=1)
    stage.settle()
    stage.deploy(replicas=1, image="busybox:2")
    stage.settle()
    (only,) = stage.tasks()
    assert (only.spec.template.image, only.spec.desired_state) == ("busybox:2", DesiredState.RUNNING)


def test_a_slot_that_failed_for_good_is_updated() -> None:
    stage = staged(replicas=1, restart=Restart(condition=RestartCondition.NONE))
    stage.move(stage.current(), TaskState.FAILED)
    stage.settle()
    assert stage.live() == []
    stage.deploy(replicas=1, restart=Restart(condition=RestartCondition.NONE), image="busybox:2")
    stage.run(N1)
    assert [task.status.state for task in stage.live()] == [TaskState.RUNNING]


def test_two_updates_in_a_row_wait_for_every_task_that_still_runs() -> None:
    stage = staged(replicas=1)
    first = stage.current()
    stage.deploy(replicas=1, image="busybox:2")
    stage.settle()
    stage.move(stage.current(), TaskState.READY, N1)
    second = stage.current()
    stage.deploy(replicas=1, image="busybox:3")
    stage.settle()
    stage.move(second, TaskState.SHUTDOWN)
    stage.settle()
    assert stage.current().spec.desired_state is DesiredState.READY
    stage.move(first, TaskState.SHUTDOWN)
    stage.settle()
    assert stage.current().spec.desired_state is DesiredState.RUNNING


@pytest.mark.parametrize("ports", [pytest.param((), id="no traffic"), pytest.param(PUBLISHED, id="published")])
def test_start_first_stops_the_old_task_once_the_new_one_serves(ports: tuple[Port, ...]) -> None:
    stage = staged(replicas=1, update=START_FIRST, ports=ports)
    old = stage.current()
    stage.deploy(replicas=1, update=START_FIRST, ports=ports, image="busybox:2")
    stage.settle()
    new = stage.current()
    assert (new.spec.desired_state, new.spec.start_first) == (DesiredState.RUNNING, True)
    stage.move(new, TaskState.STARTING, N1)
    stage.settle()
    assert stage.fresh(old).spec.desired_state is DesiredState.RUNNING
    stage.move(new, TaskState.RUNNING)
    stage.settle()
    if ports:
        assert stage.fresh(old).spec.desired_state is DesiredState.RUNNING, "nobody routes to the new one yet"
        serve(stage, new)
        stage.settle()
    assert stage.fresh(old).spec.desired_state is DesiredState.SHUTDOWN
    assert stage.live() == [stage.fresh(new)]


def test_start_first_never_has_fewer_tasks_running_than_wanted() -> None:
    stage = staged(replicas=3, update=START_FIRST)
    stage.deploy(replicas=3, update=START_FIRST, image="busybox:2")
    for _ in range(10):
        stage.settle()
        running = [t for t in stage.live() if t.status.state is TaskState.RUNNING]
        assert len({task.spec.slot for task in running}) == 3
        stage.work(N1, N2)
    assert {task.spec.template.image for task in stage.live()} == {"busybox:2"}
    assert len(stage.live()) == 3


def test_a_start_first_task_that_fails_is_replaced_while_the_old_one_goes_on() -> None:
    stage = staged(replicas=1, update=START_FIRST)
    old = stage.current()
    stage.deploy(replicas=1, update=START_FIRST, image="busybox:2")
    stage.settle()
    failed = stage.current()
    stage.move(failed, TaskState.FAILED, N1)
    stage.settle()
    assert stage.current().spec.replaces == failed.metadata.uid
    assert stage.current().spec.start_first
    assert stage.fresh(old).spec.desired_state is DesiredState.RUNNING
    stage.run(N1, N2)
    assert [task.spec.template.image for task in stage.live()] == ["busybox:2"]


def test_an_update_undone_before_the_new_task_served_keeps_the_old_one() -> None:
    stage = staged(replicas=1, update=START_FIRST)
    old = stage.current()
    stage.deploy(replicas=1, update=START_FIRST, image="busybox:2")
    stage.settle()
    stage.deploy(replicas=1, update=START_FIRST)
    stage.run(N1, N2)
    assert stage.live() == [old]
    assert stage.current() == old


def test_a_second_update_meanwhile_keeps_the_one_that_serves() -> None:
    stage = staged(replicas=1, update=START_FIRST)
    old = stage.current()
    stage.deploy(replicas=1, update=START_FIRST, image="busybox:2")
    stage.settle()
    second = stage.current()
    stage.move(second, TaskState.STARTING, N1)
    stage.deploy(replicas=1, update=START_FIRST, image="busybox:3")
    stage.settle()
    assert stage.fresh(second).spec.desired_state is DesiredState.SHUTDOWN
    assert stage.fresh(old).spec.desired_state is DesiredState.RUNNING
    stage.run(N1, N2)
    assert [task.spec.template.image for task in stage.live()] == ["busybox:3"]


def test_start_first_on_a_global_service_runs_both_on_the_node_for_a_while() -> None:
    all_at_once = Update(order=UpdateOrder.START_FIRST, parallelism=0)
    stage = staged(mode=Mode.GLOBAL, update=all_at_once)
    stage.deploy(mode=Mode.GLOBAL, update=all_at_once, image="busybox:2")
    stage.settle()
    assert len(stage.live()) == 4
    stage.run(N1, N2)
    assert {task.spec.template.image for task in stage.live()} == {"busybox:2"}
    assert len(stage.live()) == 2


def test_a_second_task_of_a_slot_is_shut_down() -> None:
    stage = staged(replicas=1)
    twin = twin_of(stage.current())
    stage.put(twin)
    stage.settle()
    assert stage.live() == [stage.current()]
    assert stage.fresh(twin).spec.desired_state is DesiredState.SHUTDOWN
