"""How many tasks of a service are wanted, run, are up to date, are done: what `get` and `service ls` show. Pure.

Computed from tasks whenever somebody asks, never stored. Tasks on nodes that are down do not count: Swarm counts
them, and so shows 4/2 after a node was lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from shoal.api.defaults import desired_count
from shoal.api.objects import Node, Service, Task
from shoal.api.states import TaskState
from shoal.rules.dirtiness import is_dirty, template_of
from shoal.rules.liveness import is_lost, is_running
from shoal.rules.slots import is_member, may_join


class Counts(Struct, frozen=True):
    """In slots, so that the two tasks of a start-first update count once."""

    desired: int
    running: int
    updated: int
    """Of the running ones, those that the service's newest template asks for."""
    completed: int
    """Tasks of a job's present iteration that ended well."""


def count(service: Service, tasks: Iterable[Task], nodes: Mapping[str, Node]) -> Counts:
    """Count a service's tasks; `nodes` holds all nodes by uid."""
    template, revision = template_of(service.spec), service.status.revision
    running: set[str] = set()
    updated: set[str] = set()
    wanted: set[str] = set()
    completed: set[str] = set()
    for task in tasks:
        slot, node = task.spec.slot, nodes.get(task.spec.node.uid) if task.spec.node else None
        if task.spec.desired_state.is_live and not (task.spec.node and is_lost(node)):
            wanted.add(slot)
        if is_running(task, node):
            running.add(slot)
            if not is_dirty(task, revision, template, node):
                updated.add(slot)
        elif task.status.state is TaskState.COMPLETE and task.spec.job_iteration == service.status.job_iteration:
            completed.add(slot)
    if service.spec.mode.is_global:
        wanted |= completed
        wanted |= {uid for uid, node in nodes.items() if may_join(node) and is_member(node, template)}
    return Counts(
        desired=desired_count(service.spec, len(wanted)),
        running=len(running),
        updated=len(updated),
        completed=len(completed) if service.spec.mode.is_job else 0,
    )
