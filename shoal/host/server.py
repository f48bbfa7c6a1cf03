"""`<run-dir>/host.sock`: what people ask of the host daemon, over HTTP.

GET  /status                        a HostReport
POST /init {"advertiseAddr": "…"}   the host's identity; 409 if it has one
POST /join {"token", "remote", …}   the same, as a member of a cluster
POST /leave {"force": false}        {"warning": "…"}: the host belongs to no cluster any more
POST /processes/<name>/stop|start   one process, until the daemon's end
POST /stop                          the daemon's end: processes stop, containers go on
"""

from __future__ import annotations

import grp
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import aiohttp
import anyio
import msgspec
from aiohttp import web

from shoal.api.errors import InvalidError, ShoalError
from shoal.api.states import Availability, Role
from shoal.host.daemon import FirstHost, HostDaemon, JoinRequest
from shoal.host.identity import Networking
from shoal.host.probe import is_ready
from shoal.host.report import HostReport, ProcessReport, report_process
from shoal.host.supervisor import Unit, UnitState
from shoal.machinery.pki import Pair, read_authority

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

NODE_WITHIN_S = 2.0

TROUBLE_AFTER_S = 10.0
"""Seconds an agent may take to reach its engine and a manager before that is a problem."""

REMOVED = "this node was removed from its cluster: `shoal leave` here, then `shoal join` makes it a new member"


class InitRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """`ca_certificate`, `ca_key`: PEM of a root that the user brings; "" = one is made."""

    advertise_addr: str = ""
    availability: Availability = Availability.ACTIVE
    data_path_addr: str = ""
    networking: Networking = Networking()
    ca_certificate: str = ""
    ca_key: str = ""

    def authority(self) -> Pair | None:
        if bool(self.ca_certificate) != bool(self.ca_key):
            raise InvalidError("the CA certificate and its key belong together; one is missing")
        if not self.ca_certificate:
            return None
        return read_authority(self.ca_certificate.encode(), self.ca_key.encode(), datetime.now(UTC))


class LeaveRequest(msgspec.Struct, forbid_unknown_fields=True):
    force: bool = False


@asynccontextmanager
async def serving(daemon: HostDaemon) -> AsyncIterator[None]:
    """Answer on the host's socket while the block runs."""
    socket = daemon.options.paths.host_socket
    socket.unlink(missing_ok=True)
    runner = web.AppRunner(make_app(daemon), access_log=None)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(socket)).start()
        _open_to_docker_group(socket)
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()
        socket.unlink(missing_ok=True)


def make_app(daemon: HostDaemon) -> web.Application:
    async def status(_: web.Request) -> web.Response:
        return _json(await report(daemon))

    async def init(request: web.Request) -> web.Response:
        wanted = _decode(await request.read(), InitRequest)
        first = FirstHost(wanted.advertise_addr, wanted.availability, wanted.data_path_addr, wanted.networking)
        return _json(await daemon.init(first, wanted.authority()))

    async def join(request: web.Request) -> web.Response:
        return _json(await daemon.join(_decode(await request.read(), JoinRequest)))

    async def leave(request: web.Request) -> web.Response:
        wanted = _decode(await request.read(), LeaveRequest)
        return _json({"warning": await daemon.leave(force=wanted.force)})

    async def stop_process(request: web.Request) -> web.Response:
        await daemon.supervisor.stop(request.match_info["name"])
        return _json({})

    async def start_process(request: web.Request) -> web.Response:
        daemon.supervisor.start(request.match_info["name"])
        return _json({})

    async def stop(_: web.Request) -> web.Response:
        daemon.stop()
        return _json({"pid": os.getpid()})

    app = web.Application(middlewares=[_errors_as_json])
    app.router.add_get("/status", status)
    app.router.add_post("/init", init)
    app.router.add_post("/join", join)
    app.router.add_post("/leave", leave)
    app.router.add_post("/processes/{name}/stop", stop_process)
    app.router.add_post("/processes/{name}/start", start_process)
    app.router.add_post("/stop", stop)
    return app


async def report(daemon: HostDaemon) -> HostReport:
    """Look at everything now; processes are asked whether they are healthy, all at once."""
    options, identity = daemon.options, daemon.identity
    units = tuple(daemon.supervisor.units.values())
    processes: dict[str, ProcessReport] = {}
    found: dict[str, str] = {}

    async def look(unit: Unit) -> None:
        waits_for = tuple(need for need in unit.process.needs if not daemon.supervisor.is_ready(need))
        healthy = unit.state is UnitState.READY and await is_ready(unit.process.ready, options.paths.etcd_pki)
        shown = waits_for if unit.state is UnitState.WAITING else ()
        processes[unit.process.name] = report_process(unit, shown, healthy)

    async def look_at_node() -> None:
        if identity is not None and identity.role is Role.MANAGER:
            found["node"] = await _node_state(options.paths.api_socket, identity.node)
        elif identity is not None:
            found["node"], trouble = await _agent_state(options.paths.status_socket("nodeagent"))
            problems.extend(trouble if any(_has_had_time(unit) for unit in units) else ())

    problems: list[str] = []

    async def look_for_problems() -> None:
        needed = ("nft",) if identity is not None and identity.role is Role.WORKER else ("etcd", "nft")
        problems.extend(await daemon.problems(needed))
        problems.extend(REMOVED for unit in units if unit.process.name == "nodeagent" and unit.has_finished)

    async with anyio.create_task_group() as group:
        for unit in units:
            group.start_soon(look, unit)
        group.start_soon(look_at_node)
        group.start_soon(look_for_problems)
    return HostReport(
        pid=os.getpid(),
        version=version("shoal"),
        name=identity.name if identity is not None else options.name,
        state_dir=str(options.paths.state_dir),
        run_dir=str(options.paths.run_dir),
        logs=str(options.paths.logs),
        docker=options.docker,
        identity=identity,
        node_state=found.get("node", ""),
        settled=daemon.supervisor.all_ready(),
        problems=tuple(problems),
        processes=tuple(processes[unit.process.name] for unit in units),
    )


async def _node_state(socket: Path, node: str) -> str:
    """Return what the cluster says of this node, "" if nobody answers."""
    timeout = aiohttp.ClientTimeout(total=NODE_WITHIN_S)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=timeout) as session,
            session.get(f"http://localhost/shoal/v1/nodes/{node}") as answer,
        ):
            if answer.status != 200:
                return ""
            body = await answer.json()
            return str(body.get("status", {}).get("state", ""))
    except (OSError, TimeoutError, aiohttp.ClientError, ValueError):
        return ""


def _has_had_time(unit: Unit) -> bool:
    """Whether what troubles an agent is more than that it has only just started."""
    is_old = unit.started_at > 0 and time.time() - unit.started_at > TROUBLE_AFTER_S
    return unit.process.name == "nodeagent" and (unit.state is UnitState.READY or is_old)


async def _agent_state(socket: Path) -> tuple[str, list[str]]:
    """Return a worker's state, as far as its own agent can tell, and what troubles the agent."""
    timeout = aiohttp.ClientTimeout(total=NODE_WITHIN_S)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=timeout) as session,
            session.get("http://localhost/readyz") as answer,
        ):
            said = (await answer.text()).strip()
            return ("ready", []) if answer.status == 200 else ("", [said])
    except (OSError, TimeoutError, aiohttp.ClientError):
        return "", []


def _decode(raw: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise InvalidError(f"the request is not understood: {error}") from error


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ShoalError as error:
        return _json({"reason": error.reason, "message": str(error)}, error.status)


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json", status=status)


def _open_to_docker_group(socket: Path) -> None:
    """Root and the group docker may use the socket, as they may the engine's."""
    socket.chmod(0o660)
    try:
        os.chown(socket, -1, grp.getgrnam("docker").gr_gid)
    except (KeyError, PermissionError):
        socket.chmod(0o600)
