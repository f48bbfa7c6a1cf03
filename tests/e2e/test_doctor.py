"""`shoal doctor network` on three hosts: whatever is broken between them is named in a sentence."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.e2e.test_networks import all_answer
from tests.e2e.test_overlays import addresses, network
from tests.support.cluster import Cluster, forming
from tests.support.lab import Lab, Output, eventually
from tests.support.user import GENEROUS_S, service, start

BLOCKED = "table ip blocked { chain in { type filter hook input priority 0; udp dport 4789 drop; }; }"


@pytest.fixture(scope="module")
def formed(lab: Lab) -> Iterator[Cluster]:
    """Three hosts, the last one without IPv6, and a published service with a task on each on the network front."""
    lab.host(63).on()
    lab.host(63).run("sysctl", "-qw", *(f"net.ipv6.conf.{which}.disable_ipv6=1" for which in ("all", "default"))).ok()
    with forming(lab, 61, 62, 63) as cluster:
        web = service("web", networks=["front"], ports=["8145:80"], mode="global")
        start(cluster.boss, f"{network('front')}---\n{web}")
        cluster.settle("web", **{host.name: 1 for host in cluster.hosts})
        eventually(lambda: len(addresses(cluster, "web", "front")) == 3)
        yield cluster


@pytest.fixture
def cluster(formed: Cluster, request: pytest.FixtureRequest) -> Cluster:
    request.node.lab_hosts = formed.hosts
    is_well(formed)
    return formed


def look(cluster: Cluster) -> Output:
    return cluster.boss.shoal("doctor network")


def is_well(cluster: Cluster) -> None:
    eventually(lambda: look(cluster).ok(), within=GENEROUS_S)


def becomes(cluster: Cluster, *words: str) -> None:
    """Wait until one sentence is all there is to say, and has these words."""

    def said() -> bool:
        found = look(cluster)
        assert found.code == 1, found
        (sentence,) = found.out.splitlines()
        assert all(word in sentence for word in words), sentence
        return True

    eventually(said, within=GENEROUS_S)


def test_a_network_in_order_is_summed_up(cluster: Cluster) -> None:
    assert "3 nodes on 2 networks (front, ingress): all reach each other" in look(cluster).out
    assert "on 1 network (front)" in cluster.boss.shoal("doctor network front").ok().out
    assert "not found" in cluster.boss.shoal("doctor network nowhere").err


def test_a_host_without_ipv6_among_others_leaves_ipv4_as_it_is(cluster: Cluster, lab: Lab) -> None:
    all_answer(lab, cluster, "http://{}:8145/")


def test_a_blocked_tunnel_is_named_with_its_port(cluster: Cluster) -> None:
    cluster.two.run("nft", "-f", "-", stdin=BLOCKED).ok()
    try:
        becomes(cluster, cluster.two.name, cluster.boss.name, cluster.three.name, "UDP port 4789")
    finally:
        cluster.two.run("nft", "delete", "table", "ip", "blocked").ok()


def test_packets_too_large_for_the_way_are_named_with_the_size_that_passes(cluster: Cluster) -> None:
    cluster.three.narrow(1400)
    try:
        found = eventually(lambda: (one := look(cluster)).code == 1 and one)
        assert isinstance(found, Output)
        lines = found.out.splitlines()
        assert len(lines) == 2
        assert all(cluster.three.name in line and "packets of 1450 bytes are lost" in line for line in lines)
        assert all("mtu: 1350" in line for line in lines)
    finally:
        cluster.three.narrow(1500)


def test_a_name_service_that_answers_no_more_is_named(cluster: Cluster) -> None:
    cluster.two.kill("dns", signal.SIGSTOP)
    try:
        becomes(cluster, f"The name service of {cluster.two.name} does not answer on network front")
    finally:
        cluster.two.kill("dns", signal.SIGCONT)


def test_a_host_that_is_cut_off_is_named_once(cluster: Cluster) -> None:
    cluster.three.cut()
    try:
        becomes(cluster, f"{cluster.three.name} is down", f"No other node reaches it at {cluster.three.address}")
    finally:
        cluster.three.heal()
    is_well(cluster)
