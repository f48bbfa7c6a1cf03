"""Names of a thousand services, asked of our name service and of dnsmasq in turn: how many a second, and how late.

Both answer on loopback, from their own processes, with the same names; dnsperf asks. Most of the questions are for
addresses, some for what a name does not have, as the C library asks for both.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hack.benchmarks import kernel
from hack.benchmarks.figures import Figure, Report, listed, of_samples, quartiles
from hack.waiting import until
from nodeagent.dns.feed import SOCKET
from nodeagent.dns.named import NamesLink
from nodeagent.dns.zone import Asker, Facts, Listener, NetworkFact, Rank, Record

SERVICES = 1000
STEADY_QPS = 5000
OUTSTANDING = 50
"""Questions on their way at once while as many as possible are asked."""

_NET = f"127.{os.getpid() % 250 + 2}.{os.getpid() // 250 % 250}"
OURS, PEERS, ASKER = f"{_NET}.5", f"{_NET}.6", f"{_NET}.9"


@dataclass
class Peer:
    """One name server, and what was found of it in each round."""

    name: str
    address: str
    pid: int
    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """CPU of the server's process for one answer."""
    worst_us: list[float] = field(default_factory=list)
    """The slowest of a hundred answers, at the steady rate."""


def run(rounds: int = 5, seconds: float = 3.0) -> Report:
    report = Report(f"names of {SERVICES} services, {rounds} rounds of {seconds:.0f} s each")
    with tempfile.TemporaryDirectory(prefix="shoal-names-") as name, _ours(Path(name)) as ours, _dnsmasq() as peer:
        questions = _questions(Path(name))
        for at in range(rounds):
            for one in (ours, peer) if at % 2 == 0 else (peer, ours):
                _measure(one, questions, seconds)
    measured = [(one, one.per_s, one.cpu_us, one.worst_us) for one in (ours, peer)]
    report.figures += [
        of_samples("D7 answers a second / dnsmasq's", _ratios(ours.per_s, peer.per_s), bar=0.5, aim=0.8, is_floor=True),
        Figure("   answers a second", quartiles(ours.per_s)[1], "/s"),
        of_samples("   CPU for an answer / dnsmasq's", _ratios(ours.cpu_us, peer.cpu_us)),
        of_samples(
            f"D8 p99 at {STEADY_QPS} a second / dnsmasq's", _ratios(ours.worst_us, peer.worst_us), bar=2.0, aim=1.2
        ),
        Figure("   p99", quartiles(ours.worst_us)[1], "µs"),
    ]
    for one, per_s, cpu_us, worst_us in measured:
        report.notes.append(
            f"{one.name}: answers/s {listed(per_s)} · CPU µs {listed(cpu_us)} · p99 µs {listed(worst_us)}"
        )
    report.notes.append(f"load {kernel.load()}")
    return report


def _measure(peer: Peer, questions: Path, seconds: float) -> None:
    before = kernel.own_cpu_s(peer.pid)
    said = _ask(peer, questions, seconds, "-q", str(OUTSTANDING), "-c", "4")
    answered = int(_figure(said, r"Queries completed:\s+(\d+)"))
    peer.cpu_us.append(1e6 * (kernel.own_cpu_s(peer.pid) - before) / answered)
    peer.per_s.append(_figure(said, r"Queries per second:\s+([\d.]+)"))
    lost = _figure(said, r"Queries lost:\s+(\d+)")
    assert lost < answered / 1000, f"{peer.name} lost {lost:.0f} of {answered} questions:\n{said}"
    verbose = _ask(peer, questions, seconds, "-Q", str(STEADY_QPS), "-v")
    latencies = sorted(float(one) for one in re.findall(r"^> NOERROR \S+ \S+ ([\d.]+)$", verbose, re.MULTILINE))
    assert len(latencies) > seconds * STEADY_QPS * 0.8, f"{peer.name} answered {len(latencies)} questions"
    peer.worst_us.append(1e6 * latencies[len(latencies) * 99 // 100])


def _ask(peer: Peer, questions: Path, seconds: float, *options: str) -> str:
    return subprocess.run(
        ["dnsperf", "-s", peer.address, "-a", ASKER, "-d", str(questions), "-l", str(seconds), *options],
        check=True, capture_output=True, text=True, timeout=seconds * 10 + 60,
    ).stdout  # fmt: skip


def _figure(said: str, pattern: str) -> float:
    found = re.search(pattern, said)
    assert found is not None, said
    return float(found[1])


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def _questions(folder: Path) -> Path:
    path = folder / "questions"
    path.write_text(
        "".join(f"service{at}.front A\nservice{at}.front A\nservice{at}.front AAAA\n" for at in range(SERVICES))
    )
    return path


def _vip(at: int) -> str:
    return f"10.9.{at // 250}.{at % 250 + 1}"


@contextmanager
def _ours(folder: Path) -> Iterator[Peer]:
    """Our name service, with a thousand services told to it as an agent does."""
    facts = {
        "network": Facts(network=NetworkFact("u", "front", (f"{_NET}.0/24",))),
        "node": Facts(listener=Listener("u", OURS)),
        "task": Facts(askers=(Asker(ASKER, ("u",)),)),
        **{str(at): Facts(records=(Record("u", f"service{at}", Rank.VIP, _vip(at)),)) for at in range(SERVICES)},
    }
    command = [
        sys.executable,
        "-m",
        "nodeagent.dns",
        "--node",
        "n1",
        "--state-dir",
        str(folder),
        "--run-dir",
        str(folder),
    ]

    async def feed() -> None:
        link = NamesLink(folder / SOCKET)
        await link.bring({}, (), facts)
        await link.aclose()

    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: (folder / SOCKET).exists())
            asyncio.run(feed())
            yield Peer("ours", OURS, process.pid)
        finally:
            process.terminate()


@contextmanager
def _dnsmasq() -> Iterator[Peer]:
    names = (f"--host-record=service{at}.front,{_vip(at)},1" for at in range(SERVICES))
    command = [
        "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--user=root", "--no-resolv", "--no-hosts",
        "--bind-interfaces", f"--listen-address={PEERS}", "--local=/front/", *names,
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            time.sleep(1)
            yield Peer("dnsmasq", PEERS, process.pid)
        finally:
            process.terminate()
