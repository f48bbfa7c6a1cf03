"""One node's network without a cluster: the agent's code on a real kernel, told what managers would tell it.

Run in a network namespace of its own, as `python -m hack.benchmarks.one_node`: a node with one network and tunnels to
nodes that do not exist. It prints, as one line of JSON, what changes of single backends cost, and connections.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address

import anyio
from anyio import to_thread
from anyio.streams.buffered import BufferedByteReceiveStream

from hack.benchmarks.spots import CONNECTIONS, Spot
from hack.waiting import until
from nodeagent.assignments import Assignments
from nodeagent.engine.contract import Body
from nodeagent.engine.fake import FakeEngine
from nodeagent.network import commands, netlink
from nodeagent.network import network as agents_network
from nodeagent.network.docker_networks import BRIDGE_OPTION, bridge_name
from nodeagent.network.network import NodeNetwork
from nodeagent.network.overlay import Change
from shoal.api.errors import DataplaneError
from shoal.api.meta import Meta, Ref
from shoal.api.objects import (
    Attachment,
    AttachmentSpec,
    Backend,
    BackendSpec,
    BackendStatus,
    EndpointNetwork,
    EndpointSpec,
    Network,
    NetworkSpec,
    NetworkStatus,
    Object,
    ServiceEndpoint,
    Subnet,
    TaskAddress,
)
from shoal.rules.addresses import mac_of

NODES = 10
"""This one is the first; the tasks are spread over all."""

BEGUN_WITHIN_S = 0.5
"""Seconds after which a listener that has told of nothing is asked again: it had not begun to listen."""

FRONT = Ref("front", "front00000")
SUBNET = "10.64.0.0/10"
FIRST_VIP = IPv4Address("10.65.0.0")
FIRST_TASK = IPv4Address("10.80.0.0")
CLIENT = IPv4Address("10.64.1.1")


@dataclass(frozen=True)
class Costs:
    """Of one change of one backend, on average, and of the whole."""

    first_cpu_s: float
    """CPU seconds of bringing everything into force."""
    look_cpu_s: float
    """The same of the periodic look, which writes all rules anew."""
    change_cpu_s: float
    script_lines: float
    script_bytes: float
    entries: float
    """Forwarding and neighbour entries that were changed."""
    told: float
    """What the kernel itself tells those who listen to its rules, in lines."""
    direct_us: tuple[float, ...]
    """Connecting to a task of this node's by its own address, the median of each round."""
    vip_us: tuple[float, ...]
    """The same through the virtual IP of its service, which has no other task."""


class BridgeEngine(FakeEngine):
    """Its networks are real bridges."""

    async def create_network(self, name: str, body: Body) -> str:
        bridge = body["Options"][BRIDGE_OPTION]
        await anyio.run_process(["ip", "link", "add", bridge, "up", "type", "bridge"])
        return await super().create_network(name, body)


class Tally:
    """Counts what the agent asks of the kernel, and asks it all the same."""

    def __init__(self) -> None:
        self.script, self.entries = "", 0
        self._apply_nft, self._apply = commands.apply_nft, netlink.apply
        commands.apply_nft = self.apply_nft
        netlink.apply = self.apply

    async def apply_nft(self, script: str) -> None:
        self.script += script
        await self._apply_nft(script)

    def apply(self, changes: Iterable[Change]) -> dict[str, DataplaneError]:
        todo = tuple(changes)
        self.entries += len(todo)
        return self._apply(todo)


def network() -> Network:
    return Network(
        metadata=Meta(name=FRONT.name, uid=FRONT.uid), spec=NetworkSpec(),
        status=NetworkStatus(subnets=(Subnet(SUBNET),), vni=4096),
    )  # fmt: skip


def attachment(node: int) -> Attachment:
    address = f"{IPv4Address('10.64.0.1') + node}/10"
    vtep = f"192.0.2.{node}"
    spec = AttachmentSpec(
        FRONT, Ref(f"n{node}", f"n{node}"), address=address, mac=mac_of(address), vtep=vtep, number=node
    )
    return Attachment(metadata=Meta(name=f"front.n{node}", uid=f"front.n{node}"), spec=spec)


def service(number: int) -> ServiceEndpoint:
    on = EndpointNetwork(FRONT, f"{FIRST_VIP + number}/10")
    return ServiceEndpoint(
        metadata=Meta(name=f"s{number}"), spec=EndpointSpec(Ref(f"s{number}", f"s{number}"), networks=(on,))
    )


def backend(of: int, number: int, node: int, *, ready: bool = True) -> Backend:
    """The `number`th task there is, of service `of`."""
    address = f"{FIRST_TASK + number}"
    spec = BackendSpec(
        Ref(f"s{of}", f"s{of}"), Ref(f"s{of}.{number}", f"t{number}"), Ref(f"n{node}", f"n{node}"),
        (TaskAddress(FRONT, f"{address}/10", mac_of(address)),),
    )  # fmt: skip
    return Backend(metadata=Meta(name=f"t{number}", uid=f"b{number}"), spec=spec, status=BackendStatus(ready=ready))


def objects(services: int, backends: int, containers: int) -> list[Object]:
    """Everything such a node is told; `containers` of the tasks are its own, and that of one more service."""
    total = services * backends
    nodes = [1 if number < containers else 2 + number % (NODES - 1) for number in range(total)]
    return [
        network(),
        *(attachment(node) for node in range(1, NODES + 1)),
        *(service(number) for number in range(services)),
        *(backend(number // backends, number, nodes[number]) for number in range(total)),
        service(services), backend(services, total, 1),
    ]  # fmt: skip


async def measure(services: int, backends: int, containers: int, changes: int, connects: int) -> Costs:
    agents_network.CHECK_AFTER_S = math.inf
    tally = Tally()
    node = NodeNetwork(BridgeEngine(), "n1")
    assignments = Assignments().replaced(objects(services, backends, containers), 1)
    first = await _cost_of(node, assignments)
    _plug_in(containers)
    total = services * backends
    direct, vip = await to_thread.run_sync(_connect, FIRST_TASK + total, FIRST_VIP + services, connects)

    tally.script, tally.entries, spent = "", 0, 0.0
    async with _listening() as told:
        for at in range(changes):
            one = backend(services - 1, total - 1, 2 + (total - 1) % (NODES - 1), ready=at % 2 == 1)
            assignments = assignments.changed([one], (), 2 + at)
            spent += await _cost_of(node, assignments)
    script, entries = tally.script, tally.entries
    agents_network.CHECK_AFTER_S = -1.0
    return Costs(
        first_cpu_s=first, look_cpu_s=await _cost_of(node, assignments), change_cpu_s=spent / changes,
        script_lines=script.count("\n") / changes, script_bytes=len(script) / changes, entries=entries / changes,
        told=len(told) / changes, direct_us=direct, vip_us=vip,
    )  # fmt: skip


async def _cost_of(node: NodeNetwork, assignments: Assignments) -> float:
    before = cpu_s()
    await node.program(assignments)
    return cpu_s() - before


@asynccontextmanager
async def _listening() -> AsyncIterator[list[str]]:
    """Collect what the kernel tells of its rules meanwhile: complete once the block is left."""
    found: list[str] = []
    async with await anyio.open_process(["nft", "monitor"]) as monitor:
        assert monitor.stdout is not None
        lines = BufferedByteReceiveStream(monitor.stdout)

        async def until_told_of(table: str) -> None:
            await anyio.run_process(["nft", "add", "table", "ip", table])
            while table not in (line := (await lines.receive_until(b"\n", 1 << 20)).decode()):
                if not line.startswith("#"):
                    found.append(line)

        while True:  # until it listens
            with anyio.move_on_after(BEGUN_WITHIN_S):
                await until_told_of("begin")
                break
            await anyio.run_process(["nft", "delete", "table", "ip", "begin"])
        await until_told_of("measured")
        found.clear()
        yield found
        await until_told_of("end")
        monitor.kill()


def cpu_s() -> float:
    """Of this process and those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _plug_in(containers: int) -> None:
    """Give the bridge a link for each container, as an engine does."""
    bridge = bridge_name(FRONT.uid)
    for number in range(containers):
        pair = ["type", "veth", "peer", "name", f"in{number}"]
        subprocess.run(["ip", "link", "add", f"out{number}", "master", bridge, "up", *pair], check=True)


def _connect(task: IPv4Address, vip: IPv4Address, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the medians of twenty rounds of connections to a task, and to its service's virtual IP; in µs."""
    if not count:
        return (), ()
    with _space(task) as server, _space(CLIENT) as client, server.accepting():
        direct, through = client.connect(count, 20, f"{task}:{CONNECTIONS}", f"{vip}:{CONNECTIONS}")
    return tuple(one.median_us for one in direct), tuple(one.median_us for one in through)


@contextmanager
def _space(address: IPv4Address) -> Iterator[Spot]:
    """A network namespace on the bridge, as a container's."""
    with subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "1000000"]) as process:
        try:
            ours = os.stat("/proc/self/ns/net").st_ino
            until(lambda: os.stat(f"/proc/{process.pid}/ns/net").st_ino != ours)
            bridge, name = bridge_name(FRONT.uid), f"to{process.pid}"
            peer = ["peer", "name", "eth0", "address", mac_of(str(address)), "netns", str(process.pid)]
            subprocess.run(["ip", "link", "add", name, "master", bridge, "up", "type", "veth", *peer], check=True)
            spot = Spot(("nsenter", "-t", str(process.pid), "--net", "--"))
            spot.run("ip", "address", "add", f"{address}/10", "dev", "eth0")
            spot.run("ip", "link", "set", "eth0", "up")
            yield spot
        finally:
            process.kill()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    for name, value in (("services", 10), ("backends", 10), ("containers", 1), ("changes", 20), ("connects", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args(arguments)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    found = anyio.run(measure, given.services, given.backends, given.containers, given.changes, given.connects)
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
