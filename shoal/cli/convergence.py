"""Whether a service is as it was asked to be, and if not, why. Pure.

Works on services and tasks as the API server answers them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from shoal.api.states import DesiredState, RolloutState, TaskState
from shoal.cli.columns import RANK, at, is_job
from shoal.cli.rolling import batch, time_to_go
from shoal.cli.text import moment, plural
from shoal.rules.slots import IN_PROGRESS, PAUSED

Plain = dict[str, Any]

FAILED_UPDATE: Final = "an update that was rolled back"
"""Stands for the revision that was asked for, where it is known no more but that it failed."""

STABLE_S: Final = 2.0
"""Seconds a task must have run before it counts as running for good: a container may end at once."""

STUCK_S: Final = 15.0
"""Seconds without one more task running, and with a cause to name, after which nobody should wait any longer."""

SETTLED_S: Final = 2.0
"""Seconds that ended tasks stay without a successor before that is the policy's doing and not a moment between."""


class Stage(StrEnum):
    GOING = "going"
    CONVERGED = "converged"
    FAILED = "failed"
    ROLLED_BACK = "rolled back"


class Progress(Struct, frozen=True):
    """`text` says how far it is, `cause` why it is no farther ("" = no reason known)."""

    stage: Stage
    text: str
    cause: str = ""
    running: int = 0
    desired: int = 0
    settled: bool = False
    """No task is alive or to come: the restart policy ends here."""
    rolling: bool = False
    """A rollout is under way: it judges itself, by its own deadline."""
    left: str = ""
    """What time is left, counting down."""


def progress(service: Plain, tasks: Iterable[Plain], revision: str = "", *, is_scaling: bool = False) -> Progress:
    """Judge a service by its status and tasks; `revision` is the one that was asked for ("" = the present one).

    Who only asked for another number of tasks has it also while a rollout is paused, whatever the tasks' revisions.
    """
    own = [task for task in tasks if at(task, "spec.service.uid") == at(service, "metadata.uid")]
    if is_job(service):
        return _job_progress(service, own)
    counts = at(service, "status.replicas", {})
    desired, running, updated = (counts.get(key, 0) for key in ("desired", "running", "updated"))
    current, state = at(service, "status.revision"), at(service, "status.rollout.state")
    is_known = at(service, "status.rollout.target") == current and _is_taken_up(service)
    text = ", ".join(filter(None, (_text(desired, running, updated, own), batch(service) if is_known else "")))
    cause = cause_of(service, own)
    settled = _is_settled(desired, own, current)
    if revision and current != revision and state == RolloutState.ROLLBACK_COMPLETED:
        stage, cause = Stage.ROLLED_BACK, at(service, "status.attempt.message") or cause
    elif is_known and state in PAUSED and is_scaling:
        stage = Stage.CONVERGED if running == desired else Stage.GOING
        cause = f"the rollout stays paused: {at(service, 'status.rollout.message')}" if running == desired else cause
    elif is_known and state in PAUSED:
        stage, cause = Stage.FAILED, at(service, "status.rollout.message") or cause or f"the rollout is {state}"
    elif is_known and running == desired == updated and state not in IN_PROGRESS:
        stage, cause = Stage.CONVERGED, ""
    else:
        stage = Stage.GOING
    is_rolling = is_known and state in IN_PROGRESS
    return Progress(stage, text, cause, running, desired, settled, is_rolling)


def _is_taken_up(service: Plain) -> bool:
    """The rollout has followed what was last asked for, such as to go on after a pause."""
    return bool(at(service, "status.rollout.attempt", 0) == at(service, "status.attempt.number", 0))


def _job_progress(service: Plain, tasks: list[Plain]) -> Progress:
    """A job is done when all have completed; it is over, too, when nothing of this iteration is alive or to come."""
    counts, iteration = at(service, "status.replicas", {}), at(service, "status.jobIteration", 0)
    desired, completed = counts.get("desired", 0), counts.get("completed", 0)
    own = [task for task in tasks if at(task, "spec.jobIteration", 0) == iteration]
    alive = Counter(at(task, "status.state") for task in own if _is_live(task))
    ordered = sorted(alive.items(), key=lambda item: -RANK.get(item[0], 0))
    text = ", ".join([f"{completed}/{desired} completed", *(f"{count} {state}" for state, count in ordered)])
    stage = Stage.CONVERGED if completed == desired else Stage.GOING
    cause = "" if stage is Stage.CONVERGED else cause_of(service, own)
    return Progress(stage, text, cause, completed, desired, settled=bool(own) and not alive)


def _text(desired: int, running: int, updated: int, tasks: list[Plain]) -> str:
    states = Counter(
        at(task, "status.state") for task in tasks if _is_live(task) and at(task, "status.state") != TaskState.RUNNING
    )
    ordered = sorted(states.items(), key=lambda item: -RANK.get(item[0], 0))
    parts = [f"{running}/{desired} running", *(f"{count} {state}" for state, count in ordered)]
    if updated < running:
        parts.append(f"{running - updated} of an older revision")
    return ", ".join(parts)


def cause_of(service: Plain, tasks: Iterable[Plain]) -> str:
    """Return the foremost reason why tasks do not run: something not allocated, no node, the last failure.

    A slot that runs the present revision again is none, whatever failed there before.
    """
    message = at(service, "status.endpoint.message")
    if message:
        return str(message)
    pending = at(service, "status.pending", {})
    if pending:
        return "; ".join(
            f"{plural(count, 'task')} pending: {reason}"
            for reason, count in sorted(pending.items(), key=lambda i: -i[1])
        )
    current = at(service, "status.revision")
    own = [task for task in tasks if at(task, "spec.revision") == current]
    well = {at(task, "spec.slot") for task in own if _is_live(task) and at(task, "status.state") == TaskState.RUNNING}
    failed = [
        task
        for task in own
        if at(task, "status.state") in (TaskState.FAILED, TaskState.REJECTED) and at(task, "spec.slot") not in well
    ]
    if not failed:
        return ""
    last = max(failed, key=lambda task: at(task, "status.timestamp"))
    return f"task {at(last, 'metadata.name')} {ending(last)}"


def ending(task: Plain) -> str:
    """Say how a task ended: failed on node-1: exit code 3."""
    node, state = at(task, "spec.node.name"), at(task, "status.state")
    code = at(task, "status.container.exitCode", 0)
    why = at(task, "status.err") or (f"exit code {code}" if code else at(task, "status.message"))
    return f"{state}{f' on {node}' if node else ''}{f': {why}' if why else ''}"


def _is_wanted(task: Plain) -> bool:
    return DesiredState(at(task, "spec.desiredState")).is_live


def _is_live(task: Plain) -> bool:
    """Wanted alive, and able to be so."""
    return _is_wanted(task) and RANK.get(at(task, "status.state"), 0) <= RANK[TaskState.RUNNING]


def _is_settled(desired: int, tasks: list[Plain], revision: str) -> bool:
    """All slots have had a task of the present revision, some have none alive, and nothing is on its way.

    A task that has ended and is still wanted alive awaits its restart delay.
    """
    slots: dict[str, list[Plain]] = {}
    for task in tasks:
        if at(task, "spec.revision") == revision:
            slots.setdefault(at(task, "spec.slot"), []).append(task)
    if desired == 0 or len(slots) < desired:
        return False
    alive = [task for task in tasks if _is_live(task)]
    on_the_way = any(at(task, "status.state") != TaskState.RUNNING for task in alive)
    over = [slot for slot, own in slots.items() if not any(map(_is_wanted, own))]
    return bool(over) and not on_the_way


def has_run_for(tasks: Iterable[Plain], uid: str, running: int, now: datetime, seconds: float) -> bool:
    """Say whether at least `running` tasks of a service run, all for that long, by the stamps in the tasks.

    A service and its tasks come by two streams: the service may still count a task that has ended already.
    """
    stamps = [
        moment(at(task, "status.timestamp"))
        for task in tasks
        if at(task, "spec.service.uid") == uid and _is_live(task) and at(task, "status.state") == TaskState.RUNNING
    ]
    lasted = [stamp for stamp in stamps if stamp is not None and now - stamp >= timedelta(seconds=seconds)]
    return len(lasted) == len(stamps) >= running


class Watch:
    """Judges one service over time; `now_s` are seconds of one monotonic clock."""

    def __init__(self, revision: str = "", *, is_scaling: bool = False) -> None:
        self._revision, self._is_scaling = revision, is_scaling
        self._converged_since: float | None = None
        self._settled_since: float | None = None
        self._waits_since: float | None = None
        self._most = -1
        self._gained_at = 0.0

    def judge(self, service: Plain, tasks: list[Plain], now_s: float, now: datetime) -> Progress:
        """Return the verdict; CONVERGED only once that is stable, FAILED also when nothing moves any more."""
        found = progress(service, tasks, self._revision, is_scaling=self._is_scaling)
        if is_job(service):
            return self._judge_job(found, service, now_s)
        if found.rolling:
            self._converged_since = self._settled_since = None
            self._most = -1
            return replace(found, left=time_to_go(service, now))
        if found.running > self._most:
            self._most, self._gained_at = found.running, now_s
        self._settled_since = _since(self._settled_since, found.settled, now_s)
        self._converged_since = _since(self._converged_since, found.stage is Stage.CONVERGED, now_s)
        if found.stage is Stage.CONVERGED:
            assert self._converged_since is not None
            is_stable = now_s - self._converged_since >= STABLE_S or has_run_for(
                tasks, at(service, "metadata.uid"), found.running, now, STABLE_S
            )
            return found if is_stable else _with(found, Stage.GOING, "")
        if found.stage is Stage.GOING and self._settled_since is not None and now_s - self._settled_since >= SETTLED_S:
            return _ended(found, service, tasks)
        if found.stage is Stage.GOING and found.cause and now_s - self._gained_at >= STUCK_S:
            return _with(found, Stage.FAILED, found.cause)
        return found

    def _judge_job(self, found: Progress, service: Plain, now_s: float) -> Progress:
        """Completed is for good; a failed task is tried again, only one that finds no node is a reason to give up."""
        waits = found.stage is Stage.GOING and bool(at(service, "status.pending", {}))
        self._settled_since = _since(self._settled_since, found.settled, now_s)
        self._waits_since = _since(self._waits_since, waits, now_s)
        if found.stage is Stage.CONVERGED:
            return found
        if self._settled_since is not None and now_s - self._settled_since >= SETTLED_S:
            return _with(found, Stage.FAILED, f"{found.cause or 'its tasks ended'}; not restarted")
        if self._waits_since is not None and now_s - self._waits_since >= STUCK_S:
            return _with(found, Stage.FAILED, found.cause)
        return found


def _ended(found: Progress, service: Plain, tasks: list[Plain]) -> Progress:
    """Tasks have ended and the restart policy leaves it so: well, if all of them completed."""
    condition = at(service, "spec.restart.condition", "any")
    if found.cause:
        return _with(found, Stage.FAILED, f"{found.cause}; not restarted (restart condition {condition})")
    return _with(found, Stage.CONVERGED, f"tasks completed and are not restarted (restart condition {condition})")


def _with(found: Progress, stage: Stage, cause: str) -> Progress:
    return replace(found, stage=stage, cause=cause)


def _since(before: float | None, holds: bool, now_s: float) -> float | None:
    return None if not holds else now_s if before is None else before
