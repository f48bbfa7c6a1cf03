"""Child processes that die with us, each with a log of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

STOP_S = 30.0
"""Seconds that a process has to end after SIGTERM."""


@dataclass
class Child:
    """A Python module as a process; `restart` runs it anew, as after a kill -9."""

    name: str
    command: list[str]
    directory: Path

    def __post_init__(self) -> None:
        self._process = self._launch()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def said(self) -> str:
        """The end of its log."""
        return (self.directory / f"{self.name}.log").read_text(errors="replace")[-2000:]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        self._process = self._launch()

    def stop(self) -> None:
        """Ask it to end, and see to it."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def _launch(self) -> subprocess.Popen[bytes]:
        level = os.environ.get("SHOAL_LOG_LEVEL", "warning")
        with (self.directory / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", *self.command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), "SHOAL_LOG_LEVEL": level},
                start_new_session=True,
            )


@contextmanager
def child(name: str, command: list[str], directory: Path, *, gently: bool = False) -> Iterator[Child]:
    """Run a module for the length of the block; `gently` lets it end in order."""
    running = Child(name, command, directory)
    try:
        yield running
    finally:
        if gently:
            running.stop()
        else:
            running.kill()
