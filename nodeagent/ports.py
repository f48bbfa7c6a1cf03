"""What the agent's task side asks of its network and of its files, and they of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from msgspec import Struct

from nodeagent.assignments import Assignments
from shoal.api.objects import Task
from shoal.rules.expand import NodeFacts


class NetworkEndpoint(Struct, frozen=True):
    """One network a container joins: `name` as the engine knows it; address and MAC "" = the engine chooses."""

    name: str
    ip: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()
    options: Mapping[str, str] = {}
    """The driver's, in Docker's words."""


class ContainerNetwork(Struct, frozen=True):
    """How a task's container is wired.

    `endpoints[0]` is where it is created, the others are joined before it starts; none = the engine's default
    bridge. `mode` "host" or "none" stands alone. The name servers are those of Shoal; they come before the task's own.
    """

    endpoints: tuple[NetworkEndpoint, ...] = ()
    mode: str = ""
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class NetworkPort(Protocol):
    """The node's networks, as the task side sees them. Every call may be repeated after a crash."""

    async def prepare(self, task: Task) -> ContainerNetwork:
        """See that the networks of a task exist here, and return how to wire its container.

        EngineError or DataplaneError if they cannot be made; `temporary` ones are retried.
        """

    async def complete(self, task: Task, pid: int) -> None:
        """Give a container that runs what of its network the engine does not; `pid` is any of its processes.

        Called once per start of a container, and once for each that an agent finds running. Nothing it cannot do keeps
        a task from running.
        """

    def distrust(self) -> None:
        """The engine was away: what it may have altered is compared at the next `program`."""

    async def program(self, assignments: Assignments) -> None:
        """Bring rules, forwarding entries and names to what the assignments say; returns when all are in force.

        Called after each message, and with `synced` false from the stored copy while managers are away.
        """

    async def cleanup(self) -> None:
        """Remove the networks that no task assigned here uses any more."""


class BoundFile(Struct, frozen=True):
    """A file of the host that a container sees, read-only, at `target`."""

    source: str
    target: str


class FilesPort(Protocol):
    """The secrets and configs of this node's tasks, as files. Every call may be repeated after a crash."""

    def offer(self, assignments: Assignments) -> None:
        """Take what has come with the assignments, and forget what has gone with them."""

    async def prepare(self, task: Task, node: NodeFacts) -> tuple[BoundFile, ...]:
        """Write a task's files and return where they are.

        TerminalError if one did not come or its template cannot be filled in, DataplaneError if it cannot be written.
        """

    async def wipe(self, task_uid: str) -> None:
        """Remove a task's files, if it has any: its container has ended."""

    async def sweep(self, keep: Collection[str]) -> None:
        """Remove the files of all tasks but these."""
