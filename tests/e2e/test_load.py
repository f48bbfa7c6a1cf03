"""Updates in a row while clients ask without a pause, from outside and within: no request is lost."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.test_overlays import container, network, vip
from tests.support.cluster import Cluster, forming
from tests.support.lab import FABRIC_ADDRESS, Lab, eventually
from tests.support.load import SAME_PORT, Way, in_container, in_fabric, serving, under_load
from tests.support.user import SLEEP, apply, service, start

PORT = 8151
RATE = 200
"""Requests a second by each of port, virtual IP and name: half on connections of their own, half on kept ones."""

REQUESTS = 20_000

LONG_ENOUGH_S = 1.15 * REQUESTS / RATE
"""Clients on a busy machine fall behind a little."""


CASES: dict[str, dict[str, Any]] = {
    "a single replica, start-first": {"replicas": 1, "order": "start-first"},
    "start-first": {"replicas": 3, "order": "start-first"},
    "stop-first": {"replicas": 3, "order": "stop-first"},
    "start-first, by addresses": {"replicas": 2, "order": "start-first", "mode": "dnsrr"},
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """With --full all cases, otherwise the seed chooses one."""
    option = metafunc.config.option
    names = list(CASES) if option.full else [random.Random(option.seed).choice(list(CASES))]
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", names)


@pytest.fixture(scope="module")
def formed(lab: Lab) -> Iterator[Cluster]:
    """Three hosts, on each of them a container that clients can ask from."""
    with forming(lab, 61, 62, 63) as cluster:
        start(cluster.boss, f"{network('front')}---\n{service('asking', networks=['front'], mode='global', **SLEEP)}")
        cluster.settle("asking", **{host.name: 1 for host in cluster.hosts})
        yield cluster


@pytest.fixture
def cluster(formed: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    request.node.lab_hosts = formed.hosts
    yield formed
    formed.boss.shoal("delete service asked").ok()


def ways(lab: Lab, cluster: Cluster, mode: str) -> dict[str, Way]:
    """By the published port of every node, from outside; by virtual IP and by name, from a container on every node.

    With `dnsrr` there is but the name, which leads to the tasks themselves.
    """
    inside = [(host, in_container(host, container(host, "asking"))) for host in cluster.hosts]
    rate = RATE / 2 / len(inside)
    by_name = {f"name on {host.name}": Way(enter, [("asked", 80)], rate) for host, enter in inside}
    if mode == "dnsrr":
        return by_name
    address = vip(cluster, "asked", "front")
    return {
        "mesh": Way(in_fabric(lab), [(host.address, PORT) for host in cluster.hosts], rate),
        **{f"vip on {host.name}": Way(enter, [(address, 80)], rate) for host, enter in inside},
        **by_name,
    }


def test_updates_in_a_row_lose_no_request(lab: Lab, cluster: Cluster, name: str, full: bool) -> None:
    """With --full ten updates, and 20,000 requests of each way; otherwise two updates."""
    number = 0
    apply(cluster.boss, asked(CASES[name], number)).ok()
    with under_load(lab, ways(lab, cluster, CASES[name].get("mode", "vip"))) as heard:
        began = time.monotonic()
        while number < (10 if full else 2) or (full and time.monotonic() - began < LONG_ENOUGH_S):
            number += 1
            apply(cluster.boss, asked(CASES[name], number)).ok()
    print(f"{number} updates in {time.monotonic() - began:.0f} s; told, on kept connections, of these were opened:")
    for way, one in heard.items():
        print(f"{way}: {one.told}, {one.kept}, {one.opened}")
    for way, one in heard.items():
        assert one.lost == [], way
        assert one.told > 0
        assert one.kept > 2 * one.opened, "connections are kept"
    if full:
        for way in {known.partition(" ")[0] for known in heard}:
            assert sum(one.told for known, one in heard.items() if known.startswith(way)) >= REQUESTS, way


def test_a_client_may_ask_several_nodes_from_one_port_of_its_own(cluster: Cluster, lab: Lab) -> None:
    """With a single task, all of them lead to the same: to it, the connections must differ."""
    apply(cluster.boss, asked(CASES["a single replica, start-first"], 0)).ok()
    hosts = [host.address for host in cluster.hosts]
    eventually(lambda: all(lab.in_fabric("curl", "-sSf", f"http://{host}:{PORT}/").stdout == "ok" for host in hosts))
    answered = lab.in_fabric(sys.executable, "-c", SAME_PORT, FABRIC_ADDRESS, str(PORT), *hosts)
    assert answered.stdout.split() == ["200"] * 6


def asked(case: dict[str, Any], number: int) -> str:
    """The manifest of the service that is asked; each number makes new tasks."""
    mode = case.get("mode", "vip")
    return service(
        "asked", replicas=case["replicas"], networks=["front"], ports=[f"{PORT}:80"] if mode == "vip" else [],
        endpoint={"mode": mode}, env=[f"NUMBER={number}"],
        update={"order": case["order"], "monitor": "500ms"}, **serving(),
    )  # fmt: skip
