"""What replication decides about a job: each slot completes once per iteration, so many at a time. Pure.

A job's slots are 1 to `replicas`, a global job's the nodes it belongs on. Whatever is written to the service begins a
new iteration: tasks of older ones are let go, and every slot starts anew. A slot whose task failed and may not be
restarted is over, and its place among the concurrent ones free; it is not tried again in this iteration.
Source: SwarmKit's manager/orchestrator/jobs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from controllers.replication.reap import forget, give_up, let_go_of
from controllers.replication.slot import decide, touched_by
from controllers.replication.view import Held, View
from shoal.api.defaults import desired_count, max_concurrent
from shoal.api.objects import Task
from shoal.api.states import Mode, TaskState
from shoal.machinery.controller import Action, Plan, any_of
from shoal.rules.restart import may_restart
from shoal.rules.slots import is_member, may_join, slot_order


@dataclass(frozen=True)
class Members:
    """`begun` have a task of this iteration, `start` shall get one now, `drop` are slots no more.

    In a `frozen` one nothing new is started: its node is paused, drained or down.
    """

    begun: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    frozen: frozenset[str] = frozenset()


def plan_job(view: View, now: datetime) -> Plan:
    """Let go of older iterations, start what may start, restart what failed."""
    members = members_of(view, now)
    actions: list[Action] = []
    wait: timedelta | None = None
    for name in members.drop:
        actions += give_up(view, view.slot(name))
    for name, held in sorted(view.held.items()):
        if name not in members.drop:
            actions += let_go_of(view, _stale(view, held), "IterationOver")
    for name in (*members.begun, *members.start):
        held = view.slot(name)
        if _is_done(held.current):
            continue
        decision = decide(view, held, now, frozen=name in members.frozen)
        if decision.action is not None:
            actions.append(decision.action)
        wait = any_of(wait, decision.wait)
        if len(held.tasks) > 1:
            own = tuple(task for task in held.tasks if task not in _stale(view, held))
            actions += forget(view, replace(held, tasks=own), touched_by(decision.action))
    return Plan(tuple(actions), wait, independent=True)


def members_of(view: View, now: datetime) -> Members:
    """Share out a job's slots."""
    is_global = view.owner.spec.mode is Mode.GLOBAL_JOB
    wanted = _nodes(view) if is_global else [str(number + 1) for number in range(desired_count(view.owner.spec, 0))]
    begun = [name for name in wanted if _has_begun(view, name)]
    frozen = frozenset(name for name in wanted if is_global and not may_join(view.nodes[name]))
    vacant = [name for name in wanted if name not in begun and name not in frozen and _is_clear(view, view.slot(name))]
    if view.rollout is not None and view.rollout.status.target != view.owner.status.revision:
        vacant = []
    if not is_global:
        active = sum(not _is_over(view, view.slot(name), now) for name in begun)
        vacant = vacant[: max(0, max_concurrent(view.owner.spec) - active)]
    return Members(
        begun=tuple(begun),
        start=tuple(vacant),
        drop=tuple(sorted(view.slots.keys() - set(wanted), key=slot_order)),
        frozen=frozen,
    )


def _nodes(view: View) -> list[str]:
    return sorted(uid for uid, node in view.nodes.items() if is_member(node, view.template))


def _is_own(view: View, task: Task | None) -> bool:
    return task is not None and task.spec.job_iteration == view.owner.status.job_iteration


def _has_begun(view: View, name: str) -> bool:
    return _is_own(view, view.slot(name).current)


def _stale(view: View, held: Held) -> list[Task]:
    return [task for task in held.tasks if not _is_own(view, task)]


def _is_clear(view: View, held: Held) -> bool:
    """Nothing of an older iteration is wanted there any more: what still stops, the new task waits for."""
    return not any(task.spec.desired_state.is_live for task in _stale(view, held))


def _is_done(task: Task | None) -> bool:
    return task is not None and task.status.state is TaskState.COMPLETE


def _is_over(view: View, held: Held, now: datetime) -> bool:
    """The slot's task completed, or it ended and is not restarted."""
    current = held.current
    if current is None:
        return False
    if _is_done(current):
        return True
    has_ended = not current.spec.desired_state.is_live or view.is_ended(current)
    return has_ended and not may_restart(current, held.history, now)
