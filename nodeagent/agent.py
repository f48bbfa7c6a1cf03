"""The agent: what the managers assign, the engine has and the network says, brought together.

    API server ──assignments──► Agent ──► network.program ──► "applied"
         ▲                        └─────► Crew, a Worker per task ──► engine
         └──────statuses, beats── Reporter ◄──┘

While managers are away the stored assignments serve names and rules only; while the engine is away nothing is known
of the containers, and nothing is said of them.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import anyio
import structlog
from anyio import Semaphore, to_thread
from anyio.abc import TaskGroup

from nodeagent import memory
from nodeagent.answers import Answers
from nodeagent.assignments import Assignments, moves_network
from nodeagent.client import ApiClient, Message, period_of
from nodeagent.engine.contract import Engine
from nodeagent.mounts.files import TaskFiles
from nodeagent.network.probe import NetworkProbe
from nodeagent.ports import NetworkPort
from nodeagent.reading import Reader, read_objects
from nodeagent.reporter import Reporter
from nodeagent.tasks.container import NODE_LABEL, Identity
from nodeagent.tasks.crew import Crew
from nodeagent.tasks.images import Images
from nodeagent.tasks.worker import Tools
from shoal.api.errors import DataplaneError, EngineError, ForbiddenError, NotFoundError, RemovedError, UnavailableError
from shoal.api.keys import key_of
from shoal.api.objects import Backend, Object, Task
from shoal.api.probes import NodeProbe
from shoal.machinery import managers
from shoal.machinery.clock import Clock, wait
from shoal.rules.following import is_waiting

RELIST_S: Final = 10.0
"""Seconds between two listings of the engine's containers; events are only hints."""

DESCRIBE_EVERY: Final = 3
"""Listings between two looks at the engine's description."""

RETRY_FIRST_S: Final = 0.1
RETRY_MOST_S: Final = 1.0
"""Waits between tries to reach a server or the engine; jittered, so that many agents do not come at once."""

SAVE_EVERY_S: Final = 1.0
"""Assignments are stored at most so often, in seconds."""

RESTS_PER_SAVE: Final = 50.0
"""Nor more often than once in so many times what it took: on a slow disk, or among a thousand nodes of which each is
told of all others, storing is a fiftieth of the agent's time at most."""

STORED_AFTER_S: Final = 3.0
"""Seconds the managers have, after a start, to say what is wanted before the network goes by the stored assignments.

What is in force outlives the agent, and is often newer than what it had stored when it was killed."""

MAKING: Final = 8
STARTING: Final = 8
"""Containers made and started at once."""

HTTPS: Final = "https://"
"""How managers are told; one reached through its own unix socket tells of none."""

NEVER_REACHED: Final = "no API server has been reached yet"

log = structlog.get_logger()


class Agent:
    def __init__(
        self,
        *,
        node_uid: str,
        engine: Engine,
        network: NetworkPort,
        api: ApiClient,
        clock: Clock,
        state_dir: Path,
        run_dir: Path,
        address: str = "",
        save_every_s: float = SAVE_EVERY_S,
        read: Reader = read_objects,
        probe: NetworkProbe | None = None,
    ) -> None:
        self._save_every_s, self._read = save_every_s, read
        self._node_uid, self._engine, self._network, self._api, self._clock = node_uid, engine, network, api, clock
        self._folder = state_dir / "agent"
        self._files = TaskFiles(run_dir / "files")
        self._reporter = Reporter(api, clock, address)
        self._crew = Crew(
            Tools(
                engine=engine,
                network=network,
                files=self._files,
                images=Images(engine),
                clock=clock,
                identity=Identity("", node_uid),
                report=self._reporter.status,
                making=Semaphore(MAKING, fast_acquire=True),
                starting=Semaphore(STARTING, fast_acquire=True),
            )
        )
        self._probe = probe
        self._answers = Answers(api, self._crew, node_uid, self._look if probe is not None else None)
        self._assignments = Assignments()
        self._incarnation = ""
        self._managers: tuple[str, ...] = ()
        self._changed = anyio.Event()
        self._is_awaited = False
        """Somebody may wait for this node to follow: a task is to lose its traffic, here or elsewhere."""
        self._is_told = anyio.Event()
        """The managers have said what is wanted, at least once."""
        self._to_save = anyio.Event()
        self._engine_trouble = "the engine has not been reached yet"
        self._manager_trouble = NEVER_REACHED

    def troubles(self) -> list[str]:
        """What keeps the agent from its work, in sentences; none = all is well."""
        return [trouble for trouble in (self._engine_trouble, self._manager_trouble) if trouble]

    async def run(self) -> None:
        """Work until cancelled; containers are left as they are. RemovedError when the cluster knows us no more."""
        self._managers = tuple(f"{HTTPS}{address}" for address in await to_thread.run_sync(managers.load, self._folder))
        self._api.learn(self._managers)
        self._adopt(await to_thread.run_sync(memory.load, self._folder))
        async with anyio.create_task_group() as group:
            self._crew.start(group)
            group.start_soon(self._reporter.run)
            group.start_soon(self._program)
            group.start_soon(self._save)
            group.start_soon(self._watch_engine)
            await self._follow_managers(group)

    async def _follow_managers(self, group: TaskGroup) -> None:
        tries = 0
        while True:
            try:
                async with self._api.assignments() as messages:
                    async for message in messages:
                        tries = 0
                        self._take(message, group)
            except RemovedError:
                raise
            except (UnavailableError, NotFoundError, ForbiddenError) as error:
                if self._manager_trouble in ("", NEVER_REACHED):
                    log.warning("managers_lost", reason=str(error))
                self._manager_trouble = str(error)
                self._api.next_server()
            await self._clock.sleep(_jittered(tries))
            tries += 1

    async def _look(self, networks: Collection[str]) -> NodeProbe:
        assert self._probe is not None
        parts = map(urlsplit, self._managers)
        managers = [(one.hostname, one.port) for one in parts if one.hostname and one.port]
        return await self._probe.measure(lambda: self._assignments, managers, networks)

    def _take(self, message: Message, group: TaskGroup) -> None:
        match message.type:
            case "hello":
                self._greet(message.managers, message.incarnation)
                self._reporter.expect(period_of(message.heartbeat_period))
            case "complete":
                self._take_complete(message)
            case "update":
                put, _ = self._read(message.put)
                before, moved = self._assignments.objects, {*map(key_of, put), *message.delete}
                self._is_awaited |= any(map(_is_draining, put))
                is_network = bool(message.delete) or any(moves_network(before.get(key_of(obj)), obj) for obj in put)
                assignments = self._assignments.changed(put, message.delete, message.revision)
                self._adopt(assignments, moved, is_network=is_network)
                self._forget(message.delete)
            case "bookmark":
                self._is_awaited = True
                self._adopt(self._assignments.changed((), (), message.revision), ())
            case "request":
                group.start_soon(self._answers.answer, message.id, message.method, message.params)
            case "cancel":
                self._answers.cancel(message.id)
            case other:
                log.debug("message_ignored", type=other)

    def _greet(self, urls: Sequence[str], incarnation: str) -> None:
        """Managers move, and others come: what the newest greeting says of them counts, and is kept on disk."""
        told = tuple(url for url in urls if url.startswith(HTTPS))
        if told and told != self._managers:
            self._managers = told
            self._api.learn(told)
            self._to_save.set()
        if incarnation != self._incarnation:
            self._incarnation = incarnation
            self._assignments = Assignments(self._assignments.objects, 0, synced=self._assignments.synced)

    def _take_complete(self, message: Message) -> None:
        """A server that is behind what another one has told is not believed: it would bring old tasks back."""
        if self._assignments.synced and message.revision < self._assignments.revision:
            raise UnavailableError(
                f"the API server is at revision {message.revision}, behind {self._assignments.revision}"
            )
        objects, unreadable = self._read(message.objects)
        kept = (self._assignments.objects.get(key) for key in sorted(unreadable))
        objects += [obj for obj in kept if obj is not None]
        assignments = Assignments().replaced(objects, message.revision)
        if self._manager_trouble:
            log.info("managers_reached", revision=message.revision, tasks=len(assignments.tasks(self._node_uid)))
        self._manager_trouble = ""
        self._is_told.set()
        self._reporter.greeted({task.metadata.name: task for task in assignments.of(Task).values()})
        self._adopt(assignments)

    def _adopt(
        self, assignments: Assignments, moved: Collection[str] | None = None, *, is_network: bool = True
    ) -> None:
        """Go by these assignments; `moved` names the keys in which they differ from the last ones, None = any.

        `is_network` is false where nothing can differ for the network: then there is nothing to program, or to say.
        """
        is_new = assignments.objects is not self._assignments.objects
        self._assignments = assignments
        cluster = assignments.cluster()
        if cluster is not None:
            self._crew.tools.identity = Identity(cluster.metadata.uid, self._node_uid)
        self._crew.assign(assignments, moved)
        if is_network:
            self._changed.set()
        if is_new and assignments.synced:
            self._to_save.set()

    def _forget(self, keys: Sequence[str]) -> None:
        for key in keys:
            if key.startswith("/shoal/tasks/"):
                self._reporter.forget(key.rpartition("/")[2])

    async def _program(self) -> None:
        """Bring the network to the newest assignments, again and again; say how far it is."""
        await wait(self._clock, self._is_told, STORED_AFTER_S)
        tries = 0
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            target = self._assignments
            is_awaited, self._is_awaited = self._is_awaited, False
            try:
                await self._network.program(target)
            except (EngineError, DataplaneError) as error:
                log.warning("network_not_programmed", revision=target.revision, reason=str(error))
                self._changed.set()
                self._is_awaited |= is_awaited
                tries += 1
                await self._clock.sleep(_jittered(tries))
            else:
                tries = 0
                if target.synced:
                    self._reporter.applied(target.revision, is_urgent=is_awaited)

    async def _save(self) -> None:
        stored = self._managers
        while True:
            await self._to_save.wait()
            self._to_save = anyio.Event()
            began = self._clock.monotonic()
            try:
                if (told := self._managers) != stored:
                    await to_thread.run_sync(managers.save, self._folder, [url.removeprefix(HTTPS) for url in told])
                    stored = told
                if self._assignments.synced:
                    await to_thread.run_sync(memory.save, self._folder, self._assignments)
            except OSError as error:
                log.error("assignments_not_stored", folder=str(self._folder), reason=str(error))
            await self._clock.sleep(max(self._save_every_s, RESTS_PER_SAVE * (self._clock.monotonic() - began)))

    async def _watch_engine(self) -> None:
        """Keep the listing and the description true; unreachable is unknown, not dead."""
        tries = 0
        while True:
            try:
                await self._follow_engine()
            except* EngineError as group:
                error = group.exceptions[0]
                if str(error) != self._engine_trouble:
                    log.error("engine_lost", reason=str(error), hint="is the Docker engine running?")
                tries = tries + 1 if self._engine_trouble else 0
                self._engine_trouble = str(error)
            await self._clock.sleep(_jittered(tries))

    async def _follow_engine(self) -> None:
        """Subscribe first, then list: nothing that happens between the two is missed."""
        async with self._engine.events({NODE_LABEL: self._node_uid}) as events, anyio.create_task_group() as group:
            group.start_soon(self._relist)
            async for event in events:
                self._crew.hint(event)

    async def _relist(self) -> None:
        turn = 0
        while True:
            if turn % DESCRIBE_EVERY == 0:
                self._reporter.describe(await self._engine.describe())
            self._crew.listed(await self._engine.containers({NODE_LABEL: self._node_uid}))
            if self._engine_trouble:
                log.info("engine_reached")
                self._network.distrust()
                self._changed.set()
            self._engine_trouble = ""
            if self._assignments.synced and turn:
                await self._clean_up()
            await self._clock.sleep(RELIST_S)
            turn += 1

    async def _clean_up(self) -> None:
        await self._files.sweep(self._crew.workers.keys())
        try:
            await self._network.cleanup()
        except (EngineError, DataplaneError) as error:
            log.warning("networks_not_cleaned", reason=str(error))


def _is_draining(obj: Object) -> bool:
    return isinstance(obj, Backend) and not obj.status.ready and is_waiting(obj)


def _jittered(tries: int) -> float:
    longest = min(RETRY_MOST_S, RETRY_FIRST_S * 2.0 ** min(tries, 10))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 -- spreads load only
