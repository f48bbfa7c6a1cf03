"""A controller's process on a real etcd: elected, killed, paused, and left alone by its etcd."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import anyio
import pytest
from msgspec.structs import replace

from shoal.api import codec, keys
from shoal.api.errors import ShoalError
from shoal.api.objects import Object, Task
from shoal.api.states import DesiredState
from shoal.machinery.etcd import EtcdStore
from shoal.machinery.store import Put, Txn
from shoal.machinery.testkit import make_cluster, make_node, make_revision, make_service
from tests.support import eventually
from tests.support.etcd import EtcdProcess

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
LEASE_S = 2.0
ELECTION = keys.election("replication")


class Controller:
    """`python -m controllers replication` with a status socket; it dies with the test."""

    def __init__(self, url: str, directory: Path, name: str = "one") -> None:
        self.log, self.socket = directory / f"{name}.log", directory / f"{name}.sock"
        command = [sys.executable, "-m", "controllers", "replication", "--etcd", url, "--lease", str(LEASE_S)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command, "--status-socket", str(self.socket)],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        self.pid = self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        """SIGTERM, and wait for the exit code."""
        self._process.terminate()
        return self._process.wait(15)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def lines(self, event: str) -> list[dict[str, object]]:
        logged = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in logged if line["event"] == event]

    async def ask(self, path: str) -> tuple[int, str]:
        """Ask the status socket; (0, "") while nobody answers."""
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.socket))) as session,
                session.get(f"http://controller{path}") as answer,
            ):
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""


@contextmanager
def running(url: str, directory: Path, *names: str) -> Iterator[list[Controller]]:
    started: list[Controller] = []
    try:
        started += [Controller(url, directory, name) for name in names]
        yield started
    finally:
        for controller in started:
            controller.kill()


class People:
    """Writes what people and the API server would, and looks at what became of it."""

    def __init__(self, store: EtcdStore) -> None:
        self.store = store

    async def put(self, *objects: Object) -> None:
        for obj in objects:
            await self.store.commit(Txn((), (Put(keys.key_of(obj), codec.encode(obj)),)))

    async def deploy(self, name: str, replicas: int) -> None:
        service = make_service(name, replicas=replicas)
        await self.put(make_revision(service), service)

    async def live(self, name: str) -> list[str]:
        """The slots of a service's live tasks; a slot with two is there twice."""
        listing = await self.store.list(f"{keys.ROOT}tasks/{name}.")
        tasks = [codec.decode(Task, item.value) for item in listing.items]
        return sorted(task.spec.slot for task in tasks if task.spec.desired_state is DesiredState.RUNNING)

    async def has(self, name: str, replicas: int) -> bool:
        return await self.live(name) == [str(number) for number in range(1, replicas + 1)]

    async def leader(self) -> int:
        """The pid of who leads, 0 for nobody."""
        item = await self.store.get(ELECTION)
        return int(json.loads(item.value)["leader"].rsplit("/", 1)[1]) if item is not None else 0


@pytest.fixture
async def people(own_etcd: EtcdProcess) -> AsyncIterator[People]:
    store = EtcdStore([own_etcd.url])
    found = People(store)
    await found.put(make_cluster(), make_node("n1"))
    yield found
    await store.close()


async def led_by(people: People, controller: Controller, within: float = 30) -> None:
    async def leads() -> bool:
        return await people.leader() == controller.pid

    await eventually(leads, within)


async def grown(people: People, name: str, replicas: int, within: float = 30) -> None:
    async def has() -> bool:
        try:
            return await people.has(name, replicas)
        except ShoalError as error:
            raise AssertionError(str(error)) from error

    await eventually(has, within)


async def test_a_killed_leader_is_followed_and_one_that_ends_in_order_at_once(
    own_etcd: EtcdProcess, people: People, tmp_path: Path
) -> None:
    with running(own_etcd.url, tmp_path, "one") as [one]:
        await led_by(people, one)
        with running(own_etcd.url, tmp_path, "two") as [two]:
            await eventually(lambda: ready(two), 30)
            one.kill()
            killed = time.monotonic()
            await people.deploy("web", 3)
            await grown(people, "web", 3)
            assert time.monotonic() - killed < 10 * LEASE_S
            assert await people.leader() == two.pid
            assert two.end() == 0
            assert await people.leader() == 0, "whoever ends in order leaves nothing to wait for"


async def ready(controller: Controller) -> bool:
    return (await controller.ask("/readyz"))[0] == 200


async def test_a_leader_that_was_paused_makes_no_twin_when_it_wakes(
    own_etcd: EtcdProcess, people: People, tmp_path: Path
) -> None:
    with running(own_etcd.url, tmp_path, "one") as [one]:
        await led_by(people, one)
        with running(own_etcd.url, tmp_path, "two") as [two]:
            one.signal(signal.SIGSTOP)
            await people.deploy("web", 4)
            await led_by(people, two)
            await grown(people, "web", 4)
            one.signal(signal.SIGCONT)
            await people.deploy("more", 4)
            await grown(people, "more", 4)

            async def stepped_down() -> bool:
                return bool(one.lines("leadership_lost") or one.lines("fence_met"))

            await eventually(stepped_down, 15)
            assert await people.leader() == two.pid
            assert await people.has("web", 4)
            assert await people.has("more", 4)


async def test_an_etcd_that_comes_late_is_waited_for_with_one_warning(own_etcd: EtcdProcess, tmp_path: Path) -> None:
    own_etcd.kill()
    with running(own_etcd.url, tmp_path, "one") as [one]:

        async def is_waiting() -> bool:
            return (await one.ask("/readyz"))[0] == 503 and bool(one.lines("store_lost"))

        await eventually(is_waiting, 30)
        assert (await one.ask("/healthz"))[0] == 200
        own_etcd.start()
        await eventually(lambda: ready(one), 30)
        assert len(one.lines("store_lost")) == 1
        status, text = await one.ask("/metrics")
        assert status == 200
        assert 'shoal_leader{controller="replication"}' in text


async def test_etcds_restart_and_compaction_go_unnoticed(own_etcd: EtcdProcess, people: People, tmp_path: Path) -> None:
    with running(own_etcd.url, tmp_path, "one") as [one]:
        await led_by(people, one)
        await people.deploy("before", 2)
        await grown(people, "before", 2)
        own_etcd.kill()
        own_etcd.start()
        listing = await eventually(lambda: people.store.list(keys.CLUSTER), 20)
        await people.store.compact(listing.revision)
        await people.deploy("after", 3)
        await grown(people, "after", 3)
        assert await people.has("before", 2)


async def test_a_frozen_etcd_is_outlived(own_etcd: EtcdProcess, people: People, tmp_path: Path) -> None:
    with running(own_etcd.url, tmp_path, "one") as [one]:
        await led_by(people, one)
        own_etcd.freeze()
        await anyio.sleep(2 * LEASE_S)
        own_etcd.thaw()
        await people.deploy("web", 2)
        await grown(people, "web", 2)
        assert not one.lines("reconcile_failed")


async def test_an_idle_controller_writes_nothing_but_its_lease(
    own_etcd: EtcdProcess, people: People, tmp_path: Path
) -> None:
    with running(own_etcd.url, tmp_path, "one") as [one]:
        await led_by(people, one)
        await people.deploy("web", 2)
        await grown(people, "web", 2)

        async def told() -> bool:
            return len((await people.store.list(keys.EVENTS)).items) > 0

        await eventually(told, 10)
        before = (await people.store.list(keys.CLUSTER)).revision
        await anyio.sleep(3 * LEASE_S)
        assert (await people.store.list(keys.CLUSTER)).revision == before
        assert await people.leader() == one.pid


async def test_a_thousand_tasks_are_made_in_few_transactions(
    own_etcd: EtcdProcess, people: People, tmp_path: Path
) -> None:
    with running(own_etcd.url, tmp_path, "one") as [one]:
        await led_by(people, one)
        before = (await people.store.list(keys.CLUSTER)).revision
        await people.deploy("many", 1000)

        async def all_made() -> bool:
            return len((await people.store.list(f"{keys.ROOT}tasks/")).items) == 1000

        await eventually(all_made, 60, every=0.2)
        revisions = (await people.store.list(keys.CLUSTER)).revision - before
        assert revisions < 200, "each transaction holds dozens of tasks"
        assert not one.lines("reconcile_failed")


async def test_a_name_that_is_no_controller_is_answered_with_a_sentence(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "controllers", "replicator"], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert found.returncode == 2
    assert "'replication'" in found.stderr
    assert "Traceback" not in found.stderr


async def test_a_service_replaced_at_its_key_keeps_one_live_task_per_slot(
    own_etcd: EtcdProcess, people: People, tmp_path: Path
) -> None:
    with running(own_etcd.url, tmp_path, "one"):
        service = make_service("web", replicas=3)
        await people.put(make_revision(service), service)
        await grown(people, "web", 3)
        for replicas in (5, 2, 4, 1, 3):
            await people.put(replace(service, spec=replace(service.spec, replicas=replicas)))
        await grown(people, "web", 3)
