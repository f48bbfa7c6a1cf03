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
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from docker import APIClient

IMAGE = "shoal-test:1"
_PR_SET_PDEATHSIG = 1
_APPLETS = ("sh", "sleep", "echo", "cat", "true", "false", "httpd", "wget", "nc", "ip", "kill", "hostname", "id", "ls",
            "mount", "env", "touch", "test", "mkdir", "printf", "nslookup", "head", "od", "trap")  # fmt: skip


class PrivateEngine:
    """dockerd, started and stopped by process id, in a network namespace that outlives its restarts.

    Call `start` from the main thread: the parent-death signal is bound to the thread that starts a process.
    """

    def __init__(self, root: Path, *arguments: str) -> None:
        self.root = root
        self.socket = root / "docker.sock"
        self.url = f"unix://{self.socket}"
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None
        self.holder: subprocess.Popen[bytes] | None = None
        """Keeps the network namespace."""

    def start(self) -> None:
        if self.holder is None:
            self.holder = _start("unshare", "--net", "--", "sh", "-c", "ip link set lo up && exec sleep infinity")
            _await_namespace(self.holder)
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "daemon.json").write_text("{}")
        with (self.root / "dockerd.log").open("ab") as log:
            self.process = _start(
                *self._inside("dockerd"),
                f"--data-root={self.root}/data",
                f"--exec-root={self.root}/exec",
                f"--pidfile={self.root}/dockerd.pid",
                f"--host={self.url}",
                f"--config-file={self.root}/daemon.json",
                *self.arguments,
                output=log.fileno(),
            )
        self._await_answer()

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout_s: float = 30.0) -> None:
        """End it; in order, containers are stopped too, unless live-restore is on."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(timeout_s)
            self.process = None
        if how is signal.SIGKILL:
            for pid_file in self._containerd():
                pid_file.unlink()  # its process died with dockerd, but may lie unreaped and pass for alive

    def close(self) -> None:
        """End it and what may be left of it, and forget its data."""
        self.stop()
        for pid_file in self._containerd():
            with suppress(ProcessLookupError, ValueError):
                os.kill(int(pid_file.read_text()), signal.SIGTERM)
        self._end_containers()
        if self.holder is not None:
            self.holder.kill()
            self.holder.wait()
            self.holder = None
        _unmount_below(self.root)
        shutil.rmtree(self.root, ignore_errors=True)

    def _containerd(self) -> list[Path]:
        return list(self.root.glob("exec/containerd/containerd.pid"))

    def _end_containers(self) -> None:
        """Kill what live-restore left running, where a test failed before it could remove it."""
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if f"{self.root}/exec/containerd".encode() in command.read_bytes():
                    for children in command.parent.glob("task/*/children"):
                        for child in children.read_text().split():
                            os.kill(int(child), signal.SIGKILL)
                    os.kill(int(command.parent.name), signal.SIGKILL)

    @property
    def pid(self) -> int:
        """A process in the engine's network namespace."""
        assert self.holder is not None
        return self.holder.pid

    def run_inside(self, *command: str) -> str:
        """Run a command in the engine's network namespace and return what it printed."""
        return subprocess.run(self._inside(*command), check=True, capture_output=True, text=True).stdout

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *command]

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
                    probe.settimeout(10)
                    probe.connect(str(self.socket))
                    probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                    answers = b" 200 " in probe.recv(64)
            except OSError:
                answers = False
            if answers:
                return
            if time.monotonic() > deadline:
                raise AssertionError((self.root / "dockerd.log").read_text()[-3000:])
            time.sleep(0.05)


@contextmanager
def private_engine(*arguments: str) -> Iterator[PrivateEngine]:
    """Run an engine with the test image for as long as the block lasts.

    Its folder has a short name: the engine's own sockets lie deep in it, and a socket's path has at most 107 bytes.
    """
    engine = PrivateEngine(Path(tempfile.mkdtemp(prefix="shoal-engine-")), *arguments)
    try:
        engine.start()
        engine.import_image()
        yield engine
        engine.clear()
    finally:
        engine.close()


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


def _start(*command: str, output: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=output, stderr=output, preexec_fn=_die_with_parent)


def _await_namespace(process: subprocess.Popen[bytes]) -> None:
    """Wait until the process is in a network namespace of its own, with its loopback up."""
    deadline = time.monotonic() + 10
    while os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _unmount_below(root: Path) -> None:
    """Let go of what a killed engine left mounted (network namespaces, layers)."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{root}{os.sep}")), reverse=True):
        subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
