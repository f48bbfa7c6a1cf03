"""Keeps a table of processes running: starts them in order, restarts what ends, stops them in reverse order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path

import anyio
import structlog
from anyio.abc import Process as Child

from shoal.api.errors import NotFoundError
from shoal.host import child as children
from shoal.host.logs import RotatingFile, echo
from shoal.host.paths import Paths
from shoal.host.probe import is_ready
from shoal.host.processes import Process, stop_order
from shoal.host.restarts import Restarts

PROBE_EVERY_S = 0.1
"""While a process starts. Once it is ready nobody asks it any more, except for `shoal status`."""

log = structlog.get_logger(__name__)


class UnitState(StrEnum):
    """WAITING for what it needs; RESTARTING after a pause, since it ended; STOPPED because somebody wants it so."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"


class Unit:
    """One process and how it fares. Changed by the supervisor only."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.wanted = True
        self.state = UnitState.WAITING
        self.child: Child | None = None
        self.started_at = 0.0
        """By time.time(); 0 = not running."""
        self.ready_since: float | None = None
        """By time.monotonic()."""
        self.restarts = Restarts()
        self.last_end = ""
        self.has_finished = False
        """It ended because there is nothing left for it to do."""


class Supervisor:
    def __init__(self, paths: Paths, *, echoes: bool = False) -> None:
        self.units: dict[str, Unit] = {}
        self._paths, self._echoes = paths, echoes
        self._satisfied: set[str] = set()
        self._changed = anyio.Event()

    def plan(self, processes: Iterable[Process]) -> None:
        """Say what there is to run."""
        self.units = {process.name: Unit(process) for process in processes}

    async def run(self) -> None:
        """Run the table until cancelled; then every process that is left is killed."""
        self._paths.status_sockets.mkdir(parents=True, exist_ok=True)
        async with anyio.create_task_group() as group:
            for unit in self.units.values():
                group.start_soon(self._keep, unit)

    def satisfy(self, need: str) -> None:
        """Note that a need which is no process is met."""
        self._satisfied.add(need)
        self._tell()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something is true of the units; looked at whenever one of them changes."""
        while not holds():
            changed = self._changed
            await changed.wait()

    def is_ready(self, need: str) -> bool:
        unit = self.units.get(need)
        return unit.state is UnitState.READY if unit is not None else need in self._satisfied

    def all_ready(self) -> bool:
        """True if everything that is wanted is up."""
        return bool(self.units) and all(unit.state is UnitState.READY for unit in self.units.values() if unit.wanted)

    def start(self, name: str) -> None:
        """Want a process that was stopped."""
        self._unit(name).wanted = True
        self._tell()

    async def stop(self, name: str) -> None:
        """Stop one process and leave it stopped."""
        unit = self._unit(name)
        unit.wanted = False
        self._tell()
        await self.until(lambda: unit.state is UnitState.STOPPED)

    async def stop_all(self) -> None:
        """Stop everything, what others need last."""
        for unit in self.units.values():
            unit.wanted = unit.wanted and unit.child is not None
        self._tell()
        for together in stop_order(unit.process for unit in self.units.values()):
            async with anyio.create_task_group() as group:
                for process in together:
                    group.start_soon(self.stop, process.name)

    def _unit(self, name: str) -> Unit:
        if name not in self.units:
            known = ", ".join(self.units) or "none"
            raise NotFoundError(f"this host runs no process {name!r}; it runs: {known}")
        return self.units[name]

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _move(self, unit: Unit, state: UnitState) -> None:
        unit.state = state
        self._tell()

    async def _keep(self, unit: Unit) -> None:
        while True:
            if not unit.wanted:
                unit.restarts = Restarts(unit.restarts.total)
                self._move(unit, UnitState.STOPPED)
                await self.until(lambda: unit.wanted)
            self._move(unit, UnitState.WAITING)
            await self.until(lambda: not unit.wanted or all(self.is_ready(need) for need in unit.process.needs))
            if not unit.wanted:
                continue
            await self._run_once(unit)
            if unit.wanted:
                self._move(unit, UnitState.RESTARTING)
                with anyio.move_on_after(unit.restarts.wait_s):
                    await self.until(lambda: not unit.wanted)

    async def _run_once(self, unit: Unit) -> None:
        """Start the process, see it become ready, and wait for its end."""
        process = unit.process
        if process.ready.socket is not None:
            _remove_stale(process.ready.socket)
        with ExitStack() as stack:
            file = stack.enter_context(RotatingFile(self._paths.log(process.name)))
            unit.child = await children.start(process.argv, process.environment)
            unit.started_at, unit.ready_since = time.time(), None
            self._move(unit, UnitState.STARTING)
            log.info("child_started", child=process.name, pid=unit.child.pid)
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._note_ready, unit)
                    group.start_soon(self._stop_if_unwanted, unit, unit.child)
                    code = await children.run_to_end(unit.child, lambda line: self._say(unit, file, line))
                    group.cancel_scope.cancel()
            finally:
                unit.child, unit.started_at = None, 0.0
        self._note_end(unit, code)

    async def _note_ready(self, unit: Unit) -> None:
        while not await is_ready(unit.process.ready, self._paths.etcd_pki):  # noqa: ASYNC110 - it is another process
            await anyio.sleep(PROBE_EVERY_S)
        unit.ready_since = time.monotonic()
        self._move(unit, UnitState.READY)
        log.info("child_ready", child=unit.process.name, after_s=round(time.time() - unit.started_at, 2))

    async def _stop_if_unwanted(self, unit: Unit, child: Child) -> None:
        await self.until(lambda: not unit.wanted)
        children.ask_to_stop(child)
        await anyio.sleep(unit.process.stop_within_s)
        log.warning("child_killed", child=unit.process.name, after_s=unit.process.stop_within_s)
        children.kill(child)

    def _note_end(self, unit: Unit, code: int) -> None:
        unit.last_end = f"signal {-code}" if code < 0 else f"exit code {code}"
        unit.has_finished = code == unit.process.final_code
        if unit.has_finished:
            unit.wanted = False
        if not unit.wanted:
            log.info("child_stopped", child=unit.process.name, end=unit.last_end)
            return
        ready_for_s = time.monotonic() - unit.ready_since if unit.ready_since is not None else 0.0
        unit.restarts = unit.restarts.after_exit(ready_for_s)
        log.warning("child_ended", child=unit.process.name, end=unit.last_end, restart_after_s=unit.restarts.wait_s)

    def _say(self, unit: Unit, file: RotatingFile, line: bytes) -> None:
        file.write(line)
        if self._echoes:
            echo(unit.process.name, line)


def _remove_stale(socket: Path) -> None:
    """A socket file that a killed process left behind answers nobody."""
    socket.unlink(missing_ok=True)
