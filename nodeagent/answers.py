"""Answers requests that came with the assignments: logs and stats of this node's tasks, how its network is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from datetime import datetime
from typing import Any, Final

import anyio
import msgspec
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from nodeagent.client import ApiClient
from nodeagent.tasks.crew import Crew
from nodeagent.tasks.worker import Worker
from shoal.api.errors import ShoalError
from shoal.api.probes import NodeProbe

STILL_HERE_S: Final = 5.0
"""Seconds between the empty lines of a quiet answer."""

_BUFFER: Final = 256

log = structlog.get_logger()
Line = Mapping[str, Any] | None
Probe = Callable[[Collection[str]], Awaitable[NodeProbe]]
"""Looks at the networks with these uids, at all if none is named."""


class Answers:
    """`probe` None = the node has no network that could be looked at."""

    def __init__(self, api: ApiClient, crew: Crew, node_uid: str, probe: Probe | None = None) -> None:
        self._api, self._crew, self._node_uid, self._probe = api, crew, node_uid, probe
        self._scopes: dict[str, anyio.CancelScope] = {}

    def cancel(self, request_id: str) -> None:
        """Nobody waits for this answer any more."""
        if request_id in self._scopes:
            self._scopes[request_id].cancel()

    async def answer(self, request_id: str, method: str, params: Mapping[str, Any]) -> None:
        """Answer one request; a lost connection ends it quietly."""
        with anyio.CancelScope() as scope:
            self._scopes[request_id] = scope
            try:
                await self._stream(request_id, method, params)
            finally:
                del self._scopes[request_id]

    async def _stream(self, request_id: str, method: str, params: Mapping[str, Any]) -> None:
        send, receive = anyio.create_memory_object_stream[Line](_BUFFER)
        async with anyio.create_task_group() as group:
            group.start_soon(self._produce, send, method, params)
            async with receive:
                try:
                    await self._api.answer(request_id, _with_signs_of_life(receive))
                except ShoalError as error:
                    log.debug("answer_broken", request=request_id, reason=str(error))
            group.cancel_scope.cancel()

    async def _produce(self, send: MemoryObjectSendStream[Line], method: str, params: Mapping[str, Any]) -> None:
        async with send, anyio.create_task_group() as group:
            if method == "network" and self._probe is not None:
                await send.send(msgspec.to_builtins(await self._probe(tuple(params.get("networks", ())))))
                return
            produce = {"logs": self._logs, "stats": self._stats}.get(method)
            if produce is None:
                await send.send({"warning": f"this node's agent does not know the request {method!r}"})
                return
            for name in params.get("tasks") or self._running():
                worker = self._crew.task_named(name)
                if worker is None:
                    await send.send({"warning": f"task {name} has no container on this node"})
                else:
                    group.start_soon(self._guarded, produce, send, worker, params)

    async def _guarded(
        self, produce: Any, send: MemoryObjectSendStream[Line], worker: Worker, params: Mapping[str, Any]
    ) -> None:
        try:
            await produce(send, worker, params)
        except (ShoalError, ValueError, OverflowError) as error:  # a question nobody can read harms its asker alone
            await send.send({"warning": f"task {_name(worker)}: {error}"})
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return

    async def _logs(self, send: MemoryObjectSendStream[Line], worker: Worker, params: Mapping[str, Any]) -> None:
        tail, since = params.get("tail"), params.get("since")
        async with self._crew.tools.engine.logs(
            worker.container_id,
            follow=bool(params.get("follow")),
            tail=None if tail in (None, "", "all") else int(tail),
            since=datetime.fromisoformat(since) if since else None,
            stdout=bool(params.get("stdout", True)),
            stderr=bool(params.get("stderr", True)),
        ) as lines:
            async for line in lines:
                await send.send(
                    {
                        "task": _name(worker),
                        "node": self._node_uid,
                        "stream": line.stream,
                        "time": line.time,
                        "line": line.line.decode("utf-8", "replace"),
                    }
                )

    async def _stats(self, send: MemoryObjectSendStream[Line], worker: Worker, params: Mapping[str, Any]) -> None:
        stats = await self._crew.tools.engine.stats(worker.container_id)
        task = worker.task
        await send.send(
            {
                "task": _name(worker),
                "service": task.spec.service.name if task is not None else "",
                "node": self._node_uid,
                "cpu": round(stats.cpu, 4),
                "memory": int(stats.memory),
                "memoryLimit": int(stats.memory_limit),
            }
        )

    def _running(self) -> list[str]:
        return [
            uid
            for uid, worker in self._crew.workers.items()
            if worker.wanted and worker.container is not None and worker.container.is_alive
        ]


def _name(worker: Worker) -> str:
    return worker.task.metadata.name if worker.task is not None else worker.uid


async def _with_signs_of_life(lines: MemoryObjectReceiveStream[Line]) -> AsyncIterator[Line]:
    """Pass lines on, and an empty one (None) whenever there was nothing for a while."""
    while True:
        line: Line = None
        try:
            with anyio.move_on_after(STILL_HERE_S):
                line = await lines.receive()
        except anyio.EndOfStream:
            return
        yield line
