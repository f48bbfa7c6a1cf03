"""The door on a network where not everybody is a friend: strangers are bounded, and nodes get in all the same."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiohttp
import anyio
import pytest
from anyio import to_thread
from anyio.streams.tls import TLSStream

from apiserver.entrance import Limits
from shoal.machinery.factories import make_node
from shoal.machinery.tls import client_context, trusting_context
from tests.support import eventually
from tests.support.door import Client, Door, open_door

pytestmark = pytest.mark.anyio

N1 = make_node("n1", address="10.0.0.2")
ELSEWHERE = "127.0.0.2"
"""Another address of this machine's."""


@asynccontextmanager
async def stranger(door: Door) -> AsyncIterator[TLSStream]:
    """A TLS connection without a certificate."""
    host, port = door.remote.host, door.remote.port
    async with await anyio.connect_tcp(
        host, port, ssl_context=trusting_context(), tls_hostname=host, tls_standard_compatible=False
    ) as stream:
        yield stream


async def is_cut(stream: TLSStream, within: float = 5.0) -> bool:
    """Whether the other side ends a connection on which nobody says anything."""
    with anyio.move_on_after(within):
        try:
            await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return True
    return False


@contextmanager
def silent(door: Door, count: int, address: str) -> Iterator[None]:
    """Connections on which nothing is said, not even the beginning of TLS."""
    where = (door.remote.host, door.remote.port)
    held = [socket.create_connection(where, source_address=(address, 0)) for _ in range(count)]
    try:
        yield
    finally:
        for one in held:
            one.close()


async def reports(door: Door) -> int:
    """A node's report over a connection of its own; the status it is answered with."""
    async with door.client(door.certified(N1)) as client:
        return (await client.call("POST", f"nodes/{N1.metadata.uid}/status", {}))[0]


async def test_so_many_strangers_and_no_more_but_nodes_come_in(tmp_path: Path) -> None:
    async with open_door(tmp_path, limits=Limits(strangers_each=2)) as door:
        await door.api.seed(N1)
        async with stranger(door) as first, stranger(door):
            async with stranger(door) as third:
                assert await is_cut(third)
            assert await reports(door) == 200
            await first.send(b"GET /shoal/v1/ca HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await first.receive()).startswith(b"HTTP/1.1 200")

        async def is_served() -> bool:
            async with stranger(door) as next_one:
                await next_one.send(b"GET /shoal/v1/ca HTTP/1.1\r\nHost: a\r\n\r\n")
                return not await is_cut(next_one, within=0.2)

        await eventually(is_served)


async def test_a_stranger_may_neither_stay_nor_talk_for_ever(tmp_path: Path) -> None:
    async with open_door(tmp_path, limits=Limits(stranger_s=0.3, stranger_bytes=10_000)) as door:
        async with stranger(door) as idle:
            assert await is_cut(idle)
        async with stranger(door) as talker:
            await talker.send(b"GET /shoal/v1/ca HTTP/1.1\r\n")
            with suppress(anyio.BrokenResourceError):
                for number in range(100):
                    await talker.send(b"X-%d: %s\r\n" % (number, b"x" * 1000))
            assert await is_cut(talker, within=0.2)


async def test_who_never_begins_to_speak_holds_up_nobody_else(tmp_path: Path) -> None:
    limits = Limits(shaking_each=2, shaking=4, handshake_s=30.0)
    async with open_door(tmp_path, limits=limits) as door:
        await door.api.seed(N1)
        with silent(door, 5, ELSEWHERE), anyio.fail_after(10):
            assert await reports(door) == 200


async def test_a_handshake_that_does_not_come_makes_room_for_the_next(tmp_path: Path) -> None:
    limits = Limits(shaking_each=2, shaking=4, handshake_s=0.2)
    async with open_door(tmp_path, limits=limits) as door:
        await door.api.seed(N1)
        with silent(door, 5, "127.0.0.1"), anyio.fail_after(10):
            assert await reports(door) == 200


async def test_a_line_that_is_full_turns_away(tmp_path: Path) -> None:
    limits = Limits(shaking_each=1, shaking=1, waiting_each=3, handshake_s=30.0)
    async with open_door(tmp_path, limits=limits) as door:
        with silent(door, 3, ELSEWHERE):
            await anyio.wait_all_tasks_blocked()
            late = socket.create_connection((door.remote.host, door.remote.port), source_address=(ELSEWHERE, 0))
            with late:
                late.settimeout(5)
                try:
                    assert await to_thread.run_sync(late.recv, 1) == b""
                except ConnectionResetError:
                    return


async def test_hundreds_of_agents_that_come_back_at_once_all_come_in(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await door.api.seed(N1)
        answers: list[int] = []
        tls = client_context(door.authority.certificate, door.certified(N1))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls, limit=0)) as session:
            client = Client(session, door.remote)

            async def come() -> None:
                answers.append((await client.call("POST", f"nodes/{N1.metadata.uid}/status", {}))[0])

            async with anyio.create_task_group() as group:
                for _ in range(200):
                    group.start_soon(come)
        assert answers == [200] * 200
