"""Takes one task through its life: look, decide with `machine.next_step`, do that one step, report.

What must survive a crash is in the container and in the task's reported status; what is kept here (times of signals,
the newest state) is only ever a little more cautious after a restart.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import structlog
from anyio import Semaphore

from nodeagent.engine.contract import Container, Engine, NameTakenError, Summary
from nodeagent.ports import FilesPort, NetworkPort
from nodeagent.tasks import machine
from nodeagent.tasks.container import Around, Identity, endpoint_settings, is_of_task, make_body
from nodeagent.tasks.images import Images
from shoal.api.errors import DataplaneError, EngineError, TerminalError
from shoal.api.objects import Backend, ContainerStatus, Task, TaskStatus
from shoal.api.states import TaskState
from shoal.machinery.clock import Clock, wait

RETRY_FIRST_S: Final = 0.2
RETRY_MOST_S: Final = 5.0
"""Waits between tries while the engine does not answer: doubled from the first to the most."""

STUCK_S: Final = 1.0
"""A container the engine is just removing is looked at again after so long."""


@dataclass
class Tools:
    """What all workers share; `identity` is complete once the cluster is known."""

    engine: Engine
    network: NetworkPort
    files: FilesPort
    images: Images
    clock: Clock
    identity: Identity
    report: Callable[[Task, TaskStatus], None]
    making: Semaphore
    """Containers made at once."""
    starting: Semaphore
    """Containers started at once."""
    log: Any = field(default_factory=lambda: structlog.get_logger().bind())
    """What workers bind their task to: made once, where a module's logger would be made anew for each."""


class Worker:
    """One task, or one stray container of ours (`task` None)."""

    def __init__(self, uid: str, tools: Tools, found: Summary | None = None) -> None:
        self.uid, self.tools = uid, tools
        self.task: Task | None = None
        self.wanted = False
        self.backend: Backend | None = None
        self.around = Around()
        self.container: Container | None = None
        self.container_id = found.id if found is not None else ""
        self.mark = found.mark if found is not None else ""
        self.state = TaskState.NEW
        self._stale = found is not None
        self._may_have_files = True
        self._image_ready = self._is_wired = False
        self._completed = 0
        """The process of the container whose network is complete; a container that is started again has another."""
        self._failures = 0
        self._ordered_at: float | None = None
        self._signalled_at: float | None = None
        self._killed_at: float | None = None
        self._changed = anyio.Event()
        self._log = tools.log.bind(task=uid)

    @property
    def is_done(self) -> bool:
        """Nothing of it is left here, and nobody asks for it."""
        return not self.wanted and not self._stale and self.container is None

    def assign(self, task: Task, backend: Backend | None, around: Around) -> None:
        """Take what the managers say now; the state never goes back to what they have not heard of yet."""
        if (task, backend, around, True) == (self.task, self.backend, self.around, self.wanted):
            return
        is_echo = self._is_echo(task, backend, around)
        if task.status.state.rank > self.state.rank:
            self.state = task.status.state
        if self.task is None:
            self._log = self.tools.log.bind(task=task.metadata.name)
        self.task, self.backend, self.around, self.wanted = task, backend, around, True
        if not is_echo:
            self.wake()

    def _is_echo(self, task: Task, backend: Backend | None, around: Around) -> bool:
        """Nothing is new but that the managers have heard of a state that was reported from here."""
        known = self.task
        if known is None or not self.wanted or task.status.state.rank > self.state.rank:
            return False
        return (task.spec, backend, around) == (known.spec, self.backend, self.around)

    def withdraw(self) -> None:
        """The task left the assignments."""
        if self.wanted:
            self.wanted = False
            self.wake()

    def listed(self, found: Summary | None) -> None:
        """Compare with a listing: None = it is not in there."""
        mark, container_id = (found.mark, found.id) if found is not None else ("", "")
        if (mark, container_id) != (self.mark, self.container_id):
            self.mark = mark
            self.container_id = container_id or self.container_id
            self.hint()
        elif self._failures:
            self.wake()

    def hint(self) -> None:
        """Something happened to the container: look at it."""
        self._stale = bool(self.container_id) or self._stale
        self.wake()

    def wake(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Step until nothing is left to do for ever."""
        pause_s = 0.0
        while True:
            if pause_s:
                await self._await_change(self.tools.clock.monotonic() + pause_s)
                pause_s = 0.0
            try:
                until = await self._step()
                await self._wipe_files()
            except EngineError as error:
                pause_s = self._retry_after(error)
                continue
            self._failures = 0
            if self.is_done:
                return
            if until is not None:
                await self._await_change(until)

    async def _wipe_files(self) -> None:
        """Secrets go as soon as nobody can read them here any more."""
        is_over = self.state.is_terminal or machine.must_end(self.task, wanted=self.wanted)
        if self._may_have_files and is_over and (self.container is None or not self.container.is_alive):
            await self.tools.files.wipe(self.uid)
            self._may_have_files = False

    def _retry_after(self, error: EngineError) -> float:
        self._failures += 1
        self._stale = bool(self.container_id) or self._stale
        pause_s: float = min(RETRY_MOST_S, RETRY_FIRST_S * 2 ** (self._failures - 1))
        self._log.warning("task_step_failed", error=str(error), retry_s=pause_s)
        return pause_s

    async def _await_change(self, until: float) -> None:
        await wait(self.tools.clock, self._changed, until - self.tools.clock.monotonic())
        self._changed = anyio.Event()

    async def _step(self) -> float | None:
        """Do one step; return until when to wait (inf = for a change), None to go on at once."""
        await self._look()
        now = self.tools.clock.monotonic()
        if machine.must_end(self.task, wanted=self.wanted) and self._ordered_at is None:
            self._ordered_at = now
        if self.container is not None and self.container.state == "removing":
            self._stale = True
            return now + STUCK_S
        step = machine.next_step(self._view(now))
        if isinstance(step, machine.Wait):
            return math.inf if step.until is None else step.until
        await self._perform(step)
        return None

    def _view(self, now: float) -> machine.View:
        return machine.View(
            now=now,
            task=self.task,
            wanted=self.wanted,
            state=self.state,
            container=self.container,
            backend=self.backend,
            image_ready=self._image_ready,
            is_wired=self._is_wired,
            is_complete=self.container is None or self.container.pid in (0, self._completed),
            ordered_at=self._ordered_at,
            signalled_at=self._signalled_at,
            killed_at=self._killed_at,
        )

    async def _look(self) -> None:
        """Inspect the container if anything may have happened to it since; also to what happens while we look."""
        if not self._stale:
            return
        self._stale = False
        try:
            self.container = await self.tools.engine.inspect(self.container_id)
        except BaseException:
            self._stale = True
            raise
        if self.container is None:
            self.container_id = self.mark = ""
            self._stale = False

    async def _perform(self, step: machine.Step) -> None:
        match step:
            case machine.Report(state, message, err):
                self._reached(state, message, err)
            case machine.Pull():
                await self._or_rejected(self._pull)
            case machine.Create():
                await self._or_rejected(self._create)
            case machine.Start():
                await self._start()
            case machine.Complete():
                await self._complete()
            case machine.Signal(signal):
                await self._signal(signal)
            case machine.Remove():
                await self.tools.engine.remove(self.container_id)
                self._stale = True
                self._log.info("container_removed", container=self.container_id[:12])

    def _reached(self, state: TaskState, message: str, err: str = "") -> None:
        assert self.task is not None
        self.state = state
        seen = self.container
        status = TaskStatus(
            state=state,
            timestamp=self.tools.clock.now(),
            message=message,
            err=err,
            container=None if seen is None else ContainerStatus(seen.id, seen.pid, seen.exit_code),
            ports=seen.ports if seen is not None and seen.is_alive else (),
        )
        self._log.info("task_state_reached", state=state.value, **({"error": err} if err else {}))
        self.tools.report(self.task, status)

    async def _or_rejected(self, act: Callable[[], Awaitable[None]]) -> None:
        """Before the start, what cannot be done rejects the task, in the engine's own words."""
        try:
            await act()
        except EngineError as error:
            if error.temporary:
                raise
            self._reached(TaskState.REJECTED, "preparing", str(error))
        except (DataplaneError, TerminalError) as error:
            self._reached(TaskState.REJECTED, "preparing", str(error))

    async def _pull(self) -> None:
        assert self.task is not None
        await self.tools.images.ensure(self.task.spec.template.image)
        self._image_ready = True

    async def _create(self) -> None:
        """Make the container, or take the one there is, and join it to all its networks."""
        assert self.task is not None
        tools, task = self.tools, self.task
        network = await tools.network.prepare(task)
        files = await tools.files.prepare(task, self.around.node)
        self._may_have_files = True
        version = await tools.engine.api_version()
        async with tools.making:
            if self.container is None:
                body = make_body(task, network, tools.identity, around=self.around, files=files, api_version=version)
                try:
                    self.container_id = await tools.engine.create(task.metadata.name, body)
                    self.container = Container(self.container_id, task.metadata.name, body["Labels"])
                except NameTakenError:
                    await self._adopt()
            for endpoint in network.endpoints[1:]:
                settings = endpoint_settings(endpoint, version)
                await tools.engine.connect(endpoint.name, self.container_id, settings)
        self._is_wired = True

    async def _adopt(self) -> None:
        assert self.task is not None
        found = await self.tools.engine.inspect(self.task.metadata.name)
        if found is None:
            raise EngineError(f"container {self.task.metadata.name} vanished while it was looked at", temporary=True)
        if not is_of_task(found.labels, found.name, self.uid, self.tools.identity):
            raise EngineError(f"a container named {found.name} exists that is not this task's ({found.id[:12]})")
        self.container_id, self.container = found.id, found
        self._log.info("container_adopted", container=found.id[:12])

    async def _start(self) -> None:
        """Start it; from here on what goes wrong is a failure, as the container may have run."""
        try:
            async with self.tools.starting:
                await self.tools.engine.start(self.container_id)
        except EngineError as error:
            if error.temporary:
                raise
            self._stale = True
            await self._look()
            self._reached(TaskState.FAILED, "starting failed", str(error))
        self._stale = True

    async def _complete(self) -> None:
        assert self.task is not None
        assert self.container is not None
        await self.tools.network.complete(self.task, self.container.pid)
        self._completed = self.container.pid

    async def _signal(self, signal: str) -> None:
        try:
            await self.tools.engine.kill(self.container_id, signal)
        except EngineError as error:
            if error.temporary or signal == "SIGKILL":
                raise
            self._log.warning("signal_refused", signal=signal, error=str(error))  # its grace runs, then SIGKILL
        now = self.tools.clock.monotonic()
        if signal == "SIGKILL" and self._signalled_at is not None:
            self._killed_at = now
        if self._signalled_at is None:
            self._signalled_at = now
        self._stale = True
        self._log.info("container_signalled", container=self.container_id[:12], signal=signal)
