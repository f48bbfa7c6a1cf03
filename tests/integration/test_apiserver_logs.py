"""Logs and usage, asked from agents over their streams and merged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from apiserver import logs
from shoal.api import objects as o
from shoal.api.probes import Host, NodeProbe, ProbedNodes
from shoal.api.states import TaskState
from shoal.machinery.testkit import make_cluster, make_network, make_node, make_service, make_task
from tests.support import eventually
from tests.support.api import Api, running_api

pytestmark = pytest.mark.anyio

N1, N2 = make_node("n1"), make_node("n2")
WEB = make_service("web")
ONE = make_task(WEB, 1, node=N1)
TWO = make_task(WEB, 2, node=N2)

Answer = Callable[[str, Mapping[str, Any]], list[dict[str, Any]]]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        await running.seed(make_cluster(), N1, N2, make_network("ingress"), WEB, ONE, TWO)
        yield running


def line(task: o.Task, at: int, text: str = "") -> dict[str, Any]:
    time = f"2026-01-01T00:00:{at:02}Z"
    return {"task": task.metadata.name, "stream": "stdout", "time": time, "line": text or f"line {at}"}


async def agent(api: Api, node: o.Node, answers: Answer, *, then_silent: bool = False) -> None:
    """Play a node's agent: answer each request with what `answers` gives."""

    async def answer(request: dict[str, Any]) -> None:
        async def body() -> AsyncIterator[bytes]:
            for one in answers(request["method"], request["params"]):
                yield msgspec.json.encode(one) + b"\n"
            if then_silent:
                await anyio.sleep_forever()

        await api.session.post(f"http://api/shoal/v1/nodes/{node.metadata.uid}/answers/{request['id']}", data=body())

    async with (
        api.stream(f"nodes/{node.metadata.uid}/assignments?watch=1") as lines,
        anyio.create_task_group() as tasks,
    ):
        while True:
            found = await lines.next(within=30)
            if found["type"] == "request":
                tasks.start_soon(answer, found)


async def connected(api: Api, *nodes: o.Node) -> None:
    async def are() -> bool:
        return all(node.metadata.uid in api.server.requests.connected for node in nodes)

    await eventually(are)


async def test_lines_of_all_tasks_are_merged_by_time(api: Api) -> None:
    theirs = {ONE.metadata.name: [line(ONE, 1), line(ONE, 4)], TWO.metadata.name: [line(TWO, 2), line(TWO, 3)]}
    async with anyio.create_task_group() as tasks:
        for node in (N1, N2):
            tasks.start_soon(agent, api, node, lambda _, params: theirs[params["tasks"][0]])
        await connected(api, N1, N2)
        _, text = await api.get("services/web/logs")
        assert [msgspec.json.decode(one)["line"] for one in text.splitlines()] == [f"line {n}" for n in (1, 2, 3, 4)]
        _, text = await api.get(f"tasks/{TWO.metadata.name}/logs")
        assert len(text.splitlines()) == 2
        tasks.cancel_scope.cancel()


async def test_a_node_that_is_away_is_a_warning_and_no_wait(api: Api) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agent, api, N1, lambda _, __: [line(ONE, 1)])
        await connected(api, N1)
        with anyio.fail_after(3):
            _, text = await api.get("services/web/logs")
        found = [msgspec.json.decode(one) for one in text.splitlines()]
        assert [one.get("line") for one in found if "line" in one] == ["line 1"]
        assert "node n2 is away" in next(one["warning"] for one in found if "warning" in one)
        tasks.cancel_scope.cancel()


async def test_a_node_that_never_answers_is_waited_for_a_while_only(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "ANSWER_S", 0.1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: agent(api, N1, lambda _, __: [], then_silent=True))
        await connected(api, N1)
        with anyio.fail_after(5):
            _, text = await api.get(f"tasks/{ONE.metadata.name}/logs")
        assert "no answer within" in text
        tasks.cancel_scope.cancel()


async def test_following_picks_up_tasks_that_start_later(api: Api) -> None:
    later = make_task(WEB, 3, node=N1, state=TaskState.ASSIGNED)

    def answers(_: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [line(ONE if params["tasks"] == [ONE.metadata.name] else later, 1)]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: agent(api, N1, answers, then_silent=True))
        tasks.start_soon(lambda: agent(api, N2, lambda _, __: [], then_silent=True))
        await connected(api, N1, N2)
        async with api.stream("services/web/logs?follow=1") as lines:
            assert (await lines.next())["task"] == ONE.metadata.name
            await api.seed(later)
            await api.seed(msgspec.structs.replace(later, status=o.TaskStatus(TaskState.RUNNING)))
            assert (await lines.next())["task"] == later.metadata.name
        tasks.cancel_scope.cancel()


async def test_following_goes_on_when_the_server_s_own_watch_was_cut(api: Api) -> None:
    later = make_task(WEB, 3, node=N1, state=TaskState.RUNNING)

    def answers(_: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [line(ONE if params["tasks"] == [ONE.metadata.name] else later, 1)]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: agent(api, N1, answers, then_silent=True))
        tasks.start_soon(lambda: agent(api, N2, lambda _, __: [], then_silent=True))
        await connected(api, N1, N2)
        async with api.stream("services/web/logs?follow=1") as lines:
            assert (await lines.next())["task"] == ONE.metadata.name
            api.server.hub.start_at(api.server.mirror.revision)
            await api.seed(later)
            assert (await lines.next())["task"] == later.metadata.name
        tasks.cancel_scope.cancel()


async def test_usage_is_sampled_from_every_node(api: Api) -> None:
    def answers(method: str, _: Mapping[str, Any]) -> list[dict[str, Any]]:
        assert method == "stats"
        return [
            {
                "task": ONE.metadata.name,
                "service": "web",
                "node": N1.metadata.uid,
                "cpu": 0.5,
                "memory": 10,
                "memoryLimit": 20,
            }
        ]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agent, api, N1, answers)
        await connected(api, N1)
        _, top = await api.get("top")
        assert [(item["task"], item["node"]) for item in top["items"]] == [(ONE.metadata.name, "n1")]
        assert top["warnings"] == ["node n2 is away (not connected)"]
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("query", "path"), [("tail=many", "tail"), ("since=yesterday", "since"), ("follow=maybe", "follow")]
)
async def test_a_wrong_parameter_is_named(api: Api, query: str, path: str) -> None:
    status, error = await api.get(f"services/web/logs?{query}")
    assert (status, error["faults"][0]["path"]) == (422, path)


async def test_an_answer_nobody_waits_for_is_turned_away(api: Api) -> None:
    assert (await api.post(f"nodes/{N1.metadata.uid}/answers/1234", {}))[0] == 404


async def test_an_agent_that_says_nothing_of_its_network_is_told_of_as_such(api: Api) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agent, api, N1, lambda method, params: [])
        await connected(api, N1)
        found = msgspec.convert((await api.get("doctor/network"))[1], ProbedNodes)
        tasks.cancel_scope.cancel()
    assert found.nodes[0].silence == "its answer ended before it said anything"


async def test_what_all_nodes_find_of_the_network_is_put_side_by_side(api: Api) -> None:
    asked: list[tuple[str, Any]] = []

    def answers(method: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        asked.append((method, params))
        return [{"networks": ["ingress"], "peers": 1, "silentHosts": [{"peer": "n2", "address": "10.99.0.2"}]}]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agent, api, N1, answers)
        await connected(api, N1)
        status, text = await api.get("doctor/network?networks=ingress")
        tasks.cancel_scope.cancel()
    found = msgspec.convert(text, ProbedNodes)
    assert status == 200
    assert asked == [("network", {"networks": [make_network("ingress").metadata.uid]})]
    one, two = found.nodes
    assert one.probe == NodeProbe(networks=("ingress",), peers=1, silent_hosts=(Host("n2", "10.99.0.2"),))
    assert (two.name, two.probe, two.silence) == ("n2", None, "not connected")
