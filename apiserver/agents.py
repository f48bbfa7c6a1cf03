"""The agents' side of the API: assignments streams, reports of statuses and beats, events, answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

import anyio
import msgspec
import structlog
from aiohttp import web
from anyio.abc import TaskGroup
from msgspec import Struct

from apiserver import wire
from apiserver.assignments import Blocks, Picture, Pictures, for_agents
from apiserver.mirror import Mirror
from apiserver.objects import json_response, stream
from apiserver.presence import Presences
from apiserver.requests import Outbox, Requests
from apiserver.statuses import merge_statuses
from apiserver.vault import SEALED, Vault
from apiserver.writes import Writes
from shoal.api import codec, keys
from shoal.api import objects as o
from shoal.api.errors import Fault, InvalidError, NotFoundError, ShoalError
from shoal.api.meta import Meta, Owner
from shoal.api.states import Role
from shoal.machinery.cache import Change
from shoal.machinery.clock import Clock
from shoal.machinery.controller import Action, Replace
from shoal.machinery.events import Recorder
from shoal.machinery.writer import Writer

BOOKMARK_S: Final = 10.0
"""Seconds of silence after which an agent is told how far the managers are; it gives a server up after 30."""

PAUSE_S_PER_STREAM: Final = 0.001
"""Seconds that news which can wait are gathered for, for each open stream: so at most a thousand messages a second."""

_DIGITS: Final = 19
"""Of the largest revision that etcd counts to."""

log = structlog.get_logger()


class Report(Struct, frozen=True, rename="camel"):
    """What an agent posts; an empty one is a heartbeat."""

    tasks: dict[str, o.TaskStatus] = {}
    applied: int | None = None
    description: o.NodeDescription | None = None
    address: str = ""


class Line(Struct, frozen=True):
    """A report that comes down the stream; its receipt carries the same number."""

    id: str
    report: Report


class Told(Struct, frozen=True):
    """An event an agent wants told."""

    about: Owner
    reason: str
    message: str = ""
    type: str = "Normal"


_reports = msgspec.json.Decoder(Report, dec_hook=codec.dec_hook)
_lines = msgspec.json.Decoder(Line, dec_hook=codec.dec_hook)
_told = msgspec.json.Decoder(list[Told])


class Agents:
    def __init__(
        self,
        mirror: Mirror,
        writer: Writer,
        writes: Writes,
        presences: Presences,
        requests: Requests,
        recorder: Recorder,
        vault: Vault,
        clock: Clock,
        bookmark_s: float = BOOKMARK_S,
    ) -> None:
        self._clock = clock
        self._mirror, self._writer, self._writes, self._presences = mirror, writer, writes, presences
        self._requests, self._recorder, self._vault, self._bookmark_s = requests, recorder, vault, bookmark_s
        self._pictures, self._blocks = Pictures(), Blocks()
        self._streams: dict[Picture, Outbox] = {}
        self._managers: tuple[str, ...] = ()
        """Where API servers answer other hosts."""
        self._soon: set[Picture] = set()
        self._to_tell_soon = anyio.Event()
        self._epoch = 0
        """Counts the stores this server has seen: a restored one is another."""

    async def assignments(self, request: web.Request) -> web.StreamResponse:
        node = request.match_info["node"]
        await self._mirror.fresh()
        self._node(node)
        is_local = request.transport is None or request.transport.get_extra_info("sslcontext") is None
        outbox = Outbox()
        async with anyio.create_task_group() as group:
            response = await stream(
                request,
                self._messages(node, is_local, outbox),
                lambda line: self._heard(node, line.strip(), outbox, group),
            )
            group.cancel_scope.cancel()
        return response

    def _heard(self, node: str, line: bytes, outbox: Outbox, group: TaskGroup) -> None:
        """Take what came down the stream: a beat, perhaps with how far the node is programmed; or a report.

        One of a node that was just removed counts no more.
        """
        if self._is_gone(node):
            return
        if line.startswith(b"{"):
            if not outbox.is_reporting:  # an agent waits for one receipt before it says more
                outbox.is_reporting = True
                group.start_soon(self._take_report, node, line, outbox)
        else:
            self._beat(node, int(line) if line.isdigit() and len(line) <= _DIGITS else None)

    async def _take_report(self, node: str, line: bytes, outbox: Outbox) -> None:
        """Take a report and send its receipt; where that fails, the agent is told why and says it again."""
        try:
            told = _lines.decode(line)
        except (ValueError, RecursionError) as error:
            log.warning("report_unreadable", node=node, reason=str(error))
            outbox.is_reporting = False
            return
        try:
            receipt = await self._reported(node, told.report)
        except ShoalError as error:
            receipt = {"failed": str(error)}
        finally:
            outbox.is_reporting = False
        outbox.put({"type": "receipt", "id": told.id, **receipt})

    def _beat(self, node: str, applied: int | None) -> None:
        mirror = self._mirror
        self._presences.beat(node, min(applied - mirror.base, mirror.revision) if applied is not None else None)

    async def _messages(self, node: str, is_local: bool, outbox: Outbox) -> AsyncGenerator[bytes, None]:
        """Yield hello, one complete set, then what changes, with requests and receipts in between, until the end.

        The end is that the node is removed, or the store is another.
        """
        picture, epoch = Picture(node), self._epoch
        self._pictures.add(picture)
        self._streams[picture] = outbox
        self._requests.connect(node, outbox)
        self._presences.beat(node)
        log.info("agent_connected", node=node)
        try:
            around, hello = self._around(node), self._hello_for(node, is_local)
            yield wire.encode(hello) + b"\n"
            yield self._complete(picture)
            while True:
                if not picture.is_behind and not outbox.lines:
                    with anyio.move_on_after(self._bookmark_s):
                        await outbox.woken.wait()
                outbox.woken = anyio.Event()
                if epoch != self._epoch or self._is_gone(node):
                    return
                if around != (around := self._around(node)) and hello != (hello := self._hello_for(node, is_local)):
                    yield wire.encode(hello) + b"\n"
                lines, outbox.lines = outbox.lines, []
                yield self._increment(picture, is_idle=not lines) + b"".join(lines)
        finally:
            self._pictures.remove(picture)
            del self._streams[picture]
            self._requests.disconnect(node, outbox)
            log.info("agent_disconnected", node=node)

    def _complete(self, picture: Picture) -> bytes:
        """Return a node's complete set. Nothing here keeps it: of a thousand nodes each is told half a megabyte."""
        found = picture.complete(self._mirror.cache, self._blocks, self._body)
        return b'{"type":"complete","revision":%d,"objects":[%b]}\n' % (self._version(), found)

    def _increment(self, picture: Picture, *, is_idle: bool) -> bytes:
        """Return what changed for a node; or how far all is, where that is all there is to say."""
        moved = picture.others_moved
        put, delete = picture.take(self._mirror.cache)
        if put or delete:
            bodies = b",".join(self._bodies(put))
            gone = wire.encode(delete)
            return b'{"type":"update","revision":%d,"put":[%b],"delete":%b}\n' % (self._version(), bodies, gone)
        if moved or is_idle:
            return b'{"type":"bookmark","revision":%d}\n' % self._version()
        return b""

    def _bodies(self, told: Sequence[str]) -> list[bytes]:
        """Return objects as agents get them; a secret that cannot be opened is left out, and its tasks are refused."""
        return [body for key in told if (body := self._body(key))]

    def _body(self, key: str) -> bytes:
        if keys.kind_at(key) not in _OPENED:
            return self._mirror.bytes_of(key)
        obj = self._mirror.read(key)
        assert obj is not None
        if isinstance(obj, SEALED):
            try:
                obj = self._vault.opened(obj)
            except ValueError as error:
                log.error("secret_not_opened", key=key, reason=str(error))
                return b""
        else:
            obj = for_agents(obj)
        return wire.spliced(codec.encode(obj), self._mirror.version(obj.metadata.resource_version))

    def _version(self) -> int:
        return self._mirror.version(self._mirror.revision)

    def _is_gone(self, node: str) -> bool:
        found = self._mirror.cache.get(o.Node, keys.node(node))
        return found is None or found.status.left_at is not None

    def _around(self, node: str) -> tuple[int, int, tuple[str, ...]]:
        """Return what a hello is made from: cheaply compared, for each of a thousand streams whenever it is woken."""
        found, cluster = self._mirror.cache.get(o.Node, keys.node(node)), self._cluster()
        return (
            found.metadata.resource_version if found is not None else 0,
            cluster.metadata.resource_version,
            self._managers,
        )

    def _hello_for(self, node: str, is_local: bool) -> dict[str, Any]:
        """What an agent is told first; one on the manager's own socket stays there."""
        found = self._mirror.cache.get(o.Node, keys.node(node))
        cluster = self._cluster()
        return {
            "type": "hello",
            "role": (found.spec.role if found is not None else Role.WORKER).value,
            "managers": [] if is_local else [f"https://{address}" for address in self._managers],
            "incarnation": cluster.status.incarnation,
            "heartbeatPeriod": str(cluster.spec.heartbeat_period),
            "reports": True,
        }

    def changed(self, revision: int, changes: Sequence[Change], is_new: bool) -> None:
        """Wake the streams that these changes concern; another store ends them all, for agents to begin anew."""
        self._blocks.offer(changes)
        if is_new:
            self._blocks.forget()
            self._epoch += 1
            for outbox in self._streams.values():
                outbox.woken.set()
        if is_new or any(change.kind is o.Node and _concerns_managers(change) for change in changes):
            nodes = self._mirror.cache.all(o.Node).values()
            self._managers = tuple(sorted(node.status.api for node in nodes if _is_manager(node) and node.status.api))
        now, soon = self._pictures.offer(changes)
        for picture in now:
            self._streams[picture].woken.set()
        if soon:
            self._soon |= soon
            self._to_tell_soon.set()

    async def run(self) -> None:
        """Wake the streams that can wait a little, for ever."""
        while True:
            await self._to_tell_soon.wait()
            await self._clock.sleep(PAUSE_S_PER_STREAM * len(self._streams))
            self._to_tell_soon = anyio.Event()
            soon, self._soon = self._soon, set()
            for picture in soon & self._streams.keys():
                self._streams[picture].woken.set()

    def _cluster(self) -> o.Cluster:
        return self._mirror.cache.get(o.Cluster, keys.CLUSTER) or _NO_CLUSTER

    def period_s(self) -> float:
        """Return the heartbeat period in seconds."""
        return self._cluster().spec.heartbeat_period.seconds

    def _node(self, uid: str) -> o.Node:
        """Return a node; NotFoundError with what to do if the cluster does not know it."""
        found = self._mirror.cache.get(o.Node, keys.node(uid))
        if found is None:
            raise NotFoundError(f"node {uid[:60]} is not part of this cluster: it was removed, or has yet to join")
        return found

    async def report(self, request: web.Request) -> web.StreamResponse:
        """Take statuses, the heartbeat, how far the node is programmed, and its description."""
        uid = request.match_info["node"]
        raw = await request.read()
        try:
            report = _reports.decode(raw) if raw.strip() else Report()
        except (ValueError, RecursionError) as error:
            raise InvalidError([Fault("", f"not a report: {error}")]) from error
        return json_response(wire.encode(await self._reported(uid, report)))

    async def _reported(self, uid: str, report: Report) -> dict[str, Any]:
        """Act on a report and return what its sender is to know."""
        self._node(uid)
        self._beat(uid, report.applied)
        refused: dict[str, str] = {}
        if report.tasks:
            refused = await merge_statuses(self._mirror, self._writer, uid, report.tasks)
        if report.description is not None or report.address:
            await self._describe(uid, report)
        return {"heartbeatPeriod": str(self._cluster().spec.heartbeat_period), "refused": refused}

    async def _describe(self, uid: str, report: Report) -> None:
        """Write what the node says of itself, if it says something new; other parts of the node are others'."""

        def action() -> Action:
            node = self._node(uid)
            status = msgspec.structs.replace(
                node.status,
                description=report.description or node.status.description,
                address=report.address or node.status.address,
            )
            return Action("NodeDescribed", (Replace(msgspec.structs.replace(node, status=status)),))

        await self._writes.change(action)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Tell people what an agent saw; only of its own tasks and of itself."""
        uid = request.match_info["node"]
        try:
            told = _told.decode(await request.read())
        except (ValueError, RecursionError) as error:
            raise InvalidError([Fault("", f"not a list of events: {error}")]) from error
        for event in told:
            if self._may_tell(uid, event.about):
                self._recorder.note(
                    event.about, event.reason[:100], event.message[:1000], is_warning=event.type != "Normal"
                )
        return json_response(b"{}")

    def _may_tell(self, uid: str, about: Owner) -> bool:
        if about.kind == o.Node.KIND:
            return about.uid == uid
        task = self._mirror.cache.get(o.Task, keys.task(about.name))
        return task is not None and task.metadata.uid == about.uid and _is_on(task, uid)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Pass an answer on to whoever asked."""
        node, number = request.match_info["node"], request.match_info["id"]
        await self._requests.answered(node, number, request.content.iter_any())
        return json_response(b"{}")


def _is_manager(obj: o.Object | None) -> bool:
    return isinstance(obj, o.Node) and obj.spec.role is Role.MANAGER


def _concerns_managers(change: Change) -> bool:
    return _is_manager(change.old) or _is_manager(change.new)


_OPENED: Final = frozenset({*SEALED, o.Cluster})
"""Kinds that agents get otherwise than they are stored."""

_NO_CLUSTER: Final = o.Cluster(metadata=Meta(name="default"))


def _is_on(task: o.Task, node: str) -> bool:
    return task.spec.node is not None and task.spec.node.uid == node
