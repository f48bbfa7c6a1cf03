"""What a connection and a stream cost on their ways: overlay, virtual IP, mesh; and how soon everybody knows the way.

Three laboratory hosts, real engines. Programs of this machine run in containers' network namespaces: iperf3 for
streams, dnsperf for names, `connecting` for connections. What is compared takes turns within one run.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from hack.benchmarks import kernel
from hack.benchmarks.connecting import Round
from hack.benchmarks.engine import Happenings
from hack.benchmarks.figures import Figure, Report, listed, of_samples
from hack.benchmarks.host import COMMAND, IMAGE, place_of
from hack.benchmarks.power import three_hosts
from hack.benchmarks.rollout import swarming
from hack.benchmarks.spots import CONNECTIONS, STREAMS, Spot, Stream, container_spot, host_spot, outside
from hack.waiting import until
from tests.support.cluster import Cluster
from tests.support.lab import Host, Lab
from tests.support.user import service

T = TypeVar("T")

NETWORK = "bench"
BALANCED = 10_000
TASKS = 10
NEAR, FAR, ENGINE, MANY = 10_000, 12_000, 14_000, 16_000
"""Published is a port's number plus this: a task on the first host, one on the second, the engine's own publishing on
the first, and ten tasks on all."""

SWARM_HOSTS = (4, 5)

ROUTED = "10.98.0.2"
"""Lies on nobody's network."""


@dataclass
class Stage:
    """Services that wait for programs to be run in their containers, and where these are."""

    cluster: Cluster

    @cached_property
    def client(self) -> Spot:
        return self.task("client")

    @cached_property
    def one(self) -> Spot:
        return self.task("one")

    def task(self, name: str) -> Spot:
        (found,) = self.tasks(name)
        return found

    def tasks(self, name: str) -> list[Spot]:
        hosts = {host.name: host for host in self.cluster.hosts}
        return [
            container_spot(hosts[task["spec"]["node"]["name"]], task["status"]["container"]["id"])
            for task in self.cluster.tasks(name)
        ]

    def address(self, name: str) -> str:
        """Of a service's only task."""
        (task,) = self.cluster.tasks(name)
        return _address_on(NETWORK, task["spec"]["addresses"])

    def vip(self, name: str) -> str:
        networks = self.cluster.objects(f"services?fields=metadata.name={name}")[0]["status"]["endpoint"]["networks"]
        return next(str(one["vip"]).partition("/")[0] for one in networks if one["network"]["name"] == NETWORK)


def run(rounds: int = 5) -> Report:
    report = Report(f"network of three hosts, {rounds} rounds")
    with three_hosts() as cluster, standing(cluster, TASKS) as stage:
        overlay = streams(stage, report, rounds)
        mesh_streams(stage, report, rounds, overlay)
        connections(stage, report, rounds, count=1000)
        mesh_connections(stage, report, rounds, count=1000)
        balance(stage, report, BALANCED)
        names(stage, report, rounds, seconds=1.0)
        routing(stage, report, tasks=TASKS)
    report.notes.append(f"load {kernel.load()}")
    return report


@contextmanager
def standing(cluster: Cluster, tasks: int) -> Iterator[Stage]:
    """All services, `tasks` tasks of one of them, running and served; they and their network end with the block."""
    network = {"apiVersion": "shoal/v1", "kind": "Network", "metadata": {"name": NETWORK}, "spec": {}}
    manifests = {
        "client": _sleeping("client", cluster.boss),
        "one": _sleeping("one", cluster.two),
        "near": _sleeping("near", cluster.boss, ports=_published(NEAR)),
        "far": _sleeping("far", cluster.two, ports=_published(FAR)),
        "engine": _sleeping("engine", cluster.boss, ports=[{**one, "mode": "host"} for one in _published(ENGINE)]),
        "many": _sleeping("many", None, replicas=tasks, ports=_published(MANY)),
    }
    documents = "---\n".join([yaml.safe_dump(network), *manifests.values()])
    cluster.boss.shoal(["apply", "-f", "-"], stdin=documents, within_s=300).ok()
    until(lambda: _served(cluster) == tasks + len(manifests) - 1)
    yield Stage(cluster)
    cluster.boss.shoal(["delete", *(f"service/{name}" for name in manifests)]).ok()
    until(lambda: not cluster.tasks())
    cluster.boss.shoal(["delete", f"network/{NETWORK}"]).ok()


def _served(cluster: Cluster) -> int:
    return sum(bool(one["status"].get("servingAt")) for one in cluster.objects("backends"))


def streams(stage: Stage, report: Report, rounds: int) -> float:
    """D1, D2: from a container on the first host to one on the second, by Swarm between two others; return D1."""
    boss, two = stage.cluster.boss, stage.cluster.two
    with ExitStack() as going:
        swarm_client, swarm_task, swarm_address = going.enter_context(_swarm(boss.lab))
        for spot in (stage.one, host_spot(two), swarm_task):
            going.enter_context(spot.streaming())
        found = _in_turns(
            rounds,
            direct=lambda: host_spot(boss).stream(two.address),
            overlay=lambda: stage.client.stream(stage.address("one")),
            vip=lambda: stage.client.stream(stage.vip("one")),
            swarm=lambda: swarm_client.stream(swarm_address),
        )
    report.figures += [
        *_streamed("D1 stream over the overlay / over the hosts' network", found["overlay"], found["direct"]),
        *_streamed("D1 stream over the overlay / over Swarm's", found["overlay"], found["swarm"], bar=0.97, aim=1.0),
        *_streamed("D2 stream through a virtual IP / over the overlay", found["vip"], found["overlay"], 0.95, 0.98),
    ]
    _note_streams(report, found)
    return report.figures[0].value


@contextmanager
def _swarm(lab: Lab) -> Iterator[tuple[Spot, Spot, str]]:
    """Docker's own Swarm on two more hosts: a container on each, on an overlay, and the second one's address."""
    with swarming(lab, *SWARM_HOSTS) as hosts:
        hosts[0].docker("network create -d overlay --attachable peer").ok()
        for host in hosts:
            host.docker(["run", "-d", "--name", "peer", "--network", "peer", IMAGE, *COMMAND]).ok()
        inspected = hosts[1].docker(["inspect", "-f", "{{.NetworkSettings.Networks.peer.IPAddress}}", "peer"])
        client, task = (container_spot(host, "peer") for host in hosts)
        yield client, task, inspected.ok().out.strip()


def mesh_streams(stage: Stage, report: Report, rounds: int, overlay: float) -> None:
    """D9: from outside, to a task on the host that is asked, and on another.

    Direct is a program on the host itself; for a task elsewhere, one on that other host, reached through the first, for
    the hosts share this machine's cores: a way twice as long takes twice as much of them, mesh or not.
    """
    boss, two = stage.cluster.boss, stage.cluster.two
    client = outside(boss.lab)
    with ExitStack() as going:
        routed = going.enter_context(_routed(stage.cluster))
        for spot in (host_spot(boss), host_spot(two), *map(stage.task, ("near", "far", "engine"))):
            going.enter_context(spot.streaming())
        found = _in_turns(
            rounds,
            host=lambda: client.stream(boss.address),
            mesh_near=lambda: client.stream(boss.address, NEAR + STREAMS),
            engine=lambda: client.stream(boss.address, ENGINE + STREAMS),
            routed=lambda: client.stream(routed),
            mesh_far=lambda: client.stream(boss.address, FAR + STREAMS),
        )
    report.figures += [
        *_streamed("D9 stream through the mesh, task there / direct", found["mesh_near"], found["host"], 0.9, 0.97),
        *_streamed("   stream through the mesh / a port of the engine's", found["mesh_near"], found["engine"]),
        *_streamed("D9 stream through the mesh, task elsewhere / direct, by the same hosts",
                   found["mesh_far"], found["routed"], bar=0.95 * overlay),
    ]  # fmt: skip
    _note_streams(report, found)


@contextmanager
def _routed(cluster: Cluster) -> Iterator[str]:
    """An address of the second host that those outside reach through the first."""
    lab, boss, two = cluster.boss.lab, cluster.boss, cluster.two
    for setting in ("all", "eth0"):
        boss.run("sh", "-c", f"echo 0 >/proc/sys/net/ipv4/conf/{setting}/send_redirects").ok()
    boss.run("ip", "route", "replace", f"{ROUTED}/32", "via", two.address).ok()
    boss.run("iptables", "-I", "FORWARD", "-d", ROUTED, "-j", "ACCEPT").ok()
    two.run("ip", "address", "replace", f"{ROUTED}/32", "dev", "lo").ok()
    lab.in_fabric("ip", "route", "replace", f"{ROUTED}/32", "via", boss.address)
    yield ROUTED
    lab.in_fabric("ip", "route", "delete", f"{ROUTED}/32")


def connections(stage: Stage, report: Report, rounds: int, count: int) -> None:
    """D3: what a connection takes, through a virtual IP and to the task's own address."""
    with stage.one.accepting():
        addresses = [f"{address}:{CONNECTIONS}" for address in (stage.address("one"), stage.vip("one"))]
        direct, vip = stage.client.connect(count, rounds, *addresses)
    report.figures += [
        *_compared("D3 connect through a virtual IP", "direct", vip, direct, bars=(1.5, 1.7), aims=(1.25, 1.4)),
        of_samples("   connections a second through a virtual IP / direct",
                   _ratios([one.per_s for one in vip], [one.per_s for one in direct]), aim=0.9, is_floor=True),
    ]  # fmt: skip
    _note_rounds(report, direct=direct, vip=vip)


def mesh_connections(stage: Stage, report: Report, rounds: int, count: int) -> None:
    client, asked = outside(stage.cluster.boss.lab), stage.cluster.boss.address
    with ExitStack() as going:
        for spot in (host_spot(stage.cluster.boss), *map(stage.task, ("near", "far", "engine"))):
            going.enter_context(spot.accepting())
        ports = [CONNECTIONS, *(base + CONNECTIONS for base in (NEAR, FAR, ENGINE))]
        host, near, far, engine = client.connect(count, rounds, *(f"{asked}:{port}" for port in ports))
    report.figures += [
        _compared("D9 connect through the mesh, task there", "direct", near, host, (2.5, None), (1.8, None))[0],
        _compared("D9 connect through the mesh, task elsewhere", "direct", far, host, (2.5, None), (1.8, None))[0],
        _compared("   connect through the mesh, task there", "a port of the engine's", near, engine)[0],
    ]
    _note_rounds(report, host=host, mesh_near=near, mesh_far=far, engine=engine)


def balance(stage: Stage, report: Report, count: int) -> None:
    """D10: how evenly connections reach the tasks of one service, through its virtual IP and through the mesh."""
    ways = {
        "a virtual IP": (stage.client, f"{stage.vip('many')}:{CONNECTIONS}"),
        "the mesh": (outside(stage.cluster.boss.lab), f"{stage.cluster.boss.address}:{MANY + CONNECTIONS}"),
    }
    for way, (client, address) in ways.items():
        came = spread(stage, client, address, count)
        uneven = (max(came) - min(came)) / (sum(came) / len(came))
        report.figures.append(Figure(f"D10 balance through {way}, (most - least) / mean", uneven, bar=0.25, aim=0.05))
        report.notes.append(f"{count} connections through {way} came as {' '.join(map(str, came))}")


def spread(stage: Stage, client: Spot, address: str, count: int) -> list[int]:
    """Return how many of `count` connections each task of the service `many` got."""
    with ExitStack() as going:
        servers = [going.enter_context(spot.accepting()) for spot in stage.tasks("many")]
        client.connect(count - 50, 1, address)
        return [server.end() for server in servers]


def names(stage: Stage, report: Report, rounds: int, seconds: float) -> None:
    """D7: our name service and the engine's own resolver, asked from one container for a name that both know."""
    (task,) = stage.cluster.tasks("client")
    listing = stage.client.run("ip", "-j", "route")
    ours = next(one["gateway"] for one in json.loads(listing) if one["dst"] == "default")
    with tempfile.TemporaryDirectory(prefix="shoal-names-") as folder:
        questions = Path(folder) / "questions"
        questions.write_text(f"{task['metadata']['name']} A\n")

        def ask(server: str) -> float:
            said = stage.client.run(
                "dnsperf", "-s", server, "-d", str(questions), "-l", str(seconds), "-q", "50", "-c", "4"
            )
            found = re.search(r"Queries per second:\s+([\d.]+)", said)
            assert found is not None, said
            assert "NOERROR" in said, said
            return float(found[1])

        found = _in_turns(rounds, ours=lambda: ask(ours), engine=lambda: ask("127.0.0.11"))
    report.figures.append(
        of_samples("D7 answers a second / those of the engine's own resolver", _ratios(found["ours"], found["engine"]),
                   bar=1.0, aim=1.5, is_floor=True)
    )  # fmt: skip
    report.notes += [f"{which}: answers/s {listed(per_s)}" for which, per_s in found.items()]


def routing(stage: Stage, report: Report, tasks: int) -> None:
    """D6: from a container's start, by its engine, until every node routes to it; and from its end until none does."""
    known, forgotten = followed(stage, tasks)
    report.figures += [
        Figure("D6 task runs until all nodes route to it, slowest", max(known), "s", bar=1.0, aim=0.2),
        of_samples("   the same, median", known, "s"),
        Figure("D6 task ends until no node routes to it, slowest", max(forgotten), "s", bar=1.0, aim=0.2),
        of_samples("   the same, median", forgotten, "s"),
    ]
    report.notes.append(f"D6 samples, s: {listed(known)} · {listed(forgotten)}")


def followed(stage: Stage, tasks: int) -> tuple[list[float], list[float]]:
    """Start `tasks` tasks, one at a time, then end each; return how long all nodes took to follow."""
    cluster, known, forgotten = stage.cluster, list[float](), list[float]()
    name = "grown"
    spec: dict[str, Any] = {
        "networks": [NETWORK],
        "command": COMMAND,
        "stopSignal": "SIGKILL",
        "restart": {"condition": "none"},
    }
    with ExitStack() as going:
        rules = {host.name: going.enter_context(_watched(host)) for host in cluster.hosts}
        engines = {host.name: place_of(host).engine for host in cluster.hosts}
        starts, ends = (
            {host: going.enter_context(engine.happening(which)) for host, engine in engines.items()}
            for which in ("start", "die")
        )
        for count in range(1, tasks + 1):
            manifest = service(name, image=IMAGE, replicas=count, **spec)
            cluster.boss.shoal(["apply", "-d", "-f", "-"], stdin=manifest).ok()
            until(lambda count=count: sum(cluster.running(name).values()) == count)  # type: ignore[misc]
            task = cluster.tasks(name)[-1]
            known.append(_follow(task, starts, rules, is_there=True))
        for task in cluster.tasks(name):
            engines[task["spec"]["node"]["name"]].kill(task["metadata"]["name"])
            forgotten.append(_follow(task, ends, rules, is_there=False))
    cluster.boss.shoal(["delete", f"service/{name}"]).ok()
    return known, forgotten


def _follow(task: dict[str, Any], happened: dict[str, Happenings], rules: dict[str, Rules], *, is_there: bool) -> float:
    """Return the seconds from what happened to a task's container until all nodes' rules show it."""
    container, address = task["metadata"]["name"], _address_on(NETWORK, task["spec"]["addresses"])
    events = happened[task["spec"]["node"]["name"]]
    until(lambda: any(who == container for _, who in events.seen))
    at = next(at for at, who in events.seen if who == container)

    def followed_at() -> list[float]:
        return [one.came_at(address, at) if is_there else one.went_at(address) for one in rules.values()]

    until(lambda: all(followed_at()))
    return max(followed_at()) - at


class Rules:
    """A node's rules as the kernel tells of them: since when they name an address, or do not any more."""

    def __init__(self) -> None:
        self._told: list[tuple[float, str, frozenset[str]]] = []
        """When, which chain, and the addresses it led to from then on."""

    def add(self, line: str) -> None:
        """Take a line of `nft monitor`. A chain that is filled anew is emptied just before; that counts for nothing."""
        if filled := re.match(r"add rule ip shoal (\S+) .*dnat to (.*)", line):
            self._told.append((time.time(), filled[1], frozenset(re.findall(r"\d+\.\d+\.\d+\.\d+", filled[2]))))
        elif gone := re.match(r"delete chain ip shoal (\S+)", line):
            self._told.append((time.time(), gone[1], frozenset()))

    def came_at(self, address: str, since: float) -> float:
        """When something led to an address first; 0 = not yet."""
        return next((when for when, _, addresses in list(self._told) if when >= since and address in addresses), 0.0)

    def went_at(self, address: str) -> float:
        """Since when nothing leads to an address; 0 = something does."""
        at, leads = 0.0, set[str]()
        for when, chain, addresses in list(self._told):
            if address in addresses:
                leads.add(chain)
            elif chain in leads:
                leads.discard(chain)
                at = when
        return 0.0 if leads else at


@contextmanager
def _watched(host: Host) -> Iterator[Rules]:
    found, listens = Rules(), threading.Event()
    with host_spot(host).telling("nft", "monitor") as process:
        assert process.stdout is not None
        lines = process.stdout

        def read() -> None:
            for line in lines:
                listens.set()
                found.add(line)

        def is_heard() -> bool:
            for verb in ("add", "delete"):
                host.run("nft", verb, "table", "ip", "begun").ok()
            return listens.is_set()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        until(is_heard)
        try:
            yield found
        finally:
            process.kill()
            reader.join(5)


def _sleeping(name: str, host: Host | None, **spec: Any) -> str:
    where: dict[str, Any] = (
        {"placement": {"constraints": [f"node.hostname == {host.name}"]}} if host is not None else {}
    )
    return service(name, image=IMAGE, command=COMMAND, stopSignal="SIGKILL", networks=[NETWORK], **where, **spec)


def _published(base: int) -> list[dict[str, Any]]:
    return [{"published": base + port, "target": port} for port in (CONNECTIONS, STREAMS)]


def _address_on(network: str, addresses: Sequence[dict[str, Any]]) -> str:
    return next(str(one["address"]).partition("/")[0] for one in addresses if one["network"]["name"] == network)


def _in_turns(rounds: int, **measured: Callable[[], T]) -> dict[str, list[T]]:
    """Measure each once a round, every other round backwards."""
    found: dict[str, list[T]] = {name: [] for name in measured}
    for at in range(rounds):
        for name in measured if at % 2 == 0 else reversed(measured):
            found[name].append(measured[name]())
    return found


def _compared(
    what: str,
    other: str,
    ours: Sequence[Round],
    theirs: Sequence[Round],
    bars: tuple[float | None, float | None] = (None, None),
    aims: tuple[float | None, float | None] = (None, None),
) -> tuple[Figure, Figure]:
    """Figures of the median and of the slowest of a hundred."""
    medians = _ratios([one.median_us for one in ours], [one.median_us for one in theirs])
    worst = _ratios([one.worst_us for one in ours], [one.worst_us for one in theirs])
    return (
        of_samples(f"{what}, p50 / {other}", medians, bar=bars[0], aim=aims[0]),
        of_samples(f"{what}, p99 / {other}", worst, bar=bars[1], aim=aims[1]),
    )


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def _streamed(
    what: str, ours: Sequence[Stream], theirs: Sequence[Stream], bar: float | None = None, aim: float | None = None
) -> tuple[Figure, Figure]:
    """Figures of the bits a second, and of those per second of CPU."""
    rates = _ratios([one.bits_per_s for one in ours], [one.bits_per_s for one in theirs])
    thrift = _ratios([one.bits_per_cpu_s for one in ours], [one.bits_per_cpu_s for one in theirs])
    return (
        of_samples(what, rates, bar=bar, aim=aim, is_floor=True),
        of_samples("   the same per second of CPU", thrift, is_floor=True),
    )


def _note_streams(report: Report, found: dict[str, list[Stream]]) -> None:
    report.notes += [
        f"{which}: Gbit/s {listed(one.bits_per_s / 1e9 for one in streams)}"
        f" · per CPU second {listed(one.bits_per_cpu_s / 1e9 for one in streams)}"
        for which, streams in found.items()
    ]


def _note_rounds(report: Report, **found: Sequence[Round]) -> None:
    report.notes += [
        f"{which}: p50 µs {listed(one.median_us for one in rounds)} · p99 {listed(one.worst_us for one in rounds)}"
        f" · {listed(one.per_s for one in rounds)}/s"
        for which, rounds in found.items()
    ]
