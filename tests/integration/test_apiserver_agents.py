"""The agent's side of the API: assignments, reports, presence, requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from shoal.api import codec, keys
from shoal.api import objects as o
from shoal.api.meta import Meta
from shoal.api.states import DesiredState, TaskState
from shoal.api.template import Port
from shoal.machinery.store import Put, Txn
from shoal.machinery.testkit import make_cluster, make_network, make_node, make_service, make_task, ref_of
from tests.support import eventually
from tests.support.api import Api, running_api

pytestmark = pytest.mark.anyio

N1, N2 = make_node("n1"), make_node("n2")
WEB = make_service("web")
INGRESS = make_network("ingress")


def make_backend(task: o.Task, *, ready: bool = False, **addresses: Any) -> o.Backend:
    assert task.spec.node is not None
    return o.Backend(
        metadata=Meta(name=task.metadata.name, uid=task.metadata.uid),
        spec=o.BackendSpec(service=task.spec.service, task=ref_of(task), node=task.spec.node, **addresses),
        status=o.BackendStatus(ready=ready),
    )


def make_endpoint(service: o.Service, *ports: Port) -> o.ServiceEndpoint:
    spec = o.EndpointSpec(service=ref_of(service), ports=ports)
    return o.ServiceEndpoint(metadata=Meta(name=service.metadata.name, uid="e" * 25), spec=spec)


def assigned(slot: int, node: o.Node, service: o.Service = WEB) -> o.Task:
    return make_task(service, slot, node=node, state=TaskState.ASSIGNED)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        await running.seed(make_cluster(), N1, N2, INGRESS)
        yield running


def stream_of(node: o.Node) -> str:
    return f"nodes/{node.metadata.uid}/assignments?watch=1"


def kinds_in(objects: list[dict[str, Any]]) -> list[str]:
    return [one["kind"] for one in objects]


async def test_a_node_first_hears_its_role_then_everything_that_is_its_own(api: Api) -> None:
    mine, others = assigned(1, N1), assigned(2, N2)
    await api.seed(mine, others, make_backend(mine), make_backend(others))
    async with api.stream(stream_of(N1)) as lines:
        hello = await lines.next()
        assert (hello["type"], hello["role"], hello["heartbeatPeriod"]) == ("hello", "worker", "5s")
        complete = await lines.next()
        assert complete["type"] == "complete"
        assert kinds_in(complete["objects"]) == ["Cluster", "Node", "Network", "Backend", "Task"]
        assert complete["objects"][-1]["metadata"]["name"] == mine.metadata.name


async def test_a_change_reaches_the_node_it_concerns_and_no_other(api: Api) -> None:
    async with api.stream(stream_of(N1)) as lines, api.stream(stream_of(N2)) as others:
        for one in (lines, others):
            await one.next()
            await one.next()
        task = assigned(1, N1)
        await api.seed(task)
        update = await lines.next()
        assert [one["metadata"]["uid"] for one in update["put"]] == [task.metadata.uid]
        await api.remove(task)
        assert (await lines.next())["delete"] == [keys.key_of(task)]
        await api.seed(assigned(2, N2))
        assert (await others.next())["put"][0]["spec"]["slot"] == "2"


async def test_what_is_published_reaches_every_node_with_its_backends(api: Api) -> None:
    task = assigned(1, N2)
    await api.seed(task, make_backend(task))
    async with api.stream(stream_of(N1)) as lines:
        await lines.next()
        assert "Backend" not in kinds_in((await lines.next())["objects"])
        await api.seed(make_endpoint(WEB, Port(80, 8080)))
        assert kinds_in((await lines.next())["put"]) == ["Endpoint", "Backend"]
        await api.seed(make_endpoint(WEB))
        assert len((await lines.next())["delete"]) == 2


async def test_a_task_brings_the_networks_it_uses_with_it(api: Api) -> None:
    network = make_network("front", subnet="10.0.1.0/24")
    address = o.TaskAddress(ref_of(network), "10.0.1.3/24", "02:42:0a:00:01:03")
    task = make_task(WEB, 1, node=N1, state=TaskState.ASSIGNED, addresses=(address,))
    other = make_task(WEB, 2, node=N2, state=TaskState.ASSIGNED, addresses=(address,))
    attachment = o.Attachment(
        metadata=Meta(name="a", uid="a" * 25), spec=o.AttachmentSpec(network=ref_of(network), node=ref_of(N2))
    )
    await api.seed(network, other, make_backend(other, addresses=(address,)), attachment)
    async with api.stream(stream_of(N1)) as lines:
        await lines.next()
        assert kinds_in((await lines.next())["objects"]) == ["Cluster", "Node", "Network"]
        await api.seed(task)
        assert kinds_in((await lines.next())["put"]) == ["Network", "Attachment", "Backend", "Task"]
        over = msgspec.structs.replace(task, status=o.TaskStatus(TaskState.FAILED))
        await api.seed(over)
        update = await lines.next()
        assert (kinds_in(update["put"]), len(update["delete"])) == (["Task"], 3)


async def test_a_node_hears_at_once_that_a_backend_moved_which_it_is_not_told_of(api: Api) -> None:
    other = assigned(1, N2)
    await api.seed(other, make_backend(other))
    async with api.stream(stream_of(N1)) as lines:
        await lines.next()
        revision = (await lines.next())["revision"]
        await api.seed(make_backend(other, ready=True))
        line = await lines.next(skip=())
        assert line["type"] == "bookmark"
        assert line["revision"] > revision


async def test_sealed_keys_never_reach_a_node(api: Api) -> None:
    cluster = make_cluster()
    await api.seed(
        msgspec.structs.replace(
            cluster, status=msgspec.structs.replace(cluster.status, sealed_ca_key="SECRET", sealed_tokens="SECRET")
        )
    )
    async with api.stream(stream_of(N1)) as lines:
        assert "SECRET" not in str(await lines.next()) + str(await lines.next())


async def test_an_unknown_node_is_told_so(api: Api) -> None:
    for status, error in [await api.get("nodes/nobody/assignments?watch=1"), await api.post("nodes/nobody/status", {})]:
        assert status == 404
        assert "not part of this cluster" in error["message"]


async def test_a_status_is_written_and_never_goes_back(api: Api) -> None:
    task = assigned(1, N1)
    await api.seed(task)
    for said, stored in (("preparing", "preparing"), ("running", "running"), ("accepted", "running")):
        status, answer = await _report(api, N1, {task.metadata.name: {"state": said}})
        assert (status, answer["refused"], answer["heartbeatPeriod"]) == (200, {}, "5s")
        assert (await api.get(f"tasks/{task.metadata.name}"))[1]["status"]["state"] == stored


@pytest.mark.parametrize(
    ("task", "state", "why"),
    [
        (assigned(1, N2), "running", "not assigned to this node"),
        (assigned(1, N1), "orphaned", "an agent does not say orphaned"),
        (make_task(WEB, 1, node=N1, state=TaskState.PENDING), "running", "not assigned yet"),
    ],
    ids=["another node's task", "a state that is not an agent's", "a task not assigned yet"],
)
async def test_a_status_that_is_not_the_agents_to_say_is_refused(api: Api, task: o.Task, state: str, why: str) -> None:
    await api.seed(task)
    _, answer = await _report(api, N1, {task.metadata.name: {"state": state}, "web.9.none": {"state": "running"}})
    assert why in answer["refused"][task.metadata.name]
    assert answer["refused"]["web.9.none"] == "there is no task web.9.none"


async def test_a_status_survives_a_controllers_write_to_the_same_task(api: Api) -> None:
    task = assigned(1, N1)
    await api.seed(task)
    stopping = msgspec.structs.replace(
        task, spec=msgspec.structs.replace(task.spec, desired_state=DesiredState.SHUTDOWN)
    )
    api.store.hold_watches()
    await api.store.commit(Txn((), (Put(keys.key_of(stopping), codec.encode(stopping)),)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_report, api, N1, {task.metadata.name: {"state": "running"}})
        await anyio.sleep(0.05)
        api.store.release_watches()
    _, found = await api.get(f"tasks/{task.metadata.name}")
    assert (found["spec"]["desiredState"], found["status"]["state"]) == ("shutdown", "running")


async def test_a_description_is_written_once(api: Api) -> None:
    body = {"description": {"hostname": "n1", "cpus": 2, "memory": "1G"}, "address": "10.0.0.9"}
    assert (await api.post(f"nodes/{N1.metadata.uid}/status", body))[0] == 200
    _, node = await api.get("nodes/n1")
    assert (node["status"]["address"], node["status"]["description"]["memory"]) == ("10.0.0.9", "1G")
    assert node["status"]["state"] == "ready"
    before = [item for item in api.store.history if item.key == keys.key_of(N1)]
    await api.post(f"nodes/{N1.metadata.uid}/status", body)
    assert [item for item in api.store.history if item.key == keys.key_of(N1)] == before


async def test_beats_and_applied_revisions_are_published(api: Api) -> None:
    await api.post(f"nodes/{N1.metadata.uid}/status", {"applied": 5})

    async def published() -> bool:
        listing = await api.store.list(keys.LIVE)
        presence = codec.decode(o.Presence, listing.items[0].value)
        return presence.heard == (N1.metadata.uid,) and presence.applied == {N1.metadata.uid: 5}

    assert await eventually(published)


async def test_garbage_from_an_agent_is_a_sentence(api: Api) -> None:
    for body in (b"{", b'{"tasks": 3}', b"[" * 5000, b'{"tasks": {"a": {"state": "flying"}}}'):
        status, error = await api.post(f"nodes/{N1.metadata.uid}/status", body)
        assert (status, error["reason"]) == (422, "Invalid")


async def test_agents_tell_events_of_their_own_tasks_only(api: Api) -> None:
    mine, others = assigned(1, N1), assigned(2, N2)
    await api.seed(mine, others)
    told = [
        {"about": {"kind": "Task", "name": task.metadata.name, "uid": task.metadata.uid}, "reason": "Pulled"}
        for task in (mine, others)
    ]
    assert (await api.post(f"nodes/{N1.metadata.uid}/events", told))[0] == 200

    async def listed() -> list[Any]:
        return (await api.get("events"))[1]["items"]  # type: ignore[no-any-return]

    assert [event["about"]["name"] for event in await eventually(listed)] == [mine.metadata.name]


async def _report(api: Api, node: o.Node, tasks: dict[str, Any]) -> tuple[int, Any]:
    return await api.post(f"nodes/{node.metadata.uid}/status", {"tasks": tasks})


async def test_a_restored_store_makes_agents_and_watchers_begin_anew(api: Api) -> None:
    async with api.stream(stream_of(N1)) as lines, api.stream("nodes?watch=1") as watch:
        await lines.next()
        await lines.next()
        cluster = make_cluster()
        await api.seed(
            msgspec.structs.replace(cluster, status=o.ClusterStatus(incarnation="another", revision_base=1000))
        )
        assert (await watch.next())["reason"] == "Expired"
        assert await lines.response.content.read() == b""
    _, node = await api.get("nodes/n1")
    assert node["metadata"]["resourceVersion"] > 1000
    _, listed = await api.get("nodes")
    assert listed["resourceVersion"] > 1000
    assert (await api.put("nodes/n1", {**node, "spec": {"availability": "pause"}}))[0] == 200


async def test_a_removed_nodes_stream_ends(api: Api) -> None:
    async with api.stream(stream_of(N2)) as lines:
        await lines.next()
        await lines.next()
        await api.remove(N2)
        assert await lines.response.content.read() == b""
    assert (await api.post(f"nodes/{N2.metadata.uid}/status", {}))[0] == 404


async def test_events_that_come_in_pages_are_all_there_once(api: Api) -> None:
    reasons = ["A", "B", "C", "D", "E"]
    about = {"kind": "Node", "name": N1.metadata.name, "uid": N1.metadata.uid}
    for reason in reversed(reasons):  # the order of keys is not that of time
        await api.post(f"nodes/{N1.metadata.uid}/events", [{"about": about, "reason": reason}])

    async def all_listed() -> bool:
        return len((await api.get("events"))[1]["items"]) == len(reasons)

    await eventually(all_listed)
    found, token = [], ""
    while True:
        _, page = await api.get(f"events?limit=2&continue={token}")
        found += [event["reason"] for event in page["items"]]
        if not (token := page["continue"]):
            break
    assert sorted(found) == reasons
