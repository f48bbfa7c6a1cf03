"""Where tasks go, why they wait, and when they have to leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from controllers.placement import CONTROLLER, KEY, Ledger
from shoal.api.objects import Network, Node, Service, Task, TaskAddress, TaskStatus
from shoal.api.states import Availability, DesiredState, MountType, NodeState, PublishMode, RolloutState, TaskState
from shoal.api.template import (
    GenericResource,
    LogDriver,
    Mount,
    Placement,
    Platform,
    Port,
    Preference,
    Reservations,
    Resources,
)
from shoal.api.units import Bytes, Cpus
from shoal.machinery.clock import VirtualClock
from shoal.machinery.testkit import make_network, make_node, make_rollout, make_service, make_task, ref_of
from tests.support.picture import Picture

NOW = VirtualClock.START


def pending(service: Service, count: int = 1, first: int = 1, **changes: Any) -> list[Task]:
    return [make_task(service, slot, state=TaskState.PENDING, **changes) for slot in range(first, first + count)]


def placed(*objects: Any) -> Picture:
    picture = Picture(CONTROLLER, *objects)
    picture.settle(KEY)
    return picture


def where(picture: Picture) -> list[str]:
    """The nodes of all tasks in the order of their slots; "-" = pending."""
    tasks = sorted(picture.all(Task), key=lambda task: (task.spec.service.name, int(task.spec.slot)))
    return [task.spec.node.name if task.spec.node else "-" for task in tasks]


def errors(picture: Picture) -> set[str]:
    return {task.status.err for task in picture.all(Task) if task.status.state is TaskState.PENDING}


def reserving(cpus: float = 0, memory: str = "", **more: Any) -> Resources:
    found = Reservations(Cpus.parse(cpus) if cpus else None, Bytes.parse(memory) if memory else None, **more)
    return Resources(reservations=found)


def labelled(**labels: str) -> list[Node]:
    """Nodes by name with a zone: `labelled(a1="east", b1="west")`."""
    return [make_node(name, labels={"zone": zone}) for name, zone in labels.items()]


def test_a_task_is_assigned_with_node_state_and_time() -> None:
    picture = placed(make_node("n1"), *pending(make_service()))
    task = picture.one(Task)
    assert (task.spec.node.name, task.status) == (
        "n1",
        TaskStatus(TaskState.ASSIGNED, NOW, "scheduler assigned task to node"),
    )


def test_tasks_of_a_service_are_spread_evenly() -> None:
    picture = placed(*(make_node(f"n{number}") for number in range(4)), *pending(make_service(), 10))
    assert sorted(Counter(where(picture)).values()) == [2, 2, 3, 3]


def test_the_service_counts_before_the_total() -> None:
    a, b, other = make_node("a"), make_node("b"), make_service("other")
    web = make_service("web")
    busy = [make_task(other, slot, node=b) for slot in range(1, 6)]
    picture = placed(a, b, *busy, make_task(web, 1, node=a), *pending(web, first=2))
    assert where(picture)[-1] == "b"


def test_among_equals_the_emptier_node_is_taken() -> None:
    a, b = make_node("a"), make_node("b")
    picture = placed(a, b, make_task(make_service("other"), node=a), *pending(make_service("web")))
    assert where(picture)[-1] == "b"


def test_a_faulty_node_is_avoided_for_that_revision_only() -> None:
    a, b = make_node("a"), make_node("b")
    web, busy = make_service("web"), make_service("busy")
    failed = [
        make_task(web, 1, uid=f"{number:025}", state=TaskState.FAILED, node=a, desired=DesiredState.SHUTDOWN)
        for number in range(5)
    ]
    crowd = [make_task(busy, slot, node=b) for slot in range(1, 9)]
    picture = Picture(CONTROLLER, a, b, *failed, *crowd, *pending(web, 3, first=2))
    picture.step(KEY, NOW + timedelta(minutes=4))
    assert where(picture)[-3:] == ["b", "b", "b"]
    newer = make_service("web", image="busybox:2")
    picture.put(*pending(newer, first=9))
    picture.step(KEY, NOW + timedelta(minutes=4))
    assert where(picture)[-1] == "a"


def test_failures_are_forgotten_after_five_minutes() -> None:
    a, b, web = make_node("a"), make_node("b"), make_service("web")
    failed = [
        make_task(web, 1, uid=f"{number:025}", state=TaskState.REJECTED, node=a, desired=DesiredState.SHUTDOWN)
        for number in range(9)
    ]
    picture = Picture(CONTROLLER, a, b, make_task(make_service("busy"), node=b), *failed, *pending(web, first=2))
    picture.step(KEY, NOW + timedelta(minutes=5))
    assert where(picture)[-1] == "a"


@pytest.mark.parametrize("skew", [timedelta(hours=-1), timedelta(hours=1)])
def test_a_failure_counts_for_five_minutes_whatever_the_clock_of_its_node_says(skew: timedelta) -> None:
    a, b, web = make_node("a"), make_node("b"), make_service("web")
    told = [
        make_task(web, 1, uid=f"{number:025}", state=TaskState.FAILED, node=a, desired=DesiredState.SHUTDOWN)
        for number in range(5)
    ]
    failed = [
        replace(
            task,
            metadata=replace(task.metadata, updated_at=NOW),
            status=replace(task.status, timestamp=NOW + skew),
        )
        for task in told
    ]
    picture = Picture(CONTROLLER, a, b, make_task(make_service("busy"), node=b), *failed, *pending(web, first=2))
    picture.step(KEY, NOW + timedelta(minutes=4))
    assert where(picture)[-1] == "b"
    picture.put(*pending(web, first=3))
    picture.step(KEY, NOW + timedelta(minutes=6))
    assert where(picture)[-1] == "a"


def test_a_preference_spreads_over_the_label_and_not_over_nodes() -> None:
    nodes = labelled(a1="east", a2="east", a3="east", b1="west")
    web = make_service(placement=Placement(preferences=(Preference("node.labels.zone"),)))
    assert Counter(name[0] for name in where(placed(*nodes, *pending(web, 12)))) == {"a": 6, "b": 6}


def test_nodes_without_the_label_form_a_branch_and_full_branches_are_passed_over() -> None:
    nodes = [*labelled(a1="east"), make_node("b1"), make_node("c1", labels={"zone": "west"}, cpus=1)]
    web = make_service(resources=reserving(1), placement=Placement(preferences=(Preference("NODE.LABELS.zone"),)))
    assert Counter(where(placed(*nodes, *pending(web, 7)))) == {"a1": 3, "b1": 3, "c1": 1}


def test_preferences_are_hierarchical_and_count_what_runs_already() -> None:
    nodes = [make_node(name, labels={"az": name[0], "rack": name[:2]}) for name in ("a1x", "a1y", "a2x", "b1x")]
    spreads = (Preference("node.labels.az"), Preference("node.labels.rack"))
    web = make_service(placement=Placement(preferences=spreads))
    running = [make_task(web, slot, node=nodes[3]) for slot in (1, 2)]
    picture = placed(*nodes, *running, *pending(web, 6, first=3))
    counts = Counter(where(picture))
    assert counts["b1x"] == 4
    assert counts["a2x"] == 2
    assert counts["a1x"] + counts["a1y"] == 2


def test_a_preference_for_anything_but_labels_is_passed_over() -> None:
    web = make_service(placement=Placement(preferences=(Preference("node.id"),)))
    assert sorted(where(placed(make_node("a"), make_node("b"), *pending(web, 2)))) == ["a", "b"]


HOST_PORT = (Port(80, 8080, mode=PublishMode.HOST),)


@pytest.mark.parametrize(
    ("node", "spec", "why"),
    [
        pytest.param({"state": NodeState.DOWN}, {}, "1 node not available for new tasks", id="down"),
        pytest.param({"availability": Availability.PAUSE}, {}, "1 node not available for new tasks", id="paused"),
        pytest.param({"availability": Availability.DRAIN}, {}, "1 node not available for new tasks", id="drained"),
        pytest.param({"cpus": 1}, {"resources": reserving(1.5)}, "insufficient resources on 1 node", id="cpus"),
        pytest.param(
            {"memory": "1G"}, {"resources": reserving(memory="2G")}, "insufficient resources on 1 node", id="memory"
        ),
        pytest.param(
            {},
            {"resources": reserving(generic=(GenericResource("gpu", 1),))},
            "insufficient resources on 1 node",
            id="counted resource",
        ),
        pytest.param(
            {},
            {"mounts": (Mount(MountType.VOLUME, "/data", driver="rexray"),)},
            "missing plugin on 1 node",
            id="volume driver",
        ),
        pytest.param(
            {"labels": {"disk": "hdd"}},
            {"placement": Placement(constraints=("node.labels.disk == ssd",))},
            "scheduling constraints not satisfied on 1 node",
            id="constraint",
        ),
        pytest.param(
            {},
            {"placement": Placement(platforms=(Platform("arm64", "linux"),))},
            "unsupported platform on 1 node",
            id="platform",
        ),
    ],
)
def test_a_node_is_refused_with_the_reason(node: dict[str, Any], spec: dict[str, Any], why: str) -> None:
    picture = placed(make_node("n1", **node), *pending(make_service(**spec), 2))
    assert where(picture) == ["-", "-"]
    assert errors(picture) == {f"no suitable node ({why})"}


@pytest.mark.parametrize(
    ("node", "spec"),
    [
        pytest.param({}, {"placement": Placement(platforms=(Platform("amd64", ""),))}, id="x86_64 is amd64"),
        pytest.param({"architecture": "aarch64"}, {"placement": Placement(platforms=(Platform("arm64"),))}, id="arm64"),
        pytest.param({}, {"placement": Placement(platforms=(Platform(), Platform("s390x")))}, id="wildcard platform"),
        pytest.param({}, {"mounts": (Mount(MountType.VOLUME, "/data", driver="local"),)}, id="local volumes"),
        pytest.param({}, {"log_driver": LogDriver("splunk")}, id="a node that tells no log plugins"),
        pytest.param({"cpus": 1}, {"resources": reserving(1)}, id="exactly what there is"),
    ],
)
def test_a_node_is_accepted(node: dict[str, Any], spec: dict[str, Any]) -> None:
    assert where(placed(make_node("n1", **node), *pending(make_service(**spec)))) == ["n1"]


def test_reasons_are_counted_most_frequent_first() -> None:
    nodes = [make_node("a", state=NodeState.DOWN), make_node("b", cpus=1), make_node("c", cpus=1)]
    picture = placed(*nodes, *pending(make_service(resources=reserving(2))))
    assert errors(picture) == {
        "no suitable node (insufficient resources on 2 nodes; 1 node not available for new tasks)"
    }


def test_without_nodes_there_is_no_suitable_node() -> None:
    assert errors(placed(*pending(make_service()))) == {"no suitable node"}


def test_reservations_are_counted_while_placing_and_the_rest_waits() -> None:
    web = make_service(resources=reserving(1))
    picture = placed(make_node("a", cpus=2), make_node("b", cpus=3), *pending(web, 7))
    assert Counter(where(picture)) == {"a": 2, "b": 3, "-": 2}
    assert errors(picture) == {"no suitable node (insufficient resources on 2 nodes)"}


def test_host_ports_and_maximum_per_node_are_counted_while_placing() -> None:
    nodes = [make_node("a"), make_node("b")]
    assert Counter(where(placed(*nodes, *pending(make_service(ports=HOST_PORT), 3)))) == {"a": 1, "b": 1, "-": 1}
    limited = make_service(placement=Placement(max_replicas_per_node=2))
    picture = placed(*nodes, *pending(limited, 5))
    assert Counter(where(picture)) == {"a": 2, "b": 2, "-": 1}
    assert errors(picture) == {"no suitable node (max replicas per node limit exceed on 2 nodes)"}


def test_named_resources_are_given_out_once() -> None:
    gpus = tuple(GenericResource("gpu", value=name) for name in ("g1", "g2", "g3"))
    web = make_service(resources=reserving(generic=(GenericResource("gpu", 2),)))
    picture = placed(make_node("n1", generic=gpus), *pending(web, 2))
    assert sorted(task.spec.generic for task in picture.all(Task)) == [
        (),
        (GenericResource("gpu", value="g1"), GenericResource("gpu", value="g2")),
    ]


def test_named_resources_are_free_again_with_their_task() -> None:
    gpus = (GenericResource("gpu", value="g1"), GenericResource("gpu", value="g2"))
    web = make_service(resources=reserving(generic=(GenericResource("gpu", 1),)))
    picture = placed(make_node("n1", generic=gpus), *pending(web, 3))
    assert errors(picture) == {"no suitable node (insufficient resources on 1 node)"}
    first = next(task for task in picture.all(Task) if task.spec.generic == (GenericResource("gpu", value="g1"),))
    picture.put(replace(first, status=replace(first.status, state=TaskState.FAILED)))
    picture.settle(KEY)
    held = [task.spec.generic for task in picture.all(Task) if task.status.state is TaskState.ASSIGNED]
    assert sorted(one.value or "" for given in held for one in given) == ["g1", "g2"]


def test_counted_resources_are_given_out_by_number() -> None:
    web = make_service(resources=reserving(generic=(GenericResource("ssd", 2),)))
    picture = placed(make_node("n1", generic=(GenericResource("ssd", 3),)), *pending(web, 2))
    assert sorted(task.spec.generic for task in picture.all(Task)) == [(), (GenericResource("ssd", 2),)]


@pytest.mark.parametrize(
    ("state", "desired", "is_free"),
    [
        pytest.param(TaskState.RUNNING, DesiredState.RUNNING, False, id="running"),
        pytest.param(TaskState.RUNNING, DesiredState.SHUTDOWN, False, id="told to stop, container still there"),
        pytest.param(TaskState.SHUTDOWN, DesiredState.SHUTDOWN, True, id="container gone"),
        pytest.param(TaskState.FAILED, DesiredState.RUNNING, True, id="failed"),
        pytest.param(TaskState.RUNNING, DesiredState.COMPLETE, False, id="a job's, under way"),
        pytest.param(TaskState.COMPLETE, DesiredState.COMPLETE, True, id="a job's, completed"),
        pytest.param(TaskState.ORPHANED, DesiredState.SHUTDOWN, True, id="orphaned"),
    ],
)
def test_ports_and_reservations_are_held_until_the_container_is_gone(
    state: TaskState, desired: DesiredState, is_free: bool
) -> None:
    node = make_node("n1", cpus=1)
    web = make_service(ports=HOST_PORT, resources=reserving(1))
    picture = placed(node, make_task(web, 1, node=node, state=state, desired=desired), *pending(web, first=2))
    assert (where(picture)[-1] == "n1") is is_free


def test_a_waiting_task_is_placed_when_a_node_comes_and_its_reason_goes() -> None:
    picture = placed(*pending(make_service()))
    picture.put(make_node("n1"))
    picture.settle(KEY)
    assert (where(picture), picture.one(Task).status.err) == (["n1"], "")


def test_an_unchanged_reason_is_not_written_again_and_a_changed_one_is() -> None:
    picture = placed(make_node("a", state=NodeState.DOWN), *pending(make_service(), 3))
    assert picture.step(KEY).actions == ()
    assert picture.plan(KEY).because == "3 tasks of web: no suitable node (1 node not available for new tasks)"
    picture.put(make_node("b", state=NodeState.DOWN))
    plan = picture.step(KEY)
    assert len(plan.actions) == 3
    assert [action.note for action in plan.actions] == [
        "3 tasks wait: no suitable node (2 nodes not available for new tasks)", "", "",
    ]  # fmt: skip


def test_networks_with_overlapping_subnets_are_never_on_one_node_and_it_is_said() -> None:
    one = make_network("one", subnet="10.7.0.0/16", ingress=False)
    two = make_network("two", subnet="10.7.1.0/24", ingress=False)
    other = make_network("other", subnet="10.8.0.0/24", ingress=False)

    def on(network: Network, name: str, count: int) -> list[Task]:
        address = TaskAddress(ref_of(network), "10.7.1.3/24", "02:42:0a:07:01:03")
        return pending(make_service(name), count, addresses=(address,))

    nodes = [make_node("n1"), make_node("n2")]
    there = replace(on(one, "a", 1)[0], status=TaskStatus(TaskState.RUNNING))
    there = replace(there, spec=replace(there.spec, node=ref_of(nodes[0])))
    picture = placed(*nodes, one, two, other, there, *on(two, "b", 2), *on(other, "c", 2))
    assert where(picture) == ["n1", "n2", "n2", "n1", "n2"] or where(picture) == ["n1", "n2", "n2", "n2", "n1"]
    picture.put(replace(on(two, "b", 1)[0], metadata=make_task(make_service("b"), 9).metadata))
    picture.put(replace(nodes[1], spec=replace(nodes[1].spec, availability=Availability.DRAIN)))
    picture.settle(KEY)
    assert errors(picture) == {
        "no suitable node (1 node not available for new tasks; a network with an overlapping subnet in use on 1 node)"
    }


@pytest.mark.parametrize("desired", [DesiredState.SHUTDOWN, DesiredState.REMOVE])
def test_a_task_that_is_not_wanted_is_not_placed(desired: DesiredState) -> None:
    picture = placed(make_node("n1"), *pending(make_service(), desired=desired))
    assert where(picture) == ["-"]
    assert errors(picture) == {""}


def test_a_prepared_replacement_is_placed() -> None:
    assert where(placed(make_node("n1"), *pending(make_service(), desired=DesiredState.READY))) == ["n1"]


def test_a_task_that_comes_with_its_node_is_validated_there_only() -> None:
    a, b = make_node("a", cpus=1), make_node("b", cpus=8)
    web = make_service(resources=reserving(1))
    picture = Picture(CONTROLLER, a, b, *pending(web, 2, node=a))
    picture.settle(KEY)
    states = [task.status.state for task in picture.all(Task)]
    assert sorted(states) == [TaskState.ASSIGNED, TaskState.PENDING]
    assert errors(picture) == {"no suitable node (insufficient resources on 1 node)"}


def test_tasks_with_a_node_go_before_the_others() -> None:
    node = make_node("n1", cpus=1)
    everywhere, web = make_service("zz", resources=reserving(1)), make_service("aa", resources=reserving(1))
    picture = placed(node, *pending(web), *pending(everywhere, node=node))
    assert [task.status.state for task in picture.all(Task)] == [TaskState.PENDING, TaskState.ASSIGNED]


SSD = Placement(constraints=("node.labels.disk == ssd",))
WITH_SSD = make_node("n1", labels={"disk": "ssd"})
WITHOUT = make_node("n1", labels={"disk": "hdd"})


def evicted(picture: Picture) -> list[str]:
    return [task.spec.slot for task in picture.all(Task) if task.spec.evicted]


def test_a_lost_label_evicts_and_says_why() -> None:
    web = make_service(placement=SSD)
    picture = placed(WITH_SSD, web, make_task(web, node=WITH_SSD))
    assert evicted(picture) == []
    picture.put(WITHOUT)
    picture.settle(KEY)
    assert picture.one(Task).spec.evicted == "assigned node no longer meets constraints"


@pytest.mark.parametrize("availability", [Availability.PAUSE, Availability.DRAIN])
def test_only_active_nodes_are_looked_at(availability: Availability) -> None:
    web = make_service(placement=SSD)
    node = replace(WITHOUT, spec=replace(WITHOUT.spec, availability=availability))
    picture = placed(node, web, make_task(web, node=node))
    assert evicted(picture) == []
    picture.put(WITHOUT)
    picture.settle(KEY)
    assert evicted(picture) == ["1"]


def test_the_current_constraints_count_once_no_update_is_under_way() -> None:
    before, after = make_service(), make_service(placement=SSD)
    picture = placed(WITHOUT, before, make_rollout(before), make_task(before, node=WITHOUT))
    picture.put(after, make_rollout(after, stable=before.status.revision, state=RolloutState.UPDATING))
    picture.settle(KEY)
    assert evicted(picture) == [], "the update decides when"
    picture.put(make_rollout(after))
    picture.settle(KEY)
    assert evicted(picture) == ["1"]


def test_dropped_constraints_evict_nobody() -> None:
    before, after = make_service(placement=SSD), make_service()
    picture = placed(WITH_SSD, after, make_rollout(after), make_task(before, node=WITH_SSD))
    picture.put(WITHOUT)
    picture.settle(KEY)
    assert evicted(picture) == []


def test_a_shrunk_node_keeps_the_oldest() -> None:
    web = make_service(resources=reserving(2))
    node = make_node("n1", cpus=6)
    tasks = [make_task(web, slot, node=node) for slot in (1, 2, 3)]
    aged = [
        replace(task, metadata=replace(task.metadata, created_at=NOW - timedelta(minutes=age)))
        for task, age in zip(tasks, (5, 20, 10), strict=True)
    ]
    picture = placed(node, web, *aged)
    picture.put(make_node("n1", cpus=4))
    picture.settle(KEY)
    assert evicted(picture) == ["1"]


@pytest.mark.parametrize(
    ("given", "offered", "leaves"),
    [
        pytest.param({"value": "g1"}, ({"value": "g1"}, {"value": "g2"}), False, id="still there"),
        pytest.param({"value": "g1"}, ({"value": "g2"}, {"value": "g3"}), True, id="that one is gone"),
        pytest.param({"value": "g1"}, (), True, id="none is left"),
        pytest.param({"count": 1}, ({"count": 1},), False, id="so many are there"),
        pytest.param({"count": 1}, ({"value": "g1"},), True, id="named now, and nobody knows which it has"),
    ],
)
def test_a_task_whose_generic_resource_vanished_has_to_leave(
    given: dict[str, Any], offered: tuple[dict[str, Any], ...], leaves: bool
) -> None:
    web = make_service(resources=reserving(generic=(GenericResource("gpu", 1),)))
    held = GenericResource("gpu", **given)
    node = make_node("n1", cpus=1, generic=(held,))
    task = make_task(web, node=node)
    picture = placed(node, web, replace(task, spec=replace(task.spec, generic=(held,))))
    assert evicted(picture) == []
    picture.put(make_node("n1", cpus=1, generic=tuple(GenericResource("gpu", **one) for one in offered)))
    picture.settle(KEY)
    assert evicted(picture) == (["1"] if leaves else [])


def test_a_task_assigned_to_a_node_that_changed_meanwhile_is_found() -> None:
    web = make_service(placement=SSD)
    picture = placed(WITHOUT, web)
    picture.put(make_task(web, node=WITHOUT, state=TaskState.ASSIGNED))
    picture.settle(KEY)
    assert evicted(picture) == ["1"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"desired": DesiredState.SHUTDOWN}, id="told to stop"),
        pytest.param({"state": TaskState.COMPLETE}, id="done"),
        pytest.param({"evicted": "earlier"}, id="evicted already"),
    ],
)
def test_a_task_that_goes_anyway_is_left_alone(changes: dict[str, Any]) -> None:
    web = make_service(placement=SSD)
    picture = Picture(CONTROLLER, WITHOUT, web, make_task(web, node=WITHOUT, **changes))
    assert picture.step(KEY).actions == ()


def test_the_order_in_which_things_arrive_does_not_matter() -> None:
    objects: list[Any] = [*(make_node(f"n{number}") for number in range(5)), *pending(make_service("a"), 7)]
    objects += pending(make_service("b", resources=reserving(1)), 7)
    assert where(placed(*objects)) == where(placed(*reversed(objects)))


@st.composite
def worlds(draw: st.DrawFn) -> list[Any]:
    nodes = [
        make_node(f"n{number}", cpus=draw(st.integers(1, 4)), labels={"zone": draw(st.sampled_from("ab"))})
        for number in range(draw(st.integers(0, 5)))
    ]
    objects: list[Any] = list(nodes)
    for name in draw(st.sets(st.sampled_from(["x", "y", "z"]))):
        spread = (Preference("node.labels.zone"),) if draw(st.booleans()) else ()
        limit = draw(st.integers(0, 2))
        service = make_service(
            name,
            resources=reserving(draw(st.integers(0, 2))),
            ports=HOST_PORT if draw(st.booleans()) else (),
            placement=Placement(preferences=spread, max_replicas_per_node=limit),
        )
        objects += pending(service, draw(st.integers(1, 6)))
    return draw(st.permutations(objects))


@settings(max_examples=60)
@given(worlds())
def test_no_node_is_ever_given_more_than_it_may_take(objects: list[Any]) -> None:
    picture = placed(*objects)
    for node in picture.all(Node):
        there = [task for task in picture.all(Task) if task.spec.node and task.spec.node.uid == node.metadata.uid]
        assert sum(_cpus(task) for task in there) <= node.status.description.cpus
        assert sum(bool(task.spec.template.ports) for task in there) <= 1
        for service, count in Counter(task.spec.service.name for task in there).items():
            limit = next(t.spec.template.placement for t in there if t.spec.service.name == service)
            assert limit is None or not limit.max_replicas_per_node or count <= limit.max_replicas_per_node
    assert all(task.spec.node or task.status.err for task in picture.all(Task)), "who waits knows why"


def _cpus(task: Task) -> int:
    reservations = task.spec.template.resources.reservations if task.spec.template.resources else None
    return int(reservations.cpus or 0) if reservations else 0


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(list(TaskState)), st.sampled_from(["a", "b"]))))
def test_the_ledger_is_empty_again_when_everything_is_gone(history: Iterable[tuple[int, TaskState, str]]) -> None:
    web = make_service(ports=HOST_PORT, resources=reserving(1))
    nodes = {name: make_node(name) for name in "ab"}
    picture = Picture(CONTROLLER)
    for slot, state, node in history:
        picture.put(make_task(web, slot, state=state, node=nodes[node]))
    picture.drop(*picture.all(Task))
    ledger = picture.cache.fold(Ledger)
    assert (ledger.pending, ledger.failures, dict(ledger._nodes), dict(ledger._nodes_of)) == ({}, {}, {}, {})


def test_one_change_among_many_tasks_looks_at_nothing_else() -> None:
    web = make_service()
    nodes = [make_node(f"n{number}") for number in range(20)]
    running = [make_task(web, slot, node=nodes[slot % 20]) for slot in range(1, 2001)]
    picture = placed(*nodes, web, *running)
    picture.put(replace(running[7], status=TaskStatus(TaskState.FAILED)))
    assert CONTROLLER.observe(KEY, picture.cache) is None
    picture.put(make_task(web, 8, uid="f" * 25, state=TaskState.PENDING))
    assert [action.reason for action in picture.step(KEY).actions] == ["TaskAssigned"]
