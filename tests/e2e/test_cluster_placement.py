"""Five hosts: where tasks go, what they wait for and what people are told of it, and when nothing moves at all."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cluster import Cluster, forming
from tests.support.lab import Host, Lab, eventually
from tests.support.user import SLEEP, says, service, shell, start

NAMES = ["host31", "host32", "host33", "host34", "host35"]


@pytest.fixture(scope="module")
def formed(lab: Lab) -> Iterator[Cluster]:
    """Hosts 31 to 35, made a cluster once; the engine of host 32 has a label."""
    with forming(lab, 31, 32, 33, 34, 35, engines={32: {"labels": ["disk=ssd"]}}) as found:
        yield found


def label(cluster: Cluster, **labels: str) -> None:
    """Set labels of hosts: `label(cluster, host31="zone=a rack=1")`."""
    for host in cluster.hosts:
        wanted = labels.get(host.name, "").split()
        if wanted:
            cluster.update(host, *(f"--label-add={one}" for one in wanted))


def whole(cluster: Cluster) -> dict[str, Any]:
    """A reservation of all CPUs of a host; all hosts have as many."""
    return {"reservations": {"cpus": cluster.node(cluster.boss)["status"]["description"]["cpus"]}}


def test_constraints_decide_on_which_hosts_tasks_run(cluster: Cluster) -> None:
    """As global services, so that each runs on every host it may run on."""
    label(cluster, host31="zone=a", host33="zone=a", host34="zone=b")
    architecture = cluster.node(cluster.boss)["status"]["description"]["architecture"]
    table: dict[str, tuple[list[str], list[str]]] = {
        "by-role": (["node.role == manager"], ["host31"]),
        "by-name": (["node.hostname != host32", "node.hostname != host33", "node.role==worker"], ["host34", "host35"]),
        "by-id": ([f"node.id == {cluster.node(cluster.three)['metadata']['uid']}"], ["host33"]),
        "by-subnet": (["node.ip == 10.99.0.32/31"], ["host32", "host33"]),
        "by-platform": (
            ["node.platform.os == linux", f"node.platform.arch == {architecture}", "node.ip == 10.99.0.35"],
            ["host35"],
        ),
        "other-platform": (["node.platform.os != linux"], []),
        "by-label": (["node.labels.zone == a"], ["host31", "host33"]),
        "by-no-label": (["node.labels.zone != a", "node.labels.zone != b"], ["host32", "host35"]),
        "by-engine": (["engine.labels.disk == ssd"], ["host32"]),
        "by-two": (["engine.labels.disk != ssd", "node.labels.zone == b"], ["host34"]),
    }
    manifests = [
        service(name, mode="global", placement={"constraints": constraints}, **SLEEP)
        for name, (constraints, _) in table.items()
    ]
    start(cluster.boss, "---\n".join(manifests))

    wanted = {name: dict.fromkeys(hosts, 1) for name, (_, hosts) in table.items()}
    eventually(lambda: {name: dict(cluster.running(name)) for name in table} == wanted, within=90)
    assert cluster.tasks("other-platform") == []


def test_preferences_spread_over_a_tree_of_labels(cluster: Cluster) -> None:
    """Zone a has one host, zone b one in rack 1 and three in rack 2."""
    label(cluster, host31="zone=a", host32="zone=b rack=1")
    label(cluster, **dict.fromkeys(("host33", "host34", "host35"), "zone=b rack=2"))
    preferences = [{"spread": "node.labels.zone"}, {"spread": "node.labels.rack"}]
    start(cluster.boss, service("tree", replicas=12, placement={"preferences": preferences}, **SLEEP))
    cluster.settle("tree", host31=6, host32=3, host33=1, host34=1, host35=1)


def test_reservations_hold_and_the_causes_are_counted_until_something_changes(cluster: Cluster) -> None:
    boss, three = cluster.boss, cluster.three
    at_two = {"constraints": ["node.hostname == host32"]}
    three_workers = {"constraints": ["node.role == worker", "node.hostname != host34"]}
    start(boss, service("full", placement=at_two, resources=whole(cluster), **SLEEP))
    cluster.settle("full", host32=1)
    cluster.update(three, "--availability", "pause")
    cluster.update(cluster.hosts[4], "--availability", "drain")

    start(boss, service("picky", placement=three_workers, resources=whole(cluster), **SLEEP))
    says(
        boss,
        "service/picky",
        "1 × no suitable node (2 nodes not available for new tasks; scheduling constraints not satisfied on 2 nodes; "
        "insufficient resources on 1 node)",
    )
    start(boss, service("each", mode="global", resources=whole(cluster), **SLEEP))
    cluster.settle("each", host31=1, host34=1)
    says(boss, "service/each", "1 × no suitable node (insufficient resources on 1 node)")

    cluster.update(three, "--availability", "active")
    cluster.settle("picky", host33=1)

    boss.shoal("delete service full picky").ok()
    cluster.settle("each", host31=1, host32=1, host33=1, host34=1)


def test_host_ports_and_the_maximum_per_node_allow_one_task_each(cluster: Cluster) -> None:
    boss = cluster.boss
    workers = {"constraints": ["node.role == worker"]}
    port = {"published": 8190, "target": 80, "mode": "host"}
    start(boss, service("ported", replicas=5, ports=[port], placement=workers, **SLEEP))
    start(boss, service("single", replicas=6, placement={"maxReplicasPerNode": 1}, **SLEEP))

    cluster.settle("ported", host32=1, host33=1, host34=1, host35=1)
    cluster.settle("single", host31=1, host32=1, host33=1, host34=1, host35=1)
    says(
        boss,
        "service/ported",
        "1 × no suitable node (host-mode port already in use on 4 nodes; scheduling constraints not satisfied on 1 "
        "node)",
    )
    says(boss, "service/single", "1 × no suitable node (max replicas per node limit exceed on 5 nodes)")


def test_what_no_host_has_is_waited_for_and_said(cluster: Cluster) -> None:
    boss = cluster.boss
    mount = {"type": "volume", "source": "data", "target": "/data", "driver": "no-such-driver"}
    start(boss, service("foreign", placement={"platforms": ["windows/amd64"]}, **SLEEP))
    start(boss, service("driven", mounts=[mount], **SLEEP))
    says(boss, "service/foreign", "1 × no suitable node (unsupported platform on 5 nodes)")
    says(boss, "service/driven", "1 × no suitable node (missing plugin on 5 nodes)")


def test_a_host_on_which_a_service_keeps_failing_is_avoided(cluster: Cluster) -> None:
    where = {"constraints": ["node.labels.tried == yes"]}
    label(cluster, host32="tried=yes", host33="tried=yes")
    script = 'test "$WHERE" != host33 || exit 3; exec sleep 1000000'
    spec = {"env": ["WHERE={{.Node.Hostname}}"], "restart": {"delay": "0s"}, "placement": where, **shell(script)}
    start(cluster.boss, service("unlucky", replicas=2, **spec))

    cluster.settle("unlucky", host32=2)

    assert {
        task["spec"]["node"]["name"] for task in cluster.tasks("unlucky") if task["status"]["state"] == "failed"
    } == {"host33"}


def test_a_changed_label_moves_what_no_longer_fits_and_nothing_else(cluster: Cluster) -> None:
    boss, two, three = cluster.hosts[:3]
    label(cluster, host32="zone=a", host33="zone=b")
    start(boss, service("loose", replicas=5, **SLEEP))
    start(boss, service("bound", replicas=2, placement={"constraints": ["node.labels.zone == a"]}, **SLEEP))
    cluster.settle("bound", host32=2)
    cluster.settle("loose", **dict.fromkeys(NAMES, 1))
    before = {task["metadata"]["uid"] for task in cluster.tasks("loose")}

    cluster.update(two, "--label-add=zone=c")
    cluster.settle("bound")
    cluster.update(three, "--label-add=zone=a")

    cluster.settle("bound", host33=2)
    assert {task["metadata"]["uid"] for task in cluster.tasks("loose")} == before
    evicted = [task for task in cluster.tasks("bound") if task["spec"].get("node", {}).get("name") == "host32"]
    assert Counter(task["spec"]["evicted"] for task in evicted) == {"assigned node no longer meets constraints": 2}


def silent(host: Host) -> set[str]:
    """Uids of nodes that the API server has not heard for a heartbeat period."""
    found = json.loads(host.etcdctl("get --prefix /shoal-live/ -w json").ok().out).get("kvs", [])
    return {uid for item in found for uid in json.loads(base64.b64decode(item["value"])).get("silent", ())}


def test_when_most_hosts_fall_silent_at_once_nothing_moves_until_someone_confirms(cluster: Cluster) -> None:
    boss, two = cluster.hosts[:2]
    lost = cluster.hosts[2:]
    start(boss, service("spread", replicas=5, **SLEEP))
    cluster.settle("spread", **dict.fromkeys(NAMES, 1))
    before = {task["metadata"]["uid"] for task in cluster.tasks("spread")}

    for host in lost:
        host.cut()
    uids = {cluster.node(host)["metadata"]["uid"] for host in lost}
    eventually(lambda: silent(boss) == uids, within=30)
    time.sleep(3)  # without the brake they would be down a second after that
    assert set(cluster.nodes().values()) == {"ready"}
    assert {task["metadata"]["uid"] for task in cluster.tasks("spread")} == before

    cluster.configure(brake="1s")

    eventually(lambda: cluster.running_on("spread", boss, two) == 5, within=60)
    assert [cluster.nodes()[host.name] for host in lost] == ["down"] * 3
