"""Hollow nodes of a whole machine: shared out among processes, and what these say of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from hack.benchmarks.http import Connection
from hack.hollows.children import Child, child
from hack.waiting import until

IN_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Crowd:
    count: int
    children: tuple[Child, ...]
    sockets: tuple[Path, ...]

    def pids(self) -> tuple[int, ...]:
        return tuple(one.pid for one in self.children)

    def trouble(self) -> str:
        """What some process still waits for, or why it has ended."""
        ended = next((one for one in self.children if one.has_ended), None)
        if ended is not None:
            raise AssertionError(f"{ended.name} has ended: {ended.said()}")
        said = (_asked(path, "/readyz").strip() for path in self.sockets)
        return "; ".join(dict.fromkeys(text for text in said if text != "ok"))

    def wait(self, within_s: float = 300.0) -> None:
        """Return when every node is connected and holds its assignments."""
        until(lambda: not self.trouble(), within_s, every_s=0.1, what=f"{self.count} hollow nodes")

    def told(self) -> dict[str, float]:
        """What all nodes were told: sums of the processes' counters, the newest of moments."""
        found: dict[str, float] = {}
        for path in self.sockets:
            for family in text_string_to_metric_families(_asked(path, "/metrics")):
                for sample in family.samples:
                    if not sample.name.startswith("hollow_") or sample.name.endswith("_created"):
                        continue
                    name = ".".join(
                        (sample.name.removeprefix("hollow_").removesuffix("_total"), *sample.labels.values())
                    )
                    both = (found.get(name, 0.0), sample.value)
                    found[name] = max(both) if name == "last_task_seconds" else sum(both)
        return found


@contextmanager
def crowd(
    count: int, token: str, remote: str, *, processes: int = 0, name: str = "hollow", leaving: bool = True
) -> Iterator[Crowd]:
    """Run hollow nodes for the length of the block. They leave the cluster at its end, unless that ends as well."""
    processes = min(count, processes or os.cpu_count() or 1)
    with (
        tempfile.TemporaryDirectory(prefix="shoal-hollow-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder,
        ExitStack() as stack,
    ):
        children, sockets, first = [], [], 1
        for number in range(processes):
            share = count // processes + (number < count % processes)
            own = Path(folder) / f"{number}"
            own.mkdir()
            sockets.append(own / "status.sock")
            command = [
                "hack.hollows.fleet", "--join", token, remote, "--first", str(first), "--count", str(share),
                "--name", name, "--folder", str(own / "nodes"), "--status-socket", str(sockets[-1]),
            ]  # fmt: skip
            children.append(stack.enter_context(child(f"hollow-{number}", command, own, gently=leaving)))
            first += share
        yield Crowd(count, tuple(children), tuple(sockets))


def _asked(path: Path, what: str) -> str:
    connection = Connection(str(path))
    try:
        connection.request("GET", what)
        return connection.getresponse().read().decode()
    except OSError:
        return "starting"
    finally:
        connection.close()
