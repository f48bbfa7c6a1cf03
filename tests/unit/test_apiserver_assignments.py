"""What nodes are told: increments always add up to the whole, and a change costs only whom it concerns."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from apiserver.assignments import Picture, Pictures, networks_of, wanted
from apiserver.mirror import INDEXES
from shoal.api import keys
from shoal.api import objects as o
from shoal.api.codec import with_meta
from shoal.api.meta import Meta, derived_uid
from shoal.api.states import TaskState
from shoal.api.template import Port
from shoal.machinery.cache import Cache
from shoal.machinery.testkit import make_cluster, make_network, make_node, make_service, make_task, ref_of

NODES = [make_node(name) for name in ("n1", "n2")]
NETWORKS = [make_network("ingress"), *(make_network(f"net{n}", subnet=f"10.0.{n}.0/24") for n in (1, 2))]
SERVICES = [make_service(name) for name in ("web", "api")]
STATES = [TaskState.ASSIGNED, TaskState.RUNNING, TaskState.FAILED]


class Stage:
    """A cache, the pictures of connected nodes, and what their agents have understood so far."""

    def __init__(self) -> None:
        self.cache = Cache(INDEXES)
        self.pictures = Pictures()
        self.picture = {node.metadata.uid: Picture(node.metadata.uid) for node in NODES}
        self.told: dict[str, dict[str, int]] = {}
        for obj in (make_cluster(), *NODES, *NETWORKS):
            self.write(obj)
        for uid, picture in self.picture.items():
            self.told[uid] = {key: self.version(key) for key in picture.complete(self.cache)}
            self.pictures.add(picture)

    def version(self, key: str) -> int:
        kind = keys.kind_at(key)
        obj = self.cache.get(kind, key) if kind is not None else None
        assert obj is not None, f"{key} was told of and is not there"
        return obj.metadata.resource_version

    def write(self, obj: o.Object, *, remove: bool = False) -> list[Picture]:
        self.cache.revision += 1
        new = None if remove else with_meta(obj, resource_version=self.cache.revision)
        change = self.cache.set(keys.key_of(obj), new)
        return self.pictures.offer([change]) if change is not None else []

    def flush(self) -> None:
        for uid, picture in self.picture.items():
            put, delete = picture.take(self.cache)
            for key in delete:
                del self.told[uid][key]
            for key in put:
                self.told[uid][key] = self.version(key)

    def whole(self, uid: str) -> dict[str, int]:
        return {key: self.version(key) for key in wanted(self.cache, uid, networks_of(self.cache, uid))}


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


def endpoint_of(service: int, published: bool) -> o.ServiceEndpoint:
    ports = (Port(80, 8080),) if published else ()
    ref = ref_of(SERVICES[service])
    return o.ServiceEndpoint(
        metadata=Meta(name=ref.name, uid=derived_uid("endpoint", ref.uid)), spec=o.EndpointSpec(ref, ports=ports)
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
    st.builds(endpoint_of, st.integers(0, 1), st.booleans()),
    st.sampled_from(NETWORKS),
    st.builds(
        lambda network, node: o.Attachment(
            metadata=Meta(name="a", uid=derived_uid("a", str(network), str(node))),
            spec=o.AttachmentSpec(ref_of(NETWORKS[network]), ref_of(NODES[node])),
        ),
        st.integers(0, 2),
        st.integers(0, 1),
    ),
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


def test_a_task_wakes_the_nodes_it_was_and_is_on_and_no_other() -> None:
    stage = Stage()
    task = task_of(0, 1, 0, 0, None)
    assert [picture.node_uid for picture in stage.write(task)] == [NODES[0].metadata.uid]
    stage.flush()
    moved = msgspec.structs.replace(task, spec=msgspec.structs.replace(task.spec, node=ref_of(NODES[1])))
    assert {picture.node_uid for picture in stage.write(moved)} == {node.metadata.uid for node in NODES}


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
    assert picture.backends_moved
    assert picture.take(stage.cache) == ([], [])
    assert not picture.is_behind
