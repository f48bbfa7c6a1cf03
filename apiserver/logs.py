"""Logs and usage of tasks, asked from their nodes' agents and merged.

A node that is away costs a bounded wait and becomes a `warning` line; it never hangs the others.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import msgspec
from aiohttp import web
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from apiserver import incoming, wire
from apiserver.lookup import find
from apiserver.mirror import TASKS_BY_SERVICE, Mirror
from apiserver.objects import json_response, stream
from apiserver.requests import Requests
from apiserver.selectors import Selector, Term
from apiserver.watches import Hub
from shoal.api import objects as o
from shoal.api.errors import Fault, InvalidError, UnavailableError
from shoal.api.states import TaskState

ANSWER_S: Final = 5.0
"""Seconds a node has for the first word of an answer; an agent that lives answers in milliseconds."""

SETTLE_S: Final = 0.25
"""Seconds a followed line waits for older ones of other tasks before it is passed on."""

BUFFER: Final = 256
"""Lines of all tasks together that may wait for the client."""

Line = Mapping[str, Any]
Receiver = MemoryObjectReceiveStream[Line]


class LogQuery(msgspec.Struct, frozen=True):
    """What is asked of each task's log."""

    follow: bool = False
    tail: int | None = None
    since: str = ""
    stdout: bool = True
    stderr: bool = True
    timestamps: bool = True
    """Give each line's time to the client; agents always do, for lines are merged by it."""

    def params(self, task: o.Task) -> dict[str, Any]:
        """Return what the agent is asked."""
        return {
            "tasks": [task.metadata.name],
            "follow": self.follow,
            "tail": self.tail,
            "since": self.since,
            "stdout": self.stdout,
            "stderr": self.stderr,
        }

    def shown(self, line: Line) -> bytes:
        """Return a line as the client gets it."""
        if not self.timestamps:
            line = {name: value for name, value in line.items() if name != "time"}
        return wire.encode(line) + b"\n"


def log_query(query: Mapping[str, str]) -> LogQuery:
    """Read a request's parameters; InvalidError names the wrong ones."""
    incoming.only(query, "follow", "tail", "since", "timestamps", "stdout", "stderr")
    tail, since = query.get("tail", ""), query.get("since", "")
    if since:
        try:
            since = _moment(since).isoformat()
        except (ValueError, OverflowError) as error:
            message = f"expected a time such as 2026-01-31T12:00:00Z, found {since[:60]!r}"
            raise InvalidError([Fault("since", message)]) from error
    return LogQuery(
        follow=incoming.flag(query, "follow"),
        tail=None if tail in ("", "all") else incoming.number(query, "tail"),
        since=since,
        stdout="stdout" not in query or incoming.flag(query, "stdout"),
        stderr="stderr" not in query or incoming.flag(query, "stderr"),
        timestamps="timestamps" not in query or incoming.flag(query, "timestamps"),
    )


def _moment(text: str) -> datetime:
    """Read a time, UTC unless it says otherwise: the nodes' own zones may differ. ValueError, OverflowError."""
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)


def has_log(task: o.Task) -> bool:
    """Whether a container of the task has been started, as far as anybody knows."""
    state = task.status.state
    return task.spec.node is not None and TaskState.STARTING.rank <= state.rank <= TaskState.FAILED.rank


class Logs:
    def __init__(self, mirror: Mirror, hub: Hub, requests: Requests) -> None:
        self._mirror, self._hub, self._requests = mirror, hub, requests

    async def of_service(self, request: web.Request) -> web.StreamResponse:
        query = log_query(request.query)
        cache = await self._mirror.fresh()
        service = find(cache, o.Service, request.match_info["name"])
        tasks = [task for task in cache.by(TASKS_BY_SERVICE, service.metadata.uid).values() if has_log(task)]
        if query.follow:
            return await stream(request, self._followed(tasks, query, service))
        return await stream(request, self._once(tasks, query))

    async def of_task(self, request: web.Request) -> web.StreamResponse:
        query = log_query(request.query)
        task = find(await self._mirror.fresh(), o.Task, request.match_info["name"])
        if task.spec.node is None:
            raise InvalidError(f"task {task.metadata.name} has no node yet, so it has no log")
        if query.follow:
            return await stream(request, self._followed([task], query, None))
        return await stream(request, self._once([task], query))

    async def _once(self, tasks: list[o.Task], query: LogQuery) -> AsyncGenerator[bytes, None]:
        """Yield the lines that there are, oldest first; a task's next line is fetched when its last one went."""
        async with anyio.create_task_group() as group:
            answers: dict[str, Receiver] = {}
            for task in tasks:
                send, receive = anyio.create_memory_object_stream[Line](BUFFER)
                answers[task.metadata.name] = receive
                group.start_soon(self._ask, task, query, send)
            try:
                async for line in by_time(answers):
                    yield query.shown(line)
            finally:
                for receive in answers.values():
                    receive.close()
                group.cancel_scope.cancel()

    async def _followed(
        self, tasks: list[o.Task], query: LogQuery, service: o.Service | None
    ) -> AsyncGenerator[bytes, None]:
        """Yield lines as they come, those of one moment oldest first; of a service also those of later tasks."""
        send, receive = anyio.create_memory_object_stream[Line](BUFFER)
        async with anyio.create_task_group() as group, receive:
            try:
                for task in tasks:
                    group.start_soon(self._ask, task, query, send.clone())
                if service is not None:
                    known = {task.metadata.uid for task in tasks}
                    group.start_soon(self._follow_new, service.metadata.uid, known, query, send.clone(), group)
                send.close()
                async for line in settled(receive):
                    yield query.shown(line)
            finally:
                group.cancel_scope.cancel()

    async def _ask(self, task: o.Task, query: LogQuery, send: MemoryObjectSendStream[Line]) -> None:
        """Pass on one task's log. An over task whose container is gone is no reason to warn."""
        name, node = task.metadata.name, task.spec.node
        assert node is not None
        is_over = task.status.state.is_terminal
        within_s = None if query.follow else ANSWER_S
        async with send:
            try:
                async for line in self.answer(node.uid, "logs", query.params(task), within_s=within_s):
                    if not (is_over and "warning" in line):
                        await send.send(line)
            except UnavailableError as error:
                if not is_over:
                    where = self._name_of(node.uid)
                    await send.send({"warning": f"task {name}: node {where} is away ({error})"})

    async def answer(
        self, node: str, method: str, params: Mapping[str, Any], *, within_s: float | None = ANSWER_S
    ) -> AsyncIterator[Line]:
        """Yield the lines of a node's answer; UnavailableError if the next one does not come in time.

        `within_s` None = wait for ever: a followed log may be silent, and the agent's connection tells.
        Agents name their node by its uid; people are told its name.
        """
        name = self._name_of(node)
        async with self._requests.ask(node, method, params) as lines:
            while True:
                line: Line | None = None
                with anyio.move_on_after(within_s) as scope:
                    try:
                        line = await lines.receive()
                    except anyio.EndOfStream:
                        return
                if scope.cancelled_caught or line is None:
                    raise UnavailableError(f"no answer within {within_s:g} s")
                yield {**line, "node": name} if "node" in line else line

    def _name_of(self, node_uid: str) -> str:
        node = self._mirror.cache.get(o.Node, f"/shoal/nodes/{node_uid}")
        return node.metadata.name if node is not None else node_uid

    async def _changes(self, service: str) -> AsyncGenerator[None, None]:
        """Yield at once, and whenever a service's tasks may have changed, through restores too."""
        selector = Selector(fields=(Term("spec.service.uid", frozenset({service})),))
        while True:
            watcher = self._hub.subscribe(o.Task, selector, self._mirror.revision)
            try:
                while not watcher.cut:
                    yield
                    await watcher.take(60.0)
            finally:
                self._hub.unsubscribe(o.Task, watcher)

    async def _follow_new(
        self,
        service: str,
        known: set[str],
        query: LogQuery,
        send: MemoryObjectSendStream[Line],
        group: TaskGroup,
    ) -> None:
        """Follow the tasks that start later, from their first line on."""
        later = msgspec.structs.replace(query, tail=None, since="")
        async with send, aclosing(self._changes(service)) as changes:
            async for _ in changes:
                for task in list(self._mirror.cache.by(TASKS_BY_SERVICE, service).values()):
                    if task.metadata.uid not in known and has_log(task):
                        known.add(task.metadata.uid)
                        group.start_soon(self._ask, task, later, send.clone())

    async def top(self, request: web.Request) -> web.StreamResponse:
        """Answer one sample of every running task; nodes that do not answer are named."""
        incoming.only(request.query)
        cache = await self._mirror.fresh()
        nodes = {
            task.spec.node.uid
            for task in cache.all(o.Task).values()
            if task.spec.node is not None and task.status.state is TaskState.RUNNING
        }
        items: list[Line] = []
        warnings: list[str] = []

        async def sample(node: str) -> None:
            try:
                async for line in self.answer(node, "stats", {}):
                    if "warning" in line:
                        warnings.append(str(line["warning"]))
                    else:
                        items.append(line)
            except UnavailableError as error:
                warnings.append(f"node {self._name_of(node)} is away ({error})")

        async with anyio.create_task_group() as group:
            for node in sorted(nodes):
                group.start_soon(sample, node)
        ordered = sorted(items, key=lambda item: (str(item.get("service")), str(item.get("task"))))
        return json_response(wire.encode({"items": ordered, "warnings": sorted(warnings)}))


async def by_time(answers: Mapping[str, Receiver]) -> AsyncIterator[Line]:
    """Merge answers that are each in order; at most one line of each is held."""
    heads: list[tuple[str, int, str, Line]] = []
    numbers = itertools.count()

    async def fetch(name: str) -> None:
        try:
            line = await answers[name].receive()
        except anyio.EndOfStream:
            return
        heapq.heappush(heads, (str(line.get("time", "")), next(numbers), name, line))

    async with anyio.create_task_group() as group:
        for name in answers:
            group.start_soon(fetch, name)
    while heads:
        _, _, name, line = heapq.heappop(heads)
        yield line
        await fetch(name)


async def settled(receive: Receiver) -> AsyncIterator[Line]:
    """Yield lines in the order of their times, as far as they come within SETTLE_S of each other."""
    ended = False
    while not ended:
        lines: list[Line] = []
        try:
            lines.append(await receive.receive())
            with anyio.move_on_after(SETTLE_S):
                while len(lines) < BUFFER:
                    lines.append(await receive.receive())
        except anyio.EndOfStream:
            ended = True
        for line in sorted(lines, key=lambda one: str(one.get("time", ""))):
            yield line
