"""Only importer of docker: the Engine contract on a Docker engine, 20.10 (API 1.41) and newer.

The client library blocks, so every call runs in a worker thread; a stream (events, logs) holds one thread while it
waits for its next piece. The library gives transport, version negotiation and error decoding; bodies are passed as
they are, since the engine's own words are the contract here.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, Final, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from docker import APIClient
from docker.errors import APIError, DockerException
from docker.types.daemon import CancellableStream

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
from nodeagent.engine.frames import FrameReader
from shoal.api.errors import EngineError
from shoal.api.objects import NodeDescription, Plugin, PortStatus
from shoal.api.states import Protocol
from shoal.api.template import GenericResource
from shoal.api.units import Bytes, Cpus

T = TypeVar("T")

CALLS: Final = 32
"""Calls under way at once; more would only queue inside the engine."""

STREAMS: Final = 200
"""Streams open at once: one per followed log, and the events."""

QUICK_S: Final = 15.0
"""Listings and inspections; a longer one is stuck, and says nothing about the container."""

SLOW_S: Final = 120.0
"""Creating, starting, removing: the engine does the work within the call."""

PULL_S: Final = 300.0
"""Silence between two progress messages of a pull."""

_PASSING: Final = ("containerd.sock", "transport is closing", "ttrpc: closed", "context canceled", "shutting down")
"""Words of an engine that is itself being stopped: not the container's fault."""


class DockerEngine:
    """`url` as in DOCKER_HOST: unix:///var/run/docker.sock."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client: Any = None
        self._lock = threading.Lock()
        self._calls = CapacityLimiter(CALLS)
        self._streams = CapacityLimiter(STREAMS)

    async def api_version(self) -> tuple[int, int]:
        client = self._client or await self._run(self._session)
        major, minor = str(client.api_version).split(".")
        return int(major), int(minor)

    async def describe(self) -> NodeDescription:
        return _description(await self._run(lambda: self._json("GET", "/info")))

    async def pull(self, image: str, auth: str = "") -> None:
        await self._run(lambda: self._pull(image, auth), limiter=self._streams)

    async def has_image(self, image: str) -> bool:
        return await self._run(lambda: self._json("GET", f"/images/{image}/json", absent=None)) is not None

    async def create(self, name: str, body: Body) -> str:
        def call() -> str:
            return str(self._json("POST", "/containers/create", {"name": name}, body=body, timeout_s=SLOW_S)["Id"])

        return await self._run(call)

    async def start(self, container: str) -> None:
        await self._run(lambda: self._send("POST", f"/containers/{container}/start", timeout_s=SLOW_S))

    async def kill(self, container: str, signal: str) -> None:
        await self._run(
            lambda: self._send("POST", f"/containers/{container}/kill", {"signal": signal}, fine=_is_not_running)
        )

    async def remove(self, container: str) -> None:
        def call() -> None:
            options = {"v": "1", "force": "1"}
            self._send("DELETE", f"/containers/{container}", options, fine=_is_gone, timeout_s=SLOW_S)

        await self._run(call)

    async def inspect(self, container: str) -> Container | None:
        raw = await self._run(lambda: self._json("GET", f"/containers/{container}/json", absent=None))
        return None if raw is None else _container(raw)

    async def containers(self, labels: Mapping[str, str]) -> tuple[Summary, ...]:
        query = {"all": "1", "filters": _label_filter(labels)}
        raw = await self._run(lambda: self._json("GET", "/containers/json", query))
        return tuple(_summary(one) for one in raw)

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
        seen = await self.inspect(container)
        query = {
            "follow": str(int(follow)),
            "stdout": str(int(stdout)),
            "stderr": str(int(stderr)),
            "timestamps": "1",
            "tail": "all" if tail is None else str(tail),
            "since": f"{since.timestamp():.9f}" if since else "0",
        }
        frames = FrameReader(is_tty=seen is not None and seen.tty)
        async with self._stream(f"/containers/{container}/logs", query, frames.feed) as pieces:
            yield _log_lines(pieces, frames)

    async def stats(self, container: str) -> Stats:
        return _stats(await self._run(lambda: self._json("GET", f"/containers/{container}/stats", {"stream": "0"})))

    @asynccontextmanager
    async def events(self, labels: Mapping[str, str], since_ns: int = 0) -> AsyncIterator[AsyncIterator[EngineEvent]]:
        query = {"filters": _label_filter(labels, type=["container"])}
        if since_ns:
            query["since"] = f"{since_ns // 1_000_000_000}.{since_ns % 1_000_000_000:09d}"
        buffer = _LineBuffer()
        async with self._stream("/events", query, buffer.feed) as lines:
            yield _events(lines, self.url)

    async def networks(self, labels: Mapping[str, str]) -> tuple[EngineNetwork, ...]:
        raw = await self._run(lambda: self._json("GET", "/networks", {"filters": _label_filter(labels)}))
        return tuple(_network(one) for one in raw)

    async def create_network(self, name: str, body: Body) -> str:
        whole = {**body, "Name": name, "CheckDuplicate": True}
        return str(
            (await self._run(lambda: self._json("POST", "/networks/create", body=whole, timeout_s=SLOW_S)))["Id"]
        )

    async def remove_network(self, name: str) -> None:
        await self._run(lambda: self._send("DELETE", f"/networks/{name}", fine=_is_gone, timeout_s=SLOW_S))

    async def connect(self, network: str, container: str, endpoint: Body) -> None:
        body = {"Container": container, "EndpointConfig": endpoint}
        await self._run(
            lambda: self._send("POST", f"/networks/{network}/connect", body=body, fine=_is_joined, timeout_s=SLOW_S)
        )

    async def close(self) -> None:
        if self._client is not None:
            await to_thread.run_sync(self._client.close)

    async def _run(self, call: Callable[[], T], limiter: CapacityLimiter | None = None) -> T:
        return await to_thread.run_sync(call, limiter=limiter or self._calls, abandon_on_cancel=True)

    @asynccontextmanager
    async def _stream(
        self, path: str, query: Mapping[str, str], split: Callable[[bytes], list[T]]
    ) -> AsyncIterator[AsyncIterator[T]]:
        """Open a stream and hand out its pieces; closing it wakes the thread that waits for the next one."""
        response = await self._run(lambda: self._request("GET", path, query, stream=True, timeout_s=None))
        stream = CancellableStream(response.iter_content(None), response)

        async def pieces() -> AsyncIterator[T]:
            while (chunk := await self._run(lambda: next(stream, None), limiter=self._streams)) is not None:
                for piece in split(chunk):
                    yield piece

        try:
            yield pieces()
        finally:
            with anyio.CancelScope(shield=True), suppress(OSError, AttributeError):
                await to_thread.run_sync(stream.close)

    # What follows runs in worker threads.

    def _session(self) -> Any:
        """The client, made on first use: making it asks the engine for its version."""
        with self._lock:
            if self._client is None:
                try:
                    _probe(self.url)
                    client = APIClient(self.url, version="auto", timeout=QUICK_S, max_pool_size=CALLS)
                except (DockerException, OSError) as error:
                    raise EngineError(
                        f"the Docker engine at {self.url} does not answer: {error}", temporary=True
                    ) from error
                client.trust_env = False
                self._client = client
            return self._client

    def _drop(self, client: Any) -> None:
        """Begin anew with the next call, and let go of idle connections; calls under way keep theirs."""
        with self._lock:
            if self._client is client:
                self._client = None
        client.close()

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
        timeout_s: float | None = QUICK_S,
    ) -> Any:
        client = self._session()
        try:
            response = client.request(
                method,
                f"{client.base_url}/v{client.api_version}{path}",
                params=query,
                data=None if body is None else json.dumps(body),
                headers={"Content-Type": "application/json", **(headers or {})},
                stream=stream,
                timeout=(QUICK_S, timeout_s),
            )
            client._raise_for_status(response)
        except APIError as error:
            raise _translated(error) from error
        except OSError as error:
            self._drop(client)
            raise EngineError(f"the Docker engine at {self.url} does not answer: {error}", temporary=True) from error
        return response

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Body | None = None,
        fine: Callable[[str], bool] = lambda _: False,
        timeout_s: float = QUICK_S,
    ) -> None:
        """Make a call without an answer; errors that `fine` recognises mean that it was done before."""
        try:
            self._request(method, path, query, body=body, timeout_s=timeout_s)
        except EngineError as error:
            if error.temporary or not fine(str(error).lower()):
                raise

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Body | None = None,
        timeout_s: float = QUICK_S,
        absent: Any = ...,
    ) -> Any:
        """Return the decoded answer; `absent`, if given, where there is no such thing."""
        try:
            return self._request(method, path, query, body=body, timeout_s=timeout_s).json()
        except EngineError as error:
            if absent is not ... and isinstance(error.__cause__, APIError) and error.__cause__.status_code == 404:
                return absent
            raise

    def _pull(self, image: str, auth: str) -> None:
        name, tag = split_reference(image)
        response = self._request(
            "POST",
            "/images/create",
            {"fromImage": name, "tag": tag},
            headers={"X-Registry-Auth": auth} if auth else None,
            stream=True,
            timeout_s=PULL_S,
        )
        try:
            for line in response.iter_lines():
                if line and (error := json.loads(line).get("error")):
                    raise EngineError(str(error))
        except OSError as error:
            raise EngineError(f"pulling {image} broke off: {error}", temporary=True) from error
        finally:
            response.close()


def _probe(url: str) -> None:
    """Raise OSError if nobody listens; the library would leave its own failed socket open."""
    if url.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(QUICK_S)
            probe.connect(url.removeprefix("unix://"))


def split_reference(image: str) -> tuple[str, str]:
    """Split an image reference into what the engine's pull call wants: name, and tag or digest.

    "busybox" → ("busybox", "latest"); "r:5000/a/b:1" → ("r:5000/a/b", "1"); a digest wins over a tag.
    """
    name, _, digest = image.partition("@")
    base, _, tag = name.rpartition(":")
    if not base or "/" in tag:
        base, tag = name, ""
    return base, digest or tag or "latest"


def _translated(error: APIError) -> EngineError:
    text = str(error.explanation or error).strip()
    if error.status_code == 409 and "name" in text and "already in use" in text:
        return NameTakenError(text)
    if error.status_code == 409 and "network with name" in text:
        return NameTakenError(text)
    return EngineError(text, temporary=error.status_code == 503 or any(word in text for word in _PASSING))


def _is_gone(text: str) -> bool:
    return "no such container" in text or "not found" in text or "already in progress" in text


def _is_not_running(text: str) -> bool:
    return "no such container" in text or "is not running" in text


def _is_joined(text: str) -> bool:
    return "already exists in network" in text


def _label_filter(labels: Mapping[str, str], **more: list[str]) -> str:
    return json.dumps({"label": [f"{key}={value}" for key, value in labels.items()], **more})


def _description(info: Mapping[str, Any]) -> NodeDescription:
    known = {**(info.get("Plugins") or {})}
    known["Network"] = sorted({*(known.get("Network") or ()), "overlay"})
    plugins = [Plugin(kind, name) for kind, names in known.items() for name in names or ()]
    return NodeDescription(
        hostname=info.get("Name", ""),
        os=info.get("OSType", ""),
        architecture=info.get("Architecture", ""),
        cpus=Cpus(int(info.get("NCPU", 0)) * 1_000_000_000),
        memory=Bytes(info.get("MemTotal", 0)),
        generic=_generic(info.get("GenericResources") or ()),
        engine_version=info.get("ServerVersion", ""),
        engine_labels=dict(label.partition("=")[::2] for label in info.get("Labels") or ()),
        plugins=tuple(sorted(plugins, key=lambda plugin: (plugin.type, plugin.name))),
    )


def _generic(raw: Iterable[Mapping[str, Any]]) -> tuple[GenericResource, ...]:
    """The daemon's `node-generic-resources`: the engine tells them whether or not its own swarm mode is on."""
    found: dict[GenericResource, None] = {}
    for one in raw:
        if named := one.get("NamedResourceSpec"):
            found[GenericResource(str(named["Kind"]), value=str(named["Value"]))] = None
        elif counted := one.get("DiscreteResourceSpec"):
            found[GenericResource(str(counted["Kind"]), count=int(counted["Value"]))] = None
    return tuple(sorted(found, key=lambda one: (one.kind, one.value or "")))


def _summary(raw: Mapping[str, Any]) -> Summary:
    notes = re.findall(r"\(([^)]*)\)", raw.get("Status", ""))
    return Summary(
        id=raw["Id"],
        name=raw["Names"][0].lstrip("/") if raw.get("Names") else "",
        labels=raw.get("Labels") or {},
        state=raw.get("State", ""),
        mark=" ".join((raw.get("State", ""), *notes)),
    )


def _container(raw: Mapping[str, Any]) -> Container:
    state, config = raw["State"], raw["Config"]
    settings = raw.get("NetworkSettings") or {}
    return Container(
        id=raw["Id"],
        name=raw["Name"].lstrip("/"),
        labels=config.get("Labels") or {},
        state=state["Status"],
        health=_health(state),
        pid=state.get("Pid", 0),
        exit_code=state.get("ExitCode", 0),
        error=state.get("Error", ""),
        oom_killed=state.get("OOMKilled", False),
        stop_signal=config.get("StopSignal") or "SIGTERM",
        stop_timeout_s=float(config["StopTimeout"] if config.get("StopTimeout") is not None else 10),
        ports=_ports(settings.get("Ports") or {}),
        networks=tuple(sorted(settings.get("Networks") or ())),
        tty=config.get("Tty", False),
    )


def _health(state: Mapping[str, Any]) -> str:
    status = (state.get("Health") or {}).get("Status", "")
    return "" if status == "none" else status


def _ports(raw: Mapping[str, Any]) -> tuple[PortStatus, ...]:
    """Ports as bound; the engine lists one binding per address family, which is one port to us."""
    bound = {
        (int(target.partition("/")[0]), int(binding["HostPort"]), target.partition("/")[2] or "tcp")
        for target, bindings in raw.items()
        for binding in bindings or ()
        if binding.get("HostPort")
    }
    return tuple(PortStatus(target, published, Protocol(protocol)) for target, published, protocol in sorted(bound))


def _network(raw: Mapping[str, Any]) -> EngineNetwork:
    return EngineNetwork(
        id=raw["Id"],
        name=raw["Name"],
        driver=raw.get("Driver", ""),
        labels=raw.get("Labels") or {},
        subnets=tuple(one["Subnet"] for one in (raw.get("IPAM") or {}).get("Config") or () if one.get("Subnet")),
        options=raw.get("Options") or {},
        ipam=raw.get("IPAM") or {},
        has_ipv6=bool(raw.get("EnableIPv6")),
        is_config_only=bool(raw.get("ConfigOnly")),
    )


def _stats(raw: Mapping[str, Any]) -> Stats:
    now, before, memory = raw.get("cpu_stats") or {}, raw.get("precpu_stats") or {}, raw.get("memory_stats") or {}
    used = _total(now) - _total(before)
    whole = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    details = memory.get("stats") or {}
    idle = details.get("total_inactive_file", details.get("inactive_file", 0))
    return Stats(
        cpu=max(0.0, used / whole * (now.get("online_cpus") or 1)) if whole > 0 else 0.0,
        memory=max(0, memory.get("usage", 0) - idle),
        memory_limit=memory.get("limit", 0),
    )


def _total(cpu: Mapping[str, Any]) -> int:
    return int((cpu.get("cpu_usage") or {}).get("total_usage", 0))


class _LineBuffer:
    """Cuts a stream of bytes into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [line for line in lines if line]


async def _events(lines: AsyncIterator[bytes], url: str) -> AsyncIterator[EngineEvent]:
    async for line in lines:
        raw = json.loads(line)
        actor = raw.get("Actor") or {}
        yield EngineEvent(raw.get("Action", ""), actor.get("ID", ""), actor.get("Attributes") or {}, raw["timeNano"])
    raise EngineError(f"the Docker engine at {url} ended its event stream", temporary=True)


async def _log_lines(pieces: AsyncIterator[LogLine], frames: FrameReader) -> AsyncIterator[LogLine]:
    async for piece in pieces:
        yield piece
    for piece in frames.end():
        yield piece
