"""One key, one writer: foreign writes are stopped."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal.api.errors import InvariantError
from shoal.api.meta import Meta, Ref
from shoal.api.objects import Event, Node, Owner, Service, ServiceSpec, Task, TaskSpec, TaskStatus
from shoal.api.ownership import check
from shoal.api.states import DesiredState, TaskState
from shoal.api.template import TaskTemplate

SERVICE = Service(metadata=Meta(name="web"), spec=ServiceSpec(image="x"))
NODE = Node(metadata=Meta(name="n", uid="n"))
TASK = Task(
    metadata=Meta(name="web.1.t", uid="t"),
    spec=TaskSpec(
        service=Ref("web", "s"),
        slot="1",
        revision="h",
        template=TaskTemplate(image="x"),
        desired_state=DesiredState.RUNNING,
    ),
    status=TaskStatus(state=TaskState.PENDING),
)


def task(state: TaskState | None = None, **spec: Any) -> Task:
    status = TASK.status if state is None else TaskStatus(state=state)
    return msgspec.structs.replace(TASK, spec=msgspec.structs.replace(TASK.spec, **spec), status=status)


@pytest.mark.parametrize(
    ("actor", "old", "new"),
    [
        pytest.param("apiserver", None, SERVICE, id="people-create-services"),
        pytest.param("rollout", SERVICE, SERVICE, id="rollout-rolls-back"),
        pytest.param("replication", None, TASK, id="replication-creates-tasks"),
        pytest.param("replication", TASK, None, id="replication-deletes-tasks"),
        pytest.param("replication", TASK, task(desired_state=DesiredState.SHUTDOWN), id="replication-stops"),
        pytest.param("endpoint", TASK, task(addresses=()), id="endpoint-gives-addresses"),
        pytest.param("placement", TASK, task(TaskState.ASSIGNED, node=Ref("n", "n")), id="placement-assigns"),
        pytest.param("placement", TASK, task(evicted="full"), id="placement-evicts"),
        pytest.param("apiserver", TASK, task(TaskState.RUNNING), id="agent-reports"),
        pytest.param("nodes", TASK, task(TaskState.ORPHANED), id="nodes-orphans"),
        pytest.param("anyone", None, Event(metadata=Meta(), about=Owner("a", "b", "c"), reason="x"), id="events"),
    ],
)
def test_the_owner_may_write(actor: str, old: Any, new: Any) -> None:
    check(actor, old, new)


@pytest.mark.parametrize(
    ("actor", "old", "new", "why"),
    [
        pytest.param("placement", None, SERVICE, "does not write Service", id="kind"),
        pytest.param("nodes", None, TASK, "neither creates nor deletes", id="creation"),
        pytest.param("apiserver", TASK, None, "neither creates nor deletes", id="deletion"),
        pytest.param("placement", TASK, task(desired_state=DesiredState.REMOVE), "change desired_state", id="field"),
        pytest.param("replication", TASK, task(slot="2"), "change slot", id="fixed-field"),
        pytest.param("replication", TASK, task(TaskState.RUNNING), "may not write state running", id="state"),
        pytest.param("placement", TASK, task(TaskState.NEW), "state goes back", id="state-goes-back"),
        pytest.param(
            "replication",
            task(desired_state=DesiredState.REMOVE),
            TASK,
            "desired state goes back",
            id="desired-goes-back",
        ),
        pytest.param("placement", None, NODE, "does not write Node", id="node"),
    ],
)
def test_anyone_else_is_stopped(actor: str, old: Any, new: Any, why: str) -> None:
    with pytest.raises(InvariantError, match=why):
        check(actor, old, new)
