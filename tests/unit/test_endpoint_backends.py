"""Backends: born drained, ready while running, serving and drained when every ready node has followed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from controllers.endpoint import CONTROLLER
from shoal.api.meta import Meta
from shoal.api.objects import Backend, Node, Presence, Task, TaskAddress, TaskStatus
from shoal.api.states import DesiredState, NodeState, TaskState
from shoal.api.template import Port
from shoal.machinery.clock import VirtualClock
from shoal.machinery.testkit import make_network, make_node, make_service, make_task, ref_of
from tests.support.picture import Picture

WEB = make_service("web", ports=(Port(80, 8080),))
N1, N2 = make_node("n1"), make_node("n2")
ADDRESS = TaskAddress(ref_of(make_network()), "10.0.0.4/24", "02:42:0a:00:00:04")
LATER = VirtualClock.START + timedelta(seconds=3)


def task(state: TaskState = TaskState.RUNNING, **changes: Any) -> Task:
    return make_task(WEB, 1, state=state, **{"node": N1, "addresses": (ADDRESS,), **changes})


KEY = f"task/{task().metadata.uid}"


def presence(name: str = "api", **applied: int) -> Presence:
    uids = {"n1": N1.metadata.uid, "n2": N2.metadata.uid}
    meta = Meta(name=name, uid=name)
    return Presence(metadata=meta, applied={uids[node]: revision for node, revision in applied.items()})


def with_state(node: Node, state: NodeState) -> Node:
    return replace(node, status=replace(node.status, state=state))


@pytest.mark.parametrize(
    ("given", "ready"),
    [
        pytest.param(task(TaskState.ASSIGNED), False, id="assigned is not ready"),
        pytest.param(task(TaskState.STARTING), False, id="starting is not ready"),
        pytest.param(task(), True, id="running is ready"),
        pytest.param(task(evicted="elsewhere"), False, id="evicted is not ready"),
    ],
)
def test_a_task_with_a_node_has_a_backend(given: Task, ready: bool) -> None:
    picture = Picture(CONTROLLER, N1, given)
    picture.settle(KEY)
    backend = picture.one(Backend)
    assert backend.status.ready is ready
    assert (backend.status.drained_at is None) is ready, "what never was ready is drained from the start"
    assert (backend.spec.node.name, backend.spec.addresses) == ("n1", (ADDRESS,))


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(task(TaskState.PENDING, node=None), id="no node yet"),
        pytest.param(task(addresses=()), id="no address"),
        pytest.param(task(TaskState.FAILED), id="already over"),
        pytest.param(task(TaskState.ASSIGNED, desired=DesiredState.SHUTDOWN), id="told to stop before it ran"),
    ],
)
def test_no_backend_for(given: Task) -> None:
    assert Picture(CONTROLLER, N1, given).step(KEY).actions == ()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(task(desired=DesiredState.SHUTDOWN), id="told to stop"),
        pytest.param(task(desired=DesiredState.REMOVE), id="told to go"),
        pytest.param(task(TaskState.FAILED), id="failed"),
        pytest.param(task(evicted="why"), id="evicted"),
        pytest.param(with_state(N1, NodeState.DOWN), id="its node is down"),
    ],
)
def test_ready_goes_before_anything_stops(change: Task | Node) -> None:
    picture = Picture(CONTROLLER, N1, task())
    picture.settle(KEY)
    picture.put(change)
    picture.step(f"node/{N1.metadata.uid}" if isinstance(change, Node) else KEY)
    status = picture.one(Backend).status
    assert (status.ready, status.drained_at) == (False, None)


def test_serving_when_every_ready_node_has_applied_it() -> None:
    down = with_state(make_node("n3"), NodeState.DOWN)
    picture = Picture(CONTROLLER, N1, N2, down, task())
    picture.settle(KEY)
    revision = picture.one(Backend).metadata.resource_version
    picture.put(presence("a", n1=revision, n2=revision - 1))
    assert picture.step("applied", LATER).actions == ()
    picture.put(presence("b", n2=revision))
    picture.step("applied", LATER)
    assert picture.one(Backend).status.serving_at == LATER
    assert picture.plan("applied").actions == ()


def test_drained_and_then_removed_when_the_task_is_over() -> None:
    picture = Picture(CONTROLLER, N1, task())
    picture.settle(KEY)
    picture.put(presence(n1=10**9))
    picture.settle("applied", KEY)
    picture.put(task(TaskState.RUNNING, desired=DesiredState.SHUTDOWN))
    picture.settle(KEY)
    picture.step("applied", LATER)
    assert picture.one(Backend).status.drained_at == LATER
    picture.settle(KEY)
    assert len(picture.all(Backend)) == 1, "the container may still run"
    picture.put(replace(task(desired=DesiredState.SHUTDOWN), status=TaskStatus(TaskState.SHUTDOWN)))
    picture.settle(KEY)
    assert picture.all(Backend) == []


def test_a_vanished_task_takes_its_backend_along() -> None:
    picture = Picture(CONTROLLER, N1, task())
    picture.settle(KEY)
    picture.drop(task())
    picture.settle(KEY)
    assert picture.all(Backend) == []


def test_presences_that_change_nothing_cost_nothing() -> None:
    picture = Picture(CONTROLLER, N1, task())
    picture.settle(KEY)
    picture.put(presence(n1=10**9))
    picture.settle("applied")
    picture.put(presence(n1=10**9 + 1))
    assert CONTROLLER.observe("applied", picture.cache) is None


def test_a_node_that_comes_back_is_routed_to_again() -> None:
    picture = Picture(CONTROLLER, with_state(N1, NodeState.DOWN), task())
    picture.settle(KEY)
    assert not picture.one(Backend).status.ready
    picture.put(N1)
    picture.step(f"node/{N1.metadata.uid}")
    assert picture.one(Backend).status.ready


@pytest.mark.parametrize(
    ("hostname", "expected"),
    [("", ""), ("db", "db"), ("broker-{{.Task.Slot}}-on-{{.Node.Hostname}}", "broker-1-on-n1"), ("{{.Nothing}}", "")],
    ids=["none", "the same for all tasks", "one of its own", "one that nobody can fill in"],
)
def test_a_backend_tells_the_hostname_of_its_container(hostname: str, expected: str) -> None:
    named = make_task(
        make_service("web", hostname=hostname), 1, state=TaskState.STARTING, node=N1, addresses=(ADDRESS,)
    )
    picture = Picture(CONTROLLER, N1, named)
    picture.settle(f"task/{named.metadata.uid}")
    assert picture.one(Backend).spec.hostname == expected
