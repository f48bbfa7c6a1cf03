"""The laboratory: several hosts on one machine, each with its own kernel namespaces, Docker engine and Shoal.

A host has its own network, mounts (/run, /etc/docker, /var/lib/docker and /var/lib/shoal), hostname and processes, so
that every default path is its own and nothing in it touches the machine's engine or packet rules. Hosts hang on a
bridge (the fabric, 10.99.0.0/24) in a namespace of its own, with a registry on 10.99.0.254:5000. Everything lives in
processes: when those die the kernel removes the rest.

As a program: `hack/lab up N | down | off I | on I | cut I | heal I | sh I [CMD…] | status`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

REPOSITORY = Path(__file__).resolve().parents[2]
FABRIC_ADDRESS = "10.99.0.254"
REGISTRY = f"{FABRIC_ADDRESS}:5000"

START_WITHIN_S = 30.0
"""An engine is up within a second on a quiet machine."""

_INIT_SCRIPT = r"""
set -eu
hostname "$NAME"
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /etc/docker /var/lib/docker /var/lib/shoal
mount -t tmpfs tmpfs /usr/local/sbin
mount --bind "$DIR/etc-docker" /etc/docker
mount --bind "$DIR/docker" /var/lib/docker
mount --bind "$DIR/state" /var/lib/shoal
mount --bind "$DIR/resolv.conf" /etc/resolv.conf
mount --bind "$DIR/hosts" /etc/hosts
until ip link show eth0 >/dev/null 2>&1; do sleep 0.01; done
echo 0 >/proc/sys/net/ipv4/ip_forward
ip link set lo up
ip address add "$ADDRESS/24" dev eth0
ip link set eth0 up
ip route add default via "$GATEWAY"
while :; do
  dockerd --insecure-registry "$REGISTRY" --cgroup-parent "/$CGROUP" >>"$DIR/dockerd.log" 2>&1 &
  echo $! >/run/dockerd.started
  wait $! || true
  until [ ! -e /run/dockerd.stay-down ]; do sleep 0.05; done
done
"""
"""The first process of a host. The engine comes back when it ends, unless /run/dockerd.stay-down is there."""


class LabError(Exception):
    """A sentence about what the laboratory could not do."""


@dataclass(frozen=True)
class Output:
    """What a command said, and how it ended."""

    command: str
    code: int
    out: str
    err: str

    def ok(self) -> Output:
        """Return itself if the command succeeded; AssertionError tells everything else."""
        assert self.code == 0, f"`{self.command}` ended with {self.code}\n{self.out}{self.err}"
        return self


class Host:
    """One host of a laboratory; its methods work while its power is on."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.lab, self.number = lab, number
        self.name = f"host{number}"
        self.address = f"10.99.0.{number}"
        self.directory = lab.directory / self.name

    @property
    def init_pid(self) -> int:
        """The host's first process, by the machine's count; 0 = its power is off."""
        return self.lab.pid_of(self.name)

    def on(self) -> None:
        """Give the host power, and wait until its engine answers."""
        if self.init_pid:
            return
        for name in ("etc-docker", "state", "docker"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        (self.directory / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{self.address} {self.name}\n")
        environment = {
            "NAME": self.name, "DIR": str(self.directory), "ADDRESS": self.address, "GATEWAY": FABRIC_ADDRESS,
            "REGISTRY": REGISTRY, "CGROUP": self._cgroup, "PATH": os.environ["PATH"], "HOME": "/root",
        }  # fmt: skip
        spaces = ["--net", "--mount", "--uts", "--ipc", "--pid", "--mount-proc", "--propagation", "private"]
        command = ["unshare", "--fork", "--kill-child", *spaces, "bash", "-c", _INIT_SCRIPT]
        self.lab.spawn(self.name, command, environment)
        self._plug()
        self._wait_for_engine()

    def configure_engine(self, **settings: object) -> None:
        """Set options of the engine, as in its daemon.json; they hold from the next power-on."""
        folder = self.directory / "etc-docker"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "daemon.json").write_text(json.dumps(settings))

    def off(self) -> None:
        """Cut the power: every process of the host ends at once, and its network with them.

        The kernel takes its time to remove a network namespace, and would answer pings meanwhile.
        """
        self.lab.end(self.name)
        self.lab.in_fabric("ip", "link", "delete", self._port, check=False)
        remove_cgroups(self._cgroup)

    def cut(self) -> None:
        """Pull the network cable."""
        self.lab.in_fabric("ip", "link", "set", self._port, "down")

    def heal(self) -> None:
        """Plug it in again."""
        self.lab.in_fabric("ip", "link", "set", self._port, "up")

    def narrow(self, mtu: int) -> None:
        """Let the cable carry packets of so many bytes at most; the host does not know."""
        self.lab.in_fabric("ip", "link", "set", self._port, "mtu", str(mtu))

    def run(self, *command: str, stdin: str | None = None, within_s: float = 120.0, **environment: str) -> Output:
        """Run a command there, from the repository's root."""
        entered = self.enter(*command)
        done = subprocess.run(
            entered, input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", timeout=within_s, check=False, cwd=REPOSITORY,
            env=self._environment(environment),
        )  # fmt: skip
        return Output(shlex.join(command), done.returncode, done.stdout, done.stderr)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command there that goes on, such as a watch; the caller ends it.

        What is returned is nsenter, which has forked: the command itself ends with it.
        """
        tie = ["setpriv", "--pdeathsig", "KILL"]
        return subprocess.Popen(
            [*tie, *self.enter(*tie, *command)], stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=REPOSITORY, env=self._environment(environment),
        )  # fmt: skip

    def enter(self, *command: str) -> list[str]:
        """Return the command line that runs a command there."""
        pid = self.init_pid
        if not pid:
            raise LabError(f"{self.name} has no power")
        spaces = ["--net", "--mount", "--uts", "--ipc", "--pid"]
        return ["nsenter", "-t", str(pid), *spaces, f"--wd={Path.cwd()}", "--", *command]

    def shoal(self, arguments: str | Sequence[str], stdin: str | None = None, within_s: float = 120.0) -> Output:
        """Run a `shoal` command there: `host.shoal("get services")`."""
        return self.run(sys.executable, "-m", "shoal.cli.main", *split(arguments), stdin=stdin, within_s=within_s)

    def docker(self, arguments: str | Sequence[str], within_s: float = 60.0) -> Output:
        return self.run("docker", *split(arguments), within_s=within_s)

    def etcdctl(self, arguments: str | Sequence[str], within_s: float = 30.0) -> Output:
        """Run etcdctl there with the host's own certificates."""
        return self.run(*self.etcdctl_command(arguments), within_s=within_s, ETCDCTL_API="3")

    def etcdctl_command(self, arguments: str | Sequence[str]) -> list[str]:
        identity = json.loads((self.directory / "state" / "host.json").read_text())
        pki = "/var/lib/shoal/pki/etcd"
        return [
            "etcdctl", "--endpoints", f"https://127.0.0.1:{identity['etcdPorts']['client']}",
            "--cacert", f"{pki}/ca.crt", "--cert", f"{pki}/client.crt", "--key", f"{pki}/client.key",
            *split(arguments),
        ]  # fmt: skip

    def curl(self, url: str, within_s: float = 5.0) -> str:
        """Return what a URL answers to a client on this host; AssertionError if it does not."""
        return self.run("curl", "-sSf", "-m", str(within_s), url, within_s=within_s + 5).ok().out

    def status(self) -> dict[str, Any]:
        """The host daemon's report, {} while none answers."""
        found = self.run("curl", "-s", "--unix-socket", "/run/shoal/host.sock", "http://host/status")
        return dict(json.loads(found.out)) if found.out.startswith("{") else {}

    def pid(self, process: str) -> int:
        """A supervised process's pid there, or the daemon's for "host"; 0 = not running."""
        report = self.status()
        if process == "host":
            return int(report.get("pid", 0))
        return next((one["pid"] for one in report.get("processes", ()) if one["name"] == process), 0)

    def kill(self, process: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to a supervised process (or "host", or "dockerd"); returns the pid it had there."""
        pid = int(self.read("/run/dockerd.started")) if process == "dockerd" else self.pid(process)
        assert pid, f"{process} does not run on {self.name}: {self.status()}"
        self.run("kill", f"-{int(number)}", str(pid)).ok()
        return pid

    def stop_engine(self) -> None:
        """End the engine, and keep it down until `start_engine`; containers may go on only with live-restore."""
        self.run("touch", "/run/dockerd.stay-down").ok()
        pid = self.kill("dockerd", signal.SIGTERM)
        within(START_WITHIN_S, lambda: self.run("kill", "-0", str(pid)).code != 0, "the engine's end", self._said)

    def start_engine(self) -> None:
        self.run("rm", "-f", "/run/dockerd.stay-down").ok()
        self._wait_for_engine()

    def up(self) -> None:
        """Have Shoal running, and make the host the first of a swarm if it is in none."""
        report = self.status()
        if not report or not all(process["healthy"] for process in report["processes"]):
            self.shoal("up").ok()
            report = self.status()
        if report["identity"] is None:
            self.shoal(["init", "--advertise-addr", self.address]).ok()

    def read(self, path: str) -> str:
        return self.run("cat", path).ok().out

    def log(self, process: str, lines: int = 40) -> str:
        """The end of a process's log, for a failing test's report; works without power, too."""
        path = self.directory / "state" / "logs" / f"{process}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    @property
    def _port(self) -> str:
        return f"port{self.number}"

    @property
    def _cgroup(self) -> str:
        return f"shoal-lab-{self.lab.name}-{self.number}"

    def _plug(self) -> None:
        """Give the host its network card, with the same address each time, as a real one has."""
        self.lab.in_fabric("ip", "link", "delete", self._port, check=False)
        self.lab.in_fabric(
            "ip", "link", "add", self._port, "master", "fabric", "type", "veth",
            "peer", "name", "eth0", "address", f"02:00:0a:63:00:{self.number:02x}", "netns", str(self.init_pid),
        )  # fmt: skip
        self.heal()

    def _environment(self, extra: dict[str, str]) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TERM", "HOME") if name in os.environ}
        return {**kept, "PYTHONPATH": str(REPOSITORY), **extra}

    def _wait_for_engine(self) -> None:
        within(START_WITHIN_S, lambda: self.run("docker", "version").code == 0, "the engine", self._said)

    def _said(self) -> str:
        path = self.directory / "dockerd.log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""


class Lab:
    """`tied` laboratories end with the thread that made them; others go on until `down`.

    What runs is noted in `<directory>/lab.json`, so that another process finds it again.
    """

    def __init__(self, name: str, directory: Path, *, tied: bool) -> None:
        self.name, self.directory, self._tied = name, directory, tied
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._hosts: dict[int, Host] = {}

    def up(self, count: int) -> None:
        """Have the fabric, and hosts 1 to `count`, running."""
        if os.geteuid() != 0:
            raise LabError("the laboratory needs root: it makes namespaces and starts engines")
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.pid_of("fabric"):
            self._start_fabric()
        if not self.pid_of("registry"):
            self._start_registry()
        for number in range(1, count + 1):
            self.host(number).on()

    def down(self) -> None:
        """End everything and remove its files."""
        for name in sorted(self._noted(), reverse=True):
            self.end(name)
        remove_cgroups(f"shoal-lab-{self.name}-*")
        remove_folder(self.directory)

    def host(self, number: int) -> Host:
        return self._hosts.setdefault(number, Host(self, number))

    def numbers(self) -> list[int]:
        """The hosts there are, powered or not."""
        return sorted(int(path.name.removeprefix("host")) for path in self.directory.glob("host*") if path.is_dir())

    def in_fabric(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the network between the hosts: a client from outside."""
        entered = ["nsenter", "-t", str(self.pid_of("fabric")), "--net", "--", *command]
        done = subprocess.run(entered, capture_output=True, text=True, check=False, timeout=60)
        if check and done.returncode != 0:
            raise LabError(f"`{shlex.join(command)}` in the fabric: {done.stderr.strip()}")
        return done

    def spawn(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        """Start a process of the laboratory, and note it."""
        tie = ["setpriv", "--pdeathsig", "KILL"] if self._tied else []
        with (self.directory / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                [*tie, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._children[name] = child
        self._note({**self._noted(), name: {"pid": child.pid, "started": _started(child.pid)}})
        if command[0] == "unshare" and "--fork" in command:
            within(5.0, lambda: bool(_child_of(child.pid)), f"{name}'s first process", lambda: "")

    def end(self, name: str) -> None:
        """Kill a process of the laboratory and, where it is a host, all that runs on it."""
        noted = self._noted()
        entry = noted.pop(name, None)
        if entry is not None and _started(entry["pid"]) == entry["started"]:
            inner = _child_of(entry["pid"])
            os.kill(inner or entry["pid"], signal.SIGKILL)
            within(10.0, lambda: _started(entry["pid"]) != entry["started"], f"the end of {name}", lambda: "")
        child = self._children.pop(name, None)
        if child is not None:
            child.wait()
        if self.directory.exists():
            self._note(noted)

    def pid_of(self, name: str) -> int:
        """The pid of a process of the laboratory, a host's first process; 0 = not running."""
        entry = self._noted().get(name)
        if entry is None or _started(entry["pid"]) != entry["started"]:
            return 0
        return (_child_of(entry["pid"]) if name.startswith("host") else entry["pid"]) or 0

    def _start_fabric(self) -> None:
        self.spawn("fabric", ["unshare", "--net", "sleep", "infinity"], dict(os.environ))
        ours = os.stat("/proc/self/ns/net").st_ino
        pid = self._children["fabric"].pid
        within(5.0, lambda: os.stat(f"/proc/{pid}/ns/net").st_ino != ours, "the fabric's namespace", lambda: "")
        self.in_fabric("ip", "link", "set", "lo", "up")
        self.in_fabric("ip", "link", "add", "fabric", "type", "bridge")
        self.in_fabric("ip", "address", "add", f"{FABRIC_ADDRESS}/24", "dev", "fabric")
        self.in_fabric("ip", "link", "set", "fabric", "up")

    def _start_registry(self) -> None:
        """Debian's registry, where it is installed, in memory of its own folder."""
        if shutil.which("docker-registry") is None:
            return
        config = self.directory / "registry.yml"
        storage = f"storage: {{filesystem: {{rootdirectory: {self.directory}/registry}}, delete: {{enabled: true}}}}"
        config.write_text(f"version: 0.1\n{storage}\nhttp: {{addr: '{REGISTRY}'}}\nlog: {{level: error}}\n")
        enter = ["nsenter", "-t", str(self.pid_of("fabric")), "--net", "--"]
        self.spawn("registry", [*enter, "docker-registry", "serve", str(config)], dict(os.environ))

    def _noted(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.directory / "lab.json").read_text()))
        except FileNotFoundError:
            return {}

    def _note(self, entries: dict[str, Any]) -> None:
        beside = self.directory / "lab.json.new"
        beside.write_text(json.dumps(entries, indent=2))
        beside.replace(self.directory / "lab.json")


T = TypeVar("T")


def within(seconds: float, holds: Callable[[], bool], what: str, said: Callable[[], str]) -> None:
    """Wait for a condition; LabError with what was said meanwhile."""
    deadline, pauses = time.monotonic() + seconds, growing_pauses(0.02)
    while not holds():
        if time.monotonic() > deadline:
            raise LabError(f"waited {seconds:.0f} s for {what} in vain\n{said()}")
        time.sleep(next(pauses))


def eventually(probe: Callable[[], T], within: float = 30.0, every: float = 0.05) -> T:
    """Ask until the answer is true, and return it. A failed assertion of the probe counts as "not yet"."""
    deadline, pauses = time.monotonic() + within, growing_pauses(every)
    while True:
        try:
            last: object = probe()
            if last:
                return last  # type: ignore[return-value]
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"did not become true within {within} s; last seen: {last!r}")
        time.sleep(next(pauses))


def growing_pauses(first_s: float, longest_s: float = 0.3) -> Iterator[float]:
    """Yield pauses between looks, each half as long again: a look starts processes, which slow down what is awaited."""
    pause_s = first_s
    while True:
        yield pause_s
        pause_s = max(first_s, min(longest_s, 1.5 * pause_s))


def split(arguments: str | Sequence[str]) -> list[str]:
    return shlex.split(arguments) if isinstance(arguments, str) else list(arguments)


def remove_folder(folder: Path) -> None:
    """Remove a folder; a mount or a busy file in it must not fail a test run."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_cgroups(pattern: str, within_s: float = 5.0) -> None:
    """Remove control groups, in every hierarchy, as their last processes go; what stays busy is left."""
    deadline = time.monotonic() + within_s
    while any(not _remove_cgroup(top) for top in _groups(pattern)):
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)


def _groups(pattern: str) -> list[Path]:
    """Version 2 has one hierarchy, version 1 one per controller, some of them links to another."""
    root = Path("/sys/fs/cgroup")
    return [*root.glob(pattern), *(top for hierarchy in root.iterdir() for top in hierarchy.glob(pattern))]


def _remove_cgroup(top: Path) -> bool:
    """Remove a group and those in it; False while one is busy."""
    for folder, _, _ in os.walk(top, topdown=False):
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def _started(pid: int) -> int:
    """When a process was started, in clock ticks: with the pid, a name that is never used twice. 0 = gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if stat[0] in "ZX" else int(stat[19])


def _child_of(pid: int) -> int:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(children[0]) if children else 0


USAGE = "usage: hack/lab up [N] | down | status | off I | on I | cut I | heal I | sh I [COMMAND…]"


def main(arguments: list[str]) -> int:
    lab = Lab(f"{zlib.crc32(bytes(REPOSITORY)):x}", REPOSITORY / ".state" / "lab", tied=False)
    match arguments:
        case ["up", *rest] if len(rest) <= 1:
            lab.up(int(rest[0]) if rest else 1)
            print(
                f"{', '.join(f'host{number}' for number in lab.numbers())}: `hack/lab sh 1 docker ps`, `hack/lab down`"
            )
        case ["down"]:
            lab.down()
        case ["status"]:
            for number in lab.numbers():
                host = lab.host(number)
                print(f"{host.name}  {host.address}  {'on' if host.init_pid else 'off'}  {host.directory}")
        case [("off" | "on" | "cut" | "heal") as verb, number]:
            getattr(lab.host(int(number)), verb)()
        case ["sh", number, *command]:
            entered = lab.host(int(number)).enter(*(command or ["bash"]))
            return subprocess.run(entered, check=False).returncode
        case _:
            print(USAGE, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (LabError, ValueError) as error:
        print(f"hack/lab: {error}", file=sys.stderr)
        sys.exit(1)
