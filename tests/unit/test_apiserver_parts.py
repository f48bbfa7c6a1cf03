"""Selectors, bytes on the wire, merge patches, who may what, watches' buffers, statuses: the pure parts."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver import watches, wire
from apiserver.app import Server, route_of
from apiserver.identity import ADMIN, NOBODY, RULES, Identity, may
from apiserver.merge import merged
from apiserver.selectors import Selector, parse, parse_for, value_at
from apiserver.statuses import merged as merged_status
from apiserver.watches import Hub, Record, Watcher
from shoal.api import codec
from shoal.api import objects as o
from shoal.api.codec import with_meta
from shoal.api.errors import ExpiredError, InvalidError
from shoal.api.states import TaskState
from shoal.machinery.clock import VirtualClock
from shoal.machinery.memory import MemoryStore
from shoal.machinery.testkit import make_cluster, make_node, make_service, make_task


@pytest.mark.parametrize(
    ("text", "labels", "holds"),
    [
        ("", {}, True),
        ("tier=front", {"tier": "front"}, True),
        ("tier==front", {"tier": "back"}, False),
        ("tier!=front", {}, True),
        ("tier!=front", {"tier": "front"}, False),
        ("tier in (front, back)", {"tier": "back"}, True),
        ("tier in (front,back)", {}, False),
        ("tier notin (front)", {}, True),
        ("tier", {"tier": ""}, True),
        ("!tier", {"tier": "x"}, False),
        ("a.b/c-d=1 , !x", {"a.b/c-d": "1"}, True),
        ("tier=", {"tier": ""}, True),
    ],
)
def test_label_selectors(text: str, labels: dict[str, str], holds: bool) -> None:
    assert Selector(labels=parse(text)).matches(make_service(labels=labels)) is holds


@pytest.mark.parametrize("text", ["=a", "a=b c", "a in", "a in (b", "a,(b)", "a b"])
def test_nonsense_is_a_fault_that_names_the_parameter(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse(text, "labels")
    assert caught.value.faults[0].path == "labels"


@pytest.mark.parametrize("size", [0, 1, wire.PIECE_BYTES, wire.PIECE_BYTES + 1, 5 * wire.PIECE_BYTES + 7])
def test_a_long_line_is_written_in_pieces_of_one_tls_record(size: int) -> None:
    line = bytes(n % 251 for n in range(size))
    pieces = list(wire.pieces(line))
    assert b"".join(pieces) == line
    assert max(map(len, pieces)) <= wire.PIECE_BYTES


@given(st.text(max_size=40))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        parse(text)
    except InvalidError:
        return


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web.1."),
        ("spec.service.name", "web"),
        ("spec.desiredState", "running"),
        ("status.state", "running"),
        ("spec.template.image", "busybox:1"),
        ("spec.template.readOnly", "false"),
        ("metadata.labels.a.b", "c"),
        ("kind", "Task"),
        ("spec.node.uid", None),
    ],
)
def test_fields_are_named_as_in_json(path: str, value: str | None) -> None:
    task = with_meta(make_task(), labels={"a.b": "c"})
    parse_for(o.Task, "", f"{path}=x")
    found = value_at(task, path)
    assert found == value or (value is not None and found is not None and found.startswith(value))


@pytest.mark.parametrize("path", ["spec", "spec.nothing", "status.state.x", "metadata.labels", "spec.template.env"])
def test_a_field_that_is_not_there_or_not_plain_is_a_fault(path: str) -> None:
    with pytest.raises(InvalidError):
        parse_for(o.Task, "", f"{path}=x")


@pytest.mark.parametrize(
    "obj", [make_service(), make_node(), make_task(), make_cluster()], ids=lambda obj: type(obj).__name__
)
def test_splicing_is_what_decoding_and_encoding_would_be(obj: o.Object) -> None:
    document = msgspec.json.decode(wire.spliced(codec.encode(obj), 7))
    assert document["metadata"].pop("resourceVersion") == 7
    assert document == msgspec.json.decode(codec.encode(obj))


@pytest.mark.parametrize(
    "raw",
    [
        b'{"apiVersion":"shoal/v1","kind":"Service","metadata":{"name":"a"},"spec":{}}',
        b'{ "kind": "Service", "metadata": {} }',
        b'{"kind":"Service","apiVersion":"shoal/v1","metadata":{}}',
    ],
    ids=["other order", "with spaces", "empty metadata"],
)
def test_what_was_written_by_hand_gets_its_version_too(raw: bytes) -> None:
    assert msgspec.json.decode(wire.spliced(raw, 7))["metadata"]["resourceVersion"] == 7


@pytest.mark.parametrize("status", [o.ServiceStatus(), o.ServiceStatus(revision="abc")], ids=["empty", "some"])
def test_a_joined_status_is_stored_and_computed_together(status: o.ServiceStatus) -> None:
    raw = codec.encode(msgspec.structs.replace(make_service(), status=status))
    joined = msgspec.json.decode(wire.joined_status(raw, b'{"replicas":{"running":1}}'))
    assert joined["status"] == {**msgspec.json.decode(raw)["status"], "replicas": {"running": 1}}


def test_a_newer_stored_form_is_joined_as_well() -> None:
    raw = b'{"kind":"Other","status":{"a":1},"later":{}}'
    assert msgspec.json.decode(wire.joined_status(raw, b'{"b":2}'))["status"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patches(target: Any, patch: Any, result: Any) -> None:
    assert merged(target, patch) == result


WORKER = Identity(node="n1")


def test_every_route_has_a_rule_and_every_rule_a_route() -> None:
    app = Server(MemoryStore(), VirtualClock(), cluster_key=bytes(32)).app
    named = {getattr(route.handler, "shoal_route", "") for route in app.router.routes()}
    assert named == set(RULES)
    assert route_of.__doc__


@pytest.mark.parametrize("route", sorted(RULES))
def test_nobody_gets_beyond_the_two_calls_that_joining_needs(route: str) -> None:
    assert may(NOBODY, route, "") is (route in ("ca", "join"))


@pytest.mark.parametrize("route", sorted(RULES))
def test_a_worker_reaches_what_is_its_own_and_nothing_else(route: str) -> None:
    anyones = {"healthz", "readyz", "ca", "join"}
    containers = {"container-attach", "container-detach"}
    own = {"assignments", "node-report", "node-events", "node-answer", "certificate", "leave"} | containers
    assert may(WORKER, route, "n1") is (route in own | anyones)
    assert may(WORKER, route, "n2") is (route in anyones)


def test_an_admin_may_all_and_nobody_an_unlisted_route() -> None:
    assert all(may(ADMIN, route, "n1") for route in RULES)
    assert not may(ADMIN, "brand-new", "n1")


def record(revision: int, name: str = "web", *, new: bool = True, labels: dict[str, str] | None = None) -> Record:
    service = make_service(name, labels=labels)
    return Record(revision, revision, f"/{name}", None if new else service, service if new else None, b"{}")


def told(watcher: Watcher) -> list[int]:
    lines = anyio.run(watcher.take, 0.0).splitlines()
    return [msgspec.json.decode(line)["resourceVersion"] for line in lines]


def test_a_line_is_encoded_once_for_all_who_watch() -> None:
    one = record(1)
    assert one.line_for(Selector()) is one.line_for(Selector(labels=parse("!x")))


def test_a_watcher_gets_exactly_what_came_after_its_position() -> None:
    hub = Hub()
    hub.start_at(0)
    for revision in (1, 2, 3):
        hub.publish(o.Service, record(revision))
    watcher = hub.subscribe(o.Service, Selector(), 1)
    hub.publish(o.Service, record(4))
    hub.publish(o.Task, record(5))
    assert told(watcher) == [2, 3, 4]


def test_a_position_the_ring_has_dropped_is_expired() -> None:
    hub = Hub(ring=2)
    hub.start_at(0)
    for revision in (1, 2, 3, 4):
        hub.publish(o.Service, record(revision))
    assert told(hub.subscribe(o.Service, Selector(), 2)) == [3, 4]
    with pytest.raises(ExpiredError):
        hub.subscribe(o.Service, Selector(), 1)
    hub.subscribe(o.Task, Selector(), 0)


def test_a_slow_reader_costs_its_own_buffer_and_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "BUFFER_LINES", 2)
    hub = Hub()
    hub.start_at(0)
    slow, quick = (hub.subscribe(o.Service, Selector(), 0) for _ in range(2))
    for revision in (1, 2, 3):
        hub.publish(o.Service, record(revision))
        assert told(quick) == [revision]
    assert slow.cut
    assert told(slow) == []


def test_a_restored_store_sends_every_watcher_away() -> None:
    hub = Hub()
    hub.start_at(0)
    watcher = hub.subscribe(o.Service, Selector(), 0)
    hub.start_at(9)
    assert watcher.cut
    with pytest.raises(ExpiredError):
        hub.subscribe(o.Service, Selector(), 8)


def test_what_never_matched_is_not_deleted_to_a_watcher() -> None:
    selector = Selector(labels=parse("tier=front"))
    assert record(1, new=False).line_for(selector) is None
    assert record(1, new=False, labels={"tier": "front"}).line_for(selector) is not None


N1 = make_node("n1")


@pytest.mark.parametrize(
    ("stored", "said", "outcome"),
    [
        (TaskState.ASSIGNED, TaskState.ACCEPTED, "written"),
        (TaskState.RUNNING, TaskState.FAILED, "written"),
        (TaskState.RUNNING, TaskState.STARTING, "ignored"),
        (TaskState.FAILED, TaskState.COMPLETE, "ignored"),
        (TaskState.ORPHANED, TaskState.RUNNING, "ignored"),
        (TaskState.ASSIGNED, TaskState.REMOVE, "refused"),
        (TaskState.PENDING, TaskState.RUNNING, "refused"),
    ],
)
def test_states_only_grow_and_only_as_agents_may(stored: TaskState, said: TaskState, outcome: str) -> None:
    task = make_task(node=N1, state=stored)
    result = merged_status(task, N1.metadata.uid, task.metadata.name, o.TaskStatus(said))
    found = {o.Task: "written", str: "refused"}.get(type(result), "ignored")
    assert found == outcome
