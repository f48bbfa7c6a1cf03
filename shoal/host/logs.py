"""What the processes say: line by line into a file each, and onto the terminal when there is one."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

MAX_BYTES = 10 << 20
KEPT = 3
"""Older files, `<name>.log.1` the newest of them."""


class RotatingFile:
    """An append-only file that moves aside when it is full."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES, kept: int = KEPT) -> None:
        self._path, self._max_bytes, self._kept = path, max_bytes, kept
        self._file = self._open()

    def write(self, line: bytes) -> None:
        if self._file.tell() + len(line) > self._max_bytes and self._file.tell():
            self._rotate()
        self._file.write(line)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _open(self) -> BinaryIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self._path.open("ab", buffering=0)

    def _rotate(self) -> None:
        self._file.close()
        for number in range(self._kept - 1, 0, -1):
            older = self._aside(number)
            if older.exists():
                older.replace(self._aside(number + 1))
        self._path.replace(self._aside(1))
        self._file = self._open()

    def _aside(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class Lines:
    """Cuts a stream of bytes into lines; a line longer than `longest` is passed on in pieces."""

    def __init__(self, longest: int = 64 << 10) -> None:
        self._rest, self._longest = b"", longest

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that are complete now, each with its newline."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        complete = [line + b"\n" for line in lines]
        if len(self._rest) > self._longest:
            complete.append(self._rest + b"\n")
            self._rest = b""
        return complete

    def end(self) -> list[bytes]:
        rest, self._rest = self._rest, b""
        return [rest + b"\n"] if rest else []


def echo(process: str, line: bytes) -> None:
    """Show one line on the terminal, with its process in front."""
    sys.stderr.buffer.write(f"{process:<11} ".encode() + line)
    sys.stderr.buffer.flush()


def last_lines(path: Path, count: int) -> list[str]:
    """Return a log's end, for the report of what failed."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 8192))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []
