"""What the agent asks of a container engine. Every implementation passes `tests/contract/test_engine.py`.

All calls may be repeated: starting what runs, killing what is dead and removing what is gone are no errors. Every
failure is an `EngineError` in the engine's own words; `temporary` means nobody answered, so the outcome is unknown.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol

from msgspec import Struct

from shoal.api.errors import EngineError
from shoal.api.objects import NodeDescription, PortStatus

Body = Mapping[str, Any]
"""A request body in the Docker Engine API's own words."""


class NameTakenError(EngineError):
    """A container of this name exists: look whose it is."""


class Summary(Struct, frozen=True):
    """One line of a listing. `state` as in Container; `mark` changes whenever a new inspection is worth while."""

    id: str
    name: str
    labels: Mapping[str, str]
    state: str
    mark: str


class Container(Struct, frozen=True):
    """A container as inspected.

    `state` is the engine's: created, running, paused, restarting, removing, exited or dead. `health` is "" without a
    healthcheck, else starting, healthy or unhealthy. `error` is why its start failed. `networks` are those it is
    joined to.
    """

    id: str
    name: str
    labels: Mapping[str, str]
    state: str = "created"
    health: str = ""
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    stop_signal: str = "SIGTERM"
    stop_timeout_s: float = 10.0
    ports: tuple[PortStatus, ...] = ()
    networks: tuple[str, ...] = ()
    tty: bool = False

    @property
    def is_alive(self) -> bool:
        """It has processes, or may get them by itself."""
        return self.state in ("running", "paused", "restarting")


class EngineEvent(Struct, frozen=True):
    """A hint that a container changed; never the truth."""

    action: str
    container_id: str
    labels: Mapping[str, str]
    time_ns: int


class LogLine(Struct, frozen=True):
    """`time` is RFC 3339 with nanoseconds, the engine's spelling; `line` without its newline."""

    stream: str
    time: str
    line: bytes


class Stats(Struct, frozen=True):
    """`cpu` in processors (1.0 = one whole), averaged over the engine's last sample; memory in bytes."""

    cpu: float
    memory: int
    memory_limit: int


class EngineNetwork(Struct, frozen=True):
    id: str
    name: str
    driver: str
    labels: Mapping[str, str]
    subnets: tuple[str, ...] = ()
    options: Mapping[str, str] = {}
    ipam: Mapping[str, Any] = {}
    """In the Docker Engine API's words."""
    has_ipv6: bool = False
    is_config_only: bool = False
    """No network, but what others are made from."""


class Engine(Protocol):
    async def api_version(self) -> tuple[int, int]:
        """The version spoken with the engine: the lower of both sides' newest."""

    async def describe(self) -> NodeDescription:
        """What the engine's host is and has."""

    async def pull(self, image: str, auth: str = "") -> None:
        """Fetch an image; `auth` is an X-Registry-Auth header."""

    async def has_image(self, image: str) -> bool: ...

    async def create(self, name: str, body: Body) -> str:
        """Create a container and return its id. NameTakenError; EngineError with the cause."""

    async def start(self, container: str) -> None: ...

    async def kill(self, container: str, signal: str) -> None:
        """Send a signal; what is not running or gone is no error."""

    async def remove(self, container: str) -> None:
        """Remove a container, running or not, with its anonymous volumes."""

    async def inspect(self, container: str) -> Container | None:
        """Look at one container, by id or name; None if there is none."""

    async def containers(self, labels: Mapping[str, str]) -> tuple[Summary, ...]:
        """Every container, dead ones too, that carries all these labels. One call to the engine."""

    def logs(
        self,
        container: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: datetime | None = None,
        stdout: bool = True,
        stderr: bool = True,
    ) -> AbstractAsyncContextManager[AsyncIterator[LogLine]]:
        """What a container wrote; `tail` None = all of it."""

    async def stats(self, container: str) -> Stats: ...

    def events(
        self, labels: Mapping[str, str], since_ns: int = 0
    ) -> AbstractAsyncContextManager[AsyncIterator[EngineEvent]]:
        """Container events from then on (0 = now). Ends with EngineError(temporary) when the engine goes away."""

    async def networks(self, labels: Mapping[str, str]) -> tuple[EngineNetwork, ...]:
        """Every network that carries all these labels."""

    async def create_network(self, name: str, body: Body) -> str:
        """Create a network and return its id. NameTakenError if one of this name exists."""

    async def remove_network(self, name: str) -> None:
        """Gone already is no error; EngineError if containers are still on it."""

    async def connect(self, network: str, container: str, endpoint: Body) -> None:
        """Join a container to a network (EndpointSettings); joined already is no error."""

    async def close(self) -> None: ...
