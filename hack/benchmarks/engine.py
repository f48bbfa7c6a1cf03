"""The denominator: a Docker engine asked directly, and what its own events say of when containers started."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from hack.benchmarks.http import Client, Connection

LABEL = "shoal-benchmark"


class Happenings:
    """Events of one action as they come: engine's time in seconds, container's name."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, str]] = []
        self._changed = threading.Condition()

    def add(self, at: float, name: str) -> None:
        with self._changed:
            self.seen.append((at, name))
            self._changed.notify_all()

    def nth(self, count: int, within_s: float = 120.0) -> float:
        """Return when the `count`th happened, by time.time()."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self.seen) >= count, within_s)
        assert came, f"{len(self.seen)} of {count} containers within {within_s} s"
        return sorted(self.seen)[count - 1][0]


class Engine:
    def __init__(self, socket_path: str) -> None:
        self._client = Client(socket_path)
        self._path = socket_path

    @contextmanager
    def happening(self, action: str) -> Iterator[Happenings]:
        """Listen to the engine's events of one action on containers."""
        found = Happenings()
        connection = Connection(self._path)
        connection.timeout = None
        filters = quote(json.dumps({"type": ["container"], "event": [action]}))
        connection.request("GET", f"/events?filters={filters}")
        response = connection.getresponse()

        def read() -> None:
            try:
                for line in response:
                    raw = json.loads(line)
                    found.add(raw["timeNano"] / 1e9, raw["Actor"]["Attributes"]["name"])
            except (OSError, ValueError, AttributeError):
                return  # closed below

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            if connection.sock is not None:
                connection.sock.shutdown(2)
            thread.join(5)
            connection.close()

    def ensure_network(self, name: str, subnet: str) -> None:
        if not self._client.call("GET", f"/networks?filters={quote(json.dumps({'name': [name]}))}"):
            body = {"Name": name, "Driver": "bridge", "IPAM": {"Config": [{"Subnet": subnet}]}}
            self._client.call("POST", "/networks/create", body)

    def start(self, name: str, body: dict[str, Any]) -> None:
        made = self._client.call("POST", f"/containers/create?name={name}", body)
        self._client.call("POST", f"/containers/{made['Id']}/start")

    def start_all(self, bodies: dict[str, dict[str, Any]], parallelism: int) -> float:
        """Create and start containers, so many at once; return the seconds until the engine says the last started."""
        with self.happening("start") as starts, ThreadPoolExecutor(parallelism) as pool:
            begun = time.time()
            list(pool.map(lambda item: self.start(*item), bodies.items()))
            return starts.nth(len(bodies)) - begun

    def running(self, label: str) -> list[str]:
        """Names of the running containers with a label."""
        filters = quote(json.dumps({"label": [label], "status": ["running"]}))
        return [one["Names"][0].lstrip("/") for one in self._client.call("GET", f"/containers/json?filters={filters}")]

    def kill(self, name: str) -> None:
        self._client.call("POST", f"/containers/{name}/kill")

    def remove_all(self, label: str) -> None:
        found = self._client.call("GET", f"/containers/json?all=1&filters={quote(json.dumps({'label': [label]}))}")
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda one: self._client.call("DELETE", f"/containers/{one['Id']}?force=1&v=1"), found))

    def count(self, label: str) -> int:
        found = self._client.call("GET", f"/containers/json?all=1&filters={quote(json.dumps({'label': [label]}))}")
        return len(found)
