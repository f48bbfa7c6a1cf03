"""A node's tasks on a fake engine: whole lives, orders, accidents, and a crash after every call."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import msgspec
import pytest

from nodeagent.engine.contract import EngineEvent
from nodeagent.engine.fake import FakeEngine
from nodeagent.tasks.container import TASK_LABEL
from nodeagent.tasks.crew import BEGUN_PER_TURN, Crew
from shoal.api.errors import EngineError
from shoal.api.meta import Meta, Ref
from shoal.api.objects import Backend, BackendSpec, BackendStatus, FileSpec, Secret, Task, TaskAddress, TaskStatus
from shoal.api.states import DesiredState, PublishMode, TaskState
from shoal.api.template import FileUse, Healthcheck, Port
from shoal.api.units import Duration
from shoal.machinery.clock import VirtualClock
from tests.support.agent import IMAGE, NODE, OURS, Managers, PlainFiles, PlainNetwork, make_crew, relist, task_for

pytestmark = pytest.mark.anyio

S, D = TaskState, DesiredState
LIFE = [S.ACCEPTED, S.PREPARING, S.READY, S.STARTING, S.RUNNING]


async def quiet() -> None:
    """Let every task run until it waits; nothing here waits for anything outside."""
    for _ in range(200):
        await anyio.lowlevel.checkpoint()


class Node:
    """An engine, its managers and a crew between them."""

    def __init__(self, *tasks: Task) -> None:
        self.engine = FakeEngine(images=(IMAGE,))
        self.managers = Managers(*tasks)
        self.clock = VirtualClock()
        self.crew: Crew

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run a fresh crew, with the engine's events, until the block is left."""
        async with anyio.create_task_group() as group:
            self.crew = make_crew(self.engine, self.managers, group, self.clock)
            group.start_soon(self._events)
            await self.settle()
            yield
            group.cancel_scope.cancel()

    async def settle(self, seconds: float = 0) -> None:
        """Give the crew what is assigned and listed, and let it work for a while."""
        self.crew.assign(self.managers.assignments())
        await relist(self.crew, self.engine)
        await quiet()
        if seconds:
            await self.clock.run_for(seconds)

    async def _events(self) -> None:
        async with self.engine.events({}) as events:
            async for event in events:
                self.crew.hint(event)

    def calls(self, name: str) -> list[str]:
        return [what for call, what in self.engine.calls if call == name]


def uid_of(task: Task) -> str:
    return task.metadata.uid


async def test_a_task_goes_through_its_whole_life() -> None:
    task = task_for()
    node = Node(task)
    async with node.running():
        assert node.managers.states(uid_of(task)) == LIFE
        assert node.engine.alive() == [task.metadata.name]
        running = node.managers.told[uid_of(task)][-1]
        assert running.container is not None
        assert running.container.pid > 0
        node.engine.exit(running.container.id, 3)
        await node.settle()
        failed = node.managers.told[uid_of(task)][-1]
        assert (failed.state, failed.err) == (S.FAILED, "task: non-zero exit (3)")
        assert failed.container is not None
        assert failed.container.exit_code == 3


async def test_a_container_s_network_is_completed_once_for_each_time_it_is_found_started() -> None:
    task = task_for()
    node = Node(task)
    async with node.running():
        await node.settle()
        network, container = node.crew.tools.network, node.managers.told[uid_of(task)][-1].container
        assert isinstance(network, PlainNetwork)
        assert container is not None
        assert network.completed == [(uid_of(task), container.pid)]
        node.engine.restart(container.id)
        await node.settle()
        assert [uid for uid, pid in network.completed if pid != container.pid] == [uid_of(task)]
    async with node.running():
        network = node.crew.tools.network
        assert isinstance(network, PlainNetwork)
        assert [uid for uid, _ in network.completed] == [uid_of(task)]


async def test_desired_ready_stops_with_a_container_that_was_not_started() -> None:
    task = task_for(desired=D.READY)
    node = Node(task)
    async with node.running():
        assert node.managers.states(uid_of(task)) == LIFE[:3]
        assert (len(node.engine.made), node.engine.alive()) == (1, [])
        node.managers.want(D.RUNNING)
        await node.settle()
        assert node.managers.states(uid_of(task)) == LIFE


async def test_a_short_program_is_complete() -> None:
    task = task_for(args=("sh", "-c", "echo hi; exit 0"))
    node = Node(task)
    async with node.running():
        assert node.managers.states(uid_of(task))[-1] is S.COMPLETE


async def test_a_task_with_a_health_check_runs_once_it_is_healthy() -> None:
    task = task_for(healthcheck=Healthcheck(test=("CMD", "wait")))
    node = Node(task)
    async with node.running():
        assert node.managers.states(uid_of(task))[-1] is S.STARTING
        node.engine.set_health(task.metadata.name, "healthy")
        await node.settle()
        assert node.managers.states(uid_of(task))[-1] is S.RUNNING
        node.engine.set_health(task.metadata.name, "unhealthy")
        await node.settle()
        last = node.managers.told[uid_of(task)][-1]
        assert (last.state, last.err) == (S.FAILED, "task: unhealthy container")
        assert node.engine.alive() == []


async def test_without_an_image_the_task_is_rejected_with_the_registrys_cause() -> None:
    task = task_for(image="nowhere/none:1")
    node = Node(task)
    async with node.running():
        last = node.managers.told[uid_of(task)][-1]
        assert last.state is S.REJECTED
        assert "pull access denied for nowhere/none:1" in last.err


@pytest.mark.parametrize(("call", "state"), [("create", S.REJECTED), ("start", S.FAILED)])
async def test_what_the_engine_refuses_ends_the_task_in_its_words(call: str, state: TaskState) -> None:
    task = task_for()
    node = Node(task)
    node.engine.failures[call] = EngineError("invalid mount config: bind source path does not exist")
    async with node.running():
        last = node.managers.told[uid_of(task)][-1]
        assert (last.state, last.err) == (state, "invalid mount config: bind source path does not exist")


async def test_an_engine_that_does_not_answer_changes_no_state() -> None:
    task = task_for()
    node = Node(task)
    async with node.running():
        node.engine.reachable = False
        node.crew.workers[uid_of(task)].hint()
        await node.clock.run_for(60)
        assert node.managers.states(uid_of(task)) == LIFE
        node.engine.reachable = True
        await node.settle(10)
        assert node.managers.states(uid_of(task)) == LIFE
        assert node.engine.alive() == [task.metadata.name]


async def test_one_stuck_task_does_not_hold_up_another() -> None:
    stuck, fine = task_for(1), task_for(2)
    node = Node(stuck, fine)
    inspect = node.engine.inspect

    async def hang(container: str) -> Any:
        if node.engine.made[container].now.name == stuck.metadata.name:
            await anyio.sleep_forever()
        return await inspect(container)

    node.engine.inspect = hang  # type: ignore[method-assign]
    async with node.running():
        assert node.managers.states(uid_of(fine)) == LIFE


async def test_a_container_removed_by_force_fails_its_task() -> None:
    task = task_for()
    node = Node(task)
    async with node.running():
        node.engine.vanish(task.metadata.name)
        await quiet()
        last = node.managers.told[uid_of(task)][-1]
        assert (last.state, last.err) == (S.FAILED, "task: container was removed")


async def test_events_of_a_container_that_is_just_found_gone_are_no_reason_to_look_again() -> None:
    task = task_for()
    node = Node(task)
    inspect = node.engine.inspect

    async def slow(container: str) -> Any:
        assert container
        found = await inspect(container)
        await anyio.lowlevel.checkpoint()
        node.crew.workers[uid_of(task)].hint()
        return found

    async with node.running():
        node.engine.inspect = slow  # type: ignore[method-assign]
        node.engine.vanish(task.metadata.name)
        await node.settle(20)
        assert node.managers.states(uid_of(task))[-1] is S.FAILED


async def test_a_lost_event_is_made_good_by_the_next_listing() -> None:
    task = task_for()
    node = Node(task)
    async with node.running():
        made = node.engine.made[next(iter(node.engine.made))]
        made.now = msgspec.structs.replace(made.now, state="exited", exit_code=1)
        await node.settle()
        assert node.managers.states(uid_of(task))[-1] is S.FAILED


async def test_a_listing_without_change_inspects_nothing() -> None:
    node = Node(*(task_for(slot) for slot in range(1, 6)))
    async with node.running():
        await node.settle()
        before = len(node.calls("inspect"))
        for _ in range(5):
            await node.settle()
        assert len(node.calls("inspect")) == before


def backend_of(task: Task, *, drained: bool = False) -> Backend:
    address = TaskAddress(Ref("ingress", "net"), "10.0.0.4/24", "02:42:0a:00:00:04")
    return Backend(
        metadata=Meta(name="b", uid="b"),
        spec=BackendSpec(task.spec.service, Ref(task.metadata.name, uid_of(task)), NODE, (address,)),
        status=BackendStatus(ready=False, drained_at=VirtualClock.START if drained else None),
    )


async def test_a_stop_waits_for_the_backend_to_drain() -> None:
    task = task_for()
    node = Node(task)
    async with node.running():
        node.managers.backend(backend_of(task))
        node.managers.want(D.SHUTDOWN)
        await node.settle(1)
        assert node.calls("kill") == []
        node.managers.backend(backend_of(task, drained=True))
        await node.settle()
        assert len(node.calls("kill")) == 1
        assert node.managers.states(uid_of(task))[-1] is S.SHUTDOWN


async def test_and_not_longer_than_two_seconds() -> None:
    task = task_for()
    node = Node(task)
    async with node.running():
        node.managers.backend(backend_of(task))
        node.managers.want(D.SHUTDOWN)
        await node.settle(1.9)
        assert node.calls("kill") == []
        await node.clock.run_for(0.2)
        assert node.managers.states(uid_of(task))[-1] is S.SHUTDOWN


async def test_what_ignores_the_stop_signal_is_killed_after_its_grace_period() -> None:
    task = task_for()
    node = Node(task)
    async with node.running():
        node.engine.made[next(iter(node.engine.made))].ignores = frozenset({"SIGTERM"})
        node.managers.want(D.SHUTDOWN)
        await node.settle(9.5)
        assert node.engine.alive() == [task.metadata.name]
        await node.clock.run_for(1)
        assert [call.rpartition(" ")[2] for call in node.calls("kill")] == ["SIGTERM", "SIGKILL"]
        last = node.managers.told[uid_of(task)][-1]
        assert last.state is S.SHUTDOWN
        assert last.container is not None
        assert last.container.exit_code == 137


async def test_a_dead_tasks_container_stays_until_the_task_leaves_the_assignments() -> None:
    task = task_for(args=("sh", "-c", "exit 1"))
    node = Node(task)
    async with node.running():
        node.managers.want(D.SHUTDOWN)
        await node.settle(30)
        assert len(node.engine.made) == 1
        node.managers.tasks.clear()
        await node.settle()
        assert (node.engine.made, node.crew.workers) == ({}, {})


async def test_desired_remove_stops_reports_and_removes() -> None:
    task = task_for()
    node = Node(task)
    async with node.running():
        node.managers.want(D.REMOVE)
        await node.settle()
        assert node.managers.states(uid_of(task))[-1] is S.SHUTDOWN
        assert node.engine.made == {}


async def test_an_evicted_task_is_stopped_and_rejected_with_the_reason() -> None:
    task = task_for()
    node = Node(task)
    async with node.running():
        node.managers.want(D.RUNNING, evicted="node is drained")
        await node.settle()
        last = node.managers.told[uid_of(task)][-1]
        assert (last.state, last.err) == (S.REJECTED, "node is drained")
        assert node.engine.alive() == []


async def foreign(engine: FakeEngine, name: str, labels: dict[str, str]) -> str:
    uid = await engine.create(name, {"Image": IMAGE, "Cmd": ["sleep", "1"], "Labels": labels})
    await engine.start(uid)
    return uid


async def test_strays_of_ours_go_and_nothing_else_does() -> None:
    node = Node()
    ours = OURS.labels()
    await foreign(node.engine, "web.1.gone", {**ours, "shoal.task": "gone"})
    await foreign(node.engine, "plain", {})
    await foreign(node.engine, "web.1.other", {**ours, "shoal.cluster": "another", "shoal.task": "other"})
    await foreign(node.engine, "web.1.there", {**ours, "shoal.node": "another", "shoal.task": "there"})
    await foreign(node.engine, "committed-image", {**ours, "shoal.task": "gone"})
    async with node.running():
        assert node.engine.alive() == ["committed-image", "plain", "web.1.other", "web.1.there"]
        assert len(node.engine.made) == 4


async def test_nothing_is_begun_or_removed_before_a_synced_set() -> None:
    task = task_for()
    node = Node(task)
    await foreign(node.engine, "web.1.gone", {**OURS.labels(), "shoal.task": "gone"})
    async with anyio.create_task_group() as group:
        crew = make_crew(node.engine, node.managers, group, node.clock)
        crew.assign(node.managers.assignments(synced=False))
        await relist(crew, node.engine)
        await node.clock.run_for(60)
        assert node.engine.alive() == ["web.1.gone"]
        assert crew.workers == {}
        group.cancel_scope.cancel()


async def test_nor_before_the_engine_was_listed() -> None:
    task = task_for()
    node = Node(task)
    async with anyio.create_task_group() as group:
        crew = make_crew(node.engine, node.managers, group, node.clock)
        crew.assign(node.managers.assignments())
        await node.clock.run_for(60)
        assert node.engine.calls == []
        group.cancel_scope.cancel()


async def test_a_foreign_container_of_the_same_name_is_left_alone() -> None:
    task = task_for()
    node = Node(task)
    await foreign(node.engine, task.metadata.name, {})
    async with node.running():
        last = node.managers.told[uid_of(task)][-1]
        assert last.state is S.REJECTED
        assert "not this task's" in last.err
        assert node.engine.alive() == [task.metadata.name]


async def test_host_ports_are_reported_as_bound() -> None:
    task = task_for(ports=(Port(80, mode=PublishMode.HOST),))
    node = Node(task)
    async with node.running():
        (port,) = node.managers.told[uid_of(task)][-1].ports
        assert port.target == 80
        assert port.published > 0


class Killed(Exception):
    """The agent dies here, after the engine did what it was asked."""


@pytest.mark.parametrize("hears", [True, False], ids=["reports-arrived", "reports-lost"])
@pytest.mark.parametrize("victim", range(1, 9))
async def test_an_agent_killed_after_any_call_neither_doubles_nor_stops_a_container(victim: int, hears: bool) -> None:
    tasks = [task_for(1), task_for(2, healthcheck=Healthcheck(test=("CMD", "true")))]
    node = Node(*tasks)
    node.managers.hears = hears
    count = 0

    def crash(call: str, what: str) -> None:
        nonlocal count
        count += 1
        if count == victim:
            raise Killed(call)

    node.engine.crash_after = crash
    with suppress(BaseExceptionGroup):
        async with node.running():
            await node.settle(10)
    node.engine.crash_after = lambda call, what: None
    async with node.running():
        await node.settle(10)
        assert node.engine.alive() == sorted(task.metadata.name for task in tasks)
        assert len(node.engine.made) == 2
        assert len(set(node.calls("create"))) == 2
        assert node.calls("kill") == node.calls("remove") == []
        assert all(made.now.pid for made in node.engine.made.values())
        assert all(node.managers.states(uid_of(task))[-1] is S.RUNNING for task in tasks)


@pytest.mark.parametrize("victim", range(1, 5))
async def test_an_agent_killed_while_it_stops_tasks_finishes_after_its_restart(victim: int) -> None:
    tasks = [task_for(1), task_for(2)]
    node = Node(*tasks)
    async with node.running():
        pass
    count = 0

    def crash(call: str, what: str) -> None:
        nonlocal count
        count += 1
        if count == victim:
            raise Killed(call)

    node.engine.crash_after = crash
    node.managers.want(D.REMOVE)
    with suppress(BaseExceptionGroup):
        async with node.running():
            await node.settle(10)
    node.engine.crash_after = lambda call, what: None
    async with node.running():
        await node.settle(10)
        assert node.engine.made == {}
        assert [node.managers.states(uid_of(task))[-1] for task in tasks] == [S.SHUTDOWN, S.SHUTDOWN]


async def test_a_restarted_agent_adopts_what_runs_without_a_word_to_it() -> None:
    tasks = [task_for(slot) for slot in range(1, 4)]
    node = Node(*tasks)
    async with node.running():
        pids = {made.now.name: made.now.pid for made in node.engine.made.values()}
    told = {uid: len(statuses) for uid, statuses in node.managers.told.items()}
    node.engine.calls.clear()
    async with node.running():
        await node.settle(30)
        assert {made.now.name: made.now.pid for made in node.engine.made.values()} == pids
        assert not {"create", "start", "kill", "remove", "pull"} & {call for call, _ in node.engine.calls}
        assert {uid: len(statuses) for uid, statuses in node.managers.told.items()} == told


async def test_containers_that_died_with_the_engine_fail_their_tasks() -> None:
    task = task_for()
    node = Node(task)
    async with node.running():
        pass
    node.engine.exit(next(iter(node.engine.made)), 137)
    async with node.running():
        last: TaskStatus = node.managers.told[uid_of(task)][-1]
        assert (last.state, last.err) == (S.FAILED, "task: non-zero exit (137)")


def secret_named(name: str) -> Secret:
    return Secret(metadata=Meta(name=name, uid=f"{name}-uid"), spec=FileSpec(data="AAAA"))


@pytest.mark.parametrize("ends", ["stopped", "failed", "withdrawn", "removed by hand"])
async def test_files_of_a_task_exist_from_before_its_container_until_it_has_ended(ends: str) -> None:
    task = task_for(secrets=(FileUse("db", uid="db-uid"),))
    node = Node(task)
    node.managers.extra.append(secret_named("db"))
    async with node.running():
        files = node.crew.tools.files
        assert isinstance(files, PlainFiles)
        assert files.held.keys() == {uid_of(task)}
        (made,) = node.engine.made.values()
        assert {
            "Type": "bind",
            "Source": f"/files/{uid_of(task)}/0",
            "Target": "/run/secrets/db",
            "ReadOnly": True,
        } in (made.body["HostConfig"]["Mounts"])
        running = node.managers.told[uid_of(task)][-1]
        assert running.container is not None
        match ends:
            case "stopped":
                node.managers.want(D.SHUTDOWN)
            case "failed":
                node.engine.exit(running.container.id, 1)
            case "withdrawn":
                node.managers.tasks.clear()
            case _:
                await node.engine.remove(running.container.id)
        await node.settle(30)
        assert files.held == {}


async def test_a_task_without_its_secret_is_rejected_and_says_which() -> None:
    task = task_for(secrets=(FileUse("db", uid="db-uid"),))
    node = Node(task)
    async with node.running():
        last = node.managers.told[uid_of(task)][-1]
        assert (last.state, last.err) == (S.REJECTED, "secret db did not come with the task: was it deleted?")
        assert not node.engine.made


async def test_a_stop_signal_the_engine_refuses_is_followed_by_a_kill_once_its_grace_is_over() -> None:
    task = task_for(stop_grace_period=Duration.of(3))
    node = Node(task)
    async with node.running():
        node.engine.failures["kill"] = EngineError("invalid signal")
        node.managers.want(D.SHUTDOWN)
        await node.settle(2)
        assert node.engine.alive() == [task.metadata.name]
        del node.engine.failures["kill"]
        await node.settle(30)
        assert node.engine.alive() == []
        assert [call.split()[-1] for call in node.calls("kill")][-1] == "SIGKILL"


async def test_the_echo_of_a_start_costs_no_inspection_and_a_start_by_hand_does() -> None:
    task = task_for()
    node = Node(task)
    async with node.running():
        uid = uid_of(task)
        running = node.managers.told[uid][-1]
        assert running.container is not None
        echo = EngineEvent("start", running.container.id, {TASK_LABEL: uid}, 0)
        seen = len(node.calls("inspect"))
        node.crew.hint(echo)
        await quiet()
        assert len(node.calls("inspect")) == seen
        node.engine.exit(running.container.id, 0)
        await node.settle()
        seen = len(node.calls("inspect"))
        node.crew.hint(echo)
        await quiet()
        assert len(node.calls("inspect")) == seen + 1


async def test_of_many_tasks_that_come_at_once_a_few_are_begun_in_each_turn_of_the_loop() -> None:
    node = Node()
    async with node.running():
        for slot in range(1, 101):
            node.managers.tasks[task_for(slot).metadata.uid] = task_for(slot)
        node.crew.assign(node.managers.assignments())
        begun = [0]
        while begun[-1] < 100:
            await anyio.lowlevel.checkpoint()
            begun.append(len(node.managers.told))
        assert max(after - before for before, after in itertools.pairwise(begun)) <= BEGUN_PER_TURN
