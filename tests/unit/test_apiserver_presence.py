"""What an API server publishes of the agents it hears: at once what others wait for, all else once a second."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
import pytest
from msgspec.structs import replace

from apiserver.presence import EVERY_S, SOON_S, Presences
from shoal.api import codec, keys
from shoal.api.meta import Meta, Ref
from shoal.api.objects import Backend, BackendSpec, BackendStatus, Presence
from shoal.machinery.cache import Change
from shoal.machinery.clock import VirtualClock
from shoal.machinery.memory import MemoryStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEB, TASK, NODE = Ref("web", "s"), Ref("web.1.t", "t"), Ref("one", "n")
BACKEND = Backend(
    metadata=Meta(name=TASK.name, uid="b"), spec=BackendSpec(WEB, TASK, NODE, ()), status=BackendStatus(True)
)


class Server:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store = MemoryStore(monotonic=self.clock.monotonic)
        self.presences = Presences("me", self.store, self.clock, lambda: 5.0)

    async def published(self) -> Presence:
        item = await self.store.get(keys.presence("me"))
        assert item is not None
        found = codec.decode_at(item.key, item.value, item.revision)
        assert isinstance(found, Presence)
        return found


@asynccontextmanager
async def a_node_applied(backend: Backend) -> AsyncIterator[Server]:
    """The node was heard and published at revision 7; then a backend changed at 8, and the node has applied that."""
    server = Server()
    async with anyio.create_task_group() as group:
        group.start_soon(server.presences.run)
        server.presences.beat(NODE.uid, 7)
        await server.clock.run_for(EVERY_S / 2)
        server.presences.changed(8, [Change("/shoal/backends/web.s/t", BACKEND, backend)], False)
        server.presences.beat(NODE.uid, 8)
        yield server
        group.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "status",
    [BackendStatus(True), BackendStatus(False)],
    ids=["until a backend serves everywhere", "until a backend is drained everywhere"],
)
async def test_what_is_waited_for_is_published_at_once(status: BackendStatus) -> None:
    async with a_node_applied(replace(BACKEND, status=status)) as server:
        await server.clock.run_for(SOON_S)
        assert (await server.published()).applied == {NODE.uid: 8}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "status",
    [BackendStatus(True, serving_at=NOW), BackendStatus(False, drained_at=NOW)],
    ids=["serving", "drained"],
)
async def test_what_nobody_waits_for_is_published_with_the_next_presence(status: BackendStatus) -> None:
    async with a_node_applied(replace(BACKEND, status=status)) as server:
        await server.clock.run_for(SOON_S)
        assert (await server.published()).applied == {NODE.uid: 7}
        await server.clock.run_for(EVERY_S)
        assert (await server.published()).applied == {NODE.uid: 8}


@pytest.mark.anyio
async def test_a_node_that_comes_is_published_at_once() -> None:
    server = Server()
    async with anyio.create_task_group() as group:
        group.start_soon(server.presences.run)
        await server.clock.run_for(EVERY_S)
        server.presences.beat(NODE.uid)
        await server.clock.run_for(SOON_S)
        assert (await server.published()).heard == (NODE.uid,)
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_server_that_was_held_up_accuses_nobody() -> None:
    """It could not read what came: what looks like a node's silence is its own."""
    server = Server()
    async with anyio.create_task_group() as group:
        group.start_soon(server.presences.run)
        server.presences.beat(NODE.uid)
        await server.clock.run_for(EVERY_S)
        for _ in range(4):
            server.clock.advance(20)
            await server.clock.run_for(0)
        assert (await server.published()).heard == (NODE.uid,)
        await server.clock.run_for(5)
        assert (await server.published()).silent == (NODE.uid,)
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_node_is_silent_after_a_period_of_listening() -> None:
    server = Server()
    async with anyio.create_task_group() as group:
        group.start_soon(server.presences.run)
        server.presences.beat(NODE.uid)
        await server.clock.run_for(4.9)
        assert server.presences.now().heard == (NODE.uid,)
        await server.clock.run_for(0.2)
        assert server.presences.now().silent == (NODE.uid,)
        group.cancel_scope.cancel()
