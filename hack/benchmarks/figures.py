"""What a benchmark says: samples, medians, ratios, growth, and one table of them. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """One line of the table. `bar` must hold, `aim` is better; both are upper limits unless `is_floor`."""

    name: str
    value: float
    unit: str = ""
    spread: str = ""
    bar: float | None = None
    aim: float | None = None
    is_floor: bool = False

    @property
    def verdict(self) -> str:
        if self.bar is None and self.aim is None:
            return ""
        if self.aim is not None and self._holds(self.aim):
            return "aim met"
        if self.bar is None:
            return "aim missed"
        return "bar met" if self._holds(self.bar) else "BAR MISSED"

    def _holds(self, limit: float) -> bool:
        return self.value >= limit if self.is_floor else self.value <= limit


@dataclass
class Report:
    """What one benchmark found: figures for the table, raw samples and circumstances for the record."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper one."""
    if len(samples) < 2:
        return samples[0], samples[0], samples[0]
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, middle, high


def of_samples(name: str, samples: Sequence[float], unit: str = "", **limits: float | bool | None) -> Figure:
    """Return a figure of the median, with the inter-quartile range as its spread."""
    low, middle, high = quartiles(samples)
    return Figure(name, middle, unit, f"{_number(low)} - {_number(high)}", **limits)  # type: ignore[arg-type]


def growth_exponent(costs: Mapping[int, float]) -> float:
    """Return the slope of log cost over log size, least squares: 1.0 = twice as much costs twice as much."""
    points = [(math.log(size), math.log(cost)) for size, cost in costs.items() if cost > 0]
    if len(points) < 2:
        return math.nan
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def listed(samples: Iterable[float]) -> str:
    return " ".join(_number(sample) for sample in samples)


def table(reports: Iterable[Report]) -> str:
    """Return all figures as one aligned table, then each report's notes."""
    reports = list(reports)
    rows = [("figure", "median", "quartiles", "bar", "aim", "")]
    for report in reports:
        rows += [
            (
                one.name,
                f"{_number(one.value)} {one.unit}".strip(),
                one.spread,
                _limit(one, one.bar),
                _limit(one, one.aim),
                one.verdict,
            )
            for one in report.figures
        ]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for report in reports:
        lines += ["", f"{report.title}:", *(f"  {note}" for note in report.notes)]
    return "\n".join(lines)


def _limit(figure: Figure, limit: float | None) -> str:
    return "" if limit is None else f"{'≥' if figure.is_floor else '≤'} {_number(limit)}"


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
