"""Secrets and configs over the native API, and what lies in the store: a planted text shows up nowhere."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shoal.api.states import DesiredState, TaskState
from shoal.api.template import FileUse
from shoal.machinery.etcd import EtcdStore
from shoal.machinery.store import MAX_VALUE_BYTES
from shoal.machinery.testkit import make_cluster, make_node, make_service, make_task
from tests.support.api import Api, running_api
from tests.support.etcd import running_etcd

pytestmark = pytest.mark.anyio

CANARY = "hunter2-canary-words"
NODE = make_node("n1")


def file(kind: str, name: str, text: str, **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "shoal/v1", "kind": kind, "metadata": metadata, "spec": {"text": text}}


def hidden(answer: Any) -> bool:
    """Whether neither the planted text nor its base64 is in an answer."""
    text = msgspec.json.encode(answer).decode()
    return CANARY not in text and base64.b64encode(CANARY.encode()).decode()[:-2] not in text and "sealed" not in text


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        await running.seed(make_cluster(), NODE)
        yield running


async def test_no_answer_shows_a_secret(api: Api) -> None:
    async with api.stream("secrets?watch=1") as lines:
        answers: list[Any] = [await api.post("secrets", file("Secret", "db", CANARY))]
        assert answers[0][0] == 201
        answers.append(await lines.next())
        assert answers[-1]["object"]["spec"] == {}
    answers += [
        await api.get("secrets"),
        await api.get("secrets/db"),
        await api.post("secrets", file("Secret", "db", CANARY)),
        await api.post("secrets?dryRun=1", file("Secret", "db2", CANARY)),
        await api.post("apply?dryRun=1", {"objects": [file("Secret", "db", CANARY, a="b")]}),
        await api.post("apply", {"objects": [file("Secret", "db", CANARY, a="b")]}),
        await api.put("secrets/db", file("Secret", "db", CANARY + "!")),
        await api.patch("secrets/db", {"metadata": {"labels": {"x": "y"}}}),
        await api.patch("secrets/db", {"spec": {"data": CANARY}}),
        await api.delete("secrets/db"),
    ]
    assert [status for status, _ in answers[2:]] == [200, 200, 409, 201, 200, 200, 422, 200, 422, 200]
    assert answers[8][1]["message"].endswith("only updates to Labels are allowed")
    assert all(map(hidden, answers))
    assert all(CANARY.encode() not in (item.value or b"") for item in api.store.history)


async def test_a_config_can_be_read_back_and_what_is_read_can_be_applied_again(api: Api) -> None:
    await api.post("configs", file("Config", "site", "listen 80"))
    _, config = await api.get("configs/site")
    assert base64.b64decode(config["spec"]["data"]) == b"listen 80"
    await api.post("secrets", file("Secret", "db", CANARY))
    _, secret = await api.get("secrets/db")
    _, applied = await api.post("apply", {"objects": [config, secret]})
    assert [one["result"] for one in applied["results"]] == ["unchanged", "unchanged"]


async def test_services_are_applied_after_what_they_use_and_deleted_before(api: Api) -> None:
    service = {"apiVersion": "shoal/v1", "kind": "Service", "metadata": {"name": "web"}}
    service["spec"] = {"image": "a:1", "secrets": ["db"]}  # type: ignore[assignment]
    status, _ = await api.post("apply", {"objects": [service, file("Secret", "db", CANARY)]})
    assert status == 200
    refused, why = await api.delete("secrets/db")
    assert (refused, why["message"]) == (422, "secret 'db' is in use by the following service: web")
    assert (await api.delete("services/web"))[0] == 200
    assert (await api.delete("secrets/db"))[0] == 200


async def test_an_agent_is_sent_the_plain_secret_with_the_task_that_needs_it_and_told_to_forget_it(api: Api) -> None:
    _, made = await api.post("secrets", file("Secret", "db", CANARY))
    service = make_service(secrets=(FileUse("db", uid=made["metadata"]["uid"]),))
    async with api.stream(f"nodes/{NODE.metadata.uid}/assignments?watch=1") as lines:
        first = await lines.next(skip=("bookmark", "hello"))
        assert "Secret" not in [one["kind"] for one in first["objects"]]
        await api.seed(make_task(service, node=NODE, state=TaskState.ASSIGNED))
        told = await lines.next()
        assert [one["kind"] for one in told["put"]] == ["Secret", "Task"]
        assert base64.b64decode(told["put"][0]["spec"]["data"]) == CANARY.encode()
        await api.seed(make_task(service, node=NODE, state=TaskState.RUNNING, desired=DesiredState.SHUTDOWN))
        assert (await lines.next())["delete"] == ["/shoal/secrets/db"]


async def test_a_secret_sealed_with_another_key_is_not_sent_and_harms_nobody_else(tmp_path: Path) -> None:
    async with running_api(tmp_path, cluster_key=bytes(32)) as other:
        await other.post("secrets", file("Secret", "db", CANARY))
        stored = other.store
    async with running_api(tmp_path, stored) as api:
        await api.seed(make_cluster(), NODE)
        _, found = await api.get("secrets/db")
        use = FileUse("db", uid=found["metadata"]["uid"])
        await api.seed(make_task(make_service(secrets=(use,)), node=NODE, state=TaskState.ASSIGNED))
        async with api.stream(f"nodes/{NODE.metadata.uid}/assignments?watch=1") as lines:
            first = await lines.next(skip=("bookmark", "hello"))
            kinds = {one["kind"] for one in first["objects"]}
            assert "Task" in kinds
            assert "Secret" not in kinds


async def test_the_largest_secret_and_config_fit_into_a_real_etcd(tmp_path: Path) -> None:
    with running_etcd() as etcd:
        store = EtcdStore([etcd.url])
        try:
            async with running_api(tmp_path, store) as api:  # type: ignore[arg-type]
                labels = {"a": "x" * 60_000}
                assert (await api.post("secrets", file("Secret", "s", "x" * 511_999, **labels)))[0] == 201
                assert (await api.post("configs", file("Config", "c", "x" * 1_023_999, **labels)))[0] == 201
                assert (await api.post("configs", file("Config", "d", "x" * 1_024_000)))[0] == 422
                _, found = await api.get("configs/c")
                assert len(base64.b64decode(found["spec"]["data"])) == 1_023_999
                assert max(len(item.value) for item in (await store.list("/shoal/configs/")).items) < MAX_VALUE_BYTES
        finally:
            await store.close()
