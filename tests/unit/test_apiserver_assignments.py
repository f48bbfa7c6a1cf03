"""What nodes are told: increments always add up to the whole, and a change costs only whom it concerns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apiserver.assignments import Blocks, Picture, Pictures, networks_of, wanted
from apiserver.mirror import INDEXES
from shoal.api import keys
from shoal.api import objects as o
from shoal.api.codec import with_meta
from shoal.api.meta import Meta, derived_uid
from shoal.api.states import TaskState
from shoal.api.template import NetworkUse, Port
from shoal.machinery.cache import Cache, Index
from shoal.machinery.testkit import make_cluster, make_network, make_node, make_service, make_task, ref_of

T = TypeVar("T", bound=o.Object)

NODES = [make_node(name) for name in ("n1", "n2")]
NETWORKS = [make_network("ingress"), *(make_network(f"net{n}", subnet=f"10.0.{n}.0/24") for n in (1, 2))]
SERVICES = [make_service(name) for name in ("web", "api")]
STATES = [TaskState.ASSIGNED, TaskState.RUNNING, TaskState.FAILED]


class Stage:
    """A cache, the pictures of connected nodes, and what their agents have understood so far."""

    def __init__(self) -> None:
        self.cache = Cache(INDEXES)
        self.pictures, self.blocks = Pictures(), Blocks()
        self.picture = {node.metadata.uid: Picture(node.metadata.uid) for node in NODES}
        self.told: dict[str, dict[str, int]] = {}
        for obj in (make_cluster(), *NODES, *NETWORKS):
            self.write(obj)
        for uid, picture in self.picture.items():
            self.told[uid] = {key: self.version(key) for key in self.complete(picture)}
            self.pictures.add(picture)

    def complete(self, picture: Picture) -> list[str]:
        """Return the keys of a complete set, as a connected node gets it."""
        return picture.complete(self.cache, self.blocks, str.encode).decode().split(",")

    def version(self, key: str) -> int:
        kind = keys.kind_at(key)
        obj = self.cache.get(kind, key) if kind is not None else None
        assert obj is not None, f"{key} was told of and is not there"
        return obj.metadata.resource_version

    def write(self, obj: o.Object, *, remove: bool = False) -> tuple[set[Picture], set[Picture]]:
        self.cache.revision += 1
        new = None if remove else with_meta(obj, resource_version=self.cache.revision)
        change = self.cache.set(keys.key_of(obj), new)
        self.blocks.offer([change] if change is not None else [])
        return self.pictures.offer([change]) if change is not None else (set(), set())

    def flush(self) -> None:
        for uid, picture in self.picture.items():
            put, delete = picture.take(self.cache)
            for key in delete:
                del self.told[uid][key]
            for key in put:
                self.told[uid][key] = self.version(key)

    def whole(self, uid: str) -> dict[str, int]:
        return {key: self.version(key) for key in wanted(self.cache, uid, networks_of(self.cache, uid))}


def uids(pictures: set[Picture]) -> set[str]:
    return {picture.node_uid for picture in pictures}


def task_of(service: int, slot: int, node: int, state: int, network: int | None) -> o.Task:
    addresses = ()
    if network is not None:
        addresses = (o.TaskAddress(ref_of(NETWORKS[network]), f"10.0.{network}.{slot}/24", "02:42:0a:00:00:01"),)
    return make_task(SERVICES[service], slot, node=NODES[node], state=STATES[state], addresses=addresses)


def backend_of(task: o.Task, *, ready: bool = True) -> o.Backend:
    assert task.spec.node is not None
    spec = o.BackendSpec(task.spec.service, ref_of(task), task.spec.node, task.spec.addresses)
    return o.Backend(
        metadata=Meta(name=task.metadata.name, uid=task.metadata.uid), spec=spec, status=o.BackendStatus(ready)
    )


def endpoint_of(service: int, published: bool, network: int | None = None) -> o.ServiceEndpoint:
    ports = (Port(80, 8080),) if published else ()
    ref = ref_of(SERVICES[service])
    networks = () if network is None else (o.EndpointNetwork(ref_of(NETWORKS[network]), f"10.0.{network}.9/24"),)
    return o.ServiceEndpoint(
        metadata=Meta(name=ref.name, uid=derived_uid("endpoint", ref.uid)),
        spec=o.EndpointSpec(ref, ports=ports, networks=networks),
    )


def attachment_of(network: int, node: int) -> o.Attachment:
    return o.Attachment(
        metadata=Meta(name="a", uid=derived_uid("a", str(network), str(node))),
        spec=o.AttachmentSpec(ref_of(NETWORKS[network]), ref_of(NODES[node])),
    )


TASKS = st.builds(
    task_of,
    st.integers(0, 1),
    st.integers(1, 3),
    st.integers(0, 1),
    st.integers(0, 2),
    st.one_of(st.none(), st.integers(0, 2)),
)
OBJECTS = st.one_of(
    TASKS,
    st.builds(backend_of, TASKS, ready=st.booleans()),
    st.builds(endpoint_of, st.integers(0, 1), st.booleans(), st.one_of(st.none(), st.integers(1, 2))),
    st.sampled_from(NETWORKS),
    st.builds(attachment_of, st.integers(0, 2), st.integers(0, 1)),
)


@settings(max_examples=150)
@given(st.lists(st.tuples(OBJECTS, st.booleans(), st.booleans()), max_size=25))
def test_increments_add_up_to_the_whole_whatever_changes_and_whenever_it_is_told(
    steps: list[tuple[o.Object, bool, bool]],
) -> None:
    stage = Stage()
    for obj, remove, flush in steps:
        stage.write(obj, remove=remove)
        if flush:
            stage.flush()
    stage.flush()
    for uid in stage.told:
        assert stage.told[uid] == stage.whole(uid)


@settings(max_examples=150)
@given(st.lists(st.tuples(OBJECTS, st.booleans(), st.booleans()), max_size=25))
def test_a_node_that_connects_at_any_time_is_told_the_whole_once(
    steps: list[tuple[o.Object, bool, bool]],
) -> None:
    stage = Stage()
    for obj, remove, connects in steps:
        stage.write(obj, remove=remove)
        if connects:
            for node in NODES:
                told = stage.complete(Picture(node.metadata.uid))
                assert sorted(told) == sorted(stage.whole(node.metadata.uid))


def test_what_many_nodes_are_told_alike_is_gathered_once_until_it_changes() -> None:
    stage, gathered = Stage(), []

    def body_of(key: str) -> bytes:
        gathered.append(key)
        return key.encode()

    stage.write(attachment_of(0, 0))
    for node in NODES:
        Picture(node.metadata.uid).complete(stage.cache, stage.blocks, body_of)
    attachment = keys.key_of(attachment_of(0, 0))
    assert gathered.count(attachment) == 1
    stage.write(task_of(0, 1, 0, 0, None))
    Picture(NODES[0].metadata.uid).complete(stage.cache, stage.blocks, body_of)
    assert gathered.count(attachment) == 1, "a task is no node's but its own"
    stage.write(attachment_of(0, 0))
    Picture(NODES[0].metadata.uid).complete(stage.cache, stage.blocks, body_of)
    assert gathered.count(attachment) == 2


def test_a_task_wakes_the_nodes_it_was_and_is_on_and_no_other() -> None:
    stage = Stage()
    task = task_of(0, 1, 0, 0, None)
    assert uids(stage.write(task)[0]) == {NODES[0].metadata.uid}
    stage.flush()
    moved = msgspec.structs.replace(task, spec=msgspec.structs.replace(task.spec, node=ref_of(NODES[1])))
    assert uids(stage.write(moved)[0]) == {node.metadata.uid for node in NODES}


def test_another_nodes_attachment_can_wait_until_there_is_more_to_say() -> None:
    stage = Stage()
    here, there = (node.metadata.uid for node in NODES)
    attachment = o.Attachment(
        metadata=Meta(name="a", uid=derived_uid("a")),
        spec=o.AttachmentSpec(ref_of(NETWORKS[0]), ref_of(NODES[0])),
    )
    now, soon = stage.write(attachment)
    assert (uids(now), uids(soon)) == ({here}, {there})


def test_what_a_task_needs_comes_before_it() -> None:
    stage = Stage()
    task = task_of(0, 1, 0, 0, 1)
    stage.write(task)
    stage.write(backend_of(task))
    put, delete = stage.picture[NODES[0].metadata.uid].take(stage.cache)
    assert [key.split("/")[2] for key in put] == ["networks", "backends", "tasks"]
    assert delete == []


def test_a_node_that_is_told_nothing_still_learns_that_backends_moved() -> None:
    stage = Stage()
    stage.write(backend_of(task_of(0, 1, 1, 1, None)))
    picture = stage.picture[NODES[0].metadata.uid]
    assert picture.others_moved
    assert picture.take(stage.cache) == ([], [])
    assert not picture.is_behind


def test_a_node_is_told_of_a_network_with_its_attachment_and_all_that_belongs_to_it() -> None:
    stage = Stage()
    far = task_of(0, 1, 1, 1, 1)
    for obj in (far, backend_of(far), endpoint_of(0, published=False, network=1)):
        stage.write(obj)
    stage.flush()
    here = NODES[0].metadata.uid
    assert not any("/net1" in key for key in stage.told[here])
    stage.write(attachment_of(1, 0))
    stage.flush()
    assert stage.told[here] == stage.whole(here)
    assert {key.split("/")[2] for key in stage.told[here]} >= {"networks", "attachments", "endpoints", "backends"}
    stage.write(attachment_of(1, 0), remove=True)
    stage.flush()
    assert not any("net1" in key or "backends" in key for key in stage.told[here])


def test_a_node_is_told_of_a_node_local_network_while_a_live_task_there_is_on_it() -> None:
    stage = Stage()
    lan, here = make_network("lan", ingress=False, driver="bridge"), NODES[0].metadata.uid
    service = make_service("web", networks=(NetworkUse("lan", uid=lan.metadata.uid),))
    stage.write(lan)
    stage.write(make_task(service, node=NODES[0], state=TaskState.RUNNING))
    stage.flush()
    assert any("networks/lan" in key for key in stage.told[here])
    assert not any("networks/lan" in key for key in stage.told[NODES[1].metadata.uid])
    stage.write(make_task(service, node=NODES[0], state=TaskState.FAILED))
    stage.flush()
    assert not any("networks/lan" in key for key in stage.told[here])


def test_a_virtual_ip_that_goes_is_acknowledged_by_nodes_that_never_heard_of_it() -> None:
    stage = Stage()
    endpoint = endpoint_of(0, published=False, network=1)
    stage.write(endpoint)
    picture = stage.picture[NODES[0].metadata.uid]
    assert not picture.others_moved, "nobody waits for a new one"
    stage.write(endpoint, remove=True)
    assert picture.others_moved


class Counting(Cache):
    """A cache that counts how often it is asked."""

    asked = 0

    def get(self, kind: type[T], key: str) -> T | None:
        self.asked += 1
        return super().get(kind, key)

    def by(self, index: Index[T], value: str) -> Mapping[str, T]:
        self.asked += 1
        return super().by(index, value)


@pytest.mark.parametrize("services", [1, 1000])
def test_one_changed_backend_costs_the_same_however_many_there_are(services: int) -> None:
    cache = Counting(INDEXES)
    network, node = NETWORKS[1], NODES[0]
    cache.set(keys.key_of(network), with_meta(network, resource_version=1))
    attached = attachment_of(1, 0)
    cache.set(keys.key_of(attached), with_meta(attached, resource_version=1))
    backends = []
    for number in range(services):
        service = make_service(f"s{number}")
        for slot in range(10):
            address = o.TaskAddress(ref_of(network), f"10.0.{number % 250}.{slot}/8", "02:42:0a:00:00:01")
            backends.append(backend_of(make_task(service, slot, node=NODES[1], addresses=(address,))))
            cache.set(keys.key_of(backends[-1]), with_meta(backends[-1], resource_version=1))
    picture, pictures = Picture(node.metadata.uid), Pictures()
    picture.complete(cache, Blocks(), str.encode)
    pictures.add(picture)
    cache.asked = 0
    changed = with_meta(msgspec.structs.replace(backends[3], status=o.BackendStatus(False)), resource_version=2)
    pictures.offer([cache.set(keys.key_of(changed), changed)])  # type: ignore[list-item]
    assert picture.take(cache) == ([keys.key_of(changed)], [])
    assert cache.asked <= 3
