"""A real etcd on loopback, with handles for outages: kill it, freeze it, restart it, wipe it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from anyio import to_thread

from tests.support.certificates import TlsFiles

_UNASKED_PORTS = (10_000, 32_000)
"""Below those that Linux gives to outgoing connections: another test at work now might be given one of them."""

_CHANCE = random.SystemRandom()


class EtcdProcess:
    """One member. It dies with the thread that started it, whatever happens to the test."""

    def __init__(self, directory: Path, tls: TlsFiles | None = None) -> None:
        self.directory, self.tls = directory, tls
        self.port, self._peer, self._metrics = free_ports(3)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, or start it again on its old data, and wait until it serves."""
        self._launch()
        self._wait_until_healthy()

    async def restart(self) -> None:
        """The same in a loop that goes on. The process is this thread's child: a worker's would die with the worker."""
        self._launch()
        await to_thread.run_sync(self._wait_until_healthy)

    def _launch(self) -> None:
        peer = f"http://127.0.0.1:{self._peer}"
        command = [
            "setpriv", "--pdeathsig", "KILL", "etcd", "--name", "test", "--data-dir", str(self.directory / "data"),
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"test={peer}",
            "--listen-metrics-urls", f"http://127.0.0.1:{self._metrics}", "--logger", "zap", "--log-level", "warn",
        ]  # fmt: skip
        if self.tls is not None:
            command += [
                "--cert-file", str(self.tls.server_cert), "--key-file", str(self.tls.server_key),
                "--trusted-ca-file", str(self.tls.ca), "--client-cert-auth",
            ]  # fmt: skip
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """kill -9, also when it is frozen."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop it, and wait until each of its threads has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        threads = Path(f"/proc/{self.pid}/task")
        while any(_state(thread / "stat") != "T" for thread in threads.iterdir()):
            time.sleep(0.001)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def wipe(self) -> None:
        """Kill it and lose its data, as a restore from an old backup would."""
        self.kill()
        shutil.rmtree(self.directory / "data")

    def _wait_until_healthy(self, within: float = 20.0) -> None:
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/health", timeout=1) as answer,
            ):
                if b'"true"' in answer.read():
                    return
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"etcd does not serve; its log:\n{(self.directory / 'log').read_text()[-4000:]}")


@contextlib.contextmanager
def running_etcd(tls: TlsFiles | None = None) -> Iterator[EtcdProcess]:
    """Run an etcd of one's own, in memory where the machine has a memory disk: it syncs every commit."""
    memory = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="shoal-etcd-", dir=memory if memory.is_dir() else None))
    etcd = EtcdProcess(directory, tls)
    try:
        etcd.start()
        yield etcd
    finally:
        etcd.kill()
        shutil.rmtree(directory, ignore_errors=True)


def _state(stat: Path) -> str:
    """The letter of a thread's state; proc(5)."""
    return stat.read_text().rpartition(")")[2].split()[0]


def free_ports(count: int) -> list[int]:
    """Return TCP ports that nobody holds on loopback, and that the kernel gives to nobody who does not ask for them."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            port, probe = _CHANCE.randrange(*_UNASKED_PORTS), stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
    return found
