"""Three hosts and the ways between them: published ports, whom their tasks see, and what mends itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.e2e.test_ports import ASK, ECHO, STREAM
from tests.support.cluster import Cluster
from tests.support.lab import FABRIC_ADDRESS, Host, Lab, eventually
from tests.support.user import GENEROUS_S, service, shell, start

MENDED_WITHIN_S = 45.0
"""What was deleted by hand is back within 30 s; the rest is for a loaded machine."""

ASK_FROM_4555 = ASK.replace("client.settimeout(3)", 'client.bind(("", 4555)); client.settimeout(0.3)')
"""As ASK, but always from one port, so that connection tracking takes all questions for one flow."""

ECHO_SERVER = f"exec chroot /host {sys.executable} -c '{ECHO}'"
"""The last line of a script in a container with the host's files at /host."""

TELL = f"""
mkdir -p /tmp/www/cgi-bin
printf '#!/bin/sh\\necho; echo "$(hostname) $REMOTE_ADDR"\\n' >/tmp/www/cgi-bin/me
chmod +x /tmp/www/cgi-bin/me
httpd -p 80 -h /tmp/www
{ECHO_SERVER}
"""
"""A web server that tells who answers whom at /cgi-bin/me, and a UDP server that tells each client its address."""


@pytest.fixture
def told(cluster: Cluster) -> Cluster:
    """A service with a task on each host, published on 8140/tcp and 8141/udp."""
    ports = ["8140:80", "8141:53/udp"]
    start(cluster.boss, service("told", mode="global", ports=ports, mounts=["/:/host:ro"], **shell(TELL)))
    cluster.settle("told", **{host.name: 1 for host in cluster.hosts})
    return cluster


def asked(lab: Lab, host: Host, times: int = 9) -> Counter[tuple[str, str]]:
    """Ask a host's port from outside: (who answered, which client it saw) → how often."""
    url = f"http://{host.address}:8140/cgi-bin/me"
    answers = [lab.in_fabric("curl", "-sSf", "-m", "5", url).stdout.split() for _ in range(times)]
    return Counter((name, seen.removeprefix("[::ffff:").removesuffix("]")) for name, seen in answers)


def answers(lab: Lab, host: Host, url: str) -> bool:
    return lab.in_fabric("curl", "-sSf", "-m", "5", url.format(host.address), check=False).returncode == 0


def all_answer(lab: Lab, cluster: Cluster, url: str = "http://{}:8140/cgi-bin/me") -> None:
    """Wait until each host has answered several times in a row, so that every task had its turn."""
    for host in cluster.hosts:
        eventually(lambda host=host: all(answers(lab, host, url) for _ in range(3)), within=GENEROUS_S)  # type: ignore[misc]


def test_a_published_port_answers_on_every_host_and_tasks_see_the_true_client(told: Cluster, lab: Lab) -> None:
    all_answer(lab, told)
    for host in told.hosts:
        found = asked(lab, host)
        assert {seen for _, seen in found} == {FABRIC_ADDRESS}
        assert sorted(found.values()) == [3, 3, 3]
        for _ in range(3):
            assert lab.in_fabric(sys.executable, "-c", ASK, host.address, "8141").stdout.strip() == FABRIC_ADDRESS


def test_a_published_port_answers_over_ipv6_too_and_tasks_see_the_true_client(told: Cluster, lab: Lab) -> None:
    lab.in_fabric("ip", "-6", "address", "replace", "fd99::fe/64", "dev", "fabric", "nodad")
    for host in told.hosts:
        host.run("ip", "-6", "address", "replace", f"fd99::{host.number}/64", "dev", "eth0", "nodad").ok()
    url = "http://[fd99::{}]:8140/cgi-bin/me"
    for host in told.hosts:
        at = url.format(host.number)
        eventually(lambda at=at: lab.in_fabric("curl", "-sSf", "-m", "5", at), within=GENEROUS_S)  # type: ignore[misc]
        said = [lab.in_fabric("curl", "-sSf", "-m", "5", at).stdout.split() for _ in range(6)]
        assert sorted(Counter(name for name, _ in said).values()) == [2, 2, 2]
        assert {seen for _, seen in said} == {"[fd99::fe]"}


def test_hosts_without_a_task_answer_too_and_so_they_do_to_hosts_and_containers(cluster: Cluster, lab: Lab) -> None:
    only = {"placement": {"constraints": [f"node.hostname == {cluster.three.name}"]}}
    start(cluster.boss, service("told", ports=["8140:80"], mounts=["/:/host:ro"], **only, **shell(TELL)))
    cluster.settle("told", **{cluster.three.name: 1})
    all_answer(lab, cluster)
    assert {seen for host in cluster.hosts for _, seen in asked(lab, host, 1)} == {FABRIC_ADDRESS}
    for host in cluster.hosts:
        assert host.curl("http://127.0.0.1:8140/cgi-bin/me")
        assert host.address in host.curl(f"http://{cluster.boss.address}:8140/cgi-bin/me")
    (container,) = cluster.three.docker("ps -q").ok().out.split()
    for host in cluster.hosts:
        cluster.three.docker(["exec", container, "wget", "-q", "-O-", f"http://{host.address}:8140/cgi-bin/me"]).ok()


def devices(host: Host) -> list[str]:
    """The host's tunnels."""
    links = host.run("ip", "-o", "link").ok().out.splitlines()
    return [name for name in (line.split(": ")[1] for line in links) if name.startswith("shx-")]


def wiring(host: Host, name: str) -> list[str]:
    """A tunnel's settings and its entries, sorted."""
    shown = host.run("ip", "-d", "-j", "link", "show", name)
    (link,) = json.loads(shown.out) if shown.code == 0 else ({},)
    settings = [str(link.get(key)) for key in ("mtu", "master", "operstate")]
    settings += [
        str(link.get("linkinfo", {}).get("info_data", {}).get(key)) for key in ("id", "port", "local", "proxy")
    ]
    commands = ("bridge", "fdb", "show", "dev", name), ("ip", "neigh", "show", "dev", name, "nud", "permanent")
    addresses = host.run("ip", "-o", "address", "show", "dev", link.get("master", name), "scope", "global").out
    settings += [line.split()[3] for line in addresses.splitlines()]
    entries = [line.strip() for command in commands for line in host.run(*command).out.splitlines()]
    return sorted([*settings, *(one for one in entries if "02:42:" in one or "00:00:00:00:00:00" in one)])


BY_HAND = (
    "ip neigh flush dev $DEVICE nud permanent",
    "bridge fdb del $FAR dev $DEVICE self; bridge fdb del $FAR dev $DEVICE master",
    "bridge fdb replace $FAR dev $DEVICE dst 10.99.0.99 self permanent",
    "bridge fdb append 00:00:00:00:00:00 dev $DEVICE dst 10.99.0.99",
    "ip neigh add 10.0.0.250 lladdr 02:42:0a:00:00:fa dev $DEVICE nud permanent",
    "ip link set $DEVICE down mtu 1300 nomaster; ip address flush dev $BRIDGE scope global",
    "nft delete table ip shoal; nft delete table bridge shoal; iptables -F DOCKER-USER",
)
"""Entries deleted, changed and added; settings changed; all rules of ours deleted."""


def test_what_was_altered_by_hand_is_mended_and_what_others_made_stays(told: Cluster, lab: Lab) -> None:
    """On one host entries, settings and rules; on another the tunnel; on the third the bridge its container is on."""
    all_answer(lab, told)
    names = {host: devices(host)[0] for host in told.hosts}
    before = {host: wiring(host, names[host]) for host in told.hosts}
    far = next(line.split()[0] for line in before[told.two] if f"dst {told.boss.address}" in line)
    device, bridge = names[told.two], names[told.two].replace("shx-", "shb-")
    told.two.run("ip", "link", "add", "others", "type", "vxlan", "id", "77", "dstport", "4790").ok()
    told.two.run("nft", "add", "table", "ip", "others").ok()
    try:
        told.two.run("bash", "-c", "\n".join(BY_HAND), DEVICE=device, BRIDGE=bridge, FAR=far).ok()
        told.three.run("ip", "link", "delete", device).ok()
        told.boss.run("ip", "link", "delete", bridge).ok()
        for host in told.hosts:
            eventually(lambda host=host: wiring(host, names[host]) == before[host], within=MENDED_WITHIN_S, every=0.5)  # type: ignore[misc]
        all_answer(lab, told)
        assert "table ip others" in told.two.run("nft", "list", "tables").ok().out
    finally:
        told.two.run("ip", "link", "delete", "others").ok()
        told.two.run("nft", "delete", "table", "ip", "others")


def test_a_udp_client_s_flow_follows_the_service_from_host_to_host_and_over_a_gap(cluster: Cluster, lab: Lab) -> None:
    def asked() -> bool:
        command = (sys.executable, "-c", ASK_FROM_4555, cluster.boss.address, "8141")
        return lab.in_fabric(*command, check=False).stdout.strip() == FABRIC_ADDRESS

    for host in (cluster.two, cluster.three):
        only = {"placement": {"constraints": [f"node.hostname == {host.name}"]}}
        start(cluster.boss, service("told", ports=["8141:53/udp"], mounts=["/:/host:ro"], **only, **shell(TELL)))
        eventually(lambda host=host: bool(host.docker("ps -q").ok().out) and asked(), within=GENEROUS_S)  # type: ignore[misc]
    cluster.boss.shoal("scale told=0").ok()
    eventually(lambda: not asked(), within=GENEROUS_S)
    cluster.boss.shoal("scale told=1").ok()
    eventually(asked, within=GENEROUS_S)


@pytest.fixture
def stream(told: Cluster, lab: Lab) -> Iterator[subprocess.Popen[str]]:
    """A client outside that asks the second host all the time, for twelve seconds."""
    all_answer(lab, told)
    url = f"http://{told.two.address}:8140/cgi-bin/me"
    entered = ["nsenter", "-t", str(lab.pid_of("fabric")), "--net", "--", sys.executable, "-c", STREAM, url, "12"]
    client = subprocess.Popen(entered, stdout=subprocess.PIPE, text=True)
    yield client
    client.kill()
    client.communicate()


def test_agents_that_are_killed_and_start_again_interrupt_nothing(told: Cluster, stream: subprocess.Popen[str]) -> None:
    assert stream.stdout is not None
    assert stream.stdout.readline() == "begun\n"
    for host in told.hosts:
        host.kill("nodeagent", signal.SIGKILL)
    for host in told.hosts:
        eventually(lambda host=host: host.pid("nodeagent"), within=GENEROUS_S)  # type: ignore[misc]
    count, _, lost = stream.communicate(timeout=60)[0].partition(" ")
    assert lost.strip() == "[]"
    assert int(count) > 0


def test_a_host_that_leaves_keeps_no_tunnel_and_no_rule(cluster: Cluster) -> None:
    host = cluster.three
    assert devices(host)
    host.shoal("leave").ok()
    assert devices(host) == []
    assert "shb-" not in host.run("ip", "-o", "link").ok().out
    assert "shoal" not in host.run("nft", "list", "tables").ok().out
    assert "shoal-mesh" not in host.run("iptables", "-S").ok().out
