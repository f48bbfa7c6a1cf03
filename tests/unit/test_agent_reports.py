"""What the agent says and keeps: reports until acknowledged, pulls shared, logs cut into lines, assignments stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent import memory
from nodeagent.assignments import Assignments, moves_network
from nodeagent.client import Receipt, Report
from nodeagent.engine.contract import LogLine
from nodeagent.engine.fake import FakeEngine
from nodeagent.engine.frames import FrameReader
from nodeagent.reporter import BURST, GAP_MOST_S, LONGEST_GAP_S, MOST_TASKS, Reporter
from nodeagent.tasks.images import UNREACHABLE_S, Images
from shoal.api import keys
from shoal.api.errors import EngineError, UnavailableError
from shoal.api.meta import Meta, Ref
from shoal.api.objects import (
    Backend,
    BackendSpec,
    BackendStatus,
    FileSpec,
    NodeDescription,
    Object,
    Secret,
    Task,
    TaskStatus,
)
from shoal.api.states import DesiredState, TaskState
from shoal.machinery.clock import VirtualClock
from tests.support.agent import CLUSTER, IMAGE, NODE, task_for

S = TaskState


class Server:
    """Takes reports, or does not answer."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.is_up = True
        self.has_stream = False
        self.beats = 0
        self.applied: list[int] = []
        self.gate = anyio.Event()
        self.gate.set()

    async def report(self, report: Report) -> Receipt:
        if not self.is_up:
            raise UnavailableError("nobody there")
        self.reports.append(report)
        await self.gate.wait()
        return Receipt("5s")

    def beat(self, applied: int | None = None) -> bool:
        self.beats += self.has_stream
        if self.has_stream and applied is not None:
            self.applied.append(applied)
        return self.has_stream

    def told(self) -> list[tuple[str, TaskState]]:
        return [(name.split(".")[1], status.state) for one in self.reports for name, status in one.tasks.items()]


class Desk:
    """A reporter at work."""

    def __init__(self) -> None:
        self.server, self.clock = Server(), VirtualClock()
        self.reporter = Reporter(self.server, self.clock)

    async def pass_time(self, seconds: float) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self.reporter.run)
            await self.clock.run_for(seconds)
            group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_an_idle_agent_beats_five_times_a_period() -> None:
    desk = Desk()
    await desk.pass_time(10)
    assert len(desk.server.reports) == 10
    assert all(not report.tasks for report in desk.server.reports)


@pytest.mark.anyio
async def test_while_its_stream_is_open_an_idle_agent_beats_there_and_reports_nothing() -> None:
    desk = Desk()
    desk.server.has_stream = True
    desk.reporter.status(task_for(), TaskStatus(S.RUNNING))
    await desk.pass_time(10)
    assert len(desk.server.reports) == 1
    assert desk.server.beats == 10


@pytest.mark.anyio
async def test_an_agent_beats_while_a_report_waits_for_its_answer() -> None:
    desk = Desk()
    desk.server.has_stream, desk.server.gate = True, anyio.Event()
    desk.reporter.status(task_for(), TaskStatus(S.RUNNING))
    await desk.pass_time(10)
    assert (len(desk.server.reports), desk.server.beats) == (1, 10)


@pytest.mark.anyio
async def test_while_its_stream_is_open_how_far_it_is_programmed_goes_there_once_and_again_to_the_next_server() -> None:
    desk = Desk()
    desk.server.has_stream = True
    async with anyio.create_task_group() as group:
        group.start_soon(desk.reporter.run)
        for revision in (7, 8):
            desk.reporter.applied(revision)
            await desk.clock.run_for(2)
        assert (desk.server.applied, desk.server.reports) == ([7, 8], [])
        desk.reporter.greeted({})
        await desk.clock.run_for(0)
        assert desk.server.applied == [7, 8, 8]
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_status_is_sent_at_once() -> None:
    desk = Desk()
    desk.reporter.status(task_for(), TaskStatus(S.RUNNING))
    await desk.pass_time(0)
    assert desk.server.told() == [("1", S.RUNNING)]


@pytest.mark.anyio
async def test_what_is_said_during_a_report_goes_together_newest_only() -> None:
    desk = Desk()
    desk.server.gate = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(desk.reporter.run)
        desk.reporter.status(task_for(1), TaskStatus(S.ACCEPTED))
        await desk.clock.run_for(0)
        for state in (S.PREPARING, S.READY, S.STARTING):
            desk.reporter.status(task_for(1), TaskStatus(state))
        desk.reporter.status(task_for(2), TaskStatus(S.ACCEPTED))
        desk.server.gate.set()
        await desk.clock.run_for(0)
        group.cancel_scope.cancel()
    assert [len(report.tasks) for report in desk.server.reports[:2]] == [1, 2]
    assert desk.server.told() == [("1", S.ACCEPTED), ("1", S.STARTING), ("2", S.ACCEPTED)]


@asynccontextmanager
async def in_a_burst(desk: Desk, tasks: int = BURST + 3) -> AsyncIterator[None]:
    """So many tasks have just been reported as on their way."""
    async with anyio.create_task_group() as group:
        group.start_soon(desk.reporter.run)
        for slot in range(tasks):
            desk.reporter.status(task_for(slot), TaskStatus(S.PREPARING))
        await desk.clock.run_for(0)
        assert [len(report.tasks) for report in desk.server.reports] == [tasks]
        desk.server.reports.clear()
        yield
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_while_several_tasks_are_on_their_way_reports_keep_a_distance() -> None:
    desk = Desk()
    async with in_a_burst(desk):
        for slot in (0, 1):
            desk.reporter.status(task_for(slot), TaskStatus(S.RUNNING))
            desk.reporter.applied(40 + slot)
            await desk.clock.run_for(0)
        assert desk.server.reports == []
        await desk.clock.run_for(GAP_MOST_S / 2)
        assert [(len(report.tasks), report.applied) for report in desk.server.reports] == [(2, 41)]


@pytest.mark.anyio
async def test_while_several_tasks_are_on_their_way_what_goes_down_the_stream_keeps_a_distance_too() -> None:
    desk = Desk()
    async with in_a_burst(desk):
        desk.server.has_stream = True
        for revision in range(40, 45):
            desk.reporter.applied(revision)
            await desk.clock.run_for(0)
        assert desk.server.applied == []
        await desk.clock.run_for(GAP_MOST_S)
        assert desk.server.applied == [44]


@pytest.mark.anyio
async def test_of_a_great_many_tasks_on_their_way_few_reports_tell_and_all_is_told_once_they_run() -> None:
    desk = Desk()
    desk.server.has_stream = True
    async with in_a_burst(desk):
        for state in (S.ACCEPTED, S.PREPARING, S.READY, S.STARTING):
            for slot in range(1000):
                desk.reporter.status(task_for(slot), TaskStatus(state))
            await desk.clock.run_for(GAP_MOST_S)
        assert len(desk.server.reports) <= 1
        for slot in range(1000):
            desk.reporter.status(task_for(slot), TaskStatus(S.RUNNING))
        await desk.clock.run_for(0)
        assert {state for _, state in desk.server.told()[-1000:]} == {S.RUNNING}
        assert len(desk.server.reports) <= 3


@pytest.mark.anyio
async def test_managers_that_take_long_to_answer_are_told_less_often_of_a_large_burst() -> None:
    desk = Desk()
    async with in_a_burst(desk):
        for slot in range(200):
            desk.reporter.status(task_for(slot), TaskStatus(S.PREPARING))
        desk.server.gate, desk.server.has_stream = anyio.Event(), True
        await desk.clock.run_for(2 * GAP_MOST_S)
        desk.server.gate.set()
        await desk.clock.run_for(0)
        told = len(desk.server.reports)
        desk.reporter.status(task_for(7), TaskStatus(S.READY))
        await desk.clock.run_for(2 * GAP_MOST_S)
        assert len(desk.server.reports) == told
        await desk.clock.run_for(LONGEST_GAP_S)
        assert len(desk.server.reports) == told + 1


@pytest.mark.anyio
async def test_the_last_tasks_of_a_burst_are_reported_at_once() -> None:
    desk = Desk()
    async with in_a_burst(desk):
        for slot in range(4):
            desk.reporter.status(task_for(slot), TaskStatus(S.RUNNING))
            await desk.clock.run_for(0)
        assert [len(report.tasks) for report in desk.server.reports] == [4]


@pytest.mark.anyio
async def test_what_somebody_waits_for_is_reported_at_once() -> None:
    desk = Desk()
    async with in_a_burst(desk):
        desk.reporter.applied(41)
        await desk.clock.run_for(0)
        assert desk.server.reports == []
        desk.reporter.applied(42, is_urgent=True)
        await desk.clock.run_for(0)
        assert [report.applied for report in desk.server.reports] == [42]
        desk.reporter.status(task_for(0), TaskStatus(S.RUNNING))
        await desk.clock.run_for(0)
        assert len(desk.server.reports) == 1, "and what follows waits again"


def replacement(desired: DesiredState, **spec: Any) -> Task:
    task = task_for(0)
    return msgspec.structs.replace(task, spec=msgspec.structs.replace(task.spec, desired_state=desired, **spec))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([(DesiredState.READY, S.READY), (DesiredState.RUNNING, S.RUNNING)], id="ready-to-go-then-running"),
        pytest.param([(DesiredState.SHUTDOWN, S.SHUTDOWN)], id="the-old-one-has-ended"),
    ],
)
async def test_the_steps_of_a_replacement_are_reported_at_once(steps: list[tuple[DesiredState, TaskState]]) -> None:
    desk = Desk()
    async with in_a_burst(desk):
        for desired, state in steps:
            desk.reporter.status(replacement(desired), TaskStatus(state))
            await desk.clock.run_for(0)
        assert [one.state for report in desk.server.reports for one in report.tasks.values()] == [s for _, s in steps]


@pytest.mark.anyio
async def test_a_task_that_starts_before_the_old_one_stops_is_reported_at_once() -> None:
    desk = Desk()
    async with in_a_burst(desk):
        desk.reporter.status(replacement(DesiredState.RUNNING, start_first=True), TaskStatus(S.RUNNING))
        await desk.clock.run_for(0)
        assert len(desk.server.reports) == 1


@pytest.mark.anyio
async def test_a_lost_report_is_sent_again_and_no_older_state_after_it() -> None:
    desk = Desk()
    desk.server.is_up = False
    desk.reporter.status(task_for(), TaskStatus(S.RUNNING))
    desk.reporter.describe(NodeDescription(hostname="box"))
    await desk.pass_time(3)
    desk.reporter.status(task_for(), TaskStatus(S.STARTING))
    desk.server.is_up = True
    await desk.pass_time(3)
    assert desk.server.told() == [("1", S.RUNNING)]
    assert [report.description.hostname for report in desk.server.reports if report.description] == ["box"]


@pytest.mark.anyio
async def test_a_server_that_has_not_heard_of_a_state_is_told_again() -> None:
    desk = Desk()
    known, behind = task_for(1, state=S.RUNNING), task_for(2, state=S.STARTING)
    for task in (known, behind):
        desk.reporter.status(task, TaskStatus(S.RUNNING))
    await desk.pass_time(0)
    desk.server.reports.clear()
    desk.reporter.greeted({task.metadata.name: task for task in (known, behind)})
    await desk.pass_time(0)
    assert desk.server.told() == [("2", S.RUNNING)]


@pytest.mark.anyio
async def test_how_far_the_node_is_programmed_is_in_every_report() -> None:
    desk = Desk()
    desk.reporter.applied(41)
    await desk.pass_time(0)
    desk.reporter.applied(42)
    await desk.pass_time(2)
    assert [report.applied for report in desk.server.reports] == [41, 42, 42, 42]


@pytest.mark.anyio
async def test_a_great_many_statuses_go_in_several_reports() -> None:
    desk = Desk()
    for slot in range(MOST_TASKS + 5):
        desk.reporter.status(task_for(slot), TaskStatus(S.RUNNING))
    await desk.pass_time(0)
    assert [len(report.tasks) for report in desk.server.reports] == [MOST_TASKS, 5]


@pytest.mark.anyio
async def test_an_image_is_pulled_once_for_all_who_wait() -> None:
    engine = FakeEngine(registry=(IMAGE,))
    images = Images(engine)
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(images.ensure, IMAGE)
    assert [call for call, _ in engine.calls].count("pull") == 1
    await images.ensure(IMAGE)
    assert [call for call, _ in engine.calls].count("pull") == 2


@pytest.mark.anyio
async def test_an_image_with_a_digest_that_is_here_is_not_pulled() -> None:
    fixed = f"web@sha256:{'0' * 64}"
    engine = FakeEngine(images=(fixed,))
    await Images(engine).ensure(fixed)
    assert "pull" not in {call for call, _ in engine.calls}


@pytest.mark.anyio
async def test_a_registry_that_does_not_answer_is_left_alone_for_local_images_only() -> None:
    assert UNREACHABLE_S > 1
    engine = FakeEngine(images=("r:5000/a", "r:5000/b"))
    engine.failures["pull"] = EngineError("Get https://r:5000/v2/: dial tcp: connection refused")
    images = Images(engine)
    await images.ensure("r:5000/a")
    await images.ensure("r:5000/b")
    assert [what for call, what in engine.calls if call == "pull"] == ["r:5000/a"]
    with pytest.raises(EngineError, match="connection refused"):
        await images.ensure("r:5000/c")


def frame(stream: int, text: bytes) -> bytes:
    return bytes((stream, 0, 0, 0)) + len(text).to_bytes(4, "big") + text


@given(st.lists(st.integers(1, 60), max_size=20))
def test_frames_are_read_however_they_are_cut(cuts: list[int]) -> None:
    raw = frame(1, b"T1 one\nT2 tw") + frame(2, b"T3 err\n") + frame(1, b"o\n") + frame(1, b"T4 rest")
    reader, lines, at = FrameReader(is_tty=False), [], 0
    for cut in (*cuts, len(raw)):
        lines += reader.feed(raw[at : at + cut])
        at += cut
    lines += reader.end()
    assert lines == [
        LogLine("stdout", "T1", b"one"),
        LogLine("stderr", "T3", b"err"),
        LogLine("stdout", "T2", b"two"),
        LogLine("stdout", "T4", b"rest"),
    ]


def test_a_terminals_lines_lose_their_carriage_return() -> None:
    assert FrameReader(is_tty=True).feed(b"T1 one\r\n") == [LogLine("stdout", "T1", b"one")]


def test_increments_put_and_delete() -> None:
    one, two = task_for(1), task_for(2)
    first = Assignments().replaced([CLUSTER, one], 5)
    assert first.synced
    second = first.changed([two], [keys.key_of(one)], 6)
    assert (set(second.tasks(NODE.uid)), second.revision) == ({two.metadata.uid}, 6)
    assert set(first.tasks(NODE.uid)) == {one.metadata.uid}
    assert second.changed((), (), 9).objects is second.objects


def backend_of(task: Task, *, ready: bool, followed: bool) -> Backend:
    stamp = datetime(2026, 1, 1, tzinfo=UTC) if followed else None
    status = BackendStatus(ready, serving_at=stamp) if ready else BackendStatus(ready, drained_at=stamp)
    ref = Ref(task.metadata.name, task.metadata.uid)
    return Backend(
        metadata=Meta(name=ref.name, uid="b"), spec=BackendSpec(task.spec.service, ref, NODE, ()), status=status
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(None, task_for(), True, id="a task comes"),
        pytest.param(task_for(state=S.STARTING), task_for(state=S.RUNNING), False, id="a task goes on"),
        pytest.param(task_for(state=S.RUNNING), task_for(state=S.FAILED), True, id="a task ends"),
        pytest.param(
            backend_of(task_for(), ready=False, followed=True),
            backend_of(task_for(), ready=True, followed=False),
            True,
            id="a backend is to be routed to",
        ),
        pytest.param(
            backend_of(task_for(), ready=True, followed=False),
            backend_of(task_for(), ready=True, followed=True),
            False,
            id="all nodes route to a backend",
        ),
        pytest.param(
            backend_of(task_for(), ready=True, followed=True),
            backend_of(task_for(), ready=True, followed=False),
            True,
            id="a backend was withdrawn and came back",
        ),
        pytest.param(CLUSTER, CLUSTER, True, id="anything else"),
    ],
)
def test_the_network_is_looked_at_for_what_concerns_it(old: Object | None, new: Object, expected: bool) -> None:
    assert moves_network(old, new) is expected


def test_tasks_of_other_nodes_are_not_ours() -> None:
    assert Assignments().replaced([task_for()], 1).tasks("another") == {}


def test_assignments_are_stored_without_secrets_and_read_back_unsynced(tmp_path: Path) -> None:
    secret = Secret(metadata=Meta(name="s", uid="s"), spec=FileSpec(data="c2VhbGVk"))
    memory.save(tmp_path / "agent", Assignments().replaced([CLUSTER, task_for(), secret], 7))
    (file,) = (tmp_path / "agent").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"c2VhbGVk" not in file.read_bytes()
    found = memory.load(tmp_path / "agent")
    assert not found.synced
    assert found.objects == {keys.key_of(obj): obj for obj in (CLUSTER, task_for())}


def test_stored_assignments_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    assert memory.load(tmp_path) == Assignments()
    (tmp_path / "assignments.json").write_text('{"revision": 3, "objects": [{"kind"')
    assert memory.load(tmp_path) == Assignments()
