"""What changes of a task wake nobody: it merely goes on its way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from controllers.replication import CONTROLLER as REPLICATION
from controllers.rollout import CONTROLLER as ROLLOUT
from shoal.api import keys
from shoal.api.meta import Ref
from shoal.api.objects import Node, Object, Rollout, Task, ref_of
from shoal.api.states import Availability, DesiredState, NodeState, RolloutState, TaskState
from shoal.machinery.cache import Cache, Change
from shoal.machinery.controller import Controller
from shoal.machinery.runner import keys_for
from shoal.machinery.testkit import make_node, make_rollout, make_service, make_task
from shoal.rules.progress import merely_proceeds

WEB = make_service("web")
NODE = make_node("n1")
WAITING = make_task(WEB, state=TaskState.PENDING)
ASSIGNED = msgspec.structs.replace(
    WAITING,
    spec=msgspec.structs.replace(WAITING.spec, node=ref_of(NODE)),
    status=msgspec.structs.replace(WAITING.status, state=TaskState.ASSIGNED),
)
REPLACING = {"replaces": "older"}


def with_state(task: Task, state: TaskState) -> Task:
    return msgspec.structs.replace(task, status=msgspec.structs.replace(task.status, state=state))


def with_spec(task: Task, **changes: Any) -> Task:
    return msgspec.structs.replace(task, spec=msgspec.structs.replace(task.spec, **changes))


READY, RUNNING = with_state(ASSIGNED, TaskState.READY), with_state(ASSIGNED, TaskState.RUNNING)


@pytest.mark.parametrize(
    ("old", "new", "merely"),
    [
        pytest.param(WAITING, ASSIGNED, True, id="gets its node"),
        pytest.param(ASSIGNED, RUNNING, True, id="runs"),
        pytest.param(RUNNING, RUNNING, True, id="says something else of itself"),
        pytest.param(RUNNING, with_state(RUNNING, TaskState.FAILED), False, id="ends"),
        pytest.param(RUNNING, with_spec(RUNNING, desired_state=DesiredState.SHUTDOWN), False, id="is told to stop"),
        pytest.param(RUNNING, with_spec(RUNNING, evicted="no room"), False, id="has to leave"),
        pytest.param(RUNNING, with_spec(RUNNING, revision="other"), False, id="was changed by hand"),
    ],
)
def test_a_task_merely_proceeds(old: Task, new: Task, merely: bool) -> None:
    assert merely_proceeds(old, new) is merely


def cache_of(*objects: Object, controller: Controller[Any]) -> Cache:
    cache = Cache(controller.indexes, controller.folds())
    for number, obj in enumerate(objects, 1):
        msgspec.structs.force_setattr(obj.metadata, "resource_version", number)
        cache.set(keys.key_of(obj), obj)
    return cache


def woken(controller: Controller[Any], old: Task | None, new: Task | None, *others: Object) -> bool:
    """Whether a change of a task makes a controller look at its service."""
    cache = cache_of(*others, controller=controller)
    return bool(keys_for(controller, [Change("/shoal/tasks/web", old, new)], cache))


def node(**how: Any) -> Callable[[], Node]:
    return lambda: make_node("n1", **how)


@pytest.mark.parametrize(
    ("old", "new", "where", "looks"),
    [
        pytest.param(WAITING, ASSIGNED, node(), False, id="a first task goes on its way"),
        pytest.param(ASSIGNED, RUNNING, node(), False, id="a first task runs"),
        pytest.param(None, WAITING, node(), True, id="a task is new"),
        pytest.param(WAITING, None, node(), True, id="a task is gone"),
        pytest.param(RUNNING, with_state(RUNNING, TaskState.COMPLETE), node(), True, id="a task ends"),
        pytest.param(WAITING, ASSIGNED, node(state=NodeState.DOWN), True, id="its node has gone down meanwhile"),
        pytest.param(WAITING, ASSIGNED, node(availability=Availability.DRAIN), True, id="its node is drained by now"),
        pytest.param(WAITING, ASSIGNED, lambda: make_node("n2"), True, id="its node was removed meanwhile"),
        pytest.param(
            with_spec(ASSIGNED, **REPLACING), with_spec(READY, **REPLACING), node(), True, id="one is waited for"
        ),
    ],
)
def test_replication_looks_at_a_task(
    old: Task | None, new: Task | None, where: Callable[[], Node], looks: bool
) -> None:
    assert woken(REPLICATION, old, new, where()) is looks


def rollout(**how: Any) -> Rollout:
    return make_rollout(WEB, **how)


@pytest.mark.parametrize(
    ("old", "new", "state", "looks"),
    [
        pytest.param(ASSIGNED, READY, RolloutState.UPDATING, False, id="updating: a task goes on its way"),
        pytest.param(READY, RUNNING, RolloutState.UPDATING, True, id="updating: a task runs"),
        pytest.param(READY, RUNNING, RolloutState.ROLLBACK_STARTED, True, id="rolling back: a task runs"),
        pytest.param(READY, RUNNING, RolloutState.COMPLETED, False, id="completed: a task runs"),
        pytest.param(RUNNING, with_state(RUNNING, TaskState.FAILED), RolloutState.COMPLETED, True, id="a task ends"),
        pytest.param(ASSIGNED, READY, None, True, id="there is no rollout yet"),
    ],
)
def test_rollout_looks_at_a_task(old: Task, new: Task, state: RolloutState | None, looks: bool) -> None:
    others = (rollout(state=state),) if state is not None else ()
    assert woken(ROLLOUT, old, new, *others) is looks


def test_a_thousand_tasks_on_their_way_make_nobody_look() -> None:
    tasks = [with_spec(ASSIGNED, slot=str(number), node=Ref("n1", NODE.metadata.uid)) for number in range(1000)]
    changes = [Change(f"/shoal/tasks/{at}", task, with_state(task, TaskState.RUNNING)) for at, task in enumerate(tasks)]
    for controller in (REPLICATION, ROLLOUT):
        cache = cache_of(make_node("n1"), rollout(state=RolloutState.COMPLETED), controller=controller)
        assert keys_for(controller, changes, cache) == []
