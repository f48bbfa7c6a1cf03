"""Tasks move between three hosts, addresses are used again, agents are killed and cables cut; then it is quiet, and
every pair is looked at: nothing is stale, missing or doubled.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from tests.e2e.test_networks import devices
from tests.e2e.test_overlays import container, network, vip
from tests.support.cluster import Cluster, forming
from tests.support.lab import Host, Lab, eventually
from tests.support.user import GENEROUS_S, get, service, start

SERVICES = ("ant", "bee", "cat", "dog")
EACH = 2
"""Tasks of each service: so many move at once."""

MOVES, FULL_MOVES = 24, 200

TINY = network("burrow", subnets=["10.66.0.0/27"])
"""Room for about twice what is there at once, so that addresses are used again soon."""

ASK = 'for at in {}; do echo "$at $(timeout 4 wget -q -O- http://$at/ 2>&1)"; done'


class Told(NamedTuple):
    """A running task."""

    name: str
    service: str
    host: str
    address: str
    mac: str


@pytest.fixture(scope="module")
def formed(lab: Lab) -> Iterator[Cluster]:
    with forming(lab, 71, 72, 73) as cluster:
        start(cluster.boss, TINY)
        yield cluster


@pytest.fixture
def cluster(formed: Cluster, request: pytest.FixtureRequest) -> Cluster:
    request.node.lab_hosts = formed.hosts
    return formed


def test_after_moves_kills_and_cuts_nothing_is_stale_missing_or_doubled(
    cluster: Cluster, seed: int, full: bool
) -> None:
    chance = random.Random(seed)
    places = {name: chance.choice(cluster.hosts) for name in SERVICES}
    for name, place in places.items():
        put(cluster, name, place)
    for name, place in places.items():
        cluster.settle(name, **{place.name: EACH})

    for _ in range((FULL_MOVES if full else MOVES) // EACH):
        name = chance.choice(SERVICES)
        places[name] = chance.choice([host for host in cluster.hosts if host is not places[name]])
        disturb(cluster, chance, name, places[name])

    for name, place in places.items():
        cluster.settle(name, within=2 * GENEROUS_S, **{place.name: EACH})
    eventually(lambda: set(cluster.nodes().values()) == {"ready"}, within=GENEROUS_S)
    eventually(lambda: is_quiet(cluster), within=GENEROUS_S)
    eventually(lambda: not faults(cluster, places), within=GENEROUS_S)
    eventually(lambda: cluster.boss.shoal("doctor network").ok(), within=GENEROUS_S)


def put(cluster: Cluster, name: str, place: Host) -> None:
    """Have a service's tasks on one host."""
    start(
        cluster.boss,
        service(
            name,
            networks=["burrow"],
            replicas=EACH,
            hostname="{{.Task.Name}}",
            stopSignal="SIGKILL",
            update={"parallelism": 0, "monitor": "0s"},
            placement={"constraints": [f"node.hostname == {place.name}"]},
        ),
    )


def disturb(cluster: Cluster, chance: random.Random, name: str, place: Host) -> None:
    """Move a service, and meanwhile let it be, kill an agent, or cut a host off until it is down, or for a moment."""
    trouble = chance.choice(("none", "none", "kill", "cut"))
    victim = chance.choice(cluster.hosts[1:])
    if trouble == "cut":
        victim.cut()
    put(cluster, name, place)
    if trouble == "kill":
        chance.choice(cluster.hosts).kill("nodeagent")
    if trouble == "cut":
        if chance.random() < 0.5:
            eventually(lambda: cluster.nodes()[victim.name] == "down", within=GENEROUS_S)
        victim.heal()
    else:
        cluster.settle(name, **{place.name: EACH})


def is_quiet(cluster: Cluster) -> bool:
    """Nothing is under way: as many backends as there should be tasks, all of them served."""
    backends = get(cluster.boss, "backends")["items"]
    served = [one for one in backends if one["status"]["ready"] and one["status"].get("servingAt")]
    return len(backends) == len(served) == EACH * len(SERVICES)


def faults(cluster: Cluster, places: Mapping[str, Host]) -> list[str]:
    """All that is not as it should be, on any host, asked by any task; AssertionError lists it."""
    there = told(cluster)
    found = [f"{one} has an address twice" for one in doubled(one.address for one in there)]
    vips = {name: vip(cluster, name, "burrow") for name in SERVICES}
    with ThreadPoolExecutor(3) as pool:
        for some in pool.map(lambda host: wrong_on(cluster, host, there), cluster.hosts):
            found += some
        for some in pool.map(lambda name: wrong_answers(places[name], name, there, vips), SERVICES):
            found += some
    assert not found, "\n".join(found)
    return found


def told(cluster: Cluster) -> list[Told]:
    return [
        Told(
            task["metadata"]["name"],
            task["spec"]["service"]["name"],
            task["spec"]["node"]["name"],
            task["spec"]["addresses"][0]["address"].partition("/")[0],
            task["spec"]["addresses"][0]["mac"],
        )
        for task in cluster.tasks()
        if task["status"]["state"] == "running"
    ]


def doubled(values: Iterator[str]) -> set[str]:
    seen: set[str] = set()
    return {value for value in values if value in seen or seen.add(value)}  # type: ignore[func-returns-value]


def wrong_on(cluster: Cluster, host: Host, there: list[Told]) -> list[str]:
    """What a host's engine and tunnel have, and what they should."""
    running = sorted(host.docker(["ps", "--format", "{{.Names}}"]).ok().out.split())
    wanted = sorted(one.name for one in there if one.host == host.name)
    addresses = {one.name: one.address for one in cluster.hosts}
    far = {(one.mac, addresses[one.host]) for one in there if one.host != host.name}
    far |= {
        (one["spec"]["mac"], one["spec"]["vtep"])
        for one in get(cluster.boss, "attachments")["items"]
        if one["spec"]["network"]["name"] == "burrow" and one["spec"]["node"]["name"] != host.name
    }
    entries = far_ends(host, cluster) if wanted else far
    return [
        f"{host.name}: {what} {sorted(map(str, have))}, expected {sorted(map(str, want))}"
        for what, have, want in (("containers", running, wanted), ("far ends", entries, far))
        if have != want
    ]


def far_ends(host: Host, cluster: Cluster) -> set[tuple[str, str]]:
    """MAC → host in the burrow's tunnel."""
    uid = get(cluster.boss, "networks/burrow")["metadata"]["uid"]
    (device,) = [name for name in devices(host) if name == f"shx-{uid[:10]}"]
    return set(re.findall(r"^(\S+) dst (\S+)", host.run("bridge", "fdb", "show", "dev", device).ok().out, re.MULTILINE))


def wrong_answers(host: Host, name: str, there: list[Told], vips: Mapping[str, str]) -> list[str]:
    """Ask every task by its address and its name, and every service by its virtual IP and its name, from a service."""
    expected = {at: {one.name} for one in there for at in (one.address, one.name)}
    for other, address in vips.items():
        expected[other] = expected[address] = {one.name for one in there if one.service == other}
    said = host.docker(["exec", container(host, name), "sh", "-c", ASK.format(" ".join(expected))]).ok().out
    answered = dict(re.findall(r"^(\S+) hello from (\S+),", said, re.MULTILINE))
    return [
        f"{name} on {host.name} asked {at}: {answered.get(at, 'no answer')}, expected {sorted(names)}\n{said}"
        for at, names in expected.items()
        if answered.get(at) not in names
    ]
