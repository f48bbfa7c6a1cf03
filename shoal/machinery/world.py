"""A cluster in a test: controllers, a store in memory and a scripted agent, without tasks, threads or real time.

`World` does what the runner, the writer and the informer do, one step after the other. So a test can stop it between
any two writes, let caches grow stale, and see a livelock as a failure.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple, TypeVar

import msgspec

from shoal.api import codec, keys
from shoal.api import objects as o
from shoal.api.errors import ConflictError
from shoal.api.meta import Meta, derived_uid
from shoal.api.ownership import API
from shoal.api.states import DesiredState, PublishMode, TaskState
from shoal.machinery.cache import Cache, Change
from shoal.machinery.clock import VirtualClock
from shoal.machinery.controller import Action, Controller, Plan, Replace
from shoal.machinery.factories import changed, make_revision, template_hash
from shoal.machinery.memory import MemoryStore
from shoal.machinery.runner import all_keys, keys_for, kinds_of, reader
from shoal.machinery.store import Txn
from shoal.machinery.writer import prepare, stamped
from shoal.rules.dirtiness import template_of
from shoal.rules.reports import completed

T = TypeVar("T", bound=o.Object)

PASSES = 5000
"""Passes after which a world that does not settle counts as livelocked."""

BEAT_S = 1.0
"""Seconds between two Presences."""


class Crash(Exception):
    """The process died before this write."""


class _Delivery(NamedTuple):
    """One revision's changes; None = deleted."""

    revision: int
    objects: tuple[tuple[str, o.Object | None], ...]


@dataclass
class _Part:
    """A controller's process: what it has in memory, and loses when it crashes."""

    controller: Controller[Any]
    cache: Cache
    kinds: frozenset[type[o.Object]]
    at: int = 0
    dirty: dict[str, None] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)
    is_held: bool = False


class World:
    """Runs `controllers` until nothing moves.

    `agent` None = nobody runs tasks. With `shuffle`, keys are worked on in random order and each plan is checked to
    be the same for a cache that holds the same in another order. A controller among `recalling` remembers what has
    happened, not only what is, so its cache is not filled anew for that. `budget` writes may still happen before
    `Crash` is raised.
    """

    def __init__(
        self,
        *controllers: Controller[Any],
        clock: VirtualClock | None = None,
        agent: FakeAgent | None = None,
        shuffle: Random | None = None,
        recalling: Collection[str] = ("endpoint", "nodes"),
    ) -> None:
        self.clock = clock or VirtualClock()
        self.recalling = recalling
        self.store = MemoryStore(self.clock.monotonic)
        self.cache = Cache()
        self.agent = agent
        self.shuffle = shuffle
        self.budget: int | None = None
        self.journal: list[str] = []
        """Every written action: `controller key reason`."""
        self._deliveries: list[_Delivery] = []
        self._read = 0
        self._parts = {controller.name: self._new_part(controller) for controller in controllers}
        self._beat_at = BEAT_S
        self._sequence = 0

    # What people and the API server do.

    def put(self, *objects: o.Object) -> None:
        """Store objects whatever was there; with a service also its Revision and its ports' claims."""
        for obj in objects:
            if isinstance(obj, o.Service):
                self._put_service(obj)
            else:
                self._put(obj)
        self._deliver()

    def keep(self, obj: o.Object) -> None:
        """Store an object just as it is given."""
        self._put(obj)
        self._deliver()

    def remove(self, *objects: o.Object) -> None:
        """Delete objects whatever they are like; with a service its ports' claims."""
        for obj in objects:
            if isinstance(obj, o.Service):
                for claim in self._claims_of(obj):
                    self._delete(keys.key_of(claim))
            self._delete(keys.key_of(obj))
        self._deliver()

    def objects(self, kind: type[T]) -> list[T]:
        """Return every stored object of a kind, by key."""
        found = self.cache.all(kind)
        return [found[key] for key in sorted(found)]

    def get(self, obj: T) -> T | None:
        """Return the newest state of an object."""
        return self.cache.get(type(obj), keys.key_of(obj))

    # What time and the controllers do.

    def settle(self, limit: int = PASSES) -> int:
        """Reconcile until nobody has anything to do now; return the number of revisions written.

        AssertionError, with the last actions, if that does not end.
        """
        before = self.store.revision
        for _ in range(limit):
            if not self.step():
                return self.store.revision - before
        raise AssertionError(f"not quiet after {limit} passes; last written:\n" + "\n".join(self.journal[-20:]))

    def advance(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due on the way."""
        end = self.clock.monotonic() + seconds
        self.settle()
        while (moment := self._next_moment()) <= end:
            self.clock.advance(max(0.0, moment - self.clock.monotonic()))
            self._fire()
            self.settle()
        self.clock.advance(max(0.0, end - self.clock.monotonic()))

    def restart(self, *names: str) -> None:
        """Crash controllers (all, if none is named) and start them again with empty memories."""
        self.budget = None
        for name in names or tuple(self._parts):
            self._parts[name] = self._new_part(self._parts[name].controller)

    def hold(self, name: str) -> None:
        """Let a controller's cache grow stale until `release`."""
        self._parts[name].is_held = True

    def resync(self, name: str) -> None:
        """Let a controller look at every key it knows of, however old its picture is."""
        part = self._parts[name]
        part.dirty.update(dict.fromkeys(all_keys(part.controller, part.cache)))

    def release(self, name: str) -> None:
        self._parts[name].is_held = False
        self._deliver()

    # How it works.

    def _new_part(self, controller: Controller[Any]) -> _Part:
        part = _Part(controller, self._new_cache(controller), kinds_of(controller), at=len(self._deliveries))
        part.dirty = dict.fromkeys(all_keys(controller, part.cache))
        return part

    def _new_cache(self, controller: Controller[Any], source: Cache | None = None) -> Cache:
        """Make a controller's cache from what is stored (or is in another cache), in any order if we shuffle."""
        source = source if source is not None else self.cache
        cache = Cache(controller.indexes, controller.folds())
        items = [item for kind in kinds_of(controller) for item in source.all(kind).items()]
        if self.shuffle is not None:
            self.shuffle.shuffle(items)
        for key, obj in items:
            cache.set(key, obj)
        cache.revision = source.revision
        return cache

    def step(self) -> bool:
        """Do one thing; False if there is nothing to do."""
        busy = [part for part in self._parts.values() if part.dirty]
        if busy:
            part = self.shuffle.choice(busy) if self.shuffle is not None else busy[0]
            key = self.shuffle.choice(list(part.dirty)) if self.shuffle is not None else next(iter(part.dirty))
            del part.dirty[key]
            self._reconcile(part, key)
            return True
        if self.agent is not None and self.agent.step(self):
            return True
        return self._report_applied()

    def _reconcile(self, part: _Part, key: str) -> None:
        plan = self._plan(part.controller, key, part.cache)
        if self.shuffle is not None:
            if part.controller.name not in self.recalling:
                again = self._plan(part.controller, key, self._new_cache(part.controller, part.cache))
                assert plan == again, f"{part.controller.name} decides differently about {key} after a restart"
            _scramble(part.cache, self.shuffle)
            again = self._plan(part.controller, key, part.cache)
            assert plan == again, f"{part.controller.name} decides differently about {key} in another order"
        part.due.pop(key, None)
        if plan.requeue_after is not None:
            seconds = plan.requeue_after.total_seconds()
            if seconds > 0:
                part.due[key] = self.clock.monotonic() + seconds
            else:
                part.dirty[key] = None
        try:
            self._apply(part, key, plan)
        finally:
            self._deliver()

    def _plan(self, controller: Controller[Any], key: str, cache: Cache) -> Plan:
        view = controller.observe(key, cache)
        return controller.plan(view, self.clock.now()) if view is not None else Plan()

    def _apply(self, part: _Part, key: str, plan: Plan) -> None:
        for action in plan.actions:
            try:
                prepared = prepare(action, reader(part.cache), part.controller.name, self.clock.now())
                if prepared.writes:
                    self._spend()
                    self.store.commit_now(Txn(prepared.compares, prepared.writes))
                    self.journal.append(f"{part.controller.name} {key} {action.reason}")
            except ConflictError:
                part.dirty[key] = None
                if not plan.independent:
                    return

    def _spend(self) -> None:
        if self.budget is not None:
            if self.budget <= 0:
                raise Crash
            self.budget -= 1

    def _deliver(self) -> None:
        """Bring every cache up to date, one revision after the other, and note whom that wakes."""
        history = self.store.history
        for revision, lines in itertools.groupby(history[self._read :], key=lambda line: line.revision):
            found = tuple(
                (line.key, codec.decode_at(line.key, line.value, revision) if line.value is not None else None)
                for line in lines
            )
            self._deliveries.append(_Delivery(revision, found))
            _apply_to(self.cache, found, frozenset(o.KINDS.values()))
            self.cache.revision = revision
            if self.agent is not None:
                self.agent.notice(key for key, obj in found if isinstance(obj, o.Task))
        self._read = len(history)
        for part in self._parts.values():
            if not part.is_held:
                self._catch_up(part)

    def _catch_up(self, part: _Part) -> None:
        for delivery in self._deliveries[part.at :]:
            changes = _apply_to(part.cache, delivery.objects, part.kinds)
            part.cache.revision = delivery.revision
            part.dirty.update(dict.fromkeys(keys_for(part.controller, changes, part.cache)))
        part.at = len(self._deliveries)

    def _next_moment(self) -> float:
        moments = [moment for part in self._parts.values() for moment in part.due.values()]
        if self.agent is not None:
            moments.append(self.agent.next_moment())
            if self._is_live():
                moments.append(self._beat_at)
        return min(moments, default=float("inf"))

    def _fire(self) -> None:
        now = self.clock.monotonic()
        for part in self._parts.values():
            for key in [key for key, moment in part.due.items() if moment <= now]:
                del part.due[key]
                part.dirty[key] = None
        if self.agent is not None and self._is_live() and self._beat_at <= now:
            self._beat_at = now + BEAT_S
            self._put_presence()
            self._deliver()

    # Presence: who is heard, and what they have programmed.

    def _is_live(self) -> bool:
        return any(part.controller.live for part in self._parts.values())

    def _report_applied(self) -> bool:
        """Let the nodes report what they have programmed, if that has changed; False if there is nothing new."""
        if self.agent is None or not self._is_live():
            return False
        presence = self.cache.get(o.Presence, keys.presence(_APISERVER))
        if presence is not None and presence.applied == self._applied(presence):
            return False
        self._put_presence()
        self._deliver()
        return True

    def _put_presence(self) -> None:
        assert self.agent is not None
        self._sequence += 1
        before = self.cache.get(o.Presence, keys.presence(_APISERVER))
        nodes = [node.metadata.uid for node in self.objects(o.Node)]
        heard = tuple(uid for uid in nodes if uid not in self.agent.silent)
        self._put(
            o.Presence(
                metadata=Meta(name="api1", uid=_APISERVER),
                heard=heard,
                silent=tuple(uid for uid in nodes if uid in self.agent.silent),
                applied=self._applied(before),
                sequence=self._sequence,
            )
        )

    def _applied(self, before: o.Presence | None) -> dict[str, int]:
        """Every node that is heard has programmed everything that was written below /shoal/."""
        assert self.agent is not None
        newest = max((line.revision for line in self._newest_line()), default=0)
        old = before.applied if before is not None else {}
        nodes = [node.metadata.uid for node in self.objects(o.Node)]
        return {uid: old.get(uid, 0) if uid in self.agent.silent else newest for uid in nodes}

    def _newest_line(self) -> Iterable[Any]:
        return itertools.islice((line for line in reversed(self.store.history) if line.key.startswith(keys.ROOT)), 1)

    # Writing as the API server.

    def _put(self, obj: o.Object) -> None:
        key = keys.key_of(obj)
        old = reader(self.cache)(key)
        self.store.put(key, codec.encode(stamped(obj, old, self.clock.now())))

    def _delete(self, key: str) -> None:
        self.store.remove(key)

    def _put_service(self, service: o.Service) -> None:
        digest = template_hash(template_of(service.spec))
        known = {
            one.spec.hash: one.spec.number
            for one in self.objects(o.Revision)
            if one.spec.service.uid == service.metadata.uid
        }
        number = known.get(digest) or max(known.values(), default=0) + 1
        status = msgspec.structs.replace(service.status, revision=digest, revision_number=number)
        service = msgspec.structs.replace(service, status=status)
        old = self.cache.get(o.Service, keys.key_of(service))
        if old is not None:
            status = msgspec.structs.replace(changed(old, service).status, job_iteration=status.job_iteration)
            service = msgspec.structs.replace(service, status=status)
        self._put(service)
        if digest not in known:
            self._put(make_revision(service, number))
        for claim in self._claims_of(service):
            self._put(claim)

    def _claims_of(self, service: o.Service) -> list[o.Claim]:
        """Return the claims on the ports a service names; the dynamic ones are endpoint's."""
        uid, claims = service.metadata.uid, []
        for port in service.spec.ports:
            if port.published:
                is_host = port.mode is PublishMode.HOST
                key = (
                    keys.host_port_claim(port.protocol, port.published, uid)
                    if is_host
                    else keys.ingress_port_claim(port.protocol, port.published)
                )
                name = key.removeprefix(keys.ROOT)
                claims.append(o.Claim(metadata=Meta(name=name, owner=o.owner_of(service)), key=name))
        return claims


def _scramble(cache: Cache, random: Random) -> None:
    """Let a cache list what it holds in another order."""
    groups = (group for index in cache._indexes.values() for group in index.values())
    for objects in (*cache._objects.values(), *groups):
        items = list(objects.items())
        random.shuffle(items)
        objects.clear()
        objects.update(items)


_APISERVER = derived_uid("apiserver", "1")


def _apply_to(
    cache: Cache, objects: Iterable[tuple[str, o.Object | None]], kinds: frozenset[type[o.Object]]
) -> list[Change]:
    changes = (cache.set(key, obj) for key, obj in objects if keys.kind_at(key) in kinds)
    return [change for change in changes if change is not None]


@dataclass(frozen=True)
class Behaviour:
    """How a task's container behaves; spans in seconds of the world's clock.

    `fails_at` is the state it fails to reach: rejected before `starting`, failed from then on. `lives_s` None = it
    runs until it is stopped; else it then ends with `exit_code`.
    """

    fails_at: TaskState | None = None
    exit_code: int = 0
    lives_s: float | None = None
    start_s: float = 0.0
    stop_s: float = 0.0


class FakeAgent:
    """Moves assigned tasks through their states as every node's agent would.

    `behave` says how a task's container behaves. Nodes whose uid is in `silent` do nothing and are not heard.
    """

    def __init__(self, behave: Callable[[o.Task], Behaviour] = lambda _: Behaviour()) -> None:
        self.behave = behave
        self.silent: set[str] = set()
        self._dirty: dict[str, None] = {}
        self._timers: list[tuple[float, str]] = []
        self._ordered_at: dict[str, float] = {}

    def notice(self, tasks: Iterable[str]) -> None:
        self._dirty.update(dict.fromkeys(tasks))

    def wake(self, world: World) -> None:
        """Look at every task again, after `silent` or `behave` was changed."""
        self.notice(world.cache.all(o.Task))

    def next_moment(self) -> float:
        return self._timers[0][0] if self._timers else float("inf")

    def step(self, world: World) -> bool:
        """Move one task one state on; False if no task can move now."""
        now = world.clock.monotonic()
        while self._timers and self._timers[0][0] <= now:
            self._dirty[heapq.heappop(self._timers)[1]] = None
        while self._dirty:
            key = next(iter(self._dirty))
            del self._dirty[key]
            task = world.cache.get(o.Task, key)
            if task is None or task.spec.node is None or task.spec.node.uid in self.silent:
                continue
            if world.cache.get(o.Node, keys.node(task.spec.node.uid)) is None:
                continue
            if self._move(world, key, task, now):
                return True
        return False

    def _move(self, world: World, key: str, task: o.Task, now: float) -> bool:
        behaviour = self.behave(task)
        status, moment = self._next(task, behaviour, now, world)
        if status is None:
            if moment is not None:
                heapq.heappush(self._timers, (moment, key))
            return False
        status = completed(task, msgspec.structs.replace(status, timestamp=world.clock.now()))
        new = msgspec.structs.replace(task, status=status)
        prepared = prepare(Action("Reported", (Replace(new),)), reader(world.cache), API, world.clock.now())
        world.store.commit_now(Txn(prepared.compares, prepared.writes))
        world.journal.append(f"agent {task.metadata.name} {new.status.state}")
        world._deliver()
        return True

    def _next(
        self, task: o.Task, behaviour: Behaviour, now: float, world: World
    ) -> tuple[o.TaskStatus | None, float | None]:
        """Return the next status, or the moment at which there will be one, or neither."""
        state, desired = task.status.state, task.spec.desired_state
        if not state.is_assigned:
            return None, None
        reached = (task.status.timestamp - VirtualClock.START).total_seconds() if task.status.timestamp else now
        if task.spec.evicted or not desired.is_live:
            ordered = self._ordered_at.setdefault(task.metadata.uid, now)
            has_container = state.rank >= TaskState.STARTING.rank
            moment = ordered + (behaviour.stop_s if has_container else 0.0)
            if moment > now:
                return None, moment
            if task.spec.evicted and desired.is_live:
                return o.TaskStatus(state=TaskState.REJECTED, err=task.spec.evicted), None
            return o.TaskStatus(state=TaskState.SHUTDOWN), None
        if state is TaskState.RUNNING:
            return self._end(behaviour, reached, now)
        if state is TaskState.READY and desired is DesiredState.READY:
            return None, None
        following = _NEXT[state]
        if following is TaskState.RUNNING and reached + behaviour.start_s > now:
            return None, reached + behaviour.start_s
        if following is behaviour.fails_at:
            is_early = following.rank < TaskState.STARTING.rank
            failed = TaskState.REJECTED if is_early else TaskState.FAILED
            return o.TaskStatus(state=failed, err=f"could not become {following}"), None
        return o.TaskStatus(state=following), None

    def _end(self, behaviour: Behaviour, reached: float, now: float) -> tuple[o.TaskStatus | None, float | None]:
        if behaviour.lives_s is None:
            return None, None
        if reached + behaviour.lives_s > now:
            return None, reached + behaviour.lives_s
        code = behaviour.exit_code
        ended = TaskState.FAILED if code else TaskState.COMPLETE
        err = f"task: non-zero exit ({code})" if code else ""
        return o.TaskStatus(state=ended, err=err, container=o.ContainerStatus(exit_code=code)), None


_CHAIN: Sequence[TaskState] = (
    TaskState.ASSIGNED, TaskState.ACCEPTED, TaskState.PREPARING, TaskState.READY, TaskState.STARTING, TaskState.RUNNING,
)  # fmt: skip
_NEXT = dict(itertools.pairwise(_CHAIN))
