"""Three hosts and the names their containers ask for: each other's, from host to host, and the world's."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.test_overlays import addresses, ask, container, network, vip
from tests.support.cluster import Cluster, forming
from tests.support.lab import Host, Lab, eventually
from tests.support.user import GENEROUS_S, SLEEP, service, start, tasks

RESOLVER = """
import socket, sys
from dnslib import A, DNSRecord, QTYPE, RR
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    query, peer = sock.recvfrom(4096)
    reply = DNSRecord.parse(query).reply()
    if reply.q.qtype == QTYPE.A:
        reply.add_answer(RR(reply.q.qname, QTYPE.A, rdata=A(sys.argv[2]), ttl=1))
    sock.sendto(reply.pack(), peer)
"""
"""A resolver that knows every name in the world: all lead to its second argument."""

AT_ONCE = {"parallelism": 0, "monitor": "0s"}
NEVER_HEALTHY = {"test": ["CMD", "false"], "interval": "1s", "startPeriod": "10m", "retries": 1000}


@pytest.fixture(scope="module")
def formed(lab: Lab) -> Iterator[Cluster]:
    """Three hosts, two networks, and on each host a task of each service.

    `web` is on front, as www, too; `both` on front and on back; `inner` on back, which is internal, alone.
    """
    with forming(lab, 51, 52, 53) as cluster:
        start(cluster.boss, f"{network('front')}---\n{network('back', internal=True)}")
        front = {"name": "front", "aliases": ["www"]}
        start(cluster.boss, service("web", networks=[front], mode="global", hostname="site-{{.Node.Hostname}}"))
        start(cluster.boss, service("both", networks=["front", "back"], ports=["8143:80"], mode="global"))
        start(cluster.boss, service("inner", networks=["back"], mode="global", **SLEEP))
        for name in ("web", "both", "inner"):
            cluster.settle(name, **{host.name: 1 for host in cluster.hosts})
            eventually(lambda name=name: len(addresses(cluster, name, "back" if name == "inner" else "front")) == 3)
        yield cluster


@pytest.fixture
def cluster(formed: Cluster, request: pytest.FixtureRequest) -> Cluster:
    request.node.lab_hosts = formed.hosts
    return formed


def look_up(host: Host, client: str, name: str) -> list[str]:
    """What a name leads to in a service's container on a host: addresses, or the names of an address."""
    said = host.docker(["exec", container(host, client), "nslookup", name]).out
    _, _, answer = said.partition("\n\n")
    return sorted(
        {*re.findall(r"^Address(?: \d+)?:\s+(\S+)", answer, re.MULTILINE), *re.findall(r"name = (\S+)", answer)}
    )


def becomes(host: Host, client: str, name: str, expected: list[str]) -> None:
    """Wait until a name leads there."""
    eventually(lambda: look_up(host, client, name) == expected, within=GENEROUS_S)


def test_services_tasks_aliases_and_addresses_are_found_from_each_host_in_any_case(cluster: Cluster) -> None:
    web, both, inner = vip(cluster, "web", "front"), vip(cluster, "both", "back"), vip(cluster, "inner", "back")
    everybody = sorted(addresses(cluster, "web", "front"))
    for host in cluster.hosts:
        for name in ("web", "WEB", "web.front", "Web.Front", "www", "www.front"):
            becomes(host, "both", name, [web])
        for name in ("tasks.web", "tasks.web.front", "tasks.www", "all.web"):
            becomes(host, "both", name, everybody)
        becomes(host, "both", "inner", [inner])
        becomes(host, "inner", "both", [both])
        becomes(host, "both", web, ["web.front"])
        assert "hello" in ask(host, "both", "http://web/").ok().out
    for task in tasks(cluster.boss, "web", "running"):
        name, (address, *_) = task["metadata"]["name"], task["spec"]["addresses"]
        for host in cluster.hosts:
            becomes(host, "both", name, [address["address"].partition("/")[0]])
            becomes(host, "both", f"site-{task['spec']['node']['name']}", [address["address"].partition("/")[0]])


def test_names_of_other_networks_are_unknown(cluster: Cluster) -> None:
    for host in cluster.hosts:
        assert (
            look_up(host, "inner", "web") == look_up(host, "inner", "web.front") == look_up(host, "web", "inner") == []
        )


def test_without_a_virtual_ip_a_name_leads_to_all_that_are_ready_and_switching_is_seen(cluster: Cluster) -> None:
    """Switching replaces the tasks, as in Swarm."""

    def apply(mode: str) -> None:
        start(cluster.boss, service("turns", networks=["front"], replicas=3, endpoint=mode, update=AT_ONCE))

    def leads_to_all() -> None:
        def holds(host: Host) -> bool:
            ready = sorted(addresses(cluster, "turns", "front"))
            return len(ready) == 3 and look_up(host, "both", "turns") == ready

        for host in cluster.hosts:
            eventually(lambda host=host: holds(host), within=GENEROUS_S)  # type: ignore[misc]

    apply("dnsrr")
    leads_to_all()
    apply("vip")
    address = eventually(lambda: vip(cluster, "turns", "front"), within=GENEROUS_S)
    for host in cluster.hosts:
        becomes(host, "both", "turns", [str(address)])
    apply("dnsrr")
    leads_to_all()
    cluster.boss.shoal("delete service turns").ok()
    for host in cluster.hosts:
        becomes(host, "both", "turns", [])


def test_who_is_not_healthy_yet_is_found_among_all_and_nowhere_else(cluster: Cluster) -> None:
    start(cluster.boss, service("peers", networks=["front"], replicas=2, healthcheck=NEVER_HEALTHY, **SLEEP))

    def known() -> list[str]:
        found = tasks(cluster.boss, "peers", "starting")
        return sorted(task["spec"]["addresses"][0]["address"].partition("/")[0] for task in found)

    both = eventually(lambda: len(one := known()) == 2 and one, within=GENEROUS_S)
    assert isinstance(both, list)
    for host in cluster.hosts:
        becomes(host, "both", "all.peers", both)
        assert look_up(host, "both", "tasks.peers") == []
    cluster.boss.shoal("delete service peers").ok()


def test_foreign_names_are_the_hosts_or_the_tasks_own_resolvers_and_internal_networks_have_none(
    cluster: Cluster,
) -> None:
    host = cluster.two
    resolvers = [
        host.start(sys.executable, "-c", RESOLVER, *arguments)
        for arguments in (("127.0.0.1", "192.0.2.7"), (host.address, "192.0.2.99"))
    ]
    try:
        for one in resolvers:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        own = {"placement": {"constraints": [f"node.hostname == {host.name}"]}, "dns": {"nameservers": [host.address]}}
        start(cluster.boss, service("own", networks=["front"], **own, **SLEEP))
        cluster.settle("own", **{host.name: 1})
        becomes(host, "both", "www.example.org", ["192.0.2.7"])
        becomes(host, "own", "www.example.org", ["192.0.2.99"])
        becomes(host, "own", "web", [vip(cluster, "web", "front")])
        assert look_up(host, "inner", "www.example.org") == []
    finally:
        for one in resolvers:
            one.kill()
            one.communicate()
        cluster.boss.shoal("delete service own --ignore-not-found").ok()


def test_names_are_answered_while_managers_and_agents_are_away_and_again_after_a_kill(cluster: Cluster) -> None:
    web = vip(cluster, "web", "front")
    host = cluster.two
    cluster.boss.kill("apiserver", signal.SIGSTOP)
    host.kill("nodeagent", signal.SIGSTOP)
    try:
        assert look_up(host, "both", "web") == [web]
        killed = host.kill("dns")
        eventually(lambda: host.pid("dns") not in (0, killed))
        becomes(host, "both", "web", [web])
    finally:
        cluster.boss.kill("apiserver", signal.SIGCONT)
        host.kill("nodeagent", signal.SIGCONT)
