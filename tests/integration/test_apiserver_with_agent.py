"""The real agent, on a fake engine, against the real API server: assigned, run, reported, asked, stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from nodeagent.agent import Agent
from nodeagent.client import STREAMED_MOST, ApiClient, Message, Report
from nodeagent.engine.fake import FakeEngine
from nodeagent.tls import NodeTls
from shoal.api import objects as o
from shoal.api.errors import UnavailableError
from shoal.api.states import DesiredState, Role, TaskState
from shoal.api.units import Duration
from shoal.machinery import managers
from shoal.machinery.clock import SystemClock
from shoal.machinery.factories import make_cluster, make_network, make_node, make_service, make_task
from tests.support import eventually
from tests.support.agent import PlainNetwork
from tests.support.api import Api, Lines, running_api
from tests.support.door import Door, open_door

pytestmark = pytest.mark.anyio

NODE = make_node("n1")
WEB = make_service("web", image="shoal-test:1")
TASK = make_task(WEB, 1, node=NODE, state=TaskState.ASSIGNED)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        await running.seed(make_cluster(), NODE, make_network("ingress"), WEB)
        yield running


async def state_of(api: Api, task: o.Task) -> str:
    _, found = await api.get(f"tasks/{task.metadata.name}")
    state: str = found["status"]["state"]
    return state


async def test_a_task_runs_answers_and_stops(api: Api, tmp_path: Path) -> None:
    engine = FakeEngine(images=("shoal-test:1",))
    async with ApiClient([f"unix://{api.socket}"], NODE.metadata.uid) as client, anyio.create_task_group() as tasks:
        agent = Agent(
            node_uid=NODE.metadata.uid,
            engine=engine,
            network=PlainNetwork(),
            api=client,
            clock=SystemClock(),
            state_dir=tmp_path / "state",
            run_dir=tmp_path / "run",
            address="10.0.0.9",
        )
        tasks.start_soon(agent.run)
        await api.seed(TASK)

        async def runs() -> bool:
            return await state_of(api, TASK) == "running"

        await eventually(runs)
        _, node = await api.get("nodes/n1")
        assert (node["status"]["address"], node["status"]["description"]["hostname"]) == ("10.0.0.9", "fake")
        _, top = await api.get("top")
        assert (top["warnings"], [item["task"] for item in top["items"]]) == ([], [TASK.metadata.name])
        _, text = await api.get("services/web/logs")
        assert "warning" not in text

        _, stored = await api.get(f"tasks/{TASK.metadata.name}")
        running = api.server.mirror.cache.get(o.Task, f"/shoal/tasks/{TASK.metadata.name}")
        assert running is not None
        spec = msgspec.structs.replace(running.spec, desired_state=DesiredState.SHUTDOWN)
        await api.seed(msgspec.structs.replace(running, spec=spec))

        async def is_over() -> bool:
            return await state_of(api, TASK) in ("shutdown", "complete", "failed")

        await eventually(is_over)
        assert stored["status"]["container"]["id"]
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def worker(door: Door, url: str, folder: Path) -> AsyncIterator[Agent]:
    """A worker's agent that was given one manager to begin with."""
    ca = folder / "ca.crt"
    ca.write_bytes(door.authority.certificate)
    tls = NodeTls(ca, door.certified(NODE))
    async with ApiClient([url], NODE.metadata.uid, tls) as client, anyio.create_task_group() as tasks:
        agent = Agent(
            node_uid=NODE.metadata.uid,
            engine=FakeEngine(),
            network=PlainNetwork(),
            api=client,
            clock=SystemClock(),
            state_dir=folder,
            run_dir=folder / "run",
        )
        tasks.start_soon(agent.run)
        yield agent
        tasks.cancel_scope.cancel()


async def test_a_worker_finds_managers_that_it_was_told_of_later_also_after_a_restart(tmp_path: Path) -> None:
    for name in ("first", "second", "worker"):
        (tmp_path / name).mkdir()

    async def reached(agent: Agent) -> None:
        async def is_reached() -> bool:
            return agent.troubles() == []

        await eventually(is_reached)

    async with open_door(tmp_path / "second") as second:
        async with open_door(tmp_path / "first", second.authority, store=second.api.store) as first:
            await first.api.seed(NODE)
            async with worker(first, f"https://{first.remote}", tmp_path / "worker") as agent:
                await reached(agent)
                other = make_node("boss2", role=Role.MANAGER)
                status = msgspec.structs.replace(other.status, api=str(second.remote))
                await first.api.seed(msgspec.structs.replace(other, status=status))

                async def is_stored() -> bool:
                    return set(managers.load(tmp_path / "worker" / "agent")) == {str(first.remote), str(second.remote)}

                await eventually(is_stored)
        async with worker(second, f"https://{first.remote}", tmp_path / "worker") as agent:
            await reached(agent)


async def test_a_beat_down_the_stream_is_heard_without_a_report(api: Api) -> None:
    cluster = make_cluster()
    spec = msgspec.structs.replace(cluster.spec, heartbeat_period=Duration.parse("1s"))
    await api.seed(msgspec.structs.replace(cluster, spec=spec))

    async def is_heard(*, wanted: bool) -> bool:
        presence = api.server.presences.now()
        return NODE.metadata.uid in (presence.heard if wanted else presence.silent)

    async with ApiClient([f"unix://{api.socket}"], NODE.metadata.uid) as client:
        assert not client.beat(), "there is no stream yet"
        async with client.assignments() as messages:
            await anext(messages)
            await eventually(lambda: is_heard(wanted=False))
            assert client.beat(applied=2)
            await eventually(lambda: is_heard(wanted=True))
            assert api.server.presences.now().applied == {NODE.metadata.uid: 2}
        assert not client.beat()


async def drain(messages: AsyncIterator[Message]) -> None:
    """Read what comes, as an agent does: receipts among it."""
    async for _ in messages:
        pass


@asynccontextmanager
async def connected(api: Api) -> AsyncIterator[ApiClient]:
    """A client whose stream is open and read."""
    async with (
        ApiClient([f"unix://{api.socket}"], NODE.metadata.uid) as client,
        client.assignments() as messages,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(drain, messages)
        yield client
        tasks.cancel_scope.cancel()


def posts(api: Api) -> int:
    """How many requests but streams were answered."""
    return api.server.metrics.text().count(b'shoal_api_requests_total{method="POST"')


async def test_a_report_goes_down_the_stream_and_so_comes_its_receipt(api: Api) -> None:
    await api.seed(TASK)
    running = o.TaskStatus(TaskState.RUNNING)
    async with connected(api) as client:
        receipt = await client.report(Report(tasks={TASK.metadata.name: running, "web.9.none": running}, applied=2))
        assert receipt.refused == {"web.9.none": "there is no task web.9.none"}
        assert receipt.period_s() == 5
        assert await state_of(api, TASK) == "running"
        assert api.server.presences.now().applied == {NODE.metadata.uid: 2}
        assert (await client.report(Report())).refused == {}
    assert posts(api) == 0


async def test_a_long_report_is_a_request_of_its_own(api: Api) -> None:
    await api.seed(TASK)
    async with connected(api) as client:
        status = o.TaskStatus(TaskState.RUNNING, message="x" * STREAMED_MOST)
        assert (await client.report(Report(tasks={TASK.metadata.name: status}))).refused == {}
    assert await state_of(api, TASK) == "running"
    assert posts(api) == 1


async def test_a_report_that_could_not_be_taken_is_known_not_to_be(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unavailable(*_: object) -> None:
        raise UnavailableError("the store is away")

    monkeypatch.setattr("apiserver.agents.merge_statuses", unavailable)
    async with connected(api) as client:
        with pytest.raises(UnavailableError, match="the store is away"):
            await client.report(Report(tasks={TASK.metadata.name: o.TaskStatus(TaskState.RUNNING)}))
        assert (await client.report(Report())).refused == {}


async def test_garbage_down_the_stream_harms_nobody(api: Api) -> None:
    async def body() -> AsyncIterator[bytes]:
        for line in (b"{", b'{"id":"1","report":[]}', b"[" * 5000):
            yield line + b"\n"
        while True:  # again: what comes while another report is being read is passed over
            yield b'{"id":"2","report":{}}\n'
            await anyio.sleep(0.05)

    url = f"http://api/shoal/v1/nodes/{NODE.metadata.uid}/assignments?watch=1"
    async with api.session.get(url, data=body()) as response:
        lines = Lines(response)
        assert (await lines.next(skip=("hello", "complete", "bookmark")))["id"] == "2"
