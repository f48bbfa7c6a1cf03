"""May a task that ended be replaced, and how long does that wait: the rules alone."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shoal.api.objects import Node, Task, TaskStatus
from shoal.api.states import Availability, DesiredState, NodeState, TaskState
from shoal.api.template import Restart
from shoal.api.units import Duration
from shoal.machinery.clock import VirtualClock
from shoal.machinery.testkit import make_node, make_service, make_task
from shoal.rules.restart import delay_left, may_restart, restart_delay
from shoal.rules.waiting import time_left

NOW = VirtualClock.START + timedelta(hours=1)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def ended(at: timedelta, *, born: timedelta = timedelta(0), restart: bool = True, **policy: object) -> Task:
    service = make_service(restart=Restart(max_attempts=2, window=Duration.of(60), **policy))  # type: ignore[arg-type]
    task = make_task(service, 1, uid=str(born), state=TaskState.FAILED, restart_after=NOW if restart else None)
    return _at(task, born, at)


def _at(task: Task, born: timedelta, at: timedelta) -> Task:
    return replace(
        task,
        metadata=replace(task.metadata, created_at=VirtualClock.START + born),
        status=TaskStatus(state=task.status.state, timestamp=VirtualClock.START + at),
    )


@pytest.mark.parametrize(
    ("history", "restarts"),
    [
        pytest.param([], True, id="first failure"),
        pytest.param([(10, True)], True, id="one restart"),
        pytest.param([(10, True), (50, True)], False, id="two within the window"),
        pytest.param([(10, True), (50, False)], True, id="one was an update"),
        pytest.param([(-30, True), (50, True)], True, id="one before the window"),
        pytest.param([(-30, True), (-20, True), (50, True)], True, id="two before the window"),
    ],
)
def test_window(history: list[tuple[int, bool]], restarts: bool) -> None:
    last = ended(seconds(60), born=seconds(59), restart=False)
    older = [ended(seconds(born + 1), born=seconds(born), restart=restart) for born, restart in history]
    assert may_restart(last, [*older, last], NOW) is restarts


@pytest.mark.parametrize(
    ("node", "state", "delay"),
    [
        pytest.param(make_node(), TaskState.FAILED, 7, id="on a good node"),
        pytest.param(make_node(availability=Availability.PAUSE), TaskState.FAILED, 7, id="on a paused node"),
        pytest.param(make_node(availability=Availability.DRAIN), TaskState.RUNNING, 0, id="drained"),
        pytest.param(make_node(state=NodeState.DOWN), TaskState.RUNNING, 0, id="down"),
        pytest.param(None, TaskState.RUNNING, 0, id="removed"),
        pytest.param(make_node(), TaskState.ORPHANED, 0, id="orphaned"),
    ],
)
def test_delay_is_nothing_where_the_node_is_to_blame(node: Node | None, state: TaskState, delay: int) -> None:
    service = make_service(restart=Restart(delay=Duration.of(7)))
    task = make_task(service, 1, state=state, node=make_node())
    assert restart_delay(task, node) == seconds(delay)


@given(since=st.integers(-10_000, 10_000), interval=st.integers(0, 5_000))
def test_time_left_is_within_the_interval(since: int, interval: int) -> None:
    left = time_left(NOW + seconds(since), seconds(interval), NOW)
    assert timedelta(0) <= left <= seconds(interval)
    if -interval <= since <= 0:
        assert left == seconds(interval + since)


@pytest.mark.parametrize(
    ("desired", "elapsed", "left"),
    [
        pytest.param(DesiredState.READY, 2, 3, id="waiting"),
        pytest.param(DesiredState.READY, 9, 0, id="over"),
        pytest.param(DesiredState.READY, -100, 5, id="stamped by a clock ahead"),
        pytest.param(DesiredState.RUNNING, 2, 0, id="released already"),
    ],
)
def test_delay_left(desired: DesiredState, elapsed: float, left: float) -> None:
    task = make_task(make_service(), 1, desired=desired, restart_after=VirtualClock.START + seconds(5))
    assert delay_left(task, VirtualClock.START + seconds(elapsed)) == seconds(left)


def test_an_update_s_task_has_no_delay() -> None:
    assert delay_left(make_task(make_service(), 1, desired=DesiredState.READY), NOW) == seconds(0)
