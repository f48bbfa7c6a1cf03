"""Three hosts and the networks that people make on them: who reaches whom, virtual IPs, the way out, what is left."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import yaml

from tests.e2e.test_networks import ECHO_SERVER, all_answer, answers, devices, wiring
from tests.e2e.test_ports import ASK
from tests.support.cluster import Cluster, data_path, forming
from tests.support.lab import FABRIC_ADDRESS, Host, Lab, Output, eventually
from tests.support.user import GENEROUS_S, SLEEP, get, service, shell, start

WEB = """
mkdir -p /tmp/www
hostname >/tmp/www/index.html
head -c 300000 /dev/zero >/tmp/www/large
httpd -p 80 -h /tmp/www
"""
"""A web server that tells its name, and has a file of many packets; then a UDP server that tells its clients'."""

NETWORKING = (
    "--default-addr-pool", "172.30.0.0/16", "--default-addr-pool", "10.44.0.0/16",
    "--default-addr-pool-mask-length", "25", "--data-path-port", "7789",
)  # fmt: skip

OUTSIDE = f"http://{FABRIC_ADDRESS}:5000/v2/"
"""What answers beyond the cluster: the laboratory's registry."""


def network(name: str, **spec: Any) -> str:
    return yaml.safe_dump({"apiVersion": "shoal/v1", "kind": "Network", "metadata": {"name": name}, "spec": spec})


def container(host: Host, name: str) -> str:
    """The id of a service's one container on a host."""
    found = host.docker(["ps", "-q", "--filter", f"label=com.docker.swarm.service.name={name}"])
    return found.ok().out.split()[0]


def ask(host: Host, name: str, url: str) -> Output:
    """Ask a URL from within a service's container on a host."""
    command = f"timeout 4 wget -q -O- {url}"
    return host.docker(["exec", container(host, name), "sh", "-c", command])


def vip(cluster: Cluster, name: str, on: str) -> str:
    spec = get(cluster.boss, f"services/{name}")["status"]["endpoint"]
    found = {one["network"]["name"]: one["vip"] for one in spec["networks"]}
    return str(found[on]).partition("/")[0]


def addresses(cluster: Cluster, name: str, on: str) -> list[str]:
    """The addresses of a service's ready tasks on a network."""
    backends = get(cluster.boss, "backends")["items"]
    return [
        address["address"].partition("/")[0]
        for backend in backends
        if backend["spec"]["service"]["name"] == name and backend["status"]["ready"]
        for address in backend["spec"]["addresses"]
        if address["network"]["name"] == on
    ]


@pytest.fixture(scope="module")
def formed(lab: Lab) -> Iterator[Cluster]:
    """Three hosts with two networks and a service on each, all of them with a task on each host.

    `web` is on front; `both` on front and on back, published; `inner` on back, which is internal, alone.
    """
    with forming(lab, 41, 42, 43, init=NETWORKING, has_data_path=True) as cluster:
        everywhere = {"mode": "global", "mounts": ["/:/host:ro"]}
        start(cluster.boss, f"{network('front')}---\n{network('back', internal=True)}")
        start(cluster.boss, service("web", networks=["front"], **everywhere, **shell(WEB + ECHO_SERVER)))
        ports = ["8142:80"]
        start(cluster.boss, service("both", networks=["front", "back"], ports=ports, mode="global"))
        start(cluster.boss, service("inner", networks=["back"], mode="global", **SLEEP))
        for name in ("web", "both", "inner"):
            cluster.settle(name, **{host.name: 1 for host in cluster.hosts})
        yield cluster


@pytest.fixture
def cluster(formed: Cluster, request: pytest.FixtureRequest) -> Cluster:
    request.node.lab_hosts = formed.hosts
    return formed


def test_overlays_are_made_from_the_pools_and_their_traffic_goes_where_init_and_join_said(cluster: Cluster) -> None:
    found = {name: get(cluster.boss, f"networks/{name}")["status"]["subnets"] for name in ("ingress", "front", "back")}
    assert [one["subnet"] for name in ("ingress", "front", "back") for one in found[name]] == [
        f"172.30.{subnet}/25" for subnet in ("0.0", "0.128", "1.0")
    ]
    for host in cluster.hosts:
        for name in devices(host):
            settings = wiring(host, name)
            assert {"7789", data_path(host)} <= set(settings)
            others = {data_path(other) for other in cluster.hosts if other is not host}
            assert {line.split(" dst ")[1].split()[0] for line in settings if " dst " in line} == others


def test_tasks_of_one_network_reach_each_other_from_host_to_host_also_with_large_packets(cluster: Cluster) -> None:
    found = eventually(lambda: len(one := addresses(cluster, "web", "front")) == 3 and one)
    assert isinstance(found, list)
    for host, address in product(cluster.hosts, found):
        large = eventually(lambda host=host, address=address: ask(host, "both", f"http://{address}/large").ok().out)
        assert len(large) == 300000


def six(host: Host, ask_once: Callable[[], str]) -> Counter[str]:
    """Ask six times in a row, and count who answered; ask again if the host's rules were written anew meanwhile.

    The turns begin anew with the rules, which an agent writes with every change, and every twenty seconds at least.
    """

    def rules() -> str:
        return host.run("nft", "-a", "list", "table", "ip", "shoal").ok().out

    def asked() -> Counter[str]:
        before = rules()
        found = Counter(ask_once() for _ in range(6))
        assert rules() == before, "the rules were written anew meanwhile"
        return found

    found = eventually(asked, within=GENEROUS_S)
    assert isinstance(found, Counter)
    return found


def test_a_virtual_ip_reaches_every_task_in_turn_from_each_host_and_from_its_own_tasks(cluster: Cluster) -> None:
    address = vip(cluster, "web", "front")
    for host, client in product(cluster.hosts, ("both", "web")):
        eventually(lambda host=host, client=client: ask(host, client, f"http://{address}/").ok())
        told = six(host, lambda host=host, client=client: ask(host, client, f"http://{address}/").ok().out)
        assert sorted(told.values()) == [2, 2, 2], (host.name, client)


def test_a_virtual_ip_carries_udp_and_tasks_see_their_client(cluster: Cluster) -> None:
    """A client that is its own backend is seen as its host's bridge."""
    address, clients = vip(cluster, "web", "front"), addresses(cluster, "web", "front")
    ask_udp = ["chroot", "/host", sys.executable, "-c", ASK, address, "53"]
    for host in cluster.hosts:
        exec_ = ["exec", container(host, "web"), *ask_udp]
        eventually(lambda exec_=exec_, host=host: host.docker(exec_).ok().out)
        told = six(host, lambda exec_=exec_, host=host: host.docker(exec_).ok().out.strip())
        assert sorted(told.values()) == [2, 4]
        assert max(told, key=lambda seen: told[seen]) in clients


def test_other_networks_are_out_of_reach_and_internal_ones_have_no_way_out(cluster: Cluster) -> None:
    inside = addresses(cluster, "both", "back")
    outside = [*addresses(cluster, "web", "front"), vip(cluster, "web", "front")]
    host = cluster.two
    for address in inside:
        assert "hello" in ask(host, "inner", f"http://{address}/").ok().out
        assert ask(host, "web", f"http://{address}/").code != 0
    for address in outside:
        assert ask(host, "inner", f"http://{address}/").code != 0
    assert ask(host, "web", OUTSIDE).ok().out
    assert ask(host, "both", OUTSIDE).ok().out
    assert ask(host, "inner", OUTSIDE).code != 0


def test_a_service_on_several_networks_answers_on_its_published_port_everywhere(cluster: Cluster, lab: Lab) -> None:
    all_answer(lab, cluster, "http://{}:8142/")


def test_a_network_is_where_its_tasks_are_and_goes_with_the_last_of_them(cluster: Cluster) -> None:
    only = {"placement": {"constraints": [f"node.hostname == {cluster.two.name}"]}}
    start(cluster.boss, f"{network('brief')}---\n{service('brief', networks=['brief'], **only, **SLEEP)}")
    cluster.settle("brief", **{cluster.two.name: 1})
    there = [named(host) for host in cluster.hosts]
    assert there == [False, True, False]
    tunnels = devices(cluster.two)

    cluster.boss.shoal("delete service brief").ok()

    eventually(lambda: not named(cluster.two), within=GENEROUS_S)
    eventually(lambda: len(devices(cluster.two)) == len(tunnels) - 1)
    cluster.boss.shoal("delete network brief").ok()


def named(host: Host) -> bool:
    """Has the host a Docker network for `brief`?"""
    return "shoal-net-brief." in host.docker("network ls").ok().out


def test_a_task_that_is_stopped_is_asked_no_more_and_its_address_goes(cluster: Cluster, lab: Lab) -> None:
    address = vip(cluster, "web", "front")
    cluster.boss.shoal(["node", "update", cluster.three.name, "--availability", "drain"]).ok()
    try:
        names = [host.name for host in cluster.hosts[:2]]
        cluster.settle("web", **dict.fromkeys(names, 1))
        for host in cluster.hosts[:2]:
            told = Counter(ask(host, "both", f"http://{address}/").ok().out for _ in range(4))
            assert sorted(told.values()) == [2, 2]
        assert all(answers(lab, host, "http://{}:8142/") for host in cluster.hosts)
    finally:
        cluster.boss.shoal(["node", "update", cluster.three.name, "--availability", "active"]).ok()
    cluster.settle("web", **{host.name: 1 for host in cluster.hosts})
