"""Objects over the native API: written, read, listed and watched through a unix socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from apiserver import objects
from shoal.api.codec import with_meta
from shoal.api.errors import InvalidError, ShoalError, UnavailableError
from shoal.api.states import DesiredState, TaskState
from shoal.machinery.store import Txn
from shoal.machinery.testkit import make_cluster, make_network, make_node, make_rollout, make_service, make_task
from tests.support import eventually
from tests.support.api import Api, running_api

pytestmark = pytest.mark.anyio


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        await running.seed(make_network())
        yield running


def web(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "shoal/v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"image": "busybox:1", "replicas": 3, **spec},
    }


async def test_a_created_service_is_answered_in_full_and_can_be_read_at_once(api: Api) -> None:
    status, made = await api.post("services", web(ports=["8080:80"]))
    assert status == 201, made
    assert made["metadata"]["generation"] == 1
    assert len(made["metadata"]["uid"]) == 25
    assert made["status"]["revisionNumber"] == 1
    assert made["status"]["replicas"] == {"desired": 3, "running": 0, "updated": 0, "completed": 0}
    for name in ("web", made["metadata"]["uid"], made["metadata"]["uid"][:6]):
        assert (await api.get(f"services/{name}"))[1] == made
    _, listed = await api.get("services")
    assert listed["kind"] == "ServiceList"
    assert listed["items"] == [made]
    assert listed["resourceVersion"] >= made["metadata"]["resourceVersion"]


async def test_service_revision_and_claim_are_written_in_one_transaction(api: Api) -> None:
    await api.post("services", web(ports=["8080:80"]))
    written = {item.key.split("/")[2] for item in api.store.history if item.revision == api.store.revision}
    assert written == {"services", "revisions", "claims", "refs"}


async def test_reapplying_an_unchanged_service_writes_nothing(api: Api) -> None:
    await api.post("services", web(ports=["8080:80"]))
    before = api.store.revision
    _, applied = await api.post("apply", {"objects": [web(ports=["8080:80"])]})
    assert applied["results"] == [{"kind": "Service", "name": "web", "result": "unchanged"}]
    status, stored = await api.get("services/web")
    assert (await api.put("services/web", stored))[0] == 200 == status
    assert api.store.revision == before


async def test_a_taken_port_is_refused_with_its_holder(api: Api) -> None:
    _, made = await api.post("services", web(ports=["8080:80"]))
    other = {**web(ports=["8080:90"]), "metadata": {"name": "other"}}
    status, error = await api.post("services", other)
    assert status == 422
    text = f"port '8080' is already in use by service 'web' ({made['metadata']['uid']}) as an ingress port"
    assert error["faults"] == [{"path": "spec.ports[0].published", "message": text}]
    await api.delete("services/web")
    assert (await api.post("services", other))[0] == 201


async def test_a_port_given_up_is_free_at_once(api: Api) -> None:
    await api.post("services", web(ports=["8080:80"]))
    await api.patch("services/web", {"spec": {"ports": ["8081:80"]}})
    assert (await api.post("services", {**web(ports=["8080:80"]), "metadata": {"name": "other"}}))[0] == 201


async def test_a_patch_merges_and_moves_the_generation_only_with_the_spec(api: Api) -> None:
    await api.post("services", web())
    _, labelled = await api.patch("services/web", {"metadata": {"labels": {"tier": "front"}}})
    assert (labelled["metadata"]["labels"], labelled["metadata"]["generation"]) == ({"tier": "front"}, 1)
    _, scaled = await api.patch("services/web", {"spec": {"replicas": 5}})
    assert (scaled["spec"]["replicas"], scaled["metadata"]["generation"]) == (5, 2)
    assert scaled["status"]["revisionNumber"] == 1
    assert scaled["status"]["previousSpec"]["replicas"] == 3


async def test_a_template_that_returns_gets_its_old_revision_again(api: Api) -> None:
    _, first = await api.post("services", web())
    _, second = await api.patch("services/web", {"spec": {"image": "busybox:2"}})
    _, third = await api.patch("services/web", {"spec": {"image": "busybox:1"}})
    assert [one["status"]["revisionNumber"] for one in (first, second, third)] == [1, 2, 1]
    assert first["status"]["revision"] == third["status"]["revision"] != second["status"]["revision"]
    assert len((await api.get("revisions"))[1]["items"]) == 2


async def test_an_outdated_version_is_a_conflict(api: Api) -> None:
    _, made = await api.post("services", web())
    await api.patch("services/web", {"spec": {"replicas": 4}})
    made["spec"]["replicas"] = 9
    for status, error in [
        await api.put("services/web", made),
        await api.delete(f"services/web?resourceVersion={made['metadata']['resourceVersion']}"),
    ]:
        assert (status, error["reason"]) == (409, "Conflict")
    del made["metadata"]["resourceVersion"]
    assert (await api.put("services/web", made))[0] == 200


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"metadata": {"name": "api"}}, "metadata.name"),
        ({"spec": {"mode": "global", "replicas": None}}, "spec.mode"),
    ],
    ids=["no rename", "no change of mode"],
)
async def test_what_cannot_change_is_refused(api: Api, change: dict[str, Any], path: str) -> None:
    await api.post("services", web())
    status, error = await api.patch("services/web", change)
    assert status == 422
    assert [fault["path"] for fault in error["faults"]] == [path]


async def test_creating_twice_and_reading_nothing(api: Api) -> None:
    await api.post("services", web())
    assert (await api.post("services", web()))[0] == 409
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        status, error = await api.call(method, "services/none", web())
        assert (status, error["message"]) == (404, "service none not found")


async def test_an_ambiguous_name_lists_what_it_could_be(api: Api) -> None:
    await api.seed(make_node("n1"))
    one = make_node("twin")
    await api.seed(one, _renamed(make_node("other"), "twin"))
    status, error = await api.get("nodes/twin")
    assert status == 422
    assert "ambiguous (2 matches found)" in error["message"]
    assert one.metadata.uid in error["message"]


async def test_a_task_may_be_named_by_its_slot(api: Api) -> None:
    service = make_service()
    old = make_task(service, 1, uid="a" * 25, state=TaskState.FAILED, desired=DesiredState.SHUTDOWN)
    older = make_task(service, 2, uid="b" * 25, state=TaskState.FAILED, desired=DesiredState.SHUTDOWN)
    oldest = make_task(service, 2, uid="c" * 25, state=TaskState.FAILED, desired=DesiredState.SHUTDOWN)
    new = make_task(service, 1, uid="d" * 25, state=TaskState.RUNNING)
    await api.seed(old, older, oldest, new)
    assert (await api.get("tasks/web.1"))[1]["metadata"]["uid"] == new.metadata.uid
    status, error = await api.get("tasks/web.2")
    assert (status, "ambiguous (2 matches found)" in error["message"]) == (422, True)
    assert (await api.get("tasks/web.3"))[0] == 404
    assert (await api.get("tasks/web"))[0] == 404


def _renamed(node: Any, name: str) -> Any:
    return with_meta(node, name=name)


async def test_other_kinds_are_read_only(api: Api) -> None:
    service = make_service()
    await api.seed(make_task(service))
    status, error = await api.delete(f"tasks/{make_task(service).metadata.name}")
    assert status == 403
    assert "replication" in error["message"]
    assert (await api.put("nodes/x/status", {}))[0] == 403


async def test_people_set_a_nodes_labels_and_availability_and_nothing_else(api: Api) -> None:
    node = make_node("n1")
    await api.seed(node)
    status, changed = await api.patch(
        "nodes/n1",
        {"metadata": {"labels": {"zone": "a"}}, "spec": {"availability": "drain"}, "status": {"state": "down"}},
    )
    assert status == 200, changed
    assert (changed["metadata"]["labels"], changed["spec"]["availability"]) == ({"zone": "a"}, "drain")
    assert changed["status"]["state"] == "ready"


async def test_apply_writes_nothing_unless_everything_is_valid(api: Api) -> None:
    before = api.store.revision
    bad = {**web(image="UPPER CASE"), "metadata": {"name": "bad"}}
    status, error = await api.post("apply", {"objects": [web(), bad]})
    assert status == 422
    assert {fault["object"] for fault in error["faults"]} == {"service/bad"}
    clash = {**web(ports=["80:80"]), "metadata": {"name": "clash"}}
    status, error = await api.post("apply", {"objects": [web(ports=["80:80"]), clash]})
    assert (status, error["faults"][0]["object"]) == (422, "service/clash")
    assert api.store.revision == before


@pytest.mark.parametrize(
    ("error", "result"),
    [
        pytest.param(InvalidError("somebody took port 80"), "refused", id="somebody-was-faster"),
        pytest.param(UnavailableError("the store is gone"), "unknown", id="the-store's-answer-is-lost"),
    ],
)
async def test_an_apply_that_is_stopped_half_way_tells_what_is_written(
    api: Api, error: ShoalError, result: str
) -> None:
    named = [{**web(), "metadata": {"name": name}} for name in ("first", "second", "third")]

    def stop(txn: Txn) -> None:
        if any("/services/second" in write.key for write in txn.writes):
            raise error

    api.store.before_commit = stop
    status, answer = await api.post("apply", {"objects": named})
    assert status == 207
    assert answer["results"] == [
        {"kind": "Service", "name": "first", "result": "created"},
        {"kind": "Service", "name": "second", "result": result, "message": str(error)},
        {"kind": "Service", "name": "third", "result": "not written"},
    ]
    assert [one["metadata"]["name"] for one in (await api.get("services"))[1]["items"]] == ["first"]


async def test_a_dry_run_tells_and_writes_nothing(api: Api) -> None:
    await api.post("services", web())
    before = api.store.revision
    _, answer = await api.post("apply?dryRun=1", {"objects": [web(replicas=4), {**web(), "metadata": {"name": "new"}}]})
    assert [one["result"] for one in answer["results"]] == ["configured", "created"]
    assert answer["results"][0]["before"]["spec"]["replicas"] == 3
    assert answer["results"][0]["after"]["spec"]["replicas"] == 4
    assert (await api.post("services?dryRun=1", {**web(), "metadata": {"name": "new"}}))[0] == 201
    assert api.store.revision == before


async def test_lists_take_selectors_and_come_in_pages(api: Api) -> None:
    service = make_service()
    n1, n2 = make_node("n1"), make_node("n2")
    await api.seed(n1, n2, *(make_task(service, slot, node=n1 if slot % 2 else n2) for slot in range(1, 8)))
    _, on_n1 = await api.get(f"tasks?fields=spec.node.uid={n1.metadata.uid}")
    assert [task["spec"]["slot"] for task in on_n1["items"]] == ["1", "3", "5", "7"]
    _, none = await api.get("tasks?labels=tier=front")
    assert none["items"] == []
    slots, token, versions = [], "", set()
    while True:
        _, page = await api.get(f"tasks?limit=3&continue={token}")
        slots += [task["spec"]["slot"] for task in page["items"]]
        versions.add(page["resourceVersion"])
        token = page["continue"]
        if not token:
            break
    assert sorted(slots) == [str(slot) for slot in range(1, 8)]
    assert len(versions) == 1
    status, error = await api.get("tasks?fields=spec.nonsense=1")
    assert (status, error["faults"][0]["path"]) == (422, "fields")


async def test_a_watch_continues_where_the_list_ended_without_gap_or_repeat(api: Api) -> None:
    await api.post("services", web())
    _, listed = await api.get("services")
    await api.patch("services/web", {"metadata": {"labels": {"tier": "front"}}})
    async with api.stream(f"services?watch=1&since={listed['resourceVersion']}") as lines:
        line = await lines.next()
        assert (line["type"], line["object"]["metadata"]["labels"]) == ("put", {"tier": "front"})
        await api.delete("services/web")
        assert (await lines.next())["key"] == "/shoal/services/web"


async def test_what_leaves_a_selection_is_deleted_to_its_watcher(api: Api) -> None:
    await api.post("services", {**web(), "metadata": {"name": "web", "labels": {"tier": "front"}}})
    async with api.stream("services?watch=1&labels=tier=front") as lines:
        await api.patch("services/web", {"metadata": {"labels": {"tier": "back"}}})
        assert (await lines.next())["type"] == "delete"


async def test_watchers_of_a_service_hear_of_its_tasks(api: Api) -> None:
    _, made = await api.post("services", web())
    async with api.stream("services?watch=1") as lines:
        node = make_node("n1")
        service = make_service("web")
        service = with_meta(service, uid=made["metadata"]["uid"])
        await api.seed(node, make_task(service, 1, node=node), make_rollout(service))
        line = await lines.next()
        while line["object"]["status"]["replicas"]["running"] < 1:
            line = await lines.next()
        assert line["object"]["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_a_quiet_watch_says_how_far_it_is(tmp_path: Path) -> None:
    async with running_api(tmp_path, bookmark_s=0.02) as api, api.stream("services?watch=1") as lines:
        line = await lines.next(skip=())
        assert line == {"type": "bookmark", "resourceVersion": api.server.mirror.revision}


async def test_a_position_no_longer_kept_is_gone(api: Api) -> None:
    await api.seed(make_network())
    await api.seed(make_cluster())
    status, error = await api.get("services?watch=1&since=0")
    assert (status, error["reason"]) == (410, "Expired")


async def test_a_cut_watch_of_the_store_goes_unnoticed(api: Api) -> None:
    await api.post("services", web())
    async with api.stream("services?watch=1") as lines:
        api.store.cut_watches()
        await api.patch("services/web", {"spec": {"replicas": 7}})
        assert (await lines.next())["object"]["spec"]["replicas"] == 7


async def test_health_readiness_metrics_and_the_description(api: Api) -> None:
    await api.post("services", web())
    assert (await api.get("/healthz"))[0] == 200
    assert (await api.get("/readyz"))[0] == 200
    metrics = (await api.get("/metrics"))[1]
    assert 'shoal_service_tasks_desired{service="web"} 3.0' in metrics
    assert 'shoal_objects{kind="Service"} 1.0' in metrics
    _, described = await api.get("/openapi.json")
    assert "/shoal/v1/services/{name}" in described["paths"]
    assert "image" in described["components"]["schemas"]["ServiceSpec"]["properties"]


async def test_a_misspelt_parameter_is_refused_instead_of_ignored(api: Api) -> None:
    status, error = await api.get("services?label=tier=front")
    assert (status, error["faults"][0]["path"]) == (422, "label")
    assert "known here are labels, fields" in error["faults"][0]["message"]


async def test_the_clusters_defaults_can_be_read_and_set_by_its_name_only(api: Api) -> None:
    await api.seed(make_cluster())
    status, changed = await api.patch("clusters/default", {"spec": {"taskHistoryLimit": 2}})
    assert (status, changed["spec"]["taskHistoryLimit"]) == (200, 2)
    assert (await api.get("clusters/other"))[0] == 404
    assert (await api.delete("clusters/default"))[0] == 422
    status, error = await api.patch("clusters/default", {"spec": {"heartbeatPeriod": "1ms"}})
    assert [fault["path"] for fault in error["faults"]] == ["spec.heartbeatPeriod"]


async def test_every_change_is_audited_with_who_and_what_and_without_bodies(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    await api.post("apply", {"objects": [web(env=["PASSWORD=hunter2"])]})
    await api.post("services", web())
    await api.delete("services/web")
    await api.get("services")
    lines = [line for line in capsys.readouterr().out.splitlines() if "request_audited" in line]
    assert len(lines) == 3
    assert all("admin" in line for line in lines)
    assert "service/web" in lines[0]
    assert "AlreadyExists" in lines[1]
    assert "hunter2" not in "".join(lines)


async def test_a_client_that_stops_reading_is_cut_off_and_others_are_not(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "SEND_S", 0.1)
    await api.post("services", web())
    stuck = await anyio.connect_unix(api.socket)
    await stuck.send(b"GET /shoal/v1/services?watch=1 HTTP/1.1\r\nHost: api\r\n\r\n")

    async def is_watching() -> bool:
        return api.server.hub.watchers() == {"Service": 1}

    await eventually(is_watching)
    async with stuck, api.stream("services?watch=1") as lines:
        for number in range(40):
            await api.patch("services/web", {"metadata": {"labels": {"n": str(number), "large": "x" * 50_000}}})
            assert (await lines.next())["object"]["metadata"]["labels"]["n"] == str(number)
        await eventually(is_watching)


async def test_whoever_leaves_a_quiet_watch_is_noticed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "GONE_S", 0.05)

    async def nobody_watches() -> bool:
        return not api.server.hub.watchers()

    async with api.stream("services?watch=1"):
        assert not await nobody_watches()
    await eventually(nobody_watches)


async def test_every_change_of_a_job_is_a_new_iteration(api: Api) -> None:
    job = web(mode="job", replicas=2)
    _, first = await api.post("services", job)
    assert (first["status"].get("jobIteration", 0), "lastExecution" in first["status"]) == (0, True)
    _, same = await api.put("services/web", job)
    assert same["status"] == first["status"]
    _, second = await api.put("services/web", web(mode="job", replicas=3))
    assert second["status"]["jobIteration"] == 1
    assert second["status"]["lastExecution"] > first["status"]["lastExecution"]
    _, third = await api.patch("services/web", {"metadata": {"labels": {"a": "b"}}})
    assert (third["status"]["jobIteration"], third["status"]["revision"]) == (2, second["status"]["revision"])
    status, error = await api.put("services/web", web(mode="replicated"))
    assert (status, error["faults"][0]["path"]) == (422, "spec.mode")
    assert "lastExecution" not in (await api.post("services", {**web(), "metadata": {"name": "other"}}))[1]["status"]


async def test_a_node_attaches_a_plain_container_of_its_own_and_takes_it_off_again(api: Api) -> None:
    node = make_node("n1", address="192.168.7.1")
    await api.seed(make_cluster(), node)
    assert (await api.post("networks", {"metadata": {"name": "front"}, "spec": {"attachable": True}}))[0] == 201
    path = f"nodes/{node.metadata.uid}/containers/{'c' * 64}"
    status, made = await api.post(path, {"network": "front", "names": ["shell"]})
    assert (status, made["spec"]["address"], made["spec"]["names"]) == (201, "10.0.1.2/24", ["shell"])
    assert (await api.post(path, {"network": "front"}))[0] == 200
    _, network = await api.get("networks/front")
    assert network["status"]["addresses"] == {"total": 253, "used": 1, "free": 252}
    assert (await api.delete("networks/front"))[0] == 422
    assert (await api.delete(f"{path}?network=front"))[0] == 200
    assert (await api.delete(f"{path}?network=front"))[0] == 404
    assert (await api.delete("networks/front"))[0] == 200
    left = {item.key.split("/")[2] for item in (await api.store.list("/shoal/")).items}
    assert left == {"cluster", "nodes", "networks"}, "only the ingress network that was there before"
