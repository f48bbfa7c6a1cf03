"""Human units that are integers inside: durations in nanoseconds, sizes in bytes, CPUs in billionths. Pure.

Each is an `int` for arithmetic and has one canonical spelling, which is what manifests, the API and etcd show.
Spelling and parsing are inverse to each other, so the Docker API's integers survive unchanged.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Self

_DURATION_UNITS = {
    "h": 3_600_000_000_000,
    "m": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1_000,
    "µs": 1_000,
    "ns": 1,
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|µs|ns|m|s)")
_BYTE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)


class Duration(int):
    """A span in nanoseconds, spelled as Go does: `1m30s`, `500ms`, `0s`."""

    __slots__ = ()

    @classmethod
    def of(cls, seconds: float) -> Self:
        return cls(round(seconds * 1_000_000_000))

    @property
    def seconds(self) -> float:
        return self / 1_000_000_000

    @classmethod
    def parse(cls, raw: object) -> Self:
        """Read `5s`, `1m30s`, `1.5h`; a bare 0 too. ValueError says what was expected."""
        if raw == 0 and not isinstance(raw, bool):
            return cls(0)
        if not isinstance(raw, str):
            raise ValueError(f"expected a duration with a unit, such as 5s or 1m30s, found {raw!r}")
        text = raw.strip()
        sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text)
        if rest == "0":
            return cls(0)
        total, at = Decimal(0), 0
        for match in _DURATION.finditer(rest):
            if match.start() != at:
                break
            total += Decimal(match[1]) * _DURATION_UNITS[match[2]]
            at = match.end()
        if not rest or at != len(rest):
            raise ValueError(f"expected a duration such as 5s, 1m30s or 500ms, found {raw!r}")
        if total >= 1 << 63:
            raise ValueError(f"duration {raw!r} is too long; the longest is about 292 years")
        return cls(sign * int(total))

    def __str__(self) -> str:
        if self == 0:
            return "0s"
        left, text = abs(int(self)), ""
        if left < 1_000_000_000:
            unit = "ms" if left >= 1_000_000 else "us" if left >= 1_000 else "ns"
            text = _decimal(Decimal(left) / _DURATION_UNITS[unit]) + unit
        else:
            hours, left = divmod(left, _DURATION_UNITS["h"])
            minutes, left = divmod(left, _DURATION_UNITS["m"])
            text = (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "")
            if left:
                text += _decimal(Decimal(left) / _DURATION_UNITS["s"]) + "s"
        return ("-" if self < 0 else "") + text

    def __repr__(self) -> str:
        return f"Duration({str(self)!r})"


class Bytes(int):
    """A size in bytes. Units are powers of 1024, as everywhere in Docker: `512M` is 536,870,912."""

    __slots__ = ()

    @classmethod
    def parse(cls, raw: object) -> Self:
        if isinstance(raw, int) and not isinstance(raw, bool):
            return cls(raw)
        match = _BYTES.fullmatch(raw.strip()) if isinstance(raw, str) else None
        if match is None:
            raise ValueError(f"expected a size such as 512M, 1G or a number of bytes, found {raw!r}")
        total = int(Decimal(match[1]) * _BYTE_UNITS[match[2].lower()])
        if total >= 1 << 63:
            raise ValueError(f"size {raw!r} is too large; the largest is 8 EiB less one byte")
        return cls(total)

    def __str__(self) -> str:
        for unit in "tgmk":
            if self and self % _BYTE_UNITS[unit] == 0:
                return f"{int(self) // _BYTE_UNITS[unit]}{unit.upper()}"
        return str(int(self))

    def __repr__(self) -> str:
        return f"Bytes({str(self)!r})"


class Cpus(int):
    """Processors in billionths (Docker's NanoCPUs), spelled as a decimal number: `0.2`."""

    __slots__ = ()

    @classmethod
    def parse(cls, raw: object) -> Self:
        if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
            raise ValueError(f"expected a number of CPUs such as 0.5 or 2, found {raw!r}")
        try:
            number = Decimal(str(raw).strip())
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite() or abs(number) > 1_000_000:
            raise ValueError(f"expected a number of CPUs such as 0.5 or 2, found {raw!r}")
        return cls(int(number * 1_000_000_000))

    def __str__(self) -> str:
        return _decimal(Decimal(int(self)) / 1_000_000_000)

    def __repr__(self) -> str:
        return f"Cpus({str(self)!r})"


def _decimal(number: Decimal) -> str:
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
