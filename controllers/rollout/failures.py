"""Which tasks of a rollout failed, whether they are too many, and what to do then. Pure.

A failure is a task that was made in this attempt for a granted slot and ended unasked, before it ran or at most
`monitor` after. Both stamps are its node's. Tasks that were told to stop, or lost their node, never count.
Source: SwarmKit's manager/orchestrator/update; swarm semantics 4.4.
"""

from __future__ import annotations

from datetime import timedelta

from controllers.rollout.view import View
from shoal.api.defaults import effective_restart
from shoal.api.objects import RolloutStatus, Task, Update
from shoal.api.states import FailureAction, RestartCondition, RolloutState, TaskState


def failed_task(view: View, status: RolloutStatus, slot: str, settings: Update) -> Task | None:
    """Return the first task of this attempt that failed in a slot."""
    made = (task for task in view.in_slot(slot) if _is_of(task, status))
    return next((task for task in made if _has_failed(task, timedelta(seconds=settings.monitor.seconds))), None)


def action_on_failures(view: View, status: RolloutStatus) -> FailureAction | None:
    """Return what to do about the failures so far; None while they are tolerated.

    Worked: 2 of 10 slots with maxFailureRatio 0.2 are tolerated, 3 are not. A rollback is not rolled back, and where
    there is nothing to go back to an update pauses.
    """
    settings = view.settings(status)
    if not status.failures or len(status.failures) / len(status.dirty) <= settings.max_failure_ratio:
        return None
    if settings.failure_action is FailureAction.CONTINUE:
        return None
    may_go_back = status.state is RolloutState.UPDATING and view.revision(status.stable) is not None
    if settings.failure_action is FailureAction.ROLLBACK and may_go_back and status.stable != status.target:
        return FailureAction.ROLLBACK
    return FailureAction.PAUSE


def sentence(view: View, status: RolloutStatus) -> str:
    """Say which task failed last and why, in Swarm's words and with the cause."""
    uid = list(status.failures.values())[-1]
    task = next((task for task in view.tasks if task.metadata.uid == uid), None)
    text = f"failure or early termination of task {uid}"
    return text if task is None else f"{text}: {cause_of(task, view.settings(status))}"


def cause_of(task: Task, settings: Update) -> str:
    state, code = task.status.state, task.status.container.exit_code if task.status.container else 0
    why = task.status.err or (f"exit code {code}" if code else task.status.message)
    if state.is_terminal:
        return f"{state.value}{f', {why}' if why else ''}"
    return f"still {state.value} after {settings.deadline}{f', {why}' if why else ''}"


def _is_of(task: Task, status: RolloutStatus) -> bool:
    return task.spec.attempt == status.attempt and task.spec.revision == status.target


def _has_failed(task: Task, monitor: timedelta) -> bool:
    if not task.status.unasked or _ended_well(task):
        return False
    began, ended = task.status.running_at, task.status.timestamp
    return began is None or ended is None or ended - began <= monitor


def _ended_well(task: Task) -> bool:
    """It ran to its end, and that is the end: where the policy restarts it, it was meant to go on."""
    is_complete = task.status.state is TaskState.COMPLETE
    return is_complete and effective_restart(task.spec.template).condition is not RestartCondition.ANY
