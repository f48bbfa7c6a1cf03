"""A Docker engine of the tests' own: own data, socket and network namespace, gone with the test process.

No registry: the image `shoal-test:1` is a static busybox, imported. What the engine publishes is reached from its
network namespace: `engine.run_inside("wget", …)`.
"""

from __future__ import annotations

import ctypes
import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from docker import APIClient
from docker.errors import DockerException

IMAGE = "shoal-test:1"
_PR_SET_PDEATHSIG = 1
_APPLETS = ("sh", "sleep", "echo", "cat", "true", "false", "httpd", "wget", "nc", "ip", "kill", "hostname", "id", "ls",
            "mount", "env", "touch", "test", "mkdir", "printf", "nslookup", "head", "od", "trap")  # fmt: skip


class PrivateEngine:
    """dockerd, started and stopped by process id. Its containers die with `stop`, not with `kill`."""

    def __init__(self, root: Path, *arguments: str) -> None:
        self.root = root
        self.socket = root / "docker.sock"
        self.url = f"unix://{self.socket}"
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "daemon.json").write_text("{}")
        log = (self.root / "dockerd.log").open("ab")
        self.process = subprocess.Popen(
            [
                *("unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", "dockerd"),
                f"--data-root={self.root}/data",
                f"--exec-root={self.root}/exec",
                f"--pidfile={self.root}/dockerd.pid",
                f"--host={self.url}",
                f"--config-file={self.root}/daemon.json",
                *self.arguments,
            ],
            stdout=log,
            stderr=log,
            preexec_fn=_die_with_parent,
        )
        log.close()
        self._await_answer()

    def stop(self, timeout_s: float = 30.0) -> None:
        """End it in order: containers are stopped too, unless live-restore is on."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout_s)
            self.process = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def run_inside(self, *command: str) -> str:
        """Run a command in the engine's network namespace and return what it printed."""
        whole = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *command]
        return subprocess.run(whole, check=True, capture_output=True, text=True).stdout

    def client(self) -> APIClient:
        return APIClient(self.url, version="auto", timeout=30)

    def import_image(self, name: str = IMAGE, command: str = 'CMD ["sleep","100000"]') -> None:
        client = self.client()
        try:
            repository, _, tag = name.rpartition(":")
            client.import_image_from_data(busybox_tar(), repository=repository, tag=tag, changes=[command])
        finally:
            client.close()

    def clear(self) -> None:
        """Remove every container and every network of one's own."""
        client = self.client()
        try:
            for container in client.containers(all=True):
                client.remove_container(container["Id"], force=True, v=True)
            for network in client.networks():
                if network["Name"] not in ("bridge", "host", "none"):
                    client.remove_network(network["Id"])
        finally:
            client.close()

    def _await_answer(self, within_s: float = 40.0) -> None:
        deadline = time.monotonic() + within_s
        while True:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"dockerd ended:\n{(self.root / 'dockerd.log').read_text()[-3000:]}")
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(self.socket))
                self.client().close()
            except (DockerException, OSError):
                if time.monotonic() > deadline:
                    raise AssertionError((self.root / "dockerd.log").read_text()[-3000:]) from None
                time.sleep(0.05)
            else:
                return


@contextmanager
def private_engine(root: Path, *arguments: str) -> Iterator[PrivateEngine]:
    """Run an engine with the test image for as long as the block lasts."""
    engine = PrivateEngine(root, *arguments)
    try:
        engine.start()
        engine.import_image()
        yield engine
        engine.clear()
    finally:
        engine.stop()
        _unmount_below(root)
        shutil.rmtree(root, ignore_errors=True)


def busybox_tar() -> bytes:
    """A root file system as a tar: busybox and links to it."""
    busybox = shutil.which("busybox") or "/bin/busybox"
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for folder in ("bin", "etc", "tmp", "proc", "sys", "dev", "www"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(info)
        tar.add(busybox, "bin/busybox")
        for applet in _APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        _add_file(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
        _add_file(tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    return raw.getvalue()


def _add_file(tar: tarfile.TarFile, name: str, text: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(text)
    tar.addfile(info, io.BytesIO(text))


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _unmount_below(root: Path) -> None:
    """Let go of what a killed engine left mounted (network namespaces, layers)."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{root}{os.sep}")), reverse=True):
        subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
