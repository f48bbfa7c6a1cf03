"""Spots in a laboratory's network, where programs of this machine run: a host's, a container's, or outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hack.benchmarks.connecting import Round
from tests.support.lab import REPOSITORY, Host, Lab

CONNECTIONS, STREAMS = 7000, 5201
"""Ports: of what accepts and closes, of what takes as much as comes."""


@dataclass(frozen=True)
class Stream:
    """What arrived."""

    bits_per_s: float
    bits_per_cpu_s: float
    """Per second that sender and receiver computed, the kernel for them: on a busy machine it says more."""


@dataclass
class Server:
    """What accepts connections and closes them."""

    process: subprocess.Popen[str]

    def end(self) -> int:
        """Stop it; return how many connections came."""
        out, _ = self.process.communicate(timeout=30)
        return int(out)


@dataclass(frozen=True)
class Spot:
    prefix: tuple[str, ...]
    """What enters its network namespace, before a command."""

    def run(self, *command: str, within_s: float = 120.0) -> str:
        """Return what a program says; AssertionError with that if it fails."""
        done = subprocess.run(
            [*self.prefix, *command], capture_output=True, text=True, timeout=within_s, check=False, cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def connect(self, count: int, rounds: int, *addresses: str) -> list[list[Round]]:
        """Rounds of connections to each `HOST:PORT`, in their order."""
        said = self.run(*_connecting("connect", str(count), str(rounds), *addresses))
        found = json.loads(said)
        return [[Round(**one) for one in found[address]] for address in addresses]

    def stream(self, address: str, port: int = STREAMS, seconds: float = 2.0) -> Stream:
        """Send over one connection, as much as goes."""
        said = json.loads(self.run("iperf3", "-c", address, "-p", str(port), "-t", str(seconds), "-J"))["end"]
        cpu = said["cpu_utilization_percent"]
        per_s = float(said["sum_received"]["bits_per_second"])
        return Stream(per_s, 100 * per_s / (cpu["host_total"] + cpu["remote_total"]))

    @contextmanager
    def accepting(self, port: int = CONNECTIONS) -> Iterator[Server]:
        with self._going(*_connecting("serve", str(port))) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield Server(process)

    @contextmanager
    def streaming(self, port: int = STREAMS) -> Iterator[None]:
        with self._going("iperf3", "-s", "-p", str(port), "--forceflush") as process:
            assert process.stdout is not None
            while "listening" not in process.stdout.readline():
                assert process.poll() is None
            yield

    @contextmanager
    def telling(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """Run a program whose output is read while it goes on."""
        with self._going(*command) as process:
            yield process

    @contextmanager
    def _going(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        tie = ("setpriv", "--pdeathsig", "KILL")
        with subprocess.Popen(
            [*tie, *self.prefix, *tie, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=REPOSITORY,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()


def host_spot(host: Host) -> Spot:
    return Spot(tuple(host.enter()))


def container_spot(host: Host, container: str) -> Spot:
    """The network of a container, by its name or id."""
    pid = host.docker(["inspect", "-f", "{{.State.Pid}}", container]).ok().out.strip()
    return Spot(tuple(host.enter("nsenter", "-t", pid, "--net", "--")))


def outside(lab: Lab) -> Spot:
    """A client that is none of the hosts, and on their network."""
    return Spot(("nsenter", "-t", str(lab.pid_of("fabric")), "--net", "--"))


def _connecting(*arguments: str) -> tuple[str, ...]:
    return (
        "env",
        f"PYTHONPATH={REPOSITORY}",
        f"PATH={os.environ['PATH']}",
        sys.executable,
        "-m",
        "hack.benchmarks.connecting",
        *arguments,
    )
