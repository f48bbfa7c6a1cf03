"""HTTP over a unix socket, the plainest way: what is timed here must not be the client."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from typing import Any


class Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """One connection per thread. OSError and AssertionError are the caller's end: a benchmark has no retries."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._local = threading.local()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the decoded answer; AssertionError with the server's words unless it is a success."""
        if not hasattr(self._local, "connection"):
            self._local.connection = Connection(self.path)
        connection: Connection = self._local.connection
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        response = connection.getresponse()
        raw = response.read()
        assert response.status < 400, f"{method} {path}: {response.status} {raw[:500]!r}"
        return json.loads(raw) if raw.strip() else None
