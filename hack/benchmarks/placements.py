"""How many tasks a second the control plane creates, binds and delivers, against etcd's own rate in the same run.

The control plane is a private swarm's (real processes, mutual TLS), the nodes are hollow: real agents on engines in
memory. At first all nodes are paused: tasks are created and wait. Then they are made active, and all are bound. A task
counts as bound when etcd holds it with its node, as delivered when it has come down its node's assignments stream.
etcd's rate is that of keys of the same size written in transactions of 100, as many under way as one of Shoal's
writers has.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from hack.benchmarks import kernel
from hack.benchmarks.figures import Figure, Report, growth_exponent, of_samples, quartiles
from hack.benchmarks.http import Client
from hack.hollows.crowd import Crowd, crowd
from hack.hollows.swarm import Swarm, private_swarm
from shoal.machinery.etcd import EtcdStore
from shoal.machinery.store import MAX_OPERATIONS, Batch, Put, Txn
from shoal.machinery.writer import LANES

IMAGE = "hollow:1"
SERVICES = 10
NODES = 10
TASK_BYTES = 1000
"""About what a stored task has; `Watched.mean_bytes` tells the true figure."""


@dataclass
class Watched:
    """What a watch has seen of the tasks."""

    created: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    bound: set[str] = field(default_factory=set)
    running: set[str] = field(default_factory=set)
    created_at: float = 0.0
    bound_at: float = 0.0
    running_at: float = 0.0
    bytes_seen: int = 0

    def take(self, key: str, value: bytes, now: float) -> None:
        if key not in self.created:
            self.created.add(key)
            self.created_at = now
        if b"no suitable node" in value:
            self.waiting.add(key)
        if key not in self.bound and b'"node":{' in value:
            self.bound.add(key)
            self.bound_at = now
            self.bytes_seen += len(value)
        if key not in self.running and b'"state":"running"' in value:
            self.running.add(key)
            self.running_at = now

    @property
    def mean_bytes(self) -> int:
        return self.bytes_seen // max(1, len(self.bound))


@dataclass(frozen=True)
class Outcome:
    """One size: rates a second, CPU seconds until all tasks run."""

    created_per_s: float
    bound_per_s: float
    delivered_per_s: float
    running_per_s: float
    raw_per_s: float
    cpu_s: dict[str, float]
    task_bytes: int
    revisions: int
    """Transactions etcd has taken until all tasks ran."""

    @property
    def control_plane_cpu_s(self) -> float:
        return sum(seconds for name, seconds in self.cpu_s.items() if name not in ("etcd", "agents"))


def run(sizes: Sequence[int] = (1000, 3000, 10000)) -> Report:
    report = Report(f"tasks created, bound and delivered, {SERVICES} services on {NODES} hollow nodes")
    costs: dict[int, float] = {}
    outcomes: list[Outcome] = []
    for size in sizes:
        found = measure(size)
        outcomes.append(found)
        costs[size] = found.control_plane_cpu_s
        placed_per_s = min(found.bound_per_s, found.delivered_per_s)
        report.figures += [
            Figure(f"B1 {size:,} tasks bound and delivered a second / etcd keys a second",
                   placed_per_s / found.raw_per_s, bar=0.10, aim=0.30, is_floor=True),
            Figure(f"   {size:,} tasks created a second / etcd keys a second", found.created_per_s / found.raw_per_s),
            Figure(f"   {size:,} tasks created", found.created_per_s, "/s"),
            Figure(f"   {size:,} tasks bound", found.bound_per_s, "/s"),
            Figure(f"   {size:,} tasks delivered to their agents", found.delivered_per_s, "/s"),
            Figure(f"   {size:,} tasks running", found.running_per_s, "/s"),
            Figure(f"   control plane CPU per task, {size:,} tasks", 1000 * found.control_plane_cpu_s / size, "ms"),
        ]  # fmt: skip
        spent = ", ".join(f"{name} {seconds:.2f}" for name, seconds in found.cpu_s.items())
        report.notes.append(
            f"{size:,} tasks of {found.task_bytes} bytes: {found.revisions / size:.2f} transactions a task; etcd alone "
            f"{found.raw_per_s:,.0f} keys/s; CPU s until all run: {spent}; load {kernel.load()}"
        )
    if len(sizes) > 1:
        report.figures.append(
            Figure(
                f"F1 growth exponent of that CPU, {sizes[0]:,} to {sizes[-1]:,}",
                growth_exponent(costs),
                bar=1.10,
                aim=1.03,
            )
        )
    report.figures.append(
        of_samples("   etcd alone, 100 keys a transaction", [one.raw_per_s for one in outcomes], "/s")
    )
    return report


def measure(size: int, services: int = SERVICES, nodes: int = NODES) -> Outcome:
    """Run one size from an empty store, between two measurements of etcd's own rate."""
    with (
        tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder,
        private_swarm(Path(folder)) as swarm,
        crowd(nodes, swarm.token, swarm.remote, processes=1, leaving=False) as agents,
    ):
        agents.wait()
        return anyio.run(_measure, swarm, agents, size, services)


async def _measure(swarm: Swarm, agents: Crowd, size: int, services: int) -> Outcome:
    watched = Watched()
    pids = {**swarm.pids(), "agents": agents.pids()[0]}
    store = EtcdStore((swarm.etcd.url,))
    try:
        raw = [await raw_rate(store, size, TASK_BYTES)]
        before = {name: kernel.cpu_s(pid) for name, pid in pids.items()}
        start = await store.list("/shoal/")
        async with store.watch("/shoal/tasks/", start.revision) as batches:
            await set_nodes(store, swarm.api, "pause")
            begun = time.monotonic()
            async with anyio.create_task_group() as group:
                group.start_soon(create, swarm.api, size, services)
                await follow(batches, watched, lambda: len(watched.waiting) >= size)
            active_at = time.monotonic()
            async with anyio.create_task_group() as group:
                group.start_soon(set_nodes, store, swarm.api, "active")
                await follow(batches, watched, lambda: len(watched.running) >= size)
        cpu = {name: kernel.cpu_s(pid) - before[name] for name, pid in pids.items()}
        delivered_at = _delivered_at(agents, size)
        end = await store.list("/shoal/tasks/")
        assert len(end.items) == len(watched.bound) == size, f"{len(end.items)} tasks, {len(watched.bound)} bound"
        raw.append(await raw_rate(store, size, watched.mean_bytes))
    finally:
        await store.close()
    return Outcome(
        created_per_s=size / (watched.created_at - begun),
        bound_per_s=size / (watched.bound_at - active_at),
        delivered_per_s=size / (delivered_at - active_at),
        running_per_s=size / (watched.running_at - active_at),
        raw_per_s=quartiles(raw)[1],
        cpu_s=cpu,
        task_bytes=watched.mean_bytes,
        revisions=end.revision - start.revision,
    )


def _delivered_at(agents: Crowd, size: int) -> float:
    """Return when the last task was new to its agent, by the machine's monotonic clock."""
    told = agents.told()
    assert told["tasks_delivered"] == size, f"{told['tasks_delivered']:.0f} of {size} tasks were delivered"
    return told["last_task_seconds"]


async def follow(batches: AsyncIterator[Batch], watched: Watched, is_over: Callable[[], bool]) -> None:
    with anyio.fail_after(600):
        while not is_over():
            batch = await anext(batches)
            now = time.monotonic()
            for event in batch.events:
                watched.take(event.key, event.value or b"", now)


async def set_nodes(store: EtcdStore, api: Client, availability: str) -> None:
    """Set the availability of all nodes but the manager's own, which stays drained."""
    for item in (await store.list("/shoal/nodes/")).items:
        if b'"role":"manager"' not in item.value:
            path = f"/shoal/v1{item.key.removeprefix('/shoal')}"
            await anyio.to_thread.run_sync(api.call, "PATCH", path, {"spec": {"availability": availability}})


async def create(api: Client, size: int, services: int, prefix: str = "s") -> None:
    for number in range(services):
        replicas = size // services + (number < size % services)
        spec = {"image": IMAGE, "replicas": replicas}
        body = {"apiVersion": "shoal/v1", "kind": "Service", "metadata": {"name": f"{prefix}{number}"}, "spec": spec}
        await anyio.to_thread.run_sync(api.call, "POST", "/shoal/v1/services", body)


async def raw_rate(store: EtcdStore, count: int, size_bytes: int) -> float:
    """Return the keys a second that etcd takes in transactions of 100."""
    value = os.urandom(size_bytes)
    numbers = iter(range(count))

    async def lane() -> None:
        while chunk := [number for number, _ in zip(numbers, range(MAX_OPERATIONS), strict=False)]:
            await store.commit(Txn((), tuple(Put(f"/raw/{number}", value) for number in chunk)))

    begun = time.monotonic()
    async with anyio.create_task_group() as group:
        for _ in range(LANES):
            group.start_soon(lane)
    return count / (time.monotonic() - begun)
