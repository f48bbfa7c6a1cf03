"""An engine in memory that passes the contract suite: for unit tests, and for nodes that only pretend.

A container's "program" is its command: `sleep N` runs on; `sh -c "…"` understands echo (with >&2), sleep and exit,
separated by semicolons. `crash_after` makes a call raise after it took effect, as a killed agent would see it.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import anyio
import msgspec

from nodeagent.engine.contract import (
    Body,
    Container,
    EngineEvent,
    EngineNetwork,
    LogLine,
    NameTakenError,
    Stats,
    Summary,
)
from shoal.api.errors import EngineError
from shoal.api.objects import NodeDescription, Plugin, PortStatus
from shoal.api.states import Protocol
from shoal.api.units import Bytes, Cpus

_SIGNALS: Final = {"SIGKILL": 9, "SIGTERM": 15, "SIGINT": 2, "SIGQUIT": 3, "SIGHUP": 1, "SIGUSR1": 10}
_FIRST_PORT: Final = 49153
_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)


class Made:
    """One container of the fake: what it was made from, and what it is now."""

    def __init__(self, container: Container, body: Body) -> None:
        self.now, self.body = container, body
        self.lines: list[LogLine] = []
        self.ignores: frozenset[str] = frozenset()
        """Signals it does not die of."""


class FakeEngine:
    """`images` are here already, `registry` can be pulled. `calls` records what was asked, in order."""

    def __init__(
        self,
        *,
        images: tuple[str, ...] = (),
        registry: tuple[str, ...] = (),
        description: NodeDescription | None = None,
    ) -> None:
        self.images, self.registry = set(images), set(registry)
        self.description = description or NodeDescription(
            hostname="fake", os="linux", architecture="x86_64", cpus=Cpus(8_000_000_000), memory=Bytes(16 << 30),
            engine_version="20.10.24", plugins=(Plugin("Network", "bridge"), Plugin("Network", "overlay")),
        )  # fmt: skip
        self.made: dict[str, Made] = {}
        self._names: dict[str, str] = {}
        self.nets: dict[str, EngineNetwork] = {}
        self.calls: list[tuple[str, str]] = []
        self.reachable = True
        self.failures: dict[str, EngineError] = {}
        """Call → what it raises instead of working."""
        self.crash_after: Callable[[str, str], None] = lambda call, what: None
        self._numbers = itertools.count(1)
        self._events: list[EngineEvent] = []
        self._changed = anyio.Event()

    async def api_version(self) -> tuple[int, int]:
        self._enter("api_version")
        return 1, 41

    async def describe(self) -> NodeDescription:
        self._enter("describe")
        return self.description

    async def pull(self, image: str, auth: str = "") -> None:
        self._enter("pull", image)
        if image not in self.registry:
            raise EngineError(f"pull access denied for {image}, repository does not exist")
        self.images.add(image)
        self.crash_after("pull", image)

    async def has_image(self, image: str) -> bool:
        self._enter("has_image", image)
        return image in self.images

    async def create(self, name: str, body: Body) -> str:
        self._enter("create", name)
        if name in self._names:
            raise NameTakenError(f'Conflict. The container name "/{name}" is already in use by another container.')
        if body.get("Image") not in self.images:
            raise EngineError(f"No such image: {body.get('Image')}")
        uid = f"{next(self._numbers):064x}"
        networks = tuple((body.get("NetworkingConfig") or {}).get("EndpointsConfig") or ("bridge",))
        self.made[uid] = Made(
            Container(
                id=uid,
                name=name,
                labels=dict(body.get("Labels") or {}),
                stop_signal=body.get("StopSignal") or "SIGTERM",
                stop_timeout_s=float(body["StopTimeout"] if body.get("StopTimeout") is not None else 10),
                networks=networks,
                tty=bool(body.get("Tty")),
            ),
            body,
        )
        self._names[name] = uid
        self._tell("create", uid)
        self.crash_after("create", name)
        return uid

    async def start(self, container: str) -> None:
        self._enter("start", container)
        made = self._need(container)
        if not made.now.is_alive:
            self._run(made)
        self.crash_after("start", container)

    async def kill(self, container: str, signal: str) -> None:
        self._enter("kill", f"{container} {signal}")
        made = self._find(container)
        if made is not None and made.now.is_alive and signal not in made.ignores:
            self.exit(made.now.id, 128 + _SIGNALS.get(signal, 15))
        self.crash_after("kill", container)

    async def remove(self, container: str) -> None:
        self._enter("remove", container)
        made = self._find(container)
        if made is not None:
            self.vanish(made.now.id)
        self.crash_after("remove", container)

    async def inspect(self, container: str) -> Container | None:
        self._enter("inspect", container)
        made = self._find(container)
        return None if made is None else made.now

    async def containers(self, labels: Mapping[str, str]) -> tuple[Summary, ...]:
        self._enter("containers")
        return tuple(
            Summary(made.now.id, made.now.name, made.now.labels, made.now.state, f"{made.now.state} {made.now.health}")
            for made in self.made.values()
            if labels.items() <= made.now.labels.items()
        )

    @asynccontextmanager
    async def logs(
        self,
        container: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: datetime | None = None,
        stdout: bool = True,
        stderr: bool = True,
    ) -> AsyncIterator[AsyncIterator[LogLine]]:
        self._enter("logs", container)
        streams = {name for name, wanted in (("stdout", stdout), ("stderr", stderr)) if wanted}
        yield self._lines(self._need(container), streams, follow=follow, tail=tail, since=since)

    async def stats(self, container: str) -> Stats:
        self._enter("stats", container)
        made = self._need(container)
        return Stats(cpu=0.01 if made.now.is_alive else 0.0, memory=1 << 20, memory_limit=self.description.memory)

    @asynccontextmanager
    async def events(self, labels: Mapping[str, str], since_ns: int = 0) -> AsyncIterator[AsyncIterator[EngineEvent]]:
        self._enter("events")
        begin = next((at for at, event in enumerate(self._events) if since_ns and event.time_ns >= since_ns), None)
        yield self._happenings(labels, len(self._events) if begin is None else begin)

    async def networks(self, labels: Mapping[str, str]) -> tuple[EngineNetwork, ...]:
        self._enter("networks")
        return tuple(net for net in self.nets.values() if labels.items() <= net.labels.items())

    async def create_network(self, name: str, body: Body) -> str:
        self._enter("create_network", name)
        if name in self.nets:
            raise NameTakenError(f"network with name {name} already exists")
        subnets = tuple(one["Subnet"] for one in (body.get("IPAM") or {}).get("Config") or ())
        self.nets[name] = EngineNetwork(
            id=f"{next(self._numbers):064x}",
            name=name,
            driver=body.get("Driver", "bridge"),
            labels=dict(body.get("Labels") or {}),
            subnets=subnets,
            options=dict(body.get("Options") or {}),
            ipam=dict(body.get("IPAM") or {}),
            has_ipv6=bool(body.get("EnableIPv6")),
            is_config_only=bool(body.get("ConfigOnly")),
        )
        return self.nets[name].id

    async def remove_network(self, name: str) -> None:
        self._enter("remove_network", name)
        if any(name in made.now.networks for made in self.made.values()):
            raise EngineError(f"error while removing network: network {name} has active endpoints")
        self.nets.pop(name, None)

    async def connect(self, network: str, container: str, endpoint: Body) -> None:
        self._enter("connect", f"{container} {network}")
        made = self._need(container)
        made.now = msgspec.structs.replace(made.now, networks=tuple(sorted({*made.now.networks, network})))

    async def close(self) -> None:
        self.reachable = False

    # What a test does to the containers, behind the agent's back.

    def exit(self, container: str, code: int, *, oom: bool = False) -> None:
        """The container's process ends."""
        made = self._need(container)
        made.now = msgspec.structs.replace(made.now, state="exited", exit_code=code, pid=0, oom_killed=oom, ports=())
        self._tell("die", made.now.id)

    def restart(self, container: str) -> None:
        """Somebody restarts it, faster than anybody looks."""
        made = self._need(container)
        self._tell("die", made.now.id)
        self._run(made)

    def vanish(self, container: str) -> None:
        """Somebody removed it by force."""
        made = self.made.pop(self._need(container).now.id)
        del self._names[made.now.name]
        self._tell("destroy", made.now.id, made)

    def set_health(self, container: str, health: str) -> None:
        made = self._need(container)
        made.now = msgspec.structs.replace(made.now, health=health)
        self._tell(f"health_status: {health}", made.now.id)

    def write(self, container: str, line: str, stream: str = "stdout") -> None:
        made = self._need(container)
        stamp = (_EPOCH + timedelta(microseconds=next(self._numbers))).isoformat().replace("+00:00", "000Z")
        made.lines.append(LogLine(stream, stamp, line.encode()))
        self._wake()

    def alive(self) -> list[str]:
        """Names of the containers that run."""
        return sorted(made.now.name for made in self.made.values() if made.now.is_alive)

    def _enter(self, call: str, what: str = "") -> None:
        self.calls.append((call, what))
        if not self.reachable:
            raise EngineError("the Docker engine does not answer", temporary=True)
        if call in self.failures:
            raise self.failures[call]

    def _find(self, container: str) -> Made | None:
        if container in self.made:
            return self.made[container]
        return self.made.get(self._names.get(container, ""))

    def _need(self, container: str) -> Made:
        made = self._find(container)
        if made is None:
            raise EngineError(f"No such container: {container}")
        return made

    def _run(self, made: Made) -> None:
        """Start the process, and do at once whatever its program does without waiting."""
        health = (made.body.get("Healthcheck") or {}).get("Test") or ["NONE"]
        made.now = msgspec.structs.replace(
            made.now,
            state="running",
            pid=next(self._numbers),
            health={"true": "healthy", "false": "unhealthy"}.get(health[-1], "starting") if health[0] != "NONE" else "",
            ports=self._bind(made.body),
        )
        self._tell("start", made.now.id)
        for command in _program(made.body):
            if command[0] == "sleep":
                return
            if command[0] == "exit":
                self.exit(made.now.id, int(command[1]))
                return
            self.write(made.now.id, " ".join(w for w in command[1:] if w != ">&2"), _stream_of(command))
        self.exit(made.now.id, 0)

    def _bind(self, body: Body) -> tuple[PortStatus, ...]:
        wanted = (body.get("HostConfig") or {}).get("PortBindings") or {}
        return tuple(
            PortStatus(
                int(target.partition("/")[0]),
                int(binding.get("HostPort") or 0) or _FIRST_PORT + next(self._numbers),
                Protocol(target.partition("/")[2] or "tcp"),
            )
            for target, bindings in sorted(wanted.items())
            for binding in bindings
        )

    def _tell(self, action: str, container: str, made: Made | None = None) -> None:
        labels = (made or self.made[container]).now.labels
        stamp = _EPOCH + timedelta(microseconds=next(self._numbers))
        self._events.append(EngineEvent(action, container, labels, int(stamp.timestamp() * 1_000_000) * 1000))
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def _happenings(self, labels: Mapping[str, str], at: int) -> AsyncIterator[EngineEvent]:
        while True:
            for event in self._events[at:]:
                at += 1
                if labels.items() <= event.labels.items():
                    yield event
            await self._changed.wait()
            if not self.reachable:
                raise EngineError("the Docker engine ended its event stream", temporary=True)

    async def _lines(
        self, made: Made, streams: set[str], *, follow: bool, tail: int | None, since: datetime | None
    ) -> AsyncIterator[LogLine]:
        lines = [line for line in made.lines if line.stream in streams and (since is None or _at(line) >= since)]
        for line in lines[max(0, len(lines) - tail) if tail is not None else 0 :]:
            yield line
        seen = len(made.lines)
        while follow and made.now.is_alive:
            await self._changed.wait()
            for line in made.lines[seen:]:
                if line.stream in streams:
                    yield line
            seen = len(made.lines)


def _at(line: LogLine) -> datetime:
    return datetime.fromisoformat(line.time[:26] + "+00:00")


def _program(body: Body) -> list[list[str]]:
    words: list[Any] = [*(body.get("Entrypoint") or ()), *(body.get("Cmd") or ())]
    if words[:2] != ["sh", "-c"]:
        return [words] if words else [["sleep", "forever"]]
    return [shlex.split(part) for part in words[2].split(";") if part.strip()]


def _stream_of(command: list[str]) -> str:
    return "stderr" if ">&2" in command else "stdout"
