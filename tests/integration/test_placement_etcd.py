"""endpoint, placement and nodes as processes of their own on a real etcd, killed and started again."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TypeVar

import anyio
import pytest
from msgspec.structs import replace

from shoal.api import codec, keys
from shoal.api.errors import ShoalError
from shoal.api.meta import Meta
from shoal.api.objects import Attachment, Backend, Claim, Node, Object, Presence, ServiceEndpoint, Task, TaskStatus
from shoal.api.states import DesiredState, NodeState, TaskState
from shoal.api.template import Port
from shoal.api.units import Duration
from shoal.machinery.etcd import EtcdStore
from shoal.machinery.store import Put, Txn
from shoal.machinery.testkit import make_cluster, make_network, make_node, make_service, make_task
from tests.support import eventually
from tests.support.etcd import EtcdProcess

pytestmark = pytest.mark.anyio
T = TypeVar("T", bound=Object)

NODES = [make_node(name, state=NodeState.UNKNOWN, address=f"192.0.2.{number}") for number, name in enumerate("abc", 1)]
WEB = make_service("web", replicas=30, ports=(Port(80), Port(443, 8443)))


class World:
    """The store, the controllers' processes, and one API server that the test plays."""

    def __init__(self, etcd: EtcdProcess, store: EtcdStore, logs: Path) -> None:
        self.etcd, self.store, self._logs = etcd, store, logs
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.heard = [node.metadata.uid for node in NODES]
        self._sequence = 0

    def start(self, *names: str) -> None:
        for name in names:
            command = [sys.executable, "-m", "controllers", name, "--etcd", self.etcd.url, "--lease", "2"]
            with (self._logs / name).open("ab") as log:
                self._processes[name] = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log
                )

    def kill(self, *names: str) -> None:
        for name in names or tuple(self._processes):
            process = self._processes.pop(name)
            process.kill()
            process.wait()

    async def put(self, *objects: Object) -> None:
        for obj in objects:
            await self.store.commit(Txn((), (Put(keys.key_of(obj), codec.encode(obj)),)))

    async def all(self, kind: type[T]) -> list[T]:
        found = await self.store.list(keys.prefix_of(kind))
        return [obj for item in found.items if isinstance(obj := codec.decode_at(*item), kind)]

    async def states(self) -> Counter[str]:
        return Counter(task.status.state.value for task in await self.all(Task))

    async def run_agents(self) -> None:
        """Let every assigned task run."""
        for task in await self.all(Task):
            if task.status.state is TaskState.ASSIGNED:
                await self.put(replace(task, status=TaskStatus(TaskState.RUNNING)))

    async def beat(self) -> None:
        """Publish what an API server hears, for as long as the test lasts: all nodes have applied everything."""
        while True:
            self._sequence += 1
            silent = tuple(node.metadata.uid for node in NODES if node.metadata.uid not in self.heard)
            applied = {node.metadata.uid: 1 << 40 for node in NODES}
            meta = Meta(name="api", uid="api")
            with contextlib.suppress(ShoalError):
                await self.put(
                    Presence(
                        metadata=meta, heard=tuple(self.heard), silent=silent, applied=applied, sequence=self._sequence
                    )
                )
            await anyio.sleep(0.3)


@pytest.fixture
async def world(own_etcd: EtcdProcess, tmp_path: Path) -> AsyncIterator[World]:
    store = EtcdStore([own_etcd.url])
    world = World(own_etcd, store, tmp_path)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.beat)
            yield world
            tasks.cancel_scope.cancel()
    finally:
        world.kill()
        await store.close()


@contextlib.contextmanager
def telling(logs: Path) -> Iterator[None]:
    """Show what the processes logged when the test fails."""
    try:
        yield
    except BaseException:
        for log in sorted(logs.iterdir()):
            print(f"--- {log.name}\n{log.read_text()[-3000:]}")
        raise


async def test_from_new_tasks_to_serving_backends_through_kills(world: World, tmp_path: Path) -> None:
    with telling(tmp_path):
        await world.put(make_cluster(heartbeat_period=Duration.of(1)), make_network(), *NODES, WEB)
        await world.put(*(make_task(WEB, slot, state=TaskState.NEW) for slot in range(1, 31)))
        world.start("endpoint", "placement", "nodes")

        async def all_assigned() -> bool:
            return await world.states() == {"assigned": 30}

        await eventually(all_assigned, within=30)
        tasks = await world.all(Task)
        assert sorted(Counter(task.spec.node.name for task in tasks if task.spec.node).values()) == [10, 10, 10]
        addresses = [task.spec.addresses[0].address for task in tasks]
        assert len(set(addresses)) == 30
        (endpoint,) = await world.all(ServiceEndpoint)
        assert [port.published for port in endpoint.spec.ports] == [30000, 8443]

        world.kill("placement", "endpoint")
        await world.put(*(make_task(WEB, slot, state=TaskState.NEW) for slot in range(31, 41)))
        await world.run_agents()
        world.start("placement", "endpoint")

        async def all_serve() -> bool:
            await world.run_agents()
            backends = await world.all(Backend)
            return len(backends) == 40 and all(backend.status.serving_at for backend in backends)

        await eventually(all_serve, within=30)
        attachments = await world.all(Attachment)
        held = [task.spec.addresses[0].address for task in await world.all(Task)]
        held += [attachment.spec.address for attachment in attachments]
        assert len(set(held)) == len(held) == 43
        assert {attachment.spec.number for attachment in attachments} == {1, 2, 3}
        claims = [claim for claim in await world.all(Claim) if claim.key.startswith("addresses/")]
        assert len(claims) == 43

        before = (await world.store.list(keys.ROOT)).revision
        settled = max(item.revision for item in (await world.store.list(keys.ROOT)).items)
        await anyio.sleep(1)
        assert max(item.revision for item in (await world.store.list(keys.ROOT)).items) == settled <= before


async def test_a_silent_node_goes_down_and_its_backends_are_drained(world: World, tmp_path: Path) -> None:
    with telling(tmp_path):
        await world.put(make_cluster(heartbeat_period=Duration.of(1)), make_network(), *NODES, WEB)
        await world.put(*(make_task(WEB, slot, state=TaskState.NEW) for slot in range(1, 7)))
        world.start("endpoint", "placement", "nodes")

        async def all_ready() -> bool:
            await world.run_agents()
            backends = await world.all(Backend)
            return len(backends) == 6 and all(backend.status.ready for backend in backends)

        await eventually(all_ready, within=30)
        world.heard = world.heard[:2]

        async def drained() -> bool:
            lost = [one for one in await world.all(Backend) if one.spec.node.uid == NODES[2].metadata.uid]
            return len(lost) == 2 and all(one.status.drained_at and not one.status.ready for one in lost)

        await eventually(drained, within=20)
        states = {node.metadata.name: node.status.state for node in await world.all(Node)}
        assert states == {"a": NodeState.READY, "b": NodeState.READY, "c": NodeState.DOWN}

        tasks = [task for task in await world.all(Task) if task.spec.node and task.spec.node.name == "a"]
        stopped = replace(tasks[0], spec=replace(tasks[0].spec, desired_state=DesiredState.SHUTDOWN))
        await world.put(stopped)

        async def told() -> bool:
            ours = [one for one in await world.all(Backend) if one.spec.task.uid == stopped.metadata.uid]
            return bool(ours) and ours[0].status.drained_at is not None

        await eventually(told, within=10)
        await world.put(replace(stopped, status=TaskStatus(TaskState.SHUTDOWN)))

        async def address_is_free() -> bool:
            held = {claim.metadata.owner.uid for claim in await world.all(Claim) if claim.metadata.owner}
            return stopped.metadata.uid not in held

        await eventually(address_is_free, within=10)
