"""Which revision a slot runs, where a global service belongs, and how tasks are counted."""

from __future__ import annotations

import pytest

from shoal.api.objects import Node, Task
from shoal.api.states import Availability, DesiredState, Mode, NodeState, RolloutState, TaskState
from shoal.api.template import NetworkUse, Placement, Port
from shoal.machinery.testkit import make_node, make_rollout, make_service, make_task
from shoal.rules.counts import Counts, count
from shoal.rules.dirtiness import template_of
from shoal.rules.networks import needs_address
from shoal.rules.slots import is_member, is_rolling_back, may_join, rights, slot_order

WEB = make_service("web", replicas=3)
NEW = WEB.status.revision
UPDATING, PAUSED = RolloutState.UPDATING, RolloutState.PAUSED


@pytest.mark.parametrize(
    ("state", "slot", "revision", "updates"),
    [
        pytest.param(UPDATING, "1", NEW, True, id="granted"),
        pytest.param(UPDATING, "2", "old", False, id="dirty, not granted"),
        pytest.param(UPDATING, "9", NEW, True, id="new"),
        pytest.param(PAUSED, "1", NEW, True, id="paused: granted before"),
        pytest.param(PAUSED, "2", "old", False, id="paused: not granted"),
        pytest.param(PAUSED, "9", "old", False, id="paused: new"),
        pytest.param(RolloutState.COMPLETED, "9", NEW, True, id="completed"),
        pytest.param(RolloutState.ROLLBACK_STARTED, "2", "old", False, id="rolling back: not granted"),
        pytest.param(RolloutState.ROLLBACK_PAUSED, "9", "old", False, id="rollback paused: new"),
    ],
)
def test_revision_of_a_slot(state: RolloutState, slot: str, revision: str, updates: bool) -> None:
    rollout = make_rollout(WEB, state=state, stable="old", dirty=("1", "2"), granted=("1",))
    assert rights(rollout, WEB).revision(slot) == revision
    assert rights(rollout, WEB).may_update(slot) is updates


def test_without_a_rollout_new_tasks_run_the_service_s_revision_and_none_is_replaced() -> None:
    assert rights(None, WEB).revision("1") == NEW
    assert not rights(None, WEB).may_update("1")


def test_a_rollout_behind_the_service_replaces_nothing() -> None:
    assert not rights(make_rollout(WEB, target="older"), WEB).may_update("1")


@pytest.mark.parametrize(("state", "backwards"), [(UPDATING, False), (RolloutState.ROLLBACK_STARTED, True)])
def test_rolling_back(state: RolloutState, backwards: bool) -> None:
    assert is_rolling_back(make_rollout(WEB, state=state)) is backwards
    assert not is_rolling_back(None)


def test_slots_are_ordered_as_numbers() -> None:
    assert sorted(["10", "node", "9", "1"], key=slot_order) == ["1", "9", "10", "node"]


@pytest.mark.parametrize(
    ("node", "joins"),
    [
        pytest.param(make_node(), True, id="ready"),
        pytest.param(make_node(state=NodeState.UNKNOWN), True, id="unknown"),
        pytest.param(make_node(state=NodeState.DOWN), False, id="down"),
        pytest.param(make_node(availability=Availability.PAUSE), False, id="paused"),
        pytest.param(make_node(availability=Availability.DRAIN), False, id="drained"),
    ],
)
def test_nodes_a_global_service_may_start_on(node: Node, joins: bool) -> None:
    assert may_join(node) is joins


def test_members_satisfy_the_constraints() -> None:
    template = template_of(make_service(placement=Placement(constraints=("node.role == manager",))).spec)
    assert not is_member(make_node(), template)
    assert is_member(make_node(), template_of(WEB.spec))


@pytest.mark.parametrize(
    ("spec", "needs"),
    [
        pytest.param({}, False, id="nothing"),
        pytest.param({"ports": (Port(80, 8080),)}, True, id="mesh port"),
        pytest.param({"ports": (Port(80, 8080, mode="host"),)}, False, id="host port"),
        pytest.param({"networks": (NetworkUse("host"),)}, False, id="host"),
        pytest.param({"networks": (NetworkUse("bridge"), NetworkUse("back"))}, True, id="overlay"),
    ],
)
def test_what_needs_an_address(spec: dict[str, object], needs: bool) -> None:
    assert needs_address(template_of(make_service(**spec).spec)) is needs


UP, DOWN = make_node("up"), make_node("down", state=NodeState.DOWN)
NODES = {node.metadata.uid: node for node in (UP, DOWN)}
SHUTDOWN = DesiredState.SHUTDOWN


def web(slot: int = 1, state: TaskState = TaskState.RUNNING, node: Node = UP, **more: object) -> Task:
    return make_task(WEB, slot, state=state, node=node, **more)  # type: ignore[arg-type]


OLDER = {"revision": "old", "template": template_of(make_service(image="old").spec)}


@pytest.mark.parametrize(
    ("tasks", "running", "updated"),
    [
        pytest.param([], 0, 0, id="none yet"),
        pytest.param([web(1), web(2), web(3)], 3, 3, id="all run"),
        pytest.param([web(1), web(2, TaskState.STARTING), web(3, TaskState.PENDING)], 1, 1, id="some start"),
        pytest.param([web(1), web(2, node=DOWN)], 1, 1, id="a node is down"),
        pytest.param([web(1), web(1, node=DOWN, desired=SHUTDOWN), web(1, TaskState.FAILED)], 1, 1, id="history"),
        pytest.param([web(1), web(2, desired=SHUTDOWN)], 1, 1, id="told to stop"),
        pytest.param([web(1, **OLDER), web(2)], 2, 1, id="under way"),
        pytest.param([web(1, **OLDER), web(1)], 1, 1, id="start-first overlap"),
    ],
)
def test_counts(tasks: list[Task], running: int, updated: int) -> None:
    assert count(WEB, tasks, NODES) == Counts(desired=3, running=running, updated=updated, completed=0)


def test_a_global_service_wants_a_task_on_every_node_it_may_use() -> None:
    paused = make_node("paused", availability=Availability.PAUSE)
    service = make_service("web", mode=Mode.GLOBAL)
    nodes = NODES | {paused.metadata.uid: paused}
    assert count(service, [], nodes).desired == 1
    there = make_task(service, paused.metadata.uid, node=paused)
    assert count(service, [there], nodes) == Counts(desired=2, running=1, updated=1, completed=0)


def test_a_job_s_ended_tasks_are_completed() -> None:
    job = make_service("job", mode=Mode.JOB, replicas=2)
    tasks = [make_task(job, 1, state=TaskState.COMPLETE), make_task(job, 2, node=UP)]
    assert count(job, tasks, NODES) == Counts(desired=2, running=1, updated=1, completed=1)
