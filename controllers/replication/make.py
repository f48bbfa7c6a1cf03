"""The tasks and slots that replication writes. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from controllers.replication.view import Held, View
from shoal.api import keys
from shoal.api.meta import Meta, Owner, Ref, derived_uid
from shoal.api.objects import Slot, SlotSpec, Task, TaskSpec, TaskStatus, owner_of, ref_of
from shoal.api.states import DesiredState, TaskState
from shoal.machinery.controller import Create, Remove, Replace, Step
from shoal.rules.liveness import is_over, is_unclaimed
from shoal.rules.networks import needs_address


def new_task(
    view: View,
    held: Held,
    now: datetime,
    desired: DesiredState,
    delay: timedelta | None = None,
    start_first: bool = False,
) -> Task:
    """Return the slot's next task. `delay` is given where the restart policy makes it, and counts as an attempt then.

    Its uid is derived, so that planning twice gives the same task.
    """
    service, replaces = view.owner, held.current.metadata.uid if held.current else ""
    uid = derived_uid(service.metadata.uid, held.name, *_versions(view, held), now.isoformat())
    revision, template = view.wanted(held.name)
    waits = needs_address(template)
    return Task(
        metadata=Meta(
            name=keys.task_name(service.metadata.name, held.name, uid),
            uid=uid,
            labels=service.metadata.labels,
            created_at=now,
            owner=owner_of(service),
        ),
        spec=TaskSpec(
            service=view.ref,
            slot=held.name,
            revision=revision,
            template=template,
            desired_state=desired,
            node=_own_node(view, held.name),
            restart_after=None if delay is None else now + delay,
            replaces=replaces,
            start_first=start_first,
            job_iteration=service.status.job_iteration,
            attempt=view.rollout.status.attempt if view.rollout is not None else service.status.attempt.number,
        ),
        status=TaskStatus(
            state=TaskState.NEW if waits else TaskState.PENDING,
            timestamp=now,
            message="waits for an address" if waits else "waits for a node",
        ),
    )


def _versions(view: View, held: Held) -> tuple[str, ...]:
    """What tells a slot's next task from earlier ones, even at the same moment."""
    slot = held.slot.metadata.resource_version if held.slot is not None else 0
    older = (task.metadata.uid for task in held.tasks)
    return (str(view.owner.metadata.resource_version), str(slot), *older)


def _own_node(view: View, slot: str) -> Ref | None:
    if not view.owner.spec.mode.is_global:
        return None
    node = view.nodes[slot]
    return ref_of(node)


def point_at(view: View, held: Held, task: Task) -> Step:
    """Return the step that makes the slot point at a task: what keeps a slot from having two."""
    spec = SlotSpec(view.ref, held.name, task.metadata.uid)
    if held.slot is not None:
        return Replace(msgspec.structs.replace(held.slot, spec=spec))
    uid = derived_uid(view.ref.uid, "slot", held.name)
    owner = Owner("Service", view.ref.name, view.ref.uid)
    name = f"{view.ref.name}.{held.name}"
    return Create(Slot(metadata=Meta(name=name, uid=uid, owner=owner), spec=spec))


def with_desired(task: Task, desired: DesiredState) -> Task:
    return msgspec.structs.replace(task, spec=msgspec.structs.replace(task.spec, desired_state=desired))


def let_go(view: View, task: Task) -> Step | None:
    """Return the step that makes a task go: deleted if no agent has to stop it, else wanted gone (None: it is)."""
    if is_over(task, view.node_of(task)) or is_unclaimed(task):
        return Remove(task)
    if task.spec.desired_state is DesiredState.REMOVE:
        return None
    return Replace(with_desired(task, DesiredState.REMOVE))
