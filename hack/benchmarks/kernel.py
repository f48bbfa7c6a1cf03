"""What the kernel says of processes: their CPU seconds and their proportional share of memory."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system seconds of a process and of the children it has waited for; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(field) for field in fields[11:15]) / _TICKS


def own_cpu_s(pid: int) -> float:
    """The same without children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def total_cpu_s(pids: Iterable[int]) -> float:
    return sum(cpu_s(pid) for pid in pids)


def pss_bytes(pid: int) -> int:
    """A process's memory, pages it shares counted by its share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {pid} has no Pss")


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def pids_in(pid: int) -> list[int]:
    """A process's pid in each pid namespace it is in, outermost first; empty once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(number) for line in status.splitlines() if line.startswith("NSpid:") for number in line.split()[1:]]


def tcp_bytes(port: int) -> int:
    """Bytes that the open connections to a local port have carried, both ways, TLS included and TCP's own not."""
    command = ["ss", "-tinH", "state", "established", "sport", "=", f":{port}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(int(number) for number in re.findall(r"bytes_(?:sent|received):(\d+)", said))


def load() -> str:
    return " ".join(f"{value:.1f}" for value in os.getloadavg())
