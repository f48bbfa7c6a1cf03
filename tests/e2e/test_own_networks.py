"""Networks of one's own, as people make, use, change and delete them. What crosses hosts: `test_overlays`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.e2e.test_networks import MENDED_WITHIN_S, devices
from tests.support.lab import Host, Output, eventually
from tests.support.user import GENEROUS_S, apply, containers, get, running, says, service, start

NETWORKS = """
apiVersion: shoal/v1
kind: Network
metadata: {name: front}
spec: {attachable: true}
---
apiVersion: shoal/v1
kind: Network
metadata: {name: back}
spec: {internal: true, subnets: [10.77.0.0/24]}
---
apiVersion: shoal/v1
kind: Network
metadata: {name: small}
spec: {subnets: [10.78.0.0/29]}
---
apiVersion: shoal/v1
kind: Network
metadata: {name: twin}
spec: {subnets: [10.77.0.0/25]}
"""

USED = ("ask", "tell", "lone", "bare", "many")


def with_networks(name: str, *networks: str, **spec: object) -> str:
    return service(name, networks=[{"name": one, "aliases": [f"{name}-there"]} for one in networks], **spec)


@pytest.fixture
def host(steady_host: Host) -> Iterator[Host]:
    """A host with the networks front, back (internal) and twin (which overlaps back)."""
    apply(steady_host, NETWORKS).ok()
    yield steady_host
    steady_host.shoal(["delete", "service", *USED, "--ignore-not-found"]).ok()
    steady_host.shoal("delete network front back small twin --ignore-not-found").ok()
    eventually(lambda: on_engine(steady_host) <= {"ingress"}, within=GENEROUS_S)


def on_engine(host: Host) -> set[str]:
    """Which of Shoal's networks the engine has."""
    names = host.docker("network ls -f label=shoal.managed --format {{.Name}}").ok().out
    return {
        name
        for name in ("ingress", "front", "back", "small", "twin", "lan")
        if f"shoal-{name}" in names or f"shoal-net-{name}." in names
    }


def vips(host: Host, name: str) -> dict[str, str]:
    """A service's virtual IPs by network."""
    networks = get(host, f"services/{name}")["status"].get("endpoint", {}).get("networks", [])
    return {one["network"]["name"]: one["vip"].partition("/")[0] for one in networks if one.get("vip")}


def inside(host: Host, name: str, url: str) -> Output:
    """Ask a URL from a service's container, for five seconds at most."""
    return host.docker(["exec", containers(host, name)[0], "timeout", "5", "wget", "-qO-", url])


def free(host: Host, name: str) -> int:
    return int(get(host, f"networks/{name}")["status"]["addresses"]["free"])


def test_networks_are_joined_and_left_by_update_and_virtual_ips_stay(host: Host) -> None:
    apply(host, f"{with_networks('tell', 'front')}---\n{with_networks('ask', 'front', 'back', replicas=2)}").ok()
    first = vips(host, "ask")
    assert set(first) == {"front", "back"}
    eventually(lambda: inside(host, "ask", f"http://{vips(host, 'tell')['front']}/").ok())
    assert free(host, "back") == 253 - 1 - 2 - 1, "a virtual IP, two tasks, the node"
    apply(host, with_networks("tell", "back")).ok()
    eventually(lambda: set(vips(host, "tell")) == {"back"}, within=GENEROUS_S)
    eventually(lambda: inside(host, "ask", f"http://{vips(host, 'tell')['back']}/").ok())
    apply(host, with_networks("ask", "front", "back", replicas=3)).ok()
    assert vips(host, "ask") == first
    says(host, "network/back", "1 node", "2 services", "4 tasks", first["back"], "ask-there")


def test_networks_whose_subnets_overlap_are_kept_apart_and_it_is_said(host: Host) -> None:
    start(host, with_networks("ask", "back"))
    running(host, "ask", 1)
    start(host, with_networks("lone", "twin"))
    says(host, "service/lone", "a network with an overlapping subnet in use on 1 node")
    host.shoal("delete service ask").ok()
    running(host, "lone", 1)


def test_a_full_network_is_told_on_the_service_and_served_once_there_is_room(host: Host) -> None:
    start(host, with_networks("many", "small", replicas=4))
    says(host, "service/many", "network small has no free address")
    says(host, "network/small", "0 of 5 free", "1 node", "3 tasks")
    assert re.search(r"^small +overlay +10.78.0.0/29 +0 ", host.shoal("get networks").ok().out, re.MULTILINE)
    host.shoal("scale many=2").ok()
    running(host, "many", 2)
    eventually(lambda: free(host, "small") == 5 - 1 - 2 - 1, within=GENEROUS_S)  # a virtual IP, two tasks, the node


def test_driver_options_of_an_attachment_reach_the_engine(host: Host) -> None:
    on = [
        {"name": "front", "driverOpts": {"org.example.hint": "1"}},
        {"name": "back", "driverOpts": {"org.example.hint": "2"}},
    ]
    start(host, service("ask", networks=on))
    (found,) = running(host, "ask", 1)
    told = json.loads(host.docker(["inspect", "-f", "{{json .NetworkSettings.Networks}}", found]).ok().out)
    hints = {name.split(".")[0]: one["DriverOpts"] for name, one in told.items()}
    assert hints == {
        "shoal-net-front": {"org.example.hint": "1"}, "shoal-net-back": {"org.example.hint": "2"},
    }  # fmt: skip


def test_a_network_in_use_stays_and_one_of_nobody_s_leaves_nothing(host: Host) -> None:
    apply(host, with_networks("ask", "front")).ok()
    refused = host.shoal("delete network front")
    assert (refused.code, "network 'front' is in use by service ask" in refused.err) == (2, True)
    host.shoal("delete service ask").ok()
    host.shoal("delete network front").ok()
    eventually(lambda: "front" not in on_engine(host), within=GENEROUS_S)
    assert host.etcdctl("get --prefix --keys-only /shoal/addresses/front").ok().out.strip() == ""


def test_a_service_on_the_host_s_own_network_is_on_no_other(host: Host) -> None:
    start(host, service("bare", networks=["host"], env=["PORT=8093"]))
    running(host, "bare", 1)
    assert "hello from" in eventually(lambda: host.curl("http://127.0.0.1:8093/"))
    refused = apply(host, service("lone", networks=["host"], ports=["8094:80"]))
    assert (refused.code, "is not on the mesh" in refused.err) == (2, True)


def test_a_node_local_network_is_made_from_the_node_s_configuration_and_the_mesh_works_beside_it(host: Host) -> None:
    lan = "apiVersion: shoal/v1\nkind: Network\nmetadata: {name: lan}\nspec: {driver: bridge, configFrom: lan-here}\n"
    use = [{"name": "lan", "aliases": ["neighbour"]}]
    host.docker("network rm lan-here")
    start(host, f"{lan}---\n{service('ask', networks=use, replicas=2, ports=['8096:80'], restart={'delay': '1s'})}")
    says(host, "service/ask", "network lan cannot be made on this node: this node has no network lan-here")
    host.docker("network create --config-only --subnet 10.79.0.0/24 lan-here").ok()
    running(host, "ask", 2)
    address = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    assert "10.79.0." in host.docker(["inspect", "-f", address, containers(host, "ask")[0]]).ok().out
    eventually(lambda: inside(host, "ask", "http://neighbour/").ok())
    eventually(lambda: "hello from" in host.curl("http://127.0.0.1:8096/"), within=GENEROUS_S)
    says(host, "network/lan", "lan-here", "1 service", "2 tasks", "neighbour")
    host.shoal("delete service ask").ok()
    host.shoal("delete network lan").ok()
    eventually(lambda: "lan" not in on_engine(host), within=GENEROUS_S)
    host.docker("network rm lan-here").ok()


def test_a_network_that_is_deleted_on_the_engine_by_hand_is_back(host: Host) -> None:
    eventually(lambda: "ingress" in on_engine(host), within=GENEROUS_S)
    host.docker("network rm shoal-ingress").ok()
    eventually(lambda: "ingress" in on_engine(host) and devices(host), within=MENDED_WITHIN_S, every=0.5)


def test_the_mesh_s_network_is_made_anew_with_options(host: Host) -> None:
    apply(host, service("tell", ports=["8095:80"])).ok()
    assert "in use by service tell" in host.shoal("delete network ingress").err
    host.shoal("delete service tell").ok()
    host.shoal("delete network ingress").ok()
    assert "no ingress network is present" in apply(host, service("tell", ports=["8095:80"])).err
    anew = "apiVersion: shoal/v1\nkind: Network\nmetadata: {name: ingress}\nspec: {ingress: true, mtu: 1400}\n"
    apply(host, anew).ok()
    apply(host, service("tell", ports=["8095:80"])).ok()
    eventually(lambda: "hello from" in host.curl("http://127.0.0.1:8095/"), within=GENEROUS_S)
