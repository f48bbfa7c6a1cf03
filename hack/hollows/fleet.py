"""One process full of hollow nodes: each joins with the token, over mutual TLS, as a host does, and runs its agent.

    python -m hack.hollows.fleet --join TOKEN HOST:PORT --first 1 --count 500 --folder DIR --status-socket PATH

Ready (`/readyz`) when all agents hold their assignments; `/metrics` counts what they were told. SIGTERM lets every
node leave the cluster. The folder holds what hosts keep on disk; in /dev/shm it costs no disk.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import click
import msgspec
from prometheus_client import REGISTRY, Counter, Gauge

from hack.hollows.engine import HollowEngine, HollowNetwork
from nodeagent.agent import Agent
from nodeagent.client import ApiClient, Message
from nodeagent.reading import read_objects
from nodeagent.tls import NodeTls
from shoal.api.errors import ShoalError
from shoal.api.objects import Object
from shoal.api.states import Availability
from shoal.api.tokens import Token, parse_token
from shoal.host.joining import Newcomer, Remote, join, parse_remote, say_goodbye
from shoal.machinery.clock import SystemClock
from shoal.machinery.process import ProcessOptions, process_options, run_process
from shoal.machinery.status import Health

JOINING: Final = 8
"""Nodes of one process that join at once: strangers at a manager's door are few."""

AGAIN_S: Final = 0.5
"""Seconds before a node whose join did not come through tries again."""

SAVE_EVERY_S: Final = 60.0
"""Seconds between two times that a hollow node stores its assignments: hosts do it every second, each on a disk and a
processor of its own, and of five hundred in one process that alone would be half the work."""

MOST_KNOWN: Final = 50_000
"""Objects that are remembered, to be read once for all nodes of a process."""

GOODBYE_S: Final = 20.0
"""Seconds that all nodes of a process have to leave the cluster."""

_TASK: Final = b'{"kind":"Task"'
_ASSIGNED: Final = b'"state":"assigned"'

CONNECTED = Gauge("hollow_nodes_connected", "Agents whose assignments stream is open and complete.")
MESSAGES = Counter("hollow_messages", "Messages that came down the streams.", ["type"])
BYTES = Counter("hollow_object_bytes", "Bytes of the objects in them.", ["type"])
TASKS = Counter("hollow_tasks_delivered", "Tasks that an agent was told of for the first time: assigned, not begun.")
LAST_TASK = Gauge("hollow_last_task_seconds", "When the last of those came, by the machine's monotonic clock.")


class CountingClient(ApiClient):
    """Counts what an agent is told."""

    @asynccontextmanager
    async def assignments(self) -> AsyncIterator[AsyncIterator[Message]]:
        async with super().assignments() as messages:
            yield self._counted(messages)

    async def _counted(self, messages: AsyncIterator[Message]) -> AsyncIterator[Message]:
        is_complete = False
        try:
            async for message in messages:
                _count(message)
                if message.type == "complete" and not is_complete:
                    is_complete = True
                    CONNECTED.inc()
                yield message
        finally:
            if is_complete:
                CONNECTED.dec()


def _count(message: Message) -> None:
    MESSAGES.labels(message.type).inc()
    objects = [bytes(raw) for raw in (*message.objects, *message.put)]
    BYTES.labels(message.type).inc(sum(map(len, objects)))
    tasks = sum(body.startswith(_TASK) and _ASSIGNED in body for body in objects)
    if tasks:
        TASKS.inc(tasks)
        LAST_TASK.set(time.monotonic())


class SharedReader:
    """Reads each object once for all nodes of the process: they are told the same of each other, and change nothing."""

    def __init__(self) -> None:
        self._known: dict[bytes, Object] = {}

    def __call__(self, raws: Iterable[msgspec.Raw]) -> tuple[list[Object], frozenset[str]]:
        objects: list[Object] = []
        unreadable: set[str] = set()
        for raw in raws:
            body = bytes(raw)
            found = self._known.get(body)
            if found is not None:
                objects.append(found)
                continue
            read, failed = read_objects([raw])
            objects += read
            unreadable |= failed
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known.update((body, obj) for obj in read)
        return objects, frozenset(unreadable)


@dataclass(frozen=True)
class Hollow:
    """One node: its place among all hollow nodes, and where it keeps its files."""

    number: int
    folder: Path
    name: str = "hollow"

    @property
    def hostname(self) -> str:
        return f"{self.name}-{self.number:04d}"

    @property
    def address(self) -> str:
        """One of 198.18.0.0/15, which is set aside for benchmarks and leads nowhere. Source: RFC 2544."""
        return f"198.{18 + (self.number >> 16)}.{self.number >> 8 & 255}.{self.number & 255}"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def chain(self) -> Path:
        return self.folder / "node.pem"


class Fleet:
    def __init__(self, remote: Remote, token: Token, nodes: list[Hollow]) -> None:
        self._remote, self._token, self._nodes = remote, token, nodes
        self._joining = anyio.CapacityLimiter(JOINING)
        self._members: dict[str, Hollow] = {}
        self._read = SharedReader()

    def trouble(self) -> str:
        connected = int(REGISTRY.get_sample_value("hollow_nodes_connected") or 0)
        return "" if connected == len(self._nodes) else f"{connected} of {len(self._nodes)} nodes connected"

    async def run(self) -> None:
        """Join and work until cancelled; then leave."""
        try:
            async with anyio.create_task_group() as group:
                for node in self._nodes:
                    group.start_soon(self._live, node)
        finally:
            with anyio.move_on_after(GOODBYE_S, shield=True):
                await self._leave()

    async def _live(self, node: Hollow) -> None:
        async with self._joining:
            uid, managers = await self._join(node)
        self._members[uid] = node
        tls = NodeTls(node.ca, node.chain)
        async with CountingClient([f"https://{manager}" for manager in managers], uid, tls) as api:
            agent = Agent(
                node_uid=uid,
                engine=HollowEngine(node.hostname),
                network=HollowNetwork(),
                api=api,
                clock=SystemClock(),
                state_dir=node.folder,
                run_dir=node.folder / "run",
                address=node.address,
                save_every_s=SAVE_EVERY_S,
                read=self._read,
            )
            await agent.run()

    async def _join(self, node: Hollow) -> tuple[str, tuple[str, ...]]:
        """Become a member, however often it takes; returns the node's uid and where managers answer."""
        newcomer = Newcomer(node.hostname, node.address, Availability.ACTIVE)
        while True:
            try:
                found, key = await join(self._remote, self._token, newcomer)
            except ShoalError as error:
                if error.status < 500 and error.status != 429:
                    raise
                await anyio.sleep(AGAIN_S)
                continue
            node.folder.mkdir(mode=0o700, parents=True)
            node.ca.write_text(found.ca)
            node.chain.touch(mode=0o600)
            node.chain.write_bytes(found.certificate.encode() + key)
            return found.node, found.managers

    async def _leave(self) -> None:
        limiter = anyio.CapacityLimiter(JOINING)

        async def leave(uid: str, node: Hollow) -> None:
            async with limiter:
                try:
                    await say_goodbye(self._remote, node.ca, node.chain, uid)
                except ShoalError:
                    return  # the managers are gone, or the node was removed: nobody is left to tell

        async with anyio.create_task_group() as group:
            for uid, node in self._members.items():
                group.start_soon(leave, uid, node)


@click.command()
@click.option("--join", "joining", nargs=2, required=True, metavar="TOKEN HOST:PORT")
@click.option("--first", type=int, default=1, help="Number of the first node.")
@click.option("--count", type=int, required=True)
@click.option("--name", default="hollow", show_default=True, help="What the nodes' names begin with.")
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@process_options
def main(joining: tuple[str, str], first: int, count: int, name: str, folder: Path, process: ProcessOptions) -> None:
    """Run hollow nodes until SIGTERM."""
    nodes = [Hollow(number, folder / f"{number}", name) for number in range(first, first + count)]
    sys.exit(run_process("hollow", make_serve(parse_remote(joining[1]), parse_token(joining[0]), nodes), process))


def make_serve(remote: Remote, token: Token, nodes: list[Hollow]) -> Callable[[Health], Awaitable[None]]:
    async def serve(health: Health) -> None:
        fleet = Fleet(remote, token, nodes)
        health.not_ready = fleet.trouble
        await fleet.run()

    return serve


if __name__ == "__main__":
    main()
