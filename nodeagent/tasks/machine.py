"""The next step of one task. Pure.

A step is safe to repeat: the agent may die after any of them, and the next one looks at the container again.
Containers are made freely up to `ready`; from `starting` on none is ever made again, so a task cannot run twice.

Source: the order of states and who passes the desired one is SwarmKit's (agent/exec/controller.go).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from nodeagent.engine.contract import Container
from shoal.api.defaults import endpoint_mode
from shoal.api.objects import Backend, Task
from shoal.api.states import DesiredState, EndpointMode, TaskState

DRAIN_S: Final = 2.0
"""A stop waits so long for the node's peers to stop routing to the task; then it goes on without them.

Where names lead to tasks themselves, it always does: answers hold for a second, after the peers have followed.
"""

KILL_AGAIN_S: Final = 5.0
"""SIGKILL is sent again after so long if the container still runs."""

REMOVED: Final = "task: container was removed"
UNHEALTHY: Final = "task: unhealthy container"


class View(Struct, frozen=True):
    """All that decides. Times are seconds of the agent's monotonic clock.

    `task` is None for a stray: a container of ours whose task nobody knows. `wanted` is false once the task left
    the assignments. `state` is the newest state known here, which may be ahead of the task's own status.
    """

    now: float
    task: Task | None = None
    wanted: bool = True
    state: TaskState = TaskState.ASSIGNED
    container: Container | None = None
    backend: Backend | None = None
    image_ready: bool = False
    is_wired: bool = False
    """The container was made, or taken over, by this run of the agent, and joined to its networks."""
    is_complete: bool = True
    """Its network is, for the process it has now."""
    ordered_at: float | None = None
    """When the order to end was first seen."""
    signalled_at: float | None = None
    killed_at: float | None = None


class Report(Struct, frozen=True, tag=True):
    """The task reached a state."""

    state: TaskState
    message: str
    err: str = ""


class Pull(Struct, frozen=True, tag=True):
    """See that the image is here."""


class Create(Struct, frozen=True, tag=True):
    """Make the container, or adopt the one there is."""


class Start(Struct, frozen=True, tag=True):
    pass


class Complete(Struct, frozen=True, tag=True):
    """Give the container that runs what of its network the engine does not."""


class Signal(Struct, frozen=True, tag=True):
    signal: str


class Remove(Struct, frozen=True, tag=True):
    """Remove the container and its anonymous volumes."""


class Wait(Struct, frozen=True, tag=True):
    """Nothing to do until something changes, or until then."""

    until: float | None = None


Step = Report | Pull | Create | Start | Complete | Signal | Remove | Wait
_WAIT: Final = Wait()


def must_end(task: Task | None, *, wanted: bool) -> bool:
    """Is it time for the task's container to stop?"""
    if task is None or not wanted:
        return True
    return not task.spec.desired_state.is_live or bool(task.spec.evicted)


def next_step(view: View) -> Step:
    if view.task is not None and view.state.rank < TaskState.ASSIGNED.rank:
        return _WAIT
    if must_end(view.task, wanted=view.wanted):
        return _end(view)
    if view.state.is_terminal:
        return _stop(view, drain_s=0) if view.container is not None and view.container.is_alive else _WAIT
    return _FORWARD[view.state](view)


def _end(view: View) -> Step:
    task, container = view.task, view.container
    if container is not None and container.is_alive:
        return _stop(view, drain_s=DRAIN_S if _may_have_traffic(view) else 0)
    if task is not None and view.wanted and not view.state.is_terminal:
        if task.spec.desired_state.is_live:
            return Report(TaskState.REJECTED, "evicted", task.spec.evicted)
        return Report(TaskState.SHUTDOWN, "shutdown")
    forgotten = task is None or not view.wanted or task.spec.desired_state is DesiredState.REMOVE
    return Remove() if container is not None and forgotten else _WAIT


def _may_have_traffic(view: View) -> bool:
    """May somebody still be routing to the task, or hold its address from a name?

    What a name has led to may be used for a second more, and of that no node can tell.
    """
    task, backend = view.task, view.backend
    if task is None or backend is None or not (view.wanted and backend.spec.addresses):
        return False
    is_listed = endpoint_mode(task.spec.template) is EndpointMode.DNSRR
    return view.state is TaskState.RUNNING and (is_listed or backend.status.drained_at is None)


def _stop(view: View, *, drain_s: float) -> Step:
    """Drain, ask, insist."""
    assert view.container is not None
    if view.signalled_at is None:
        drained_at = (view.now if view.ordered_at is None else view.ordered_at) + drain_s
        return Signal(view.container.stop_signal) if view.now >= drained_at else Wait(drained_at)
    patience_over = view.signalled_at + view.container.stop_timeout_s
    if view.killed_at is not None:
        patience_over = view.killed_at + KILL_AGAIN_S
    return Signal("SIGKILL") if view.now >= patience_over else Wait(patience_over)


def _accept(_: View) -> Step:
    return Report(TaskState.ACCEPTED, "accepted")


def _begin(_: View) -> Step:
    return Report(TaskState.PREPARING, "preparing")


def _prepare(view: View) -> Step:
    if view.container is None or view.container.state == "dead":
        return _make(view)
    return Report(TaskState.READY, "prepared") if view.is_wired else Create()


def _make(view: View) -> Step:
    """Make a container; what a failed attempt left behind goes first."""
    if view.container is not None:
        return Remove()
    return Create() if view.image_ready else Pull()


def _await_release(view: View) -> Step:
    if view.container is None or view.container.state == "dead":
        return _make(view)
    assert view.task is not None
    if view.task.spec.desired_state is DesiredState.READY:
        return _WAIT
    return Report(TaskState.STARTING, "starting")


def _start(view: View) -> Step:
    container = view.container
    if container is not None and container.state == "created":
        return Report(TaskState.FAILED, "starting failed", container.error) if container.error else Start()
    if container is not None and container.is_alive and view.is_complete and container.health in ("", "healthy"):
        return Report(TaskState.RUNNING, "started")
    return _watch_over(view)


def _watch_over(view: View) -> Step:
    """A container that was started: it runs on, or it is over."""
    container = view.container
    if container is None:
        return Report(TaskState.FAILED, "removed", REMOVED)
    if not container.is_alive:
        return _exited(container)
    if container.health == "unhealthy":
        return _stop(view, drain_s=0)
    return _WAIT if view.is_complete else Complete()


def _exited(container: Container) -> Step:
    if container.health == "unhealthy":
        return Report(TaskState.FAILED, "unhealthy", UNHEALTHY)
    if container.exit_code == 0 and not container.error:
        return Report(TaskState.COMPLETE, "finished")
    cause = "out of memory" if container.oom_killed else container.error
    return Report(
        TaskState.FAILED, "failed", f"task: non-zero exit ({container.exit_code})" + (f": {cause}" if cause else "")
    )


_FORWARD: Final[dict[TaskState, Callable[[View], Step]]] = {
    TaskState.ASSIGNED: _accept,
    TaskState.ACCEPTED: _begin,
    TaskState.PREPARING: _prepare,
    TaskState.READY: _await_release,
    TaskState.STARTING: _start,
    TaskState.RUNNING: _watch_over,
}
