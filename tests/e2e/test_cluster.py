"""Three hosts: joining, where tasks go as hosts are drained, lose their power or their cable, and how hosts leave."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from hack.benchmarks import network
from hack.benchmarks.power import cut_power
from hack.benchmarks.spots import CONNECTIONS, outside
from tests.support.cluster import Cluster
from tests.support.lab import Host, Lab, eventually, remove_folder
from tests.support.onlookers import doubles, watching_engine
from tests.support.user import instant

NINE = """
apiVersion: shoal/v1
kind: Service
metadata: {name: nine}
spec: {image: "shoal/hello:1", replicas: 9, stopGracePeriod: 1s, ports: ["8095:80"]}
"""

WRONG = f"SWMTKN-1-{'0' * 50}-{'0' * 25}"


NINE_SLOTS = [str(slot) for slot in range(1, 10)]


def nine(cluster: Cluster) -> None:
    """Have nine tasks, three on each host."""
    cluster.boss.shoal(["apply", "-f", "-"], stdin=NINE).ok()
    cluster.settle(host31=3, host32=3, host33=3)


def test_three_hosts_are_one_cluster_and_a_service_spreads_over_them(cluster: Cluster) -> None:
    listed = cluster.boss.shoal("node ls").ok().out.splitlines()[1:]
    assert [line.split()[:5] for line in listed] == [
        ["host31", "ready", "active", "manager", "10.99.0.31"],
        ["host32", "ready", "active", "worker", "10.99.0.32"],
        ["host33", "ready", "active", "worker", "10.99.0.33"],
    ]
    nine(cluster)
    assert cluster.slots("nine") == NINE_SLOTS
    assert len(cluster.boss.shoal("node ps host33").ok().out.splitlines()) == 4
    logs = cluster.boss.shoal("logs nine").ok().out
    assert "warning" not in logs


def test_only_managers_hold_what_only_managers_may_hold(cluster: Cluster) -> None:
    held = cluster.two.run("find", "/var/lib/shoal", "-type", "f", "-not", "-path", "*/logs/*").ok().out.split()
    assert sorted(path.removeprefix("/var/lib/shoal/") for path in held if "/agent/" not in path) == [
        "host.json",
        "host.lock",
        "pki/node/ca.crt",
        "pki/node/node.pem",
    ]
    assert [one["name"] for one in cluster.two.status()["processes"]] == ["dns", "nodeagent"]
    stored = cluster.boss.etcdctl("get --prefix /shoal/").ok().out
    secret = cluster.token().rpartition("-")[2]
    assert secret not in stored
    assert "PRIVATE KEY" not in stored
    reached = cluster.two.run("curl", "-sk", "-m", "2", f"https://{cluster.boss.address}:2379/health")
    assert reached.code != 0


def test_pause_drain_and_active(cluster: Cluster) -> None:
    nine(cluster)
    cluster.boss.shoal("node update host33 --availability pause").ok()
    cluster.boss.shoal("scale nine=12").ok()
    assert cluster.running()["host33"] == 3

    cluster.boss.shoal("node update host33 --availability drain").ok()
    cluster.settle(host31=6, host32=6)

    cluster.boss.shoal("node update host33 --availability active").ok()
    cluster.boss.shoal("scale nine=15").ok()
    cluster.settle(host31=6, host32=6, host33=3)


def test_a_power_cut_moves_the_tasks_and_on_return_no_slot_is_doubled(cluster: Cluster) -> None:
    nine(cluster)
    before = {task["metadata"]["uid"]: task for task in cluster.tasks("nine")}
    lost = [task for task in before.values() if task["spec"]["node"]["name"] == "host33"]

    cut_power(cluster, "nine", 9)

    down = cluster.node(cluster.three)["status"]
    assert (down["state"], down["message"]) == ("down", "heartbeat failure")
    new = [task for task in cluster.tasks("nine") if task["metadata"]["uid"] not in before]
    assert sorted(task["spec"]["slot"] for task in new) == sorted(task["spec"]["slot"] for task in lost)
    assert all(instant(task["metadata"]["createdAt"]) >= instant(down["since"]) for task in new)
    assert all(instant(task["spec"]["restartAfter"]) == instant(task["metadata"]["createdAt"]) for task in new)

    cluster.three.on()
    cluster.three.shoal("up").ok()
    eventually(lambda: cluster.nodes()["host33"] == "ready")
    eventually(lambda: cluster.three.docker("ps -q").ok().out == "")
    assert cluster.slots("nine") == NINE_SLOTS


def test_connections_are_shared_out_evenly_and_all_nodes_follow_a_task_that_comes_and_goes(cluster: Cluster) -> None:
    """The benchmark of the network, in small."""
    with network.standing(cluster, tasks=3) as stage:
        vip = f"{stage.vip('many')}:{CONNECTIONS}"
        published = f"{cluster.two.address}:{network.MANY + CONNECTIONS}"
        for client, address in ((stage.client, vip), (outside(cluster.boss.lab), published)):
            came = network.spread(stage, client, address, 300)
            assert sum(came) == 300
            assert max(came) - min(came) <= 2, "rules that are written anew meanwhile begin with the first task again"
        known, forgotten = network.followed(stage, tasks=1)
        assert (len(known), len(forgotten)) == (1, 1)


def test_nothing_moves_when_a_host_pauses_for_two_seconds(cluster: Cluster) -> None:
    nine(cluster)
    before = {task["metadata"]["uid"] for task in cluster.objects("tasks")}
    pid = cluster.three.pid("nodeagent")
    for _ in range(3):
        cluster.three.kill("nodeagent", signal.SIGSTOP)
        time.sleep(2)  # what is tested
        cluster.three.run("kill", "-CONT", str(pid)).ok()
        time.sleep(1)
    assert {task["metadata"]["uid"] for task in cluster.objects("tasks")} == before
    assert set(cluster.nodes().values()) == {"ready"}


def test_a_pulled_cable_leaves_containers_alone_and_on_return_the_replaced_ones_go(cluster: Cluster) -> None:
    nine(cluster)
    with watching_engine(cluster.boss) as one, watching_engine(cluster.two) as other:
        cluster.three.cut()
        eventually(lambda: cluster.running_on("nine", cluster.boss, cluster.two) == 9, within=60)
        assert len(cluster.three.docker("ps -q").ok().out.split()) == 3

        cluster.three.heal()

        eventually(lambda: cluster.nodes()["host33"] == "ready")
        eventually(lambda: cluster.slots("nine") == NINE_SLOTS)
        started = [*one.runs(), *other.runs()]
    assert len(started) == 3
    assert not doubles(started)


def test_a_cable_that_is_back_soon_changes_nothing(cluster: Cluster) -> None:
    nine(cluster)
    before = cluster.three.docker("ps -q --no-trunc").ok().out
    cluster.three.cut()
    time.sleep(3)  # what is tested
    cluster.three.heal()
    eventually(lambda: cluster.three.status()["settled"])
    assert set(cluster.nodes().values()) == {"ready"}
    assert cluster.three.docker("ps -q --no-trunc").ok().out == before


def test_a_host_that_leaves_keeps_nothing_of_the_swarm_and_may_join_again(cluster: Cluster) -> None:
    nine(cluster)
    cluster.two.docker("run -d --name mine shoal/hello:1").ok()
    assert "shoal-mesh" in cluster.two.run("iptables", "-S", "DOCKER-USER").ok().out

    cluster.two.shoal("leave").ok()

    eventually(lambda: cluster.nodes()["host32"] == "down", within=5)
    assert cluster.two.docker(["ps", "--format", "{{.Names}}"]).ok().out.split() == ["mine"]
    assert "shoal" not in cluster.two.docker("network ls").ok().out
    assert "shoal" not in cluster.two.run("iptables", "-S").ok().out + cluster.two.run("nft", "list", "tables").ok().out
    assert cluster.two.run("find", "/var/lib/shoal", "-name", "*.json", "-o", "-name", "*.pem").ok().out == ""
    assert cluster.two.shoal("leave").err == "shoal: this host belongs to no swarm\n"
    eventually(lambda: cluster.slots("nine") == NINE_SLOTS, within=40)
    cluster.boss.shoal("node rm host32").ok()
    cluster.join(cluster.two, "--availability", "pause").ok()
    eventually(lambda: cluster.nodes()["host32"] == "ready")
    assert cluster.running()["host32"] == 0
    cluster.two.docker("rm -f mine").ok()


def test_a_removed_node_stops_and_does_not_come_back(cluster: Cluster) -> None:
    nine(cluster)
    kept = cluster.boss.shoal("node rm host33")
    assert (kept.code, "is not down and cannot be removed" in kept.err) == (2, True)

    cluster.boss.shoal("node rm --force host33").ok()

    eventually(lambda: cluster.three.docker("ps -q").ok().out == "")
    eventually(lambda: cluster.slots("nine") == NINE_SLOTS, within=40)
    told = eventually(lambda: cluster.three.shoal("status").out)
    assert "this node was removed from its cluster" in told
    cluster.three.shoal("down").ok()
    assert cluster.three.shoal("up").code == 1
    assert "host33" not in cluster.nodes()
    cluster.three.shoal("leave").ok()
    cluster.join(cluster.three).ok()


def files(host: Host) -> str:
    found = host.run("find", "/var/lib/shoal", "-not", "-path", "*/logs*", "-type", "f").ok().out
    return "\n".join(sorted(path for path in found.split() if "/agent/" not in path))


@pytest.fixture
def loner(lab: Lab) -> Iterator[Host]:
    """A host with a daemon that belongs to no swarm."""
    host = lab.host(34)
    host.on()
    host.shoal("up").ok()
    yield host
    host.off()
    remove_folder(host.directory)


def test_every_way_of_joining_wrongly_is_a_sentence_and_changes_nothing(cluster: Cluster, loner: Host) -> None:
    good = cluster.token()
    _, _, digest, secret = good.split("-")
    before = files(loner)
    cluster.boss.shoal("token worker --rotate -q").ok()
    new = cluster.token()
    table = [
        ("rotated", {"token": good}, 1, "not valid, or was rotated"),
        ("wrong secret", {"token": f"SWMTKN-1-{digest}-{'0' * 25}"}, 1, "not valid, or was rotated"),
        ("foreign", {"token": f"SWMTKN-1-{'0' * 50}-{secret}"}, 1, "does not match the join token"),
        ("no token", {"token": "hello"}, 2, "this is no join token"),
        ("a manager's", {"token": cluster.token("manager")}, 1, "joining as a manager is not available yet"),
        ("unreachable", {"token": new, "remote": "10.99.0.31:2399"}, 1, "no manager answers at 10.99.0.31:2399"),
        ("silent", {"token": new, "remote": "10.99.0.99"}, 1, "no manager answers at 10.99.0.99:2377"),
        ("no address", {"token": new, "remote": "10.99.0.31:port"}, 2, "expected a manager's HOST:PORT"),
        ("not a manager", {"token": new, "remote": "10.99.0.254:5000"}, 1, "10.99.0.254:5000"),
    ]
    for what, options, code, said in table:
        refused = cluster.join(loner, **options)
        assert (refused.code, said in refused.err, "Traceback" in refused.err) == (code, True, False), (what, refused)
        assert files(loner) == before, what
    taken = cluster.join(loner, "--advertise-addr", "10.99.0.32", token=new)
    assert (taken.code, "host32 of this cluster has the address" in taken.err) == (1, True)
    again = cluster.join(cluster.two, token=new)
    assert (again.code, "already a worker of cluster" in again.err) == (1, True)
    assert files(loner) == before
    assert sorted(cluster.nodes()) == ["host31", "host32", "host33"]


def test_init_with_2377_in_use_or_with_several_addresses_changes_nothing(loner: Host) -> None:
    before = files(loner)
    program = "import socket, time; s = socket.create_server(('', 2377)); print('open', flush=True); time.sleep(600)"
    with loner.start(sys.executable, "-c", program) as listening:
        assert listening.stdout is not None
        assert listening.stdout.readline() == "open\n"
        refused = loner.shoal("init")
        listening.terminate()
    assert refused.code == 1
    assert "port 2377, which the API server needs, is in use" in refused.err
    loner.run("ip", "address", "add", "10.98.0.34/24", "dev", "eth0").ok()
    several = loner.shoal("init")
    assert several.code == 2
    assert "could not choose an IP address to advertise" in several.err
    assert "10.98.0.34 on eth0" in several.err
    assert files(loner) == before


def test_a_root_of_ones_own_short_certificates_and_their_end(lab: Lab, loner: Host) -> None:
    """A manager with a root that the user brings; a worker's certificate is renewed, and ends while it is away."""
    folder = loner.directory / "state"
    loner.run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
        "-subj", "/CN=our root", "-keyout", "/var/lib/shoal/our.key", "-out", "/var/lib/shoal/our.crt",
    ).ok()  # fmt: skip
    wrong = loner.shoal("init --ca-cert /var/lib/shoal/our.key --ca-key /var/lib/shoal/our.key")
    assert (wrong.code, "not one certificate in PEM form" in wrong.err) == (2, True)
    loner.shoal("init --ca-cert /var/lib/shoal/our.crt --ca-key /var/lib/shoal/our.key").ok()
    stored = json.loads(loner.etcdctl("get /shoal/cluster --print-value-only").ok().out)
    assert stored["status"]["caCertificate"].split() == (folder / "our.crt").read_text().split()

    short = {**stored, "spec": {**stored["spec"], "certificateExpiry": "12s"}}
    loner.etcdctl(["put", "/shoal/cluster", json.dumps(short)]).ok()
    worker = lab.host(35)
    worker.on()
    worker.shoal("up").ok()
    try:
        token = loner.shoal("token worker -q").ok().out.strip()
        eventually(lambda: worker.shoal(["join", "--token", token, loner.address]).ok())
        assert expiry(worker) - datetime.now() < timedelta(seconds=13)
        first = expiry(worker)
        eventually(lambda: expiry(worker) > first)
        assert worker.status()["problems"] == []

        worker.shoal("down").ok()
        eventually(lambda: expiry(worker) < datetime.now())
        late = worker.shoal("up", within_s=90)
        assert late.code == 1
        assert "this node's certificate ended on" in late.err
        assert "`shoal leave` here, then join anew" in late.err
        worker.shoal("leave").ok()
        assert worker.status()["identity"] is None
    finally:
        worker.off()
        remove_folder(worker.directory)


def expiry(host: Host) -> datetime:
    """When a host's certificate ends, by this machine's clock."""
    found = host.run("openssl", "x509", "-enddate", "-noout", "-in", "/var/lib/shoal/pki/node/node.pem").ok().out
    ends = datetime.strptime(found.strip().partition("=")[2], "%b %d %H:%M:%S %Y %Z")
    return ends + (datetime.now() - datetime.utcnow())


def test_the_last_manager_leaves_only_by_force_and_may_begin_anew_at_once(loner: Host) -> None:
    loner.shoal("init").ok()
    first = loner.status()["identity"]["cluster"]
    refused = loner.shoal("leave")
    assert (refused.code, "this host is the last manager" in refused.err) == (1, True)
    assert loner.status()["identity"]["cluster"] == first

    loner.shoal("leave --force").ok()
    assert "host.json" not in files(loner)
    loner.shoal("init").ok()

    assert loner.status()["identity"]["cluster"] != first
    assert loner.shoal("node ls -q").ok().out.count("\n") == 1
