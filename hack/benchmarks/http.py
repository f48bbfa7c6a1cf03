"""HTTP over a unix socket, the plainest way: what is timed here must not be the client."""

from __future__ import annotations

import http.client
import json
import socket
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
    """A connection for each call: on a unix socket that costs nothing, and none is ever stale."""

    def __init__(self, path: str) -> None:
        self._path = path

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the decoded answer; OSError, or AssertionError with the server's words unless it is a success."""
        connection = Connection(self._path)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        assert response.status < 400, f"{method} {path}: {response.status} {raw[:500]!r}"
        return json.loads(raw) if raw.strip() else None
