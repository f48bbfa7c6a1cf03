"""Services on one host: what is applied runs, and only what changed is touched."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial

import pytest

from tests.support.lab import Host, eventually
from tests.support.user import (
    SLEEP,
    answers,
    apply,
    containers,
    get,
    hostnames,
    instant,
    keys,
    node,
    revisions,
    running,
    says,
    service,
    slots,
    start,
    tasks,
)


@pytest.fixture
def host(steady_host: Host) -> Host:
    return steady_host


@pytest.fixture
def changing_host(host: Host) -> Iterator[Host]:
    """A host whose labels and availability a test may change."""
    yield host
    start(host, node(host))


def test_an_applied_service_runs_and_answers_from_each_of_its_containers(host: Host) -> None:
    done = host.shoal("apply -f manifests/01-hello.yaml").ok()
    assert done.out.splitlines()[0] == "service/hello created"
    assert done.out.splitlines()[-1] == "service/hello converged: 3/3 running"

    ids = running(host, "hello", 3)
    assert set(hostnames(host, "http://127.0.0.1:8080/")) == {one[:12] for one in ids}
    assert {task["spec"]["slot"] for task in tasks(host, "hello", "running")} == {"1", "2", "3"}


def test_containers_bear_their_task_s_name_and_the_system_s_labels(host: Host) -> None:
    start(host, service("named", containerLabels={"com.docker.swarm.service.name": "forged"}, **SLEEP))
    running(host, "named", 1)
    (task,) = tasks(host, "named", "running")
    name, uid = task["metadata"]["name"], task["metadata"]["uid"]
    assert name == f"named.1.{uid}"
    shown = host.docker(
        ["inspect", "-f", '{{.Name}} {{index .Config.Labels "com.docker.swarm.service.name"}}', name]
    ).ok()
    assert shown.out.split() == [f"/{name}", "named"]


def test_applying_the_same_again_writes_nothing(host: Host) -> None:
    host.shoal("apply -f manifests/01-hello.yaml").ok()
    before = eventually(lambda: _resting(host), within=30)

    again = host.shoal("apply -f manifests/01-hello.yaml").ok()

    assert again.out.splitlines() == ["service/hello unchanged", "service/hello converged: 3/3 running"]
    assert revisions(host) == before


def _resting(host: Host) -> dict[str, int] | None:
    """What is stored, once nobody writes any more."""
    before = revisions(host)
    host.run("sleep", "1")
    return before if revisions(host) == before else None


def test_scaling_leaves_other_containers_alone_and_takes_the_highest_slots(host: Host) -> None:
    start(host, service("scaled", replicas=3, **SLEEP))
    running(host, "scaled", 3)
    three = slots(host, "scaled")
    assert sorted(three) == ["1", "2", "3"]

    up = host.shoal("scale scaled=5 -d").ok()
    assert "service/scaled scaled to 5" in up.out
    running(host, "scaled", 5)
    assert three.items() <= slots(host, "scaled").items()

    host.shoal("scale scaled=2 -d").ok()
    left = running(host, "scaled", 2)
    assert sorted(left) == sorted([three["1"], three["2"]])

    host.shoal("scale scaled=0 -d").ok()
    running(host, "scaled", 0)
    assert get(host, "services/scaled")["status"]["replicas"].get("desired", 0) == 0


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
def test_a_new_image_replaces_all_tasks_in_the_order_asked_for(host: Host, order: str) -> None:
    spec = {"replicas": 2, "ports": ["8101:80"], "update": {"order": order}}
    start(host, service("updated", **spec))
    before = running(host, "updated", 2)

    assert "converged: 2/2" in apply(host, service("updated", **spec | {"image": "shoal/hello:2"})).ok().out

    after = running(host, "updated", 2)
    assert not set(before) & set(after)
    assert "version 2" in answers(host, "http://127.0.0.1:8101/")
    for slot in ("1", "2"):
        old, new = (task for task in tasks(host, "updated") if task["spec"]["slot"] == slot)
        stopped = eventually(partial(_stopped_at, host, old["metadata"]["name"]), within=30)
        started = instant(new["status"]["timestamp"])
        assert (started > stopped) is (order == "stop-first")


def _stopped_at(host: Host, name: str) -> datetime | None:
    task = get(host, f"tasks/{name}")
    return instant(task["status"]["timestamp"]) if task["status"]["state"] in ("shutdown", "complete") else None


@pytest.mark.parametrize(
    ("labels", "change"),
    [
        pytest.param({"tier": "front"}, {}, id="labels"),
        pytest.param({}, {"update": {"order": "start-first"}}, id="update-settings"),
        pytest.param({}, {"placement": {"constraints": ["node.role == manager"]}}, id="a-constraint-that-fits"),
    ],
)
def test_what_does_not_concern_containers_restarts_none(
    host: Host, labels: dict[str, str], change: dict[str, object]
) -> None:
    start(host, service("calm", replicas=2, **SLEEP))
    before = running(host, "calm", 2)
    assert (
        "service/calm configured" in apply(host, service("calm", labels, replicas=2, **SLEEP, **change), "-d").ok().out
    )
    assert running(host, "calm", 2) == before
    assert len(tasks(host, "calm")) == 2


def test_a_forced_update_replaces_what_is_unchanged(host: Host) -> None:
    start(host, service("forced", **SLEEP))
    before = running(host, "forced", 1)
    start(host, service("forced", forceUpdate=1, **SLEEP))
    eventually(lambda: running(host, "forced", 1) != before)


def test_deleting_leaves_no_container_no_port_and_no_key(host: Host) -> None:
    host.shoal("apply -f manifests/01-hello.yaml").ok()
    host.shoal("delete service hello").ok()
    before = keys(host)
    apply(host, service("passing", replicas=2, ports=["8102:80", {"published": 8103, "target": 80, "mode": "host"}],
                        placement={"maxReplicasPerNode": 1}), "-d").ok()  # fmt: skip
    running(host, "passing", 1)
    answers(host, "http://127.0.0.1:8102/")
    answers(host, "http://127.0.0.1:8103/")

    assert "service/passing deleted" in host.shoal("delete service passing").ok().out

    eventually(lambda: not containers(host, "passing", "-a"), within=30)
    eventually(lambda: keys(host) == before, within=30)
    for port in (8102, 8103):
        assert host.run("curl", "-sS", "-m", "3", f"http://127.0.0.1:{port}/").code == 7  # connection refused
    start(host, service("heir", ports=["8102:80"]))
    assert "hello from" in answers(host, "http://127.0.0.1:8102/")


def test_a_global_service_has_one_task_on_the_node_and_none_while_that_is_drained(changing_host: Host) -> None:
    host = changing_host
    start(host, service("everywhere", mode="global", **SLEEP))
    running(host, "everywhere", 1)
    (task,) = tasks(host, "everywhere", "running")
    (shown,) = get(host, "nodes")["items"]
    assert task["spec"]["slot"] == shown["metadata"]["uid"]
    assert host.shoal("scale everywhere=2").code == 2

    start(host, node(host, availability="drain"))
    running(host, "everywhere", 0)
    start(host, node(host))
    running(host, "everywhere", 1)


def test_a_task_waits_for_a_node_label_says_so_and_goes_when_the_label_goes(changing_host: Host) -> None:
    host = changing_host
    manifest = service("picky", placement={"constraints": ["node.labels.disk == ssd"]}, **SLEEP)
    reason = "no suitable node (scheduling constraints not satisfied on 1 node)"
    late = apply(host, manifest, "--timeout", "2s")
    assert late.code == 4
    assert reason in late.err
    says(host, "service/picky", "0/1 running, 1 pending", reason)

    start(host, node(host, disk="ssd"))
    running(host, "picky", 1)

    start(host, node(host, disk="slow"))
    running(host, "picky", 0)
    says(host, "service/picky", reason)


@pytest.mark.parametrize(
    "reservations", [pytest.param({"cpus": 1000}, id="cpus"), pytest.param({"memory": "500T"}, id="memory")]
)
def test_what_no_node_has_is_waited_for(host: Host, reservations: dict[str, object]) -> None:
    spec = {"replicas": 2, **SLEEP}
    apply(host, service("greedy", resources={"reservations": reservations}, **spec), "-d").ok()
    says(host, "service/greedy", "2 pending", "no suitable node (insufficient resources on 1 node)")
    start(host, service("greedy", **spec))
    running(host, "greedy", 2)


def test_a_drained_node_s_tasks_stop_and_a_paused_one_keeps_its_own(changing_host: Host) -> None:
    host = changing_host
    start(host, service("moved", **SLEEP))
    before = running(host, "moved", 1)

    apply(host, node(host, availability="pause")).ok()
    host.shoal("scale moved=2 -d").ok()
    says(host, "service/moved", "1/2 running, 1 pending", "no suitable node")
    assert containers(host, "moved") == before

    start(host, node(host, availability="drain"))
    running(host, "moved", 0)
    start(host, node(host))
    running(host, "moved", 2)
