"""An API server for one agent, played by the test: it says what the test puts, and takes statuses as the real one."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import msgspec
from aiohttp import web

from nodeagent.client import Report
from shoal.api import codec, keys
from shoal.api.meta import Ref
from shoal.api.objects import Node, NodeDescription, NodeStatus, Object, Task, TaskStatus
from shoal.api.states import NodeState, TaskState
from shoal.machinery.factories import make_cluster, make_node

BOOKMARK_S = 0.5


class ScriptedApi:
    """`objects` by key is what the node is assigned; `told` every status that arrived, in order."""

    def __init__(self, socket: Path) -> None:
        self.url = f"unix://{socket}"
        self.socket = socket
        node = make_node("n1")
        self.node = Ref("n1", node.metadata.uid)
        self.objects: dict[str, Object] = {keys.key_of(obj): obj for obj in (make_cluster(), node)}
        self.revision = 1
        self.told: dict[str, list[TaskStatus]] = {}
        self.applied = 0
        self.beats = 0
        self.connections = 0
        self._streams: set[web.StreamResponse] = set()
        self._answers: dict[str, web.Request] = {}
        self._arrived: dict[str, tuple[anyio.Event, list[dict[str, Any]]]] = {}
        self._numbers = itertools.count(1)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=64 << 20)
        base = f"/shoal/v1/nodes/{self.node.uid}"
        app.router.add_get(f"{base}/assignments", self._assignments)
        app.router.add_post(f"{base}/status", self._status)
        app.router.add_post(f"{base}/answers/{{id}}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        self.socket.unlink(missing_ok=True)
        await web.UnixSite(self._runner, str(self.socket)).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def put(self, *objects: Object) -> None:
        self.revision += 1
        placed = [codec.with_meta(obj, resource_version=self.revision) for obj in objects]
        self.objects.update({keys.key_of(obj): obj for obj in placed})
        await self._say({"type": "update", "revision": self.revision, "put": _raw(placed), "delete": []})

    async def delete(self, *objects: Object) -> None:
        self.revision += 1
        gone = [keys.key_of(obj) for obj in objects]
        for key in gone:
            del self.objects[key]
        await self._say({"type": "update", "revision": self.revision, "put": [], "delete": gone})

    async def request(self, method: str, **params: Any) -> list[dict[str, Any]]:
        """Ask the agent and wait for its whole answer."""
        request_id = f"r{next(self._numbers)}"
        arrived, lines = self._arrived[request_id] = anyio.Event(), []
        await self._say({"type": "request", "id": request_id, "method": method, "params": params})
        with anyio.fail_after(20):
            await arrived.wait()
        return lines

    def task(self, uid: str) -> Task:
        return next(obj for obj in self.objects.values() if isinstance(obj, Task) and obj.metadata.uid == uid)

    def state(self, task: Task) -> TaskState:
        return self.task(task.metadata.uid).status.state

    def states(self, task: Task) -> list[TaskState]:
        return [status.state for status in self.told.get(task.metadata.name, [])]

    def last(self, task: Task) -> TaskStatus:
        return self.task(task.metadata.uid).status

    def described(self) -> NodeDescription:
        node = self.objects[keys.node(self.node.uid)]
        assert isinstance(node, Node)
        return node.status.description

    async def _assignments(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        hello = {"type": "hello", "role": "manager", "managers": [], "incarnation": "i1", "heartbeatPeriod": "1s"}
        complete = {"type": "complete", "revision": self.revision, "objects": _raw(self.objects.values())}
        await response.write(_line(hello) + _line(complete))
        self.connections += 1
        self._streams.add(response)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._send_bookmarks, response)
                async for line in request.content:
                    self.beats += 1
                    self.applied = max(self.applied, int(line.strip() or 0))
                tasks.cancel_scope.cancel()
        finally:
            self._streams.discard(response)
        return response

    async def _send_bookmarks(self, response: web.StreamResponse) -> None:
        with suppress(ConnectionError):
            while True:
                await anyio.sleep(BOOKMARK_S)
                await response.write(_line({"type": "bookmark", "revision": self.revision}))

    async def _status(self, request: web.Request) -> web.Response:
        report = msgspec.json.decode(await request.read(), type=Report, dec_hook=codec.dec_hook)
        self.beats += 1
        self.applied = max(self.applied, report.applied or 0)
        changed: list[Object] = []
        for name, status in report.tasks.items():
            self.told.setdefault(name, []).append(status)
            task = self.objects.get(keys.task(name))
            if isinstance(task, Task) and status.state.rank > task.status.state.rank:
                changed.append(msgspec.structs.replace(task, status=status))
        if report.description is not None:
            node = self.objects[keys.node(self.node.uid)]
            about = NodeStatus(description=report.description, address=report.address, state=NodeState.READY)
            changed.append(msgspec.structs.replace(node, status=about))
        if changed:
            await self.put(*changed)
        return web.json_response({"heartbeatPeriod": "1s", "refused": {}})

    async def _answer(self, request: web.Request) -> web.Response:
        arrived, lines = self._arrived[request.match_info["id"]]
        async for line in request.content:
            if line.strip():
                lines.append(msgspec.json.decode(line))
        arrived.set()
        return web.json_response({})

    async def _say(self, message: dict[str, Any]) -> None:
        for stream in list(self._streams):
            try:
                await stream.write(_line(message))
            except (ConnectionError, RuntimeError):
                self._streams.discard(stream)


@asynccontextmanager
async def scripted_api(socket: Path) -> AsyncIterator[ScriptedApi]:
    api = ScriptedApi(socket)
    await api.start()
    try:
        yield api
    finally:
        await api.stop()


def _line(message: dict[str, Any]) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def _raw(objects: Any) -> list[Any]:
    return [codec.to_builtins(obj) for obj in objects]
