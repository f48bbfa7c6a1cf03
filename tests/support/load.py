"""Clients that ask without a pause, and a server that stops as servers should: what a replacement may not lose."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from tests.support.lab import Host, Lab

SERVER = """
import asyncio, signal

IDLE_S = 1.0
open_ones, stopping = set(), asyncio.Event()

class Client(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.read, self.silence = transport, b"", None
        open_ones.add(self)

    def data_received(self, data):
        self.read += data
        while b"\\r\\n\\r\\n" in self.read:
            self.read = self.read.partition(b"\\r\\n\\r\\n")[2]
            last = b"Connection: close\\r\\n" if stopping.is_set() else b""
            self.transport.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n" + last + b"\\r\\nok")
            if last:
                self.transport.close()

    def connection_lost(self, error):
        open_ones.discard(self)

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Client, "0.0.0.0", 80, backlog=500)
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    server.close()
    end = loop.time() + IDLE_S
    while open_ones and loop.time() < end:
        await asyncio.sleep(0.02)
    for one in list(open_ones):
        one.transport.close()

asyncio.run(main())
"""
"""A web server. Told to stop, it takes no new connections at once, answers those it has, says so in the answer
(`Connection: close`, as servers do), and closes what has been silent for a second."""

CLIENT = """
import json, pathlib, socket, sys, threading, time

targets, rate, end, threads = json.loads(sys.argv[1]), float(sys.argv[2]), pathlib.Path(sys.argv[3]), 2
found = [{"told": 0, "opened": 0, "lost": []} for _ in range(len(targets) * threads * 2)]

def ask(connection):
    connection.sendall(b"GET / HTTP/1.1\\r\\nHost: web\\r\\n\\r\\n")
    said = b""
    while not said.endswith(b"\\r\\n\\r\\nok"):
        part = connection.recv(4096)
        if not part:
            raise ConnectionError(f"closed after {said!r}")
        said += part
    return b"Connection: close" in said

def work(own, host, port, keeps, first):
    due, connection = time.monotonic() + first, None
    while not end.exists():
        time.sleep(max(0, due - time.monotonic()))
        due = max(due + threads / rate, time.monotonic() - 1)
        began, was_new = time.time(), connection is None
        try:
            if connection is None:
                own["opened"] += 1
                connection = socket.create_connection((host, port), timeout=2)
            is_last = ask(connection)
            own["told"] += 1
        except OSError as error:
            how = "new" if was_new else "kept"
            own["lost"].append(f"{began:.3f} {host}, {how}: {error!r} after {time.time() - began:.3f} s")
            is_last = True
        if connection is not None and (is_last or not keeps):
            connection.close()
            connection = None

workers, numbers = [], iter(range(len(found)))
for host, port in targets:
    for keeps in (False, True):
        for turn in range(threads):
            number = next(numbers)
            first = (turn + number / len(found)) / rate
            workers.append(threading.Thread(target=work, args=(found[number], host, port, keeps, first)))
for worker in workers:
    worker.start()
print("begun", flush=True)
for worker in workers:
    worker.join()
kept = [one for number, one in enumerate(found) if number // threads % 2]
print(json.dumps({
    "told": sum(one["told"] for one in found),
    "lost": sorted(lost for one in found for lost in one["lost"]),
    "kept": sum(one["told"] for one in kept),
    "opened": sum(one["opened"] for one in kept),
}))
"""
"""Ask targets so many times a second each, on a connection for each request and again on connections that are kept,
until a file exists. No request is asked twice; one that is not answered within two seconds, or reset, is lost."""

SAME_PORT = """
import socket, sys

def connected(host):
    found = socket.socket()
    found.settimeout(5)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind((sys.argv[1], 41001))
    found.connect((host, int(sys.argv[2])))
    return found

connections = [connected(host) for host in sys.argv[3:]]
for one in 2 * connections:
    one.sendall(b"GET / HTTP/1.1\\r\\nHost: web\\r\\n\\r\\n")
    print(one.recv(1000).decode().split()[1])
"""
"""Ask several hosts in turn, and again, on connections from one and the same port of the client."""

_numbers = count(1)


def serving() -> dict[str, Any]:
    """The part of a spec that runs SERVER, with a healthcheck and time to stop."""
    return {
        "command": ["chroot", "/host", sys.executable, "-c", SERVER],
        "mounts": ["/:/host:ro"],
        "healthcheck": {
            "test": "wget -q -O /dev/null http://127.0.0.1/", "interval": "500ms", "timeout": "5s", "retries": 10,
        },
        "stopGracePeriod": "10s",
    }  # fmt: skip


@dataclass
class Heard:
    """What a path's clients heard; complete once the load is over."""

    told: int = 0
    lost: list[str] = field(default_factory=list)
    kept: int = 0
    """Answers on connections that were kept, and how many of these were opened."""
    opened: int = 0


@dataclass(frozen=True)
class Way:
    """Where clients are, and whom they ask, how often a second each on new and again on kept connections."""

    enter: Sequence[str]
    targets: Sequence[tuple[str, int]]
    rate: float


@contextmanager
def under_load(lab: Lab, ways: Mapping[str, Way]) -> Iterator[dict[str, Heard]]:
    """Have all ways' clients ask for as long as the block lasts."""
    end = lab.directory / f"load-{next(_numbers)}-ends"
    heard = {name: Heard() for name in ways}
    clients = {}
    try:
        for name, way in ways.items():
            command = [sys.executable, "-c", CLIENT, json.dumps(list(way.targets)), str(way.rate), str(end)]
            tie = ["setpriv", "--pdeathsig", "KILL"]
            clients[name] = subprocess.Popen(
                [*tie, *way.enter, *tie, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
            )
        for client in clients.values():
            assert client.stdout is not None
            assert client.stdout.readline() == "begun\n"
        yield heard
    finally:
        end.touch()
        said = {name: client.communicate(timeout=60)[0] for name, client in clients.items()}
    for name, text in said.items():
        heard[name] = Heard(**json.loads(text))


def in_fabric(lab: Lab) -> list[str]:
    """A client from outside."""
    return ["nsenter", "-t", str(lab.pid_of("fabric")), "--net", "--"]


def in_container(host: Host, container: str) -> list[str]:
    """A client in a container's network, which asks the container's resolver for names."""
    pid = host.docker(["inspect", "--format", "{{.State.Pid}}", container]).ok().out.strip()
    resolver = Path(host.directory / "container-resolv.conf")
    resolver.write_text("nameserver 127.0.0.11\noptions ndots:0\n")
    script = f'mount --bind {resolver} /etc/resolv.conf; exec "$@"'
    return [*host.enter("nsenter", "-t", pid, "--net", "--"), "unshare", "--mount", "sh", "-c", script, "sh"]
