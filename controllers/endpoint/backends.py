"""Where each task can be reached, and whether to route there. Pure.

    created with the task's node ──► ready ──► servingAt (all ready nodes route there)
    ready false (told to stop, ended, evicted, node down) ──► drainedAt (no node routes there) ──► removed

A Backend that was never ready is born drained: no node ever routed to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from msgspec.structs import replace

from controllers.endpoint.vips import Withdrawal, plan_withdrawal
from shoal.api.errors import TerminalError
from shoal.api.meta import Meta, Owner, derived_uid
from shoal.api.objects import Backend, BackendSpec, BackendStatus, Claim, Node, Task, ref_of
from shoal.api.states import NodeState, TaskState
from shoal.machinery.controller import Action, Create, Plan, Remove, Replace, still_exists
from shoal.rules.expand import NodeFacts, hostname_of

SHORT_ID = 12
"""Digits of a container's id that Docker shows, and that are a name of the container on its networks."""

_LOST = (NodeState.DOWN, NodeState.DISCONNECTED)


@dataclass(frozen=True)
class BackendView:
    """One task, its Backend and its node; None = does not exist."""

    task: Task | None
    backend: Backend | None
    node: Node | None


@dataclass(frozen=True)
class AppliedView:
    """What waits until all nodes have followed, and the revision that all ready nodes have reached."""

    waiting: tuple[Backend, ...]
    lowest: int
    withdrawals: tuple[Withdrawal, ...] = ()
    releasing: tuple[Claim, ...] = ()
    """Claims of VIPs that no Endpoint has any more."""


def is_routable(task: Task, node: Node | None) -> bool:
    """Traffic may go there: it runs, it is to go on running, and its node is not lost."""
    return (
        task.status.state is TaskState.RUNNING
        and task.spec.desired_state.is_live
        and not task.spec.evicted
        and node is not None
        and node.status.state not in _LOST
    )


def plan_backend(view: BackendView, now: datetime) -> Plan:
    """Bring one task's Backend up to date."""
    action = _backend_action(view, now)
    return Plan((action,) if action is not None else ())


def _backend_action(view: BackendView, now: datetime) -> Action | None:
    task, backend = view.task, view.backend
    if task is None:
        return Action("BackendRemoved", (Remove(backend),)) if backend is not None else None
    if backend is None:
        return _create(task, view.node, now)
    if task.status.state.is_terminal and backend.status.drained_at is not None:
        return Action("BackendRemoved", (Remove(backend),))
    ready = is_routable(task, view.node)
    if ready == backend.status.ready:
        return None
    new = replace(backend, status=BackendStatus(ready=ready, container=_container(task) or backend.status.container))
    return Action("BackendReady" if ready else "BackendDraining", (Replace(new),))


def _create(task: Task, node: Node | None, now: datetime) -> Action | None:
    where = task.spec.node
    is_wanted = task.status.state.is_assigned and task.spec.desired_state.is_live
    if where is None or not task.spec.addresses or not is_wanted:
        return None
    ready = is_routable(task, node)
    ref = ref_of(task)
    backend = Backend(
        metadata=Meta(name=ref.name, uid=derived_uid("backend", ref.uid), owner=Owner("Task", ref.name, ref.uid)),
        spec=BackendSpec(task.spec.service, ref, where, task.spec.addresses, task.spec.slot, _hostname(task, node)),
        status=BackendStatus(ready=ready, drained_at=None if ready else now, container=_container(task)),
    )
    return Action("BackendCreated", (Create(backend),), (still_exists(task),))


def _hostname(task: Task, node: Node | None) -> str:
    """What nobody can fill in fails the task on its node, and is no name."""
    try:
        return hostname_of(task, NodeFacts.of(node)) if node is not None else ""
    except TerminalError:
        return ""


def _container(task: Task) -> str:
    """Return the short id of a task's container, "" before it is known."""
    return task.status.container.id[:SHORT_ID] if task.status.container is not None else ""


def plan_applied(view: AppliedView, now: datetime) -> Plan:
    """Do what had to wait until all ready nodes have followed a change."""
    followed = [one for one in view.withdrawals if one.endpoint.metadata.resource_version <= view.lowest]
    actions = [plan_withdrawal(one) for one in followed]
    actions += [
        Action("VipReleased", (Remove(claim),))
        for claim in view.releasing
        if claim.metadata.resource_version <= view.lowest
    ]
    for backend in view.waiting:
        if backend.metadata.resource_version <= view.lowest:
            ready = backend.status.ready
            status = replace(backend.status, **{"serving_at" if ready else "drained_at": now})
            reason = "BackendServing" if ready else "BackendDrained"
            actions.append(Action(reason, (Replace(replace(backend, status=status)),)))
    return Plan(tuple(actions), independent=True)
