"""Looks at the network from one node: who answers, how large packets may be, where names lead.

    other hosts     a ping beside all tunnels
    their bridges   pings through the tunnel, small and of the network's MTU, then of sizes between; a TCP connection
    names           asked of this node's own name service
    managers        a TCP connection

Nothing is measured unless somebody asks, and nothing is kept. It takes four seconds at most: what does not answer is
tried twice, a second each.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

import anyio
import msgspec
from anyio import CapacityLimiter

from nodeagent.assignments import Assignments
from nodeagent.dns import asking
from nodeagent.network.echoes import Echo, echoed, takes_tcp, trouble_connecting
from nodeagent.network.targets import NamesAt, Targets, targets_of
from shoal.api.objects import Network
from shoal.api.probes import MOST_TOLD, Host, Names, NodeProbe, Way, WrongName

SMALL_BYTES: Final = 100
"""Of a packet that passes wherever anything does."""

SHORTER_BY: Final = (8, 20, 28, 50, 58, 80, 100, 150, 200, 300, 400, 500, 700, 900)
"""Bytes under a network's MTU at which sizes are tried: what encapsulations take, alone and together, and beyond."""

TCP_PORT: Final = 53
"""Where the name service listens, on networks with names; elsewhere the kernel refuses, which will do."""

AGAIN_AFTER_S: Final = 1.0
"""Seconds after which names are asked again that were wrong: they may just be changing."""

AT_ONCE: Final = 64
"""Connections, and names, tried at once."""

FIT_INTO_AN_ANSWER: Final = 50
"""Addresses that an answer over UDP has room for in any case."""

Address = tuple[str, int]


class NetworkProbe:
    """`troubles`: what the upkeep of the node's networks has met, by network uid."""

    def __init__(self, node_uid: str, troubles: Callable[[], Mapping[str, str]]) -> None:
        self._node_uid, self._troubles = node_uid, troubles

    async def measure(
        self, newest: Callable[[], Assignments], managers: Sequence[Address], wanted: Collection[str]
    ) -> NodeProbe:
        """Look at all networks of the newest assignments, or at those with the uids wanted."""
        targets = targets_of(newest(), self._node_uid, wanted)
        silent_hosts: list[Host] = []
        ways: list[Way] = []
        names: list[Names] = []
        silent_managers: dict[str, str] = {}
        async with anyio.create_task_group() as group:
            group.start_soon(_look_at_hosts, targets, silent_hosts)
            group.start_soon(_look_at_ways, targets, ways)
            group.start_soon(self._look_at_names, newest, wanted, names)
            group.start_soon(_look_at_managers, managers, silent_managers)
        return NodeProbe(
            networks=targets.networks,
            peers=len({way.peer for way in targets.ways} | {host.peer for host in targets.hosts}),
            names=sum(len(one.expected) for one in targets.names),
            silent_hosts=tuple(silent_hosts[:MOST_TOLD]),
            broken_ways=tuple(ways[:MOST_TOLD]),
            broken_names=tuple(names[:MOST_TOLD]),
            silent_managers=silent_managers,
            troubles=self._told_troubles(newest(), wanted),
        )

    async def _look_at_names(
        self, newest: Callable[[], Assignments], wanted: Collection[str], broken: list[Names]
    ) -> None:
        found = await _broken_names(targets_of(newest(), self._node_uid, wanted).names)
        if found:
            await anyio.sleep(AGAIN_AFTER_S)
            found = await _broken_names(targets_of(newest(), self._node_uid, wanted).names)
        broken += found

    def _told_troubles(self, assignments: Assignments, wanted: Collection[str]) -> dict[str, str]:
        networks = {one.metadata.uid: one.metadata.name for one in assignments.of(Network).values()}
        told = {networks[uid]: why for uid, why in self._troubles().items() if uid in networks}
        names = {networks[uid] for uid in wanted if uid in networks}
        return {name: why for name, why in told.items() if not wanted or name in names}


async def _look_at_hosts(targets: Targets, silent: list[Host]) -> None:
    found = await _echoed({Echo(host.address, SMALL_BYTES) for host in targets.hosts}, targets.source)
    silent += (host for host in targets.hosts if Echo(host.address, SMALL_BYTES) not in found)


async def _look_at_ways(targets: Targets, broken: list[Way]) -> None:
    """Sizes between are tried where small packets pass and full ones do not."""
    sizes = {way.address: (SMALL_BYTES, way.mtu) for way in targets.ways}
    taking: set[str] = set()
    async with anyio.create_task_group() as group:
        group.start_soon(_connect_all, tuple(sizes), taking)
        found = await _echoed({Echo(address, size) for address, pair in sizes.items() for size in pair})
        narrow = {a: mtu for a, (small, mtu) in sizes.items() if Echo(a, small) in found and Echo(a, mtu) not in found}
        found |= await echoed([Echo(address, mtu - by) for address, mtu in narrow.items() for by in SHORTER_BY])
    largest = {echo.address: 0 for echo in found}
    for echo in found:
        largest[echo.address] = max(largest[echo.address], echo.bytes)
    ways = (
        msgspec.structs.replace(way, largest=largest.get(way.address, 0), takes_tcp=way.address in taking)
        for way in targets.ways
    )
    broken += (way for way in ways if not way.is_whole)


async def _echoed(echoes: Collection[Echo], source: str = "") -> frozenset[Echo]:
    found = await echoed(echoes, source)
    return found | await echoed(set(echoes) - found, source)


async def _connect_all(addresses: Iterable[str], taking: set[str]) -> None:
    limiter = CapacityLimiter(AT_ONCE)

    async def connect(address: str) -> None:
        async with limiter:
            if await takes_tcp(address, TCP_PORT) or await takes_tcp(address, TCP_PORT):
                taking.add(address)

    async with anyio.create_task_group() as group:
        for address in addresses:
            group.start_soon(connect, address)


async def _look_at_managers(managers: Iterable[Address], silent: dict[str, str]) -> None:
    async def connect(host: str, port: int) -> None:
        if trouble := await trouble_connecting(host, port):
            silent[f"{host}:{port}"] = trouble

    async with anyio.create_task_group() as group:
        for host, port in managers:
            group.start_soon(connect, host, port)


async def _broken_names(places: Iterable[NamesAt]) -> list[Names]:
    found: dict[str, Names] = {}
    limiter = CapacityLimiter(AT_ONCE)

    async def look(at: NamesAt) -> None:
        if not await asking.is_there(at.server):
            found[at.network] = Names(at.network, at.server)
            return
        wrong: list[WrongName] = []
        async with anyio.create_task_group() as group:
            for name, expected in at.expected.items():
                group.start_soon(ask, at.server, name, expected, wrong)
        if wrong:
            told = tuple(sorted(wrong, key=lambda one: one.name))
            found[at.network] = Names(at.network, at.server, answers=True, wrong=told)

    async def ask(server: str, name: str, expected: tuple[str, ...], wrong: list[WrongName]) -> None:
        async with limiter:
            told = await asking.addresses_of(name, server)
        if told is not None and not _is_right(told, expected):
            wrong.append(WrongName(name, told, expected))

    async with anyio.create_task_group() as group:
        for at in places:
            group.start_soon(look, at)
    return [found[network] for network in sorted(found)]


def _is_right(told: Collection[str], expected: Collection[str]) -> bool:
    """Of many addresses an answer has as many as fit into it."""
    return set(told) == set(expected) if len(expected) <= FIT_INTO_AN_ANSWER else set(told) <= set(expected)
