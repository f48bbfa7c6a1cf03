"""A whole swarm in one process: API server, controllers and an agent that pretends; and the command line run on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import anyio
import msgspec

from controllers import load
from shoal.api import codec
from shoal.api.errors import ConflictError
from shoal.api.objects import Attachment, ContainerStatus, Node, Task, TaskStatus
from shoal.api.states import DesiredState, TaskState
from shoal.machinery.factories import make_cluster, make_network, make_node
from shoal.machinery.runner import Runner
from shoal.machinery.store import Put, Txn, Unchanged
from tests.support.api import Api, running_api

CONTROLLERS = ("replication", "rollout", "placement", "endpoint")

BROKEN = "broken:1"
"""The image whose containers end at once with exit code 3."""

ROOT = Path(__file__).parents[2]


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def said(self, *words: str) -> bool:
        return all(word in self.out + self.err for word in words)


@dataclass
class Swarm:
    api: Api
    hanging: set[str] = field(default_factory=set)
    """Names of services whose tasks never get beyond preparing."""

    async def shoal(self, *words: str, stdin: str = "", api: str = "", within_s: float = 30.0) -> Result:
        """Run the command as people do, in a process of its own."""
        where = api or f"unix://{self.api.socket}"
        with anyio.fail_after(within_s):
            done = await anyio.run_process(
                [sys.executable, "-m", "shoal.cli.main", *words],
                input=stdin.encode(),
                check=False,
                env={**os.environ, "SHOAL_API": where, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
            )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    @asynccontextmanager
    async def running(self, *words: str) -> AsyncIterator[anyio.abc.Process]:
        """Run a command that goes on, and stop it at the end."""
        environment = {**os.environ, "SHOAL_API": f"unix://{self.api.socket}", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-u", "-m", "shoal.cli.main", *words]
        async with await anyio.open_process(command, stderr=subprocess.STDOUT, env=environment) as process:
            try:
                yield process
            finally:
                if process.returncode is None:
                    process.terminate()

    def tasks(self, service: str) -> list[Task]:
        return [t for t in self.api.server.mirror.cache.all(Task).values() if t.spec.service.name == service]

    async def written(self) -> dict[str, int]:
        """Return the revision of every stored object; elections, presences and events are none."""
        listing = await self.api.store.list("/shoal/")
        return {item.key: item.revision for item in listing.items}

    async def pretend(self) -> None:
        """Take every task one step on, as an agent would."""
        while True:
            for key, task in list(self.api.server.mirror.cache.all(Task).items()):
                state = self._next(task)
                if state is None or state is task.status.state:
                    continue
                code = 3 if state is TaskState.FAILED else 0
                status = TaskStatus(
                    state=state,
                    timestamp=datetime.now(UTC),
                    err="exit code 3" if code else "",
                    container=ContainerStatus(id="c" * 64, exit_code=code),
                )
                new = msgspec.structs.replace(task, status=status)
                try:
                    await self.api.store.commit(
                        Txn((Unchanged(key, task.metadata.resource_version),), (Put(key, codec.encode(new)),))
                    )
                except ConflictError:
                    continue
            await anyio.sleep(0.02)

    def _next(self, task: Task) -> TaskState | None:
        if not task.status.state.is_assigned:
            return None
        if not task.spec.desired_state.is_live:
            return TaskState.SHUTDOWN
        if task.spec.service.name in self.hanging:
            return TaskState.PREPARING
        if task.spec.desired_state is DesiredState.READY:
            return TaskState.READY
        if task.spec.template.image == BROKEN:
            return TaskState.FAILED
        has_run = task.status.state is TaskState.RUNNING and task.spec.desired_state is DesiredState.COMPLETE
        return TaskState.COMPLETE if has_run else TaskState.RUNNING


@asynccontextmanager
async def running_swarm(directory: Path, *nodes: Node) -> AsyncIterator[Swarm]:
    """Run a swarm with these nodes (one, if none is given)."""
    async with running_api(directory) as api, anyio.create_task_group() as tasks:
        await api.seed(make_cluster(), make_network(), *(nodes or (make_node("node-1"),)))
        for name in CONTROLLERS:
            tasks.start_soon(Runner(load(name), api.store, candidate="test").run)
        swarm = Swarm(api)
        tasks.start_soon(swarm.pretend)
        with anyio.fail_after(20):
            while not api.server.mirror.cache.all(Attachment) and not nodes:
                await anyio.sleep(0.02)
        yield swarm
        tasks.cancel_scope.cancel()
