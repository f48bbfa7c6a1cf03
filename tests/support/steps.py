"""The steps of a change: each write to the store and each thing the engine does; and a kill at one of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.lab import Host

ENGINE = ("create", "start", "kill", "die", "destroy")
"""What an engine does with containers; a healthcheck's commands are none of it."""


@dataclass
class Kill:
    """What is to die at which step, counted from 1; `steps` are those seen so far."""

    pid: int
    at: int
    steps: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_done(self) -> bool:
        return len(self.steps) >= self.at

    def count(self, step: str) -> None:
        with self._lock:
            self.steps.append(step)
            if len(self.steps) == self.at:
                os.kill(self.pid, signal.SIGKILL)


@contextmanager
def killing(host: Host, process: str, at: int) -> Iterator[Kill]:
    """Kill -9 a supervised process at a step of what happens in the block; never, if there are fewer."""
    kill = Kill(_machine_pid(host, host.pid(process)), at)
    since = host.run("date", "+%s.%N").ok().out.strip()
    names = ["--filter=type=container", *(f"--filter=event={action}" for action in ENGINE)]
    watches = {
        _written: host.start(
            *host.etcdctl_command(["watch", "--prefix", "/shoal/", f"--rev={_last_revision(host) + 1}", "-w", "json"]),
            ETCDCTL_API="3",
        ),
        _done_by_engine: host.start("docker", "events", "--since", since, "--format", "{{json .}}", *names),
    }
    readers = [threading.Thread(target=_read, args=(one, name, kill)) for name, one in watches.items()]
    try:
        for reader in readers:
            reader.start()
        yield kill
    finally:
        for watch in watches.values():
            watch.kill()
        for reader in readers:
            reader.join()
        for watch in watches.values():
            watch.communicate()


def _read(watch: subprocess.Popen[str], name: Callable[[str], str], kill: Kill) -> None:
    assert watch.stdout is not None
    for line in watch.stdout:
        if line.startswith("{"):
            kill.count(name(line))


def _written(line: str) -> str:
    keys = [b64decode(event["kv"]["key"]).decode() for event in json.loads(line)["Events"]]
    return f"wrote {', '.join(keys)}"


def _done_by_engine(line: str) -> str:
    event = json.loads(line)
    return f"engine: {event['Action']} {event['Actor']['Attributes']['name']}"


def _last_revision(host: Host) -> int:
    return int(json.loads(host.etcdctl("get / -w json").ok().out)["header"]["revision"])


def _machine_pid(host: Host, pid: int) -> int:
    """A process's pid as the machine counts."""
    space = os.readlink(f"/proc/{host.init_pid}/ns/pid")
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if os.readlink(status.with_name("ns") / "pid") == space and _innermost(status.read_text()) == pid:
                return int(status.parent.name)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    raise AssertionError(f"{host.name} has no process {pid}")


def _innermost(status: str) -> int:
    (line,) = (line for line in status.splitlines() if line.startswith("NSpid:"))
    return int(line.split()[-1])
