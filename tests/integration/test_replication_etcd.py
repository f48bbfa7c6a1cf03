"""replication and rollout as processes of their own on a real etcd, killed at any moment."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from random import Random

import anyio
import pytest
from msgspec.structs import replace

from shoal.api import codec, keys
from shoal.api.errors import ConflictError
from shoal.api.objects import Object, Revision, Rollout, Service, Slot, Task, Update
from shoal.api.states import DesiredState, RolloutState, TaskState
from shoal.api.units import Duration
from shoal.machinery.etcd import EtcdStore
from shoal.machinery.store import Compare, Delete, Put, Txn, Unchanged
from shoal.machinery.testkit import make_cluster, make_node, make_revision, make_service, ref_of
from tests.support import eventually
from tests.support.etcd import EtcdProcess

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
NODE = make_node("n1")
BATCHES = Update(parallelism=10, monitor=Duration.of(0.1))
WITHIN_S = 40.0
"""Long enough for several leases to run out on a busy machine."""


class Process:
    """One controller's process. It dies with the test."""

    def __init__(self, name: str, url: str, log: Path) -> None:
        self._command = [sys.executable, "-m", "controllers", name, "--etcd", url, "--lease", "1"]
        self._log = log
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._command], cwd=ROOT, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """kill -9"""
        self._process.kill()
        self._process.wait()


@contextmanager
def running(url: str, directory: Path, *names: str) -> Iterator[list[Process]]:
    started: list[Process] = []
    try:
        for number, name in enumerate(names):
            started.append(Process(name, url, directory / f"{name}-{number}.log"))
        yield started
    finally:
        for process in started:
            process.kill()


class Picture:
    """What etcd holds, followed by a watch, and what must be true of it at every revision."""

    def __init__(self, store: EtcdStore) -> None:
        self.store = store
        self.objects: dict[str, Object] = {}
        self.revision = 0
        self.broken: list[str] = []

    async def follow(self) -> None:
        listing = await self.store.list(keys.ROOT)
        for item in listing.items:
            self._set(item.key, item.value, item.revision)
        async with self.store.watch(keys.ROOT, listing.revision) as batches:
            async for batch in batches:
                for event in batch.events:
                    self._set(event.key, event.value, event.revision)
                    self.revision = event.revision
                self._check()

    def _set(self, key: str, value: bytes | None, revision: int) -> None:
        if value is None:
            self.objects.pop(key, None)
            return
        found = codec.decode_at(key, value, revision)
        assert found is not None
        self.objects[key] = found

    def of(self, kind: type[Object]) -> list[Object]:
        return [obj for obj in self.objects.values() if isinstance(obj, kind)]

    def tasks(self, where: Callable[[Task], bool] = lambda task: True) -> list[Task]:
        return [obj for obj in self.objects.values() if isinstance(obj, Task) and where(obj)]

    def running(self) -> list[Task]:
        return self.tasks(lambda task: task.status.state is TaskState.RUNNING and task.spec.desired_state.is_live)

    def rollout_state(self) -> RolloutState | None:
        found = [one.status.state for one in self.of(Rollout) if isinstance(one, Rollout)]
        return found[0] if found else None

    def _check(self) -> None:
        wanted = self.tasks(
            lambda task: task.spec.desired_state is DesiredState.RUNNING and not task.status.state.is_terminal
        )
        doubled = [slot for slot, count in Counter(task.spec.slot for task in wanted).items() if count > 1]
        if doubled:
            self.broken.append(f"slots {doubled} want two tasks at revision {self.revision}")
        uids = {task.metadata.uid for task in self.tasks()}
        for slot in self.of(Slot):
            assert isinstance(slot, Slot)
            if slot.spec.task not in uids:
                self.broken.append(f"slot {slot.spec.slot} points at no task at revision {self.revision}")


class Cluster:
    """A store, its picture, and one scripted node that runs whatever it is told to."""

    def __init__(self, store: EtcdStore) -> None:
        self.store, self.picture = store, Picture(store)

    async def write(self, *objects: Object) -> None:
        await self.store.commit(Txn((), tuple(Put(keys.key_of(obj), codec.encode(obj)) for obj in objects)))

    async def deploy(self, **spec: object) -> None:
        """Create or update the service with its revision, as the API server would."""
        service = make_service("web", update=BATCHES, **spec)
        await self.write(service, make_revision(service))

    async def act(self) -> None:
        """Play placement and agent, again and again."""
        while True:
            for task in self.picture.tasks():
                new = _moved(task)
                if new is not None:
                    await self._try(Unchanged(keys.key_of(task), task.metadata.resource_version), new)
            await anyio.sleep(0.01)

    async def _try(self, compare: Compare, task: Task) -> None:
        try:
            await self.store.commit(Txn((compare,), (Put(keys.key_of(task), codec.encode(task)),)))
        except ConflictError:
            return

    async def until(self, holds: Callable[[Picture], bool]) -> None:
        async def probe() -> bool:
            assert self.picture.broken == []
            return holds(self.picture)

        await eventually(probe, within=WITHIN_S)


def _moved(task: Task) -> Task | None:
    """Return the task one step on."""
    state, desired = task.status.state, task.spec.desired_state
    following = {
        TaskState.PENDING: TaskState.ASSIGNED,
        TaskState.ASSIGNED: TaskState.READY,
        TaskState.READY: TaskState.RUNNING if desired is DesiredState.RUNNING else None,
    }.get(state)
    if not desired.is_live:
        following = TaskState.SHUTDOWN if state.is_assigned else None
    if following is None:
        return None
    spec = replace(task.spec, node=ref_of(NODE)) if following is TaskState.ASSIGNED else task.spec
    return replace(task, spec=spec, status=replace(task.status, state=following))


@pytest.fixture
async def cluster(own_etcd: EtcdProcess) -> AsyncIterator[Cluster]:
    store = EtcdStore([own_etcd.url])
    async with AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        made = Cluster(store)
        await made.write(make_cluster(), NODE)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(made.picture.follow)
        tasks.start_soon(made.act)
        yield made
        tasks.cancel_scope.cancel()


async def test_kill_9_at_any_moment_loses_nothing_and_doubles_nothing(
    cluster: Cluster, own_etcd: EtcdProcess, tmp_path: Path, seed: int
) -> None:
    random = Random(seed)
    names = ("replication", "replication", "rollout")
    with running(own_etcd.url, tmp_path, *names) as processes:

        async def trouble() -> None:
            """Kill each process once, at some moment of what was just asked for."""
            for process in processes:
                await anyio.sleep(random.uniform(0, 0.4))
                process.kill()
                process.start()

        await cluster.deploy(replicas=40)
        await trouble()
        await cluster.until(lambda now: len(now.running()) == 40)
        await cluster.deploy(replicas=40, image="busybox:2")
        await trouble()
        await cluster.until(lambda now: {task.spec.template.image for task in now.running()} == {"busybox:2"})
        await cluster.until(lambda now: len(now.running()) == 40)
        await cluster.until(lambda now: now.rollout_state() is RolloutState.COMPLETED)
        await cluster.deploy(replicas=5, image="busybox:2")
        await trouble()
        await cluster.until(lambda now: len(now.running()) == 5 == len({task.spec.slot for task in now.tasks()}))
        await cluster.store.commit(Txn((), (Delete(keys.service("web")),)))
        await cluster.until(lambda now: not any(now.of(kind) for kind in (Task, Slot, Rollout, Revision)))


async def test_a_controller_by_hand_keeps_a_service_running_and_is_silent_when_there_is_nothing_to_do(
    cluster: Cluster, own_etcd: EtcdProcess, tmp_path: Path
) -> None:
    with running(own_etcd.url, tmp_path, "replication"):
        await cluster.deploy(replicas=3)
        await cluster.until(lambda now: len(now.running()) == 3)
        lost = cluster.picture.running()[0]
        await cluster.write(replace(lost, status=replace(lost.status, state=TaskState.FAILED)))
        await cluster.until(lambda now: lost.metadata.uid not in {task.metadata.uid for task in now.running()})
        await cluster.until(lambda now: len(now.running()) == 3)
        revision = cluster.picture.revision
        await anyio.sleep(1.5)
        assert cluster.picture.revision == revision
        assert cluster.picture.of(Service) != []
