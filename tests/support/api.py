"""An API server on a unix socket over a store in memory, and a client to it."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import msgspec
from aiohttp import web

from apiserver.app import Server, serving
from shoal.api import codec, keys
from shoal.api.objects import Object
from shoal.machinery.memory import MemoryStore
from shoal.machinery.store import Delete, Put, Txn

CLUSTER_KEY = bytes(range(32))


@dataclass
class Api:
    """`get`, `post`, … return (status, decoded body)."""

    server: Server
    store: MemoryStore
    session: aiohttp.ClientSession
    socket: Path
    runner: web.AppRunner

    async def call(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        if body is not None and not isinstance(body, (bytes, io.IOBase)):
            body = io.BytesIO(msgspec.json.encode(body))
        url = path if path.startswith("/") else f"/shoal/v1/{path}"
        async with self.session.request(method, f"http://api{url}", data=body, **options) as response:
            raw = await response.read()
            is_json = response.content_type == "application/json"
            return response.status, msgspec.json.decode(raw) if is_json else raw.decode()

    async def get(self, path: str) -> tuple[int, Any]:
        return await self.call("GET", path)

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        return await self.call("POST", path, body)

    async def put(self, path: str, body: Any) -> tuple[int, Any]:
        return await self.call("PUT", path, body)

    async def patch(self, path: str, body: Any) -> tuple[int, Any]:
        return await self.call("PATCH", path, body)

    async def delete(self, path: str) -> tuple[int, Any]:
        return await self.call("DELETE", path)

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[Lines]:
        async with self.session.get(f"http://api/shoal/v1/{path}") as response:
            yield Lines(response)

    async def seed(self, *objects: Object) -> None:
        """Write objects into the store as whoever owns them would, and wait until the server shows them."""
        for obj in objects:
            await self.store.commit(Txn((), (Put(keys.key_of(obj), codec.encode(obj)),)))
        await self.server.mirror.wait_for(self.store.revision)

    async def remove(self, *objects: Object) -> None:
        for obj in objects:
            await self.store.commit(Txn((), (Delete(keys.key_of(obj)),)))
        await self.server.mirror.wait_for(self.store.revision)


class Lines:
    """The JSON lines of a stream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self, *, within: float = 5.0, skip: tuple[str, ...] = ("bookmark",)) -> dict[str, Any]:
        """Return the next line that is not of a skipped type."""
        with anyio.fail_after(within):
            while True:
                line = await self.response.content.readline()
                assert line, f"the stream ended, status {self.response.status}"
                found: dict[str, Any] = msgspec.json.decode(line)
                if found.get("type") not in skip:
                    return found


@asynccontextmanager
async def running_api(directory: Path, store: MemoryStore | None = None, **options: Any) -> AsyncIterator[Api]:
    """Serve `store` on a unix socket below `directory`."""
    store = store if store is not None else MemoryStore()
    socket = directory / "api.sock"
    async with serving(store, **{"cluster_key": CLUSTER_KEY, **options}) as server:
        runner = web.AppRunner(server.app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.UnixSite(runner, str(socket)).start()
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket), limit=0)) as session:
                yield Api(server, store, session, socket, runner)
        finally:
            await runner.cleanup()
