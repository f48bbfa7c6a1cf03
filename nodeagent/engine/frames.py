"""Docker's log stream: frames of stdout and stderr, cut into stamped lines. Pure.

A frame is one byte of stream (1 = stdout, 2 = stderr), three of nothing, four of length, big-endian, and as many
bytes of text. A container with a terminal has no frames: everything is stdout.
"""

from __future__ import annotations

from nodeagent.engine.contract import LogLine

_HEADER = 8
_NAMES = {0: "stdin", 1: "stdout", 2: "stderr"}


class FrameReader:
    """Feed it what arrives, however it is cut; it returns the lines that are complete."""

    def __init__(self, *, is_tty: bool) -> None:
        self._is_tty = is_tty
        self._raw = b""
        self._partial: dict[str, bytes] = {}

    def feed(self, chunk: bytes) -> list[LogLine]:
        if self._is_tty:
            return self._lines("stdout", chunk)
        self._raw += chunk
        lines: list[LogLine] = []
        while len(self._raw) >= _HEADER:
            end = _HEADER + int.from_bytes(self._raw[4:_HEADER], "big")
            if len(self._raw) < end:
                break
            lines += self._lines(_NAMES.get(self._raw[0], "stdout"), self._raw[_HEADER:end])
            self._raw = self._raw[end:]
        return lines

    def end(self) -> list[LogLine]:
        """Return what was written without a final newline."""
        rest, self._partial = self._partial, {}
        return [_line(stream, text) for stream, text in rest.items() if text]

    def _lines(self, stream: str, text: bytes) -> list[LogLine]:
        *whole, self._partial[stream] = (self._partial.get(stream, b"") + text).split(b"\n")
        return [_line(stream, one) for one in whole]


def _line(stream: str, text: bytes) -> LogLine:
    time, _, line = text.partition(b" ")
    return LogLine(stream, time.decode("ascii", "replace"), line.removesuffix(b"\r"))
