"""One laboratory host with Shoal on it, seen from outside: its sockets and its processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.benchmarks import kernel
from hack.benchmarks.engine import Engine
from hack.benchmarks.http import Client
from hack.waiting import until
from tests.support.lab import Host, Lab, remove_folder

IMAGE = "shoal/hello:1"
COMMAND = ["/bin/sleep", "1000000"]
SERVICE_LABEL = "shoal.service"
"""Carried by every container of Shoal's."""


@dataclass
class Place:
    host: Host
    engine: Engine
    api: Client

    def processes(self) -> dict[str, int]:
        """Shoal's processes on the host: name → pid as the machine counts."""
        report = self.host.status()
        names = {one["pid"]: one["name"] for one in report["processes"]} | {report["pid"]: "host"}
        init = kernel.pids_in(self.host.init_pid)
        below = {tuple(kernel.pids_in(pid)): pid for pid in kernel.descendants(self.host.init_pid)}
        found = {names.get(pids[-1], ""): pid for pids, pid in below.items() if len(pids) == len(init)}
        return {name: found[name] for name in names.values()}

    def create(self, name: str, replicas: int, **spec: Any) -> None:
        """Make a service whose containers sleep: no healthcheck, one published port, so that each has an address."""
        body = {
            "apiVersion": "shoal/v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {
                "image": IMAGE, "command": COMMAND, "replicas": replicas, "stopSignal": "SIGKILL",
                "ports": [{"target": 80}], **spec,
            },
        }  # fmt: skip
        self.api.call("POST", "/shoal/v1/services", body)

    def delete(self, name: str) -> None:
        """Delete a service, and return when none of its containers is left."""
        self.api.call("DELETE", f"/shoal/v1/services/{name}")
        until(lambda: self.engine.count(SERVICE_LABEL) == 0 and self._tasks() == 0)

    def _tasks(self) -> int:
        return len(self.api.call("GET", "/shoal/v1/tasks")["items"])

    def running_tasks(self, service: str) -> int:
        listed = self.api.call("GET", f"/shoal/v1/tasks?fields=spec.service.name={service},status.state=running")
        return len(listed["items"])


def place_of(host: Host) -> Place:
    """A host's sockets, reached through the root folder of its first process."""
    root = f"/proc/{host.init_pid}/root"
    return Place(host, Engine(f"{root}/run/docker.sock"), Client(f"{root}/run/shoal/api.sock"))


@contextmanager
def one_host() -> Iterator[Place]:
    """A laboratory of one host, up and empty; it ends with us."""
    directory = Path(tempfile.mkdtemp(prefix="shoal-bench-"))
    lab = Lab(f"b{os.getpid()}", directory, tied=True)
    try:
        lab.up(0)
        host = lab.host(1)
        host.on()
        host.run("hack/images").ok()
        host.up()
        until(lambda: bool(host.status().get("settled")))
        yield place_of(host)
    finally:
        lab.down()
        remove_folder(directory)
