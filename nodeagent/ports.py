"""What the agent's task side and its network side ask of each other."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from nodeagent.assignments import Assignments
from shoal.api.objects import Task


class NetworkEndpoint(Struct, frozen=True):
    """One network a container joins: `name` as the engine knows it; address and MAC "" = the engine chooses."""

    name: str
    ip: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()


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

    async def program(self, assignments: Assignments) -> None:
        """Bring rules, forwarding entries and names to what the assignments say; returns when all are in force.

        Called after each message, and with `synced` false from the stored copy while managers are away.
        """

    async def cleanup(self) -> None:
        """Remove the networks that no task assigned here uses any more."""
