"""Whatever is sent, the API answers with a sentence: never a 5xx, never a traceback, and nothing is written."""

from __future__ import annotations

import io
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from shoal.api import keys
from shoal.machinery.testkit import make_cluster, make_network, make_node, make_service, make_task
from tests.support.api import Api, running_api

pytestmark = pytest.mark.anyio

WEB: dict[str, Any] = {
    "apiVersion": "shoal/v1",
    "kind": "Service",
    "metadata": {"name": "web", "labels": {"a": "b"}},
    "spec": {"image": "busybox:1", "replicas": 3, "ports": ["8080:80"], "restart": {"delay": "5s"}},
}
NODE = make_node("n1")

ODD: list[Any] = [
    None, True, -1, 0, 1 << 70, 1.5, 1e308, "", "x" * 5000, "\x00", "\ud7ff", "../../etc", "é", [], {}, [[]], [None],
    {"": ""}, {"a": {"b": {"c": []}}}, "8080:80:80", "-5s", "9" * 400, [1, "2", {}], {"$ref": "#"},
]  # fmt: skip

PATHS = [
    "services", "services/web", "services/", "services//", "services/%00", "services/..%2f..", "nodes", "nodes/n1",
    "nodes/n1/status", "nodes/n1/assignments", "nodes/n1/answers/1", "nodes/n1/events", "tasks", "tasks/x", "clusters",
    "clusters/default", "apply", "events", "top", "nothing", "services/web/logs", "revisions/a/b", "presences",
]  # fmt: skip

QUERIES = [
    "", "?labels=%", "?labels=((", "?fields=spec.x=1", "?limit=-1", "?limit=99999999999999999999", "?continue=%ff",
    "?continue=abcd", "?watch=perhaps", "?since=x", "?dryRun=maybe", "?resourceVersion=1e3", "?about=x", "?about=/",
    "?tail=-5", "?fields=metadata.name=a,status.state in (x)",
]  # fmt: skip


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        await running.seed(make_cluster(), NODE, make_network("ingress"), make_task(make_service("other"), node=NODE))
        yield running


def answered_well(status: int, body: Any) -> bool:
    return status < 500 and "Traceback" not in str(body)


async def test_odd_values_in_every_place_of_a_service(api: Api, seed: int, full: bool) -> None:
    places = [
        (place, value)
        for place in ("apiVersion", "kind", "metadata", "spec", "metadata.name", "metadata.labels", "metadata.uid",
                      "metadata.resourceVersion", "spec.image", "spec.replicas", "spec.ports", "spec.restart",
                      "spec.restart.delay", "spec.mounts", "spec.env", "spec.networks", "spec.resources",
                      "spec.placement", "spec.mode", "spec.healthcheck", "spec.update", "spec.unheardOf")
        for value in ODD
    ]  # fmt: skip
    chosen = places if full else random.Random(seed).sample(places, 120)
    for place, value in chosen:
        body = _with(WEB, place, value)
        for path, sent in (("services?dryRun=1", body), ("apply?dryRun=1", {"objects": [body]})):
            status, answer = await api.post(path, sent)
            assert answered_well(status, answer), (place, value, answer)
            assert status < 400 or answer["message"], (place, value, answer)


async def test_bytes_that_are_no_json(api: Api, seed: int) -> None:
    chance = random.Random(seed)
    raw = msgspec.json.encode(WEB)
    bodies = [b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"1" * 10_000, b'"\\ud800"']
    for _ in range(60):
        cut = bytearray(raw)
        for _ in range(chance.randint(1, 6)):
            cut[chance.randrange(len(cut))] = chance.randrange(256)
        bodies.append(bytes(cut[: chance.randint(1, len(cut))]))
    for body in bodies:
        for method, path in (("POST", "services?dryRun=1"), ("POST", "apply?dryRun=1"), ("PATCH", "nodes/n1?dryRun=1")):
            status, answer = await api.call(method, path, body)
            assert answered_well(status, answer), (body[:60], answer)
            assert status < 400 or answer["message"]


async def test_a_body_that_is_too_large_is_refused_with_its_limit(api: Api) -> None:
    status, error = await api.call("POST", "services", io.BytesIO(b" " * (5 << 20)))
    assert (status, error["reason"]) == (413, "TooLarge")
    assert "4194304 bytes" in error["message"]


async def test_every_method_on_every_path_with_every_query(api: Api) -> None:
    for path in PATHS:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            if method == "GET" and path.endswith("assignments"):
                continue
            for query in QUERIES if method in ("GET", "DELETE") else QUERIES[:1]:
                body = b"{}" if method in ("POST", "PUT", "PATCH") else None
                status, answer = await api.call(method, path + query, body)
                assert answered_well(status, answer), (method, path, query, answer)
                assert status < 400 or answer["message"], (method, path, query, answer)


async def test_nothing_that_was_refused_left_a_trace(api: Api) -> None:
    before = {item.key for item in api.store.history if item.key.startswith(keys.ROOT)}
    for value in ODD:
        await api.post("services", _with(WEB, "spec.ports", value) | {"metadata": {"name": "no name!"}})
        await api.patch("nodes/n1", {"spec": {"availability": value}} if value is not None else {"spec": 1})
    assert {item.key for item in api.store.history if item.key.startswith(keys.ROOT)} == before


def _with(document: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    head, _, rest = place.partition(".")
    inner = document.get(head)
    return {**document, head: _with(inner if isinstance(inner, dict) else {}, rest, value) if rest else value}


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (b"services", b"apply", b"nodes/n1/status", b"nodes/n1/answers/1"):
        for head in (b"Content-Length: 1000\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc", b"Content-Len"):
            async with await anyio.connect_unix(api.socket) as gone:
                await gone.send(b"POST /shoal/v1/" + path + b" HTTP/1.1\r\nHost: api\r\n" + head)
                await anyio.sleep(0.01)
    assert (await api.get("/healthz"))[0] == 200
    await anyio.wait_all_tasks_blocked()
    assert caplog.text == ""


async def test_an_answer_that_breaks_off_ends_for_whoever_asked(api: Api) -> None:
    node = NODE.metadata.uid
    async with api.stream(f"nodes/{node}/assignments?watch=1") as lines, anyio.create_task_group() as tasks:
        await lines.next()
        await lines.next()
        found: list[Any] = []

        async def ask() -> None:
            async with api.server.requests.ask(node, "logs", {}) as answer:
                found.extend([line async for line in answer])

        tasks.start_soon(ask)
        number = (await lines.next())["id"]
        head = f"POST /shoal/v1/nodes/{node}/answers/{number} HTTP/1.1\r\nHost: api\r\n"
        async with await anyio.connect_unix(api.socket) as gone:
            await gone.send(head.encode() + b'Transfer-Encoding: chunked\r\n\r\n8\r\n{"a":1}\n\r\n')
            await anyio.sleep(0.05)
    assert found == [{"a": 1}]
