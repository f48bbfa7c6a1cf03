"""A thousand hollow nodes in a private swarm: what they cost at rest, under ten thousand tasks, and coming back.

All over mutual TLS on one machine. The tasks are added in steps, so that the cost per task can be compared between
sizes; what the nodes cost at rest in the same time is measured first, and taken off. One changed task is counted in
messages: its own node must be told, and nobody else. At last the API server is killed and started again.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio

from hack.benchmarks import kernel
from hack.benchmarks.figures import Figure, Report, growth_exponent
from hack.benchmarks.placements import Watched, create, follow, raw_rate
from hack.hollows.crowd import Crowd, crowd
from hack.hollows.swarm import Swarm, private_swarm
from hack.waiting import until
from shoal.machinery.etcd import EtcdStore
from shoal.machinery.store import Batch, Listing, Put, Txn, Unchanged

MB: Final = 1 << 20
SERVICES: Final = 10
REST_S: Final = 20.0
"""Seconds of nothing, after which the cost of heartbeats is known."""

JOINED_WITHIN_S: Final = 1800.0
"""Seconds that all nodes have to join: a thousand take two minutes on two processors that have nothing else to do."""

SETTLED_S: Final = 3.0
"""Seconds after a change in which whatever follows from it has been told."""

JUDGED_S: Final = 10.0
"""Seconds after which a node that is missed has been called down."""


@dataclass
class Found:
    """What one run tells. CPU is in seconds, by process or in all; the control plane's is without etcd."""

    joined_s: float
    agent_bytes: float
    beats_cpu: float
    """Of the API server, as a share of a core."""
    idle_revisions: int
    """Writes to objects during the rest."""
    idle_bytes_per_s: float = 0.0
    """What goes between one agent and the API server at rest, both ways."""
    raw_per_s: float = 0.0
    placed_per_s: dict[int, float] = field(default_factory=dict)
    cpu_s: dict[int, float] = field(default_factory=dict)
    """Total tasks → control plane's CPU for all of them until they ran, what the nodes cost at rest taken off."""
    apiserver_bytes: dict[int, int] = field(default_factory=dict)
    told_bytes: float = 0.0
    """Objects told to an agent until all ran."""
    carried_bytes: float = 0.0
    """What went between one agent and the API server until all ran, both ways."""
    told_by_one_change: float = 0.0
    told_bytes_by_one_change: float = 0.0
    back_s: float = 0.0
    down: int = 0
    """Times that a node was called down, in the whole run."""
    spent_s: dict[str, float] = field(default_factory=dict)
    """What each part of the run took."""
    cpu_by_process: dict[str, float] = field(default_factory=dict)
    """CPU seconds while the tasks were added."""


def run(nodes: int = 1000, sizes: Sequence[int] = (1000, 3000, 10000)) -> Report:
    found = measure(nodes, sizes)
    last = sizes[-1]
    report = Report(f"{nodes:,} hollow nodes")
    report.figures = [
        Figure(f"{last:,} tasks created and bound a second / etcd keys a second",
               found.placed_per_s[last] / found.raw_per_s),
        Figure(f"   {last:,} tasks created and bound", found.placed_per_s[last], "/s"),
        Figure(f"F1 growth exponent of CPU, {sizes[0]:,} to {last:,} tasks", growth_exponent(found.cpu_s), bar=1.10,
               aim=1.03),
        *(Figure(f"   control plane CPU per task, {size:,} tasks", 1000 * cpu / size, "ms")
          for size, cpu in found.cpu_s.items()),
        *(Figure(f"   API server's memory, {size:,} tasks", held / MB, "MB")
          for size, held in found.apiserver_bytes.items()),
        Figure("   memory of one agent", found.agent_bytes / MB, "MB", bar=3.0),
        Figure(f"   objects told to one agent until {last:,} tasks ran", found.told_bytes / 1024, "kB"),
        Figure("   the same on the wire with TLS, reports and beats, both ways", found.carried_bytes / 1024, "kB"),
        Figure("   one agent's traffic at rest, both ways", found.idle_bytes_per_s, "B/s"),
        Figure("F2 agents told of one changed task", found.told_by_one_change, bar=1.0),
        Figure("   bytes that one was told", found.told_bytes_by_one_change, "B"),
        Figure("B8 API server's CPU at rest, heartbeats of all nodes", 100 * found.beats_cpu, "% of a core", bar=10.0,
               aim=3.0),
        Figure("   writes of objects to etcd meanwhile", found.idle_revisions, bar=0.0),
        Figure("B9 all agents back after the API server's kill -9", found.back_s, "s", bar=15.0, aim=5.0),
        Figure("A5 times a node was called down in all this", found.down, bar=0.0),
    ]  # fmt: skip
    report.notes.append(
        f"joining took {found.joined_s:.0f} s; etcd alone {found.raw_per_s:,.0f} keys/s; load {kernel.load()}"
    )
    report.notes.append("seconds of " + _named(found.spent_s))
    report.notes.append("CPU s while tasks were added, at rest included: " + _named(found.cpu_by_process))
    return report


def _named(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f}" for name, value in values.items())


def measure(nodes: int, sizes: Sequence[int], rest_s: float = REST_S) -> Found:
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder, private_swarm(Path(folder)) as swarm:
        begun = time.monotonic()
        with crowd(nodes, swarm.token, swarm.remote, leaving=False) as agents:
            agents.wait(JOINED_WITHIN_S)
            joined_s = time.monotonic() - begun
            _until_up(swarm, nodes)
            _settle(agents)
            return anyio.run(_measure, swarm, agents, joined_s, sizes, rest_s)


async def _measure(swarm: Swarm, agents: Crowd, joined_s: float, sizes: Sequence[int], rest_s: float) -> Found:
    store = EtcdStore((swarm.etcd.url,))
    try:
        start = await store.list("/shoal/nodes/")
        async with store.watch("/shoal/nodes/", start.revision) as batches, anyio.create_task_group() as group:
            found = await _at_rest(store, swarm, agents, joined_s, rest_s)
            group.start_soon(_count_down, batches, found)
            found.raw_per_s = await raw_rate(store, 10_000, 700)
            with _timed(found, "growing"):
                await _grow(store, swarm, agents, sizes, found)
            await _change_one(store, agents, found)
            with _timed(found, "coming back"):
                await anyio.to_thread.run_sync(_bring_back, swarm, agents, found)
            group.cancel_scope.cancel()
        return found
    finally:
        await store.close()


async def _count_down(batches: AsyncIterator[Batch], found: Found) -> None:
    """Count how often a node is called down, for ever."""
    states: dict[str, bool] = {}
    async for batch in batches:
        for event in batch.events:
            is_down = b'"state":"down"' in (event.value or b"")
            found.down += is_down and not states.get(event.key, False)
            states[event.key] = is_down


@contextmanager
def _timed(found: Found, what: str) -> Iterator[None]:
    print(f"  {what} …", file=sys.stderr, flush=True)
    begun = time.monotonic()
    yield
    found.spent_s[what] = time.monotonic() - begun


async def _at_rest(store: EtcdStore, swarm: Swarm, agents: Crowd, joined_s: float, rest_s: float) -> Found:
    pid = swarm.children["apiserver"].pid
    before, cpu, carried = _newest(await store.list("/shoal/")), kernel.cpu_s(pid), _carried(swarm)
    await anyio.sleep(rest_s)
    return Found(
        joined_s=joined_s,
        agent_bytes=sum(map(kernel.pss_bytes, agents.pids())) / agents.count,
        beats_cpu=(kernel.cpu_s(pid) - cpu) / rest_s,
        idle_bytes_per_s=(_carried(swarm) - carried) / agents.count / rest_s,
        idle_revisions=sum(item.revision > before for item in (await store.list("/shoal/")).items),
    )


async def _grow(store: EtcdStore, swarm: Swarm, agents: Crowd, sizes: Sequence[int], found: Found) -> None:
    """Add tasks up to each size in turn; all have to run before more are added."""
    spent, at_rest, have = 0.0, await _resting_cpu(swarm), 0
    told, carried = sum(_told_bytes(agents)), _carried(swarm)
    pids = {**swarm.pids(), **{one.name: one.pid for one in agents.children}}
    cpu = {name: kernel.cpu_s(pid) for name, pid in pids.items()}
    for size in sizes:
        print(f"  {size:,} tasks …", file=sys.stderr, flush=True)
        watched, start = Watched(), await store.list("/shoal/tasks/")
        before, begun = _cpu(swarm), time.monotonic()
        wanted = size - have
        async with store.watch("/shoal/tasks/", start.revision) as batches, anyio.create_task_group() as group:
            group.start_soon(create, swarm.api, wanted, SERVICES, f"to{size}-")
            await follow(batches, watched, lambda: len(watched.running) >= wanted)  # noqa: B023  ends with its turn
        took_s = time.monotonic() - begun
        spent += _cpu(swarm) - before - at_rest * took_s
        have = size
        found.cpu_s[size] = spent
        found.placed_per_s[size] = wanted / (watched.bound_at - begun)
        found.apiserver_bytes[size] = kernel.pss_bytes(swarm.children["apiserver"].pid)
        assert len((await store.list("/shoal/tasks/")).items) == size
    found.cpu_by_process = {name: kernel.cpu_s(pid) - cpu[name] for name, pid in pids.items()}
    found.carried_bytes = (_carried(swarm) - carried) / agents.count
    found.told_bytes = (sum(_told_bytes(agents)) - told) / agents.count


async def _change_one(store: EtcdStore, agents: Crowd, found: Found) -> None:
    """Change the message in one running task's status, and count who is told of it."""
    await anyio.to_thread.run_sync(_settle, agents)
    before = agents.told()
    item = next(item for item in (await store.list("/shoal/tasks/")).items if b'"state":"running"' in item.value)
    changed = item.value.replace(b'"state":"running"', b'"state":"running","message":"changed"', 1)
    await store.commit(Txn((Unchanged(item.key, item.revision),), (Put(item.key, changed),)))
    await anyio.sleep(SETTLED_S)
    after = agents.told()
    found.told_by_one_change = after["messages.update"] - before["messages.update"]
    found.told_bytes_by_one_change = after["object_bytes.update"] - before["object_bytes.update"]


def _bring_back(swarm: Swarm, agents: Crowd, found: Found) -> None:
    """Kill the API server, start it again, and wait until every agent has its assignments from it."""
    server = swarm.children["apiserver"]
    completes = agents.told()["messages.complete"]
    server.kill()
    server.restart()
    begun = time.monotonic()
    until(lambda: agents.told()["messages.complete"] >= completes + agents.count and not agents.trouble(), 120.0)
    found.back_s = time.monotonic() - begun
    time.sleep(JUDGED_S)


def _until_up(swarm: Swarm, nodes: int) -> None:
    """Return when all nodes but the manager's own are up."""
    states: Counter[str] = Counter()

    def are_up() -> bool:
        nonlocal states
        states = _states(swarm)
        return states == {"ready": nodes, "down": 1}

    try:
        until(are_up, JOINED_WITHIN_S, every_s=0.5)
    except AssertionError as error:
        raise AssertionError(f"nodes are {dict(states)}") from error


def _states(swarm: Swarm) -> Counter[str]:
    """Count the nodes in each state; the manager's own is down, since it has no agent."""
    return Counter(node["status"]["state"] for node in swarm.api.call("GET", "/shoal/v1/nodes")["items"])


def _settle(agents: Crowd) -> None:
    """Return when no agent is told anything any more."""

    def is_quiet() -> bool:
        before = agents.told().get("messages.update", 0.0)
        time.sleep(SETTLED_S)
        return agents.told().get("messages.update", 0.0) == before

    until(is_quiet, within_s=300.0)


async def _resting_cpu(swarm: Swarm) -> float:
    """Return the control plane's CPU seconds a second while nothing happens."""
    before = _cpu(swarm)
    await anyio.sleep(SETTLED_S * 2)
    return (_cpu(swarm) - before) / (SETTLED_S * 2)


def _cpu(swarm: Swarm) -> float:
    return kernel.total_cpu_s(one.pid for one in swarm.children.values())


def _carried(swarm: Swarm) -> int:
    return kernel.tcp_bytes(int(swarm.remote.rpartition(":")[2]))


def _told_bytes(agents: Crowd) -> list[float]:
    return [value for name, value in agents.told().items() if name.startswith("object_bytes.")]


def _newest(listing: Listing) -> int:
    return max((item.revision for item in listing.items), default=0)
