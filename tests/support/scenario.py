"""Random histories of a small cluster, and what must be true after each step of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec
from hypothesis import strategies as st

from controllers import CONTROLLERS, load
from shoal.api import codec, keys
from shoal.api.defaults import max_concurrent
from shoal.api.keys import key_of
from shoal.api.objects import Claim, Node, Object, Rollout, Service, ServiceEndpoint, Task, Update
from shoal.api.states import (
    Availability,
    DesiredState,
    FailureAction,
    Mode,
    PublishMode,
    RestartCondition,
    TaskState,
    UpdateOrder,
)
from shoal.api.template import Port, Restart
from shoal.api.units import Duration
from shoal.machinery.clock import VirtualClock
from shoal.machinery.testkit import Behaviour, FakeAgent, World, make_cluster, make_network, make_node, make_service

NODES = ("n1", "n2", "n3")

PORTS: dict[str, tuple[Port, ...]] = {
    "none": (),
    "dynamic": (Port(80),),
    "ingress": (Port(80, published=8080),),
    "host": (Port(80, published=9090, mode=PublishMode.HOST),),
}


UPDATES: dict[str, Update | None] = {
    "default": None,
    "start-first": Update(order=UpdateOrder.START_FIRST, parallelism=2),
    "at once": Update(parallelism=0, failure_action=FailureAction.CONTINUE, monitor=Duration(0)),
    "back": Update(failure_action=FailureAction.ROLLBACK, deadline=Duration.of(10), delay=Duration.of(2)),
}


@dataclass(frozen=True)
class Deploy:
    """People apply a service."""

    name: str
    mode: Mode
    replicas: int
    image: str
    ports: str
    fails: bool
    update: str = "default"

    def do(self, world: World) -> None:
        env = ("FAILS=1",) if self.fails else ()
        restart = Restart(condition=RestartCondition.ANY, delay=Duration.of(2))
        ports = PORTS[self.ports if self.name == "a" or self.ports != "ingress" else "none"]
        world.put(
            make_service(
                self.name, mode=self.mode, replicas=None if self.mode is Mode.GLOBAL else self.replicas,
                image=self.image, ports=ports, env=env, restart=restart, update=UPDATES[self.update],
            )
        )  # fmt: skip


@dataclass(frozen=True)
class Run:
    """People write a job, or run it once more: each time a new iteration, as the API server counts."""

    name: str
    replicas: int
    at_once: int | None
    fails: bool
    attempts: int

    def do(self, world: World) -> None:
        mode = Mode.GLOBAL_JOB if self.name == "everywhere" else Mode.JOB
        numbers = {} if mode is Mode.GLOBAL_JOB else {"replicas": self.replicas, "max_concurrent": self.at_once}
        restart = Restart(condition=RestartCondition.ANY, delay=Duration.of(2), max_attempts=self.attempts)
        env = ("FAILS=1",) if self.fails else ("ENDS=1",)
        made = make_service(self.name, mode=mode, env=env, restart=restart, **numbers)
        old = world.get(made)
        if old is not None:
            status = msgspec.structs.replace(made.status, job_iteration=old.status.job_iteration + 1)
            made = msgspec.structs.replace(made, status=status)
        world.put(made)


@dataclass(frozen=True)
class Delete:
    name: str

    def do(self, world: World) -> None:
        world.remove(*(service for service in world.objects(Service) if service.metadata.name == self.name))


@dataclass(frozen=True)
class SetNode:
    """A node joins, leaves, falls silent, comes back, or gets another availability."""

    name: str
    how: str

    def do(self, world: World) -> None:
        agent, made = world.agent, make_node(self.name)
        assert agent is not None
        node = world.get(made)
        if self.how == "leaves":
            world.remove(*([node] if node is not None else []))
            return
        if self.how in ("silent", "back"):
            (agent.silent.add if self.how == "silent" else agent.silent.discard)(made.metadata.uid)
            agent.wake(world)
            return
        spec = msgspec.structs.replace(made.spec, availability=Availability(self.how))
        world.put(msgspec.structs.replace(node or made, spec=spec))


@dataclass(frozen=True)
class Pass:
    seconds: int

    def do(self, world: World) -> None:
        world.advance(self.seconds)


Deed = Deploy | Run | Delete | SetNode | Pass

names = st.sampled_from(["a", "b"])
deploys = st.builds(
    Deploy,
    name=names,
    mode=st.sampled_from([Mode.REPLICATED, Mode.REPLICATED, Mode.GLOBAL]),
    replicas=st.integers(0, 4),
    image=st.sampled_from(["app:1", "app:2"]),
    ports=st.sampled_from(sorted(PORTS)),
    fails=st.sampled_from([False, False, True]),
    update=st.sampled_from(sorted(UPDATES)),
)
runs = st.builds(
    Run,
    name=st.sampled_from(["batch", "batch", "everywhere"]),
    replicas=st.integers(0, 4),
    at_once=st.sampled_from([None, 1, 2]),
    fails=st.sampled_from([False, False, True]),
    attempts=st.sampled_from([0, 1]),
)
nodes = st.builds(
    SetNode,
    name=st.sampled_from(NODES),
    how=st.sampled_from(["leaves", "silent", "back", "active", "active", "pause", "drain"]),
)
deeds = st.lists(
    st.one_of(
        deploys,
        deploys,
        runs,
        st.builds(Delete, st.one_of(names, st.just("batch"))),
        nodes,
        st.builds(Pass, st.sampled_from([1, 3, 15])),
    ),
    min_size=1,
    max_size=8,
)


def behave(task: Task) -> Behaviour:
    """Some containers fail after a second, all take half a second to stop."""
    if "FAILS=1" in task.spec.template.env:
        return Behaviour(lives_s=1, exit_code=3, stop_s=0.5)
    if "ENDS=1" in task.spec.template.env:
        return Behaviour(lives_s=1, stop_s=0.5)
    return Behaviour(stop_s=0.5)


def make_world(seed: int | None = None, names: Iterable[str] = tuple(CONTROLLERS)) -> World:
    """Return a settled cluster of three nodes that runs nothing yet."""
    clock = VirtualClock()
    world = World(
        *(load(name, clock.monotonic) for name in names),
        clock=clock,
        agent=FakeAgent(behave),
        shuffle=Random(seed) if seed is not None else None,
    )
    world.put(make_cluster(), make_network("ingress"), *(make_node(name) for name in NODES))
    world.settle()
    return world


@dataclass
class Watchdog:
    """Reads a world's history, revision by revision, and fails where a rule was broken at any moment."""

    world: World
    _at: int = 0
    _objects: dict[str, Object] = field(default_factory=dict)

    def check(self) -> None:
        history = self.world.store.history
        while self._at < len(history):
            revision = history[self._at].revision
            touched: set[tuple[str, str]] = set()
            while self._at < len(history) and history[self._at].revision == revision:
                line = history[self._at]
                self._at += 1
                old = self._objects.pop(line.key, None)
                new = codec.decode_at(line.key, line.value, revision) if line.value is not None else None
                if new is not None:
                    self._objects[line.key] = new
                if isinstance(old, Task) and isinstance(new, Task):
                    _only_grew(old, new)
                if isinstance(new, Task):
                    touched.add((new.spec.service.uid, new.spec.slot))
            self._check_slots(touched)
        _check_unique(self.world)
        _check_jobs(self.world)

    def _check_slots(self, touched: set[tuple[str, str]]) -> None:
        """One task per slot is wanted running; a start-first update may have two for a while."""
        wanted: dict[tuple[str, str], list[Task]] = defaultdict(list)
        for obj in self._objects.values() if touched else ():
            if isinstance(obj, Task) and (slot := (obj.spec.service.uid, obj.spec.slot)) in touched:
                is_over = obj.status.state.is_terminal
                wants_running = obj.spec.desired_state.is_live and obj.spec.desired_state is not DesiredState.READY
                if wants_running and not is_over and not obj.spec.evicted:
                    wanted[slot].append(obj)
        for tasks in wanted.values():
            old = [task for task in tasks if not any(other.spec.start_first for other in tasks if other is not task)]
            assert len(old) <= 1, f"a slot has two live tasks: {[task.metadata.name for task in tasks]}"


def _only_grew(old: Task, new: Task) -> None:
    assert new.status.state.rank >= old.status.state.rank, f"{new.metadata.name} went back"
    assert new.spec.desired_state.rank >= old.spec.desired_state.rank, f"{new.metadata.name} is wanted back"
    assert old.spec.node is None or new.spec.node == old.spec.node, f"{new.metadata.name} moved"


def _check_unique(world: World) -> None:
    """No two holders of an address, an ingress port, or a host port of one node."""
    tasks = [task for task in world.objects(Task) if not task.status.state.is_terminal]
    addresses = [(one.network, one.address.split("/")[0]) for task in tasks for one in task.spec.addresses]
    assert len(addresses) == len(set(addresses)), "an address was given twice"
    claims = {key_of(claim) for claim in world.objects(Claim)}
    for network, address in addresses:
        assert keys.address(network, address) in claims, f"{address} is not claimed"
    published = [
        (port.protocol, port.published)
        for endpoint in world.objects(ServiceEndpoint)
        for port in endpoint.spec.ports
        if port.mode is PublishMode.INGRESS and port.published
    ]
    assert len(published) == len(set(published)), "a port was published twice"
    bound = [
        (task.spec.node.uid, port.protocol, port.published)
        for task in tasks
        if task.spec.node is not None and task.status.state.is_assigned
        for port in task.spec.template.ports
        if port.mode is PublishMode.HOST and port.published
    ]
    assert len(bound) == len(set(bound)), "a host port was given twice on a node"


def _check_jobs(world: World) -> None:
    """No job has more tasks under way than may be, and no slot completes twice in an iteration."""
    for service in world.objects(Service):
        if not service.spec.mode.is_job:
            continue
        uid, iteration = service.metadata.uid, service.status.job_iteration
        tasks = [t for t in world.objects(Task) if (t.spec.service.uid, t.spec.job_iteration) == (uid, iteration)]
        alive = [t for t in tasks if t.spec.desired_state.is_live and not t.status.state.is_terminal]
        done = [task.spec.slot for task in tasks if task.status.state is TaskState.COMPLETE]
        assert len(done) == len(set(done)), "a slot of a job completed twice"
        if service.spec.mode is Mode.JOB:
            assert len(alive) <= max_concurrent(service.spec), "more tasks of a job are under way than may be"


def outcome(world: World) -> dict[str, Any]:
    """What people see in the end, whatever way led there: what runs where it should, and what is published."""
    running: dict[str, list[str]] = defaultdict(list)
    for task in world.objects(Task):
        if task.spec.desired_state.is_live and not task.status.state.is_terminal:
            running[task.spec.service.name].append(f"{task.spec.slot}:{task.spec.revision}:{_phase(task)}")
    return {
        "tasks": {name: sorted(found) for name, found in running.items()},
        "rollouts": {one.status.service.name: (one.status.state, one.status.target) for one in world.objects(Rollout)},
        "endpoints": sorted(one.spec.service.name for one in world.objects(ServiceEndpoint)),
        "nodes": {node.metadata.name: node.status.state for node in world.objects(Node)},
    }


def _phase(task: Task) -> str:
    return "running" if task.status.state is TaskState.RUNNING else "waiting"


def idle_writes(world: World, since: int) -> list[str]:
    """Return the keys below /shoal/ that were written after a revision."""
    return [line.key for line in world.store.history if line.revision > since and line.key.startswith(keys.ROOT)]
