"""The step machine: what comes next, for every state of a task and its container."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.engine.contract import Container
from nodeagent.tasks.machine import (
    DRAIN_S,
    KILL_AGAIN_S,
    REMOVED,
    UNHEALTHY,
    Complete,
    Create,
    Pull,
    Remove,
    Report,
    Signal,
    Start,
    Step,
    View,
    Wait,
    next_step,
)
from shoal.api.meta import Meta, Ref
from shoal.api.objects import Backend, BackendSpec, BackendStatus, Task, TaskAddress
from shoal.api.states import DesiredState, EndpointMode, TaskState
from shoal.api.template import Endpoint
from shoal.machinery.factories import make_task

S, D = TaskState, DesiredState
AT = datetime(2026, 1, 1, tzinfo=UTC)
NOW = 100.0


def task(desired: DesiredState = D.RUNNING, evicted: str = "") -> Task:
    made = make_task(state=S.ASSIGNED, desired=desired)
    return msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, evicted=evicted))


def listed(of: Task) -> Task:
    """The same of a service whose name leads to its tasks."""
    template = msgspec.structs.replace(of.spec.template, endpoint=Endpoint(EndpointMode.DNSRR))
    return msgspec.structs.replace(of, spec=msgspec.structs.replace(of.spec, template=template))


def box(state: str = "running", **more: Any) -> Container:
    return Container(id="c1", name="web.1.t1", labels={}, state=state, stop_timeout_s=10.0, **more)


def backend(*, drained: bool = False, addresses: bool = True) -> Backend:
    ref = Ref("x", "x")
    return Backend(
        metadata=Meta(name="b"),
        spec=BackendSpec(ref, ref, ref, (TaskAddress(ref, "10.0.0.4/24", "02:42:0a:00:00:04"),) if addresses else ()),
        status=BackendStatus(ready=not drained, drained_at=AT if drained else None),
    )


def view(state: TaskState, container: Container | None = None, desired: DesiredState = D.RUNNING, **more: Any) -> View:
    return View(now=NOW, state=state, container=container, **{"task": task(desired), **more})


def report(state: TaskState, message: str, err: str = "") -> Report:
    return Report(state, message, err)


FORWARD = [
    ("an unassigned task waits", view(S.PENDING), Wait()),
    ("an assigned task is accepted", view(S.ASSIGNED), report(S.ACCEPTED, "accepted")),
    ("an accepted task is prepared", view(S.ACCEPTED), report(S.PREPARING, "preparing")),
    ("preparing pulls first", view(S.PREPARING), Pull()),
    ("preparing creates when the image is here", view(S.PREPARING, image_ready=True), Create()),
    ("a container found there is taken over", view(S.PREPARING, box("created")), Create()),
    ("prepared is ready", view(S.PREPARING, box("created"), is_wired=True), report(S.READY, "prepared")),
    ("what a failed attempt left goes first", view(S.PREPARING, box("dead")), Remove()),
    ("desired ready stops exactly at ready", view(S.READY, box("created"), D.READY), Wait()),
    ("released it starts", view(S.READY, box("created")), report(S.STARTING, "starting")),
    ("a job's task starts as well", view(S.READY, box("created"), D.COMPLETE), report(S.STARTING, "starting")),
    ("a container lost before its start is made again", view(S.READY, None, D.READY, image_ready=True), Create()),
    ("starting starts what is created", view(S.STARTING, box("created")), Start()),
    ("starting without a health check is running", view(S.STARTING, box()), report(S.RUNNING, "started")),
    ("its network is completed first", view(S.STARTING, box(), is_complete=False), Complete()),
    ("so is that of one found running", view(S.RUNNING, box(), is_complete=False), Complete()),
    ("nobody waits for health before", view(S.STARTING, box(health="starting"), is_complete=False), Complete()),
    ("starting waits for health", view(S.STARTING, box(health="starting")), Wait()),
    ("healthy is running", view(S.STARTING, box(health="healthy")), report(S.RUNNING, "started")),
    ("running runs on", view(S.RUNNING, box(health="healthy")), Wait()),
    ("a paused container still runs", view(S.RUNNING, box("paused")), Wait()),
]

ENDINGS = [
    ("exit 0 is complete", view(S.RUNNING, box("exited")), report(S.COMPLETE, "finished")),
    ("exit 0 while starting too", view(S.STARTING, box("exited")), report(S.COMPLETE, "finished")),
    (
        "another exit is a failure with its code",
        view(S.RUNNING, box("exited", exit_code=1)),
        report(S.FAILED, "failed", "task: non-zero exit (1)"),
    ),
    (
        "running out of memory is said",
        view(S.RUNNING, box("exited", exit_code=137, oom_killed=True)),
        report(S.FAILED, "failed", "task: non-zero exit (137): out of memory"),
    ),
    (
        "a start that failed fails the task with the engine's cause",
        view(S.STARTING, box("created", error="no such file", exit_code=127)),
        report(S.FAILED, "starting failed", "no such file"),
    ),
    ("a removed container fails a running task", view(S.RUNNING), report(S.FAILED, "removed", REMOVED)),
    ("and a starting one, which is never made twice", view(S.STARTING), report(S.FAILED, "removed", REMOVED)),
    ("unhealthy is stopped at once", view(S.RUNNING, box(health="unhealthy"), backend=backend()), Signal("SIGTERM")),
    (
        "and then failed",
        view(S.RUNNING, box("exited", health="unhealthy", exit_code=137)),
        report(S.FAILED, "unhealthy", UNHEALTHY),
    ),
    ("a failed task's container is kept", view(S.FAILED, box("exited", exit_code=1)), Wait()),
    ("but not left running", view(S.FAILED, box()), Signal("SIGTERM")),
]

STOPPING: list[tuple[str, View, Step]] = [
    (
        "shutdown waits for the backend to drain",
        view(S.RUNNING, box(), D.SHUTDOWN, backend=backend(), ordered_at=NOW - 0.5),
        Wait(NOW - 0.5 + DRAIN_S),
    ),
    (
        "drained it is told to stop",
        view(S.RUNNING, box(), D.SHUTDOWN, backend=backend(drained=True)),
        Signal("SIGTERM"),
    ),
    (
        "undrained it is told all the same after a while",
        view(S.RUNNING, box(), D.SHUTDOWN, backend=backend(), ordered_at=NOW - DRAIN_S),
        Signal("SIGTERM"),
    ),
    (
        "one that names lead to is told after a while, drained or not: clients may hold its address",
        view(
            S.RUNNING,
            box(),
            task=listed(task(D.SHUTDOWN)),
            backend=backend(drained=True),
            ordered_at=NOW - 0.5,
        ),
        Wait(NOW - 0.5 + DRAIN_S),
    ),
    ("without a backend there is nothing to drain", view(S.RUNNING, box(), D.SHUTDOWN), Signal("SIGTERM")),
    (
        "nor without addresses",
        view(S.RUNNING, box(), D.SHUTDOWN, backend=backend(addresses=False)),
        Signal("SIGTERM"),
    ),
    (
        "nor before it was running",
        view(S.STARTING, box(health="starting"), D.SHUTDOWN, backend=backend()),
        Signal("SIGTERM"),
    ),
    (
        "the image's own stop signal is used",
        view(S.RUNNING, box(stop_signal="SIGQUIT"), D.SHUTDOWN),
        Signal("SIGQUIT"),
    ),
    (
        "it has its grace period",
        view(S.RUNNING, box(), D.SHUTDOWN, ordered_at=NOW - 9, signalled_at=NOW - 9),
        Wait(NOW + 1),
    ),
    (
        "after that it is killed",
        view(S.RUNNING, box(), D.SHUTDOWN, ordered_at=NOW - 10, signalled_at=NOW - 10),
        Signal("SIGKILL"),
    ),
    (
        "and not twice at once",
        view(S.RUNNING, box(), D.SHUTDOWN, ordered_at=NOW - 11, signalled_at=NOW - 11, killed_at=NOW - 1),
        Wait(NOW - 1 + KILL_AGAIN_S),
    ),
    ("stopped is shutdown", view(S.RUNNING, box("exited"), D.SHUTDOWN), report(S.SHUTDOWN, "shutdown")),
    ("never started is shutdown too", view(S.READY, box("created"), D.SHUTDOWN), report(S.SHUTDOWN, "shutdown")),
    ("not even made as well", view(S.ASSIGNED, None, D.SHUTDOWN), report(S.SHUTDOWN, "shutdown")),
    ("a shut down task's container is kept", view(S.SHUTDOWN, box("exited"), D.SHUTDOWN), Wait()),
    ("desired remove reports first", view(S.RUNNING, box("exited"), D.REMOVE), report(S.SHUTDOWN, "shutdown")),
    ("then removes", view(S.SHUTDOWN, box("exited"), D.REMOVE), Remove()),
    ("and is done", view(S.SHUTDOWN, None, D.REMOVE), Wait()),
    (
        "an evicted task is stopped",
        view(S.RUNNING, box(), task=task(evicted="node drained")),
        Signal("SIGTERM"),
    ),
    (
        "and rejected with the reason",
        view(S.RUNNING, box("exited"), task=task(evicted="node no longer fits")),
        report(S.REJECTED, "evicted", "node no longer fits"),
    ),
    ("a task that left the assignments is stopped", view(S.RUNNING, box(), wanted=False), Signal("SIGTERM")),
    ("and removed without a word", view(S.RUNNING, box("exited"), wanted=False), Remove()),
    ("a stray is stopped", View(now=NOW, wanted=False, state=S.NEW, container=box()), Signal("SIGTERM")),
    ("and removed", View(now=NOW, wanted=False, state=S.NEW, container=box("created")), Remove()),
]


@pytest.mark.parametrize(
    ("seen", "step"), [pytest.param(v, s, id=name) for name, v, s in (*FORWARD, *ENDINGS, *STOPPING)]
)
def test_the_next_step(seen: View, step: Step) -> None:
    assert next_step(seen) == step


views = st.builds(
    View,
    now=st.just(NOW),
    task=st.builds(task, st.sampled_from(D), st.sampled_from(["", "node drained"])),
    wanted=st.booleans(),
    state=st.sampled_from([state for state in S if state is not S.REMOVE]),
    container=st.none()
    | st.builds(
        box,
        st.sampled_from(["created", "running", "paused", "exited", "dead"]),
        health=st.sampled_from(["", "starting", "healthy", "unhealthy"]),
        exit_code=st.sampled_from([0, 1]),
    ),
    backend=st.none() | st.builds(backend, drained=st.booleans()),
    image_ready=st.booleans(),
    is_wired=st.booleans(),
    is_complete=st.booleans(),
    ordered_at=st.none() | st.just(NOW - 1),
    signalled_at=st.none() | st.just(NOW - 5) | st.just(NOW - 60),
    killed_at=st.none() | st.just(NOW - 1) | st.just(NOW - 30),
)


@given(views)
def test_a_reported_state_is_always_a_newer_one(seen: View) -> None:
    step = next_step(seen)
    if isinstance(step, Report):
        assert step.state.rank > seen.state.rank


@given(views)
def test_nothing_is_made_or_started_that_should_end_or_has_ended(seen: View) -> None:
    assert seen.task is not None
    over = not seen.wanted or not seen.task.spec.desired_state.is_live or seen.task.spec.evicted
    if over or seen.state.is_terminal:
        assert not isinstance(next_step(seen), (Create, Start, Complete, Pull))


@given(views)
def test_only_what_is_dead_and_unwanted_is_removed(seen: View) -> None:
    if isinstance(next_step(seen), Remove):
        assert seen.container is not None
        assert not seen.container.is_alive
        assert seen.task is not None
        never_started = seen.container.state == "dead" and seen.state.rank < S.STARTING.rank
        assert not seen.wanted or seen.task.spec.desired_state is D.REMOVE or never_started


@given(views)
def test_a_container_is_made_only_before_the_task_was_starting(seen: View) -> None:
    if isinstance(next_step(seen), Create):
        assert seen.state in (S.PREPARING, S.READY)
        assert seen.container is None or not seen.is_wired


@given(views)
def test_a_healthy_container_of_a_wanted_task_gets_no_signal(seen: View) -> None:
    assert seen.task is not None
    wanted = seen.wanted and seen.task.spec.desired_state.is_live and not seen.task.spec.evicted
    if wanted and seen.state is S.RUNNING and seen.container is not None and seen.container.health != "unhealthy":
        assert not isinstance(next_step(seen), Signal)
