"""What the engine's client does with its connections when the engine fails."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from nodeagent.engine.docker import DockerEngine
from shoal.api.errors import EngineError
from tests.support import eventually

pytestmark = pytest.mark.anyio


class FailingEngine(socketserver.ThreadingUnixStreamServer):
    """Answers what every client asks first, `/info` when two ask at once, and hangs up on everything else."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.open = 0
        self.two = threading.Barrier(2)
        super().__init__(str(path), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FailingEngine

    def handle(self) -> None:
        self.server.open += 1
        try:
            super().handle()
        finally:
            self.server.open -= 1

    def do_GET(self) -> None:
        if self.path.endswith("/info"):
            self.server.two.wait(10)
        elif not self.path.endswith("/version"):
            self.close_connection = True
            return
        body = json.dumps({"ApiVersion": "1.41", "Name": "box"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "a client"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@asynccontextmanager
async def failing_engine(path: Path) -> AsyncIterator[FailingEngine]:
    server = FailingEngine(path)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        await to_thread.run_sync(server.shutdown)
        server.server_close()


async def test_a_client_that_lost_its_engine_leaves_no_connection_open(tmp_path: Path) -> None:
    async with failing_engine(tmp_path / "docker.sock") as server:
        engine = DockerEngine(f"unix://{tmp_path}/docker.sock")
        async with anyio.create_task_group() as group:
            group.start_soon(engine.describe)
            group.start_soon(engine.describe)
        kept_alive = engine._client
        assert server.open >= 2

        with pytest.raises(EngineError, match="does not answer"):
            await engine.containers({})

        async def are_closed() -> bool:
            return server.open == 0

        await eventually(are_closed)
        assert kept_alive is not None
        await engine.close()
