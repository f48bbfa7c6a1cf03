"""What the benchmarks make of their samples."""

from __future__ import annotations

import math

import pytest

from hack.benchmarks.figures import Figure, Report, growth_exponent, of_samples, table


@pytest.mark.parametrize(
    ("costs", "exponent"),
    [
        pytest.param({1000: 2.0, 10000: 20.0}, 1.0, id="ten-times-the-size-costs-ten-times-as-much"),
        pytest.param({10: 1.0, 100: 100.0}, 2.0, id="quadratic"),
        pytest.param({10: 5.0, 100: 5.0, 1000: 5.0}, 0.0, id="constant"),
    ],
)
def test_growth_is_the_slope_of_the_logarithms(costs: dict[int, float], exponent: float) -> None:
    assert math.isclose(growth_exponent(costs), exponent, abs_tol=1e-9)


def test_one_size_has_no_growth() -> None:
    assert math.isnan(growth_exponent({10: 1.0}))


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        pytest.param(Figure("f", 1.05, bar=1.15, aim=1.10), "aim met", id="below-the-aim"),
        pytest.param(Figure("f", 1.12, bar=1.15, aim=1.10), "bar met", id="between-them"),
        pytest.param(Figure("f", 1.20, bar=1.15, aim=1.10), "BAR MISSED", id="above-the-bar"),
        pytest.param(Figure("f", 0.05, bar=0.1, aim=0.3, is_floor=True), "BAR MISSED", id="below-a-floor"),
        pytest.param(Figure("f", 0.35, bar=0.1, aim=0.3, is_floor=True), "aim met", id="above-a-floor"),
        pytest.param(Figure("f", 7.0), "", id="a-figure-without-limits-is-for-reading"),
    ],
)
def test_a_figure_says_whether_its_limits_hold(figure: Figure, verdict: str) -> None:
    assert figure.verdict == verdict


def test_samples_are_told_by_their_median_and_quartiles() -> None:
    figure = of_samples("f", [5.0, 1.0, 3.0, 2.0, 4.0], "s")
    assert (figure.value, figure.spread) == (3.0, "2.00 - 4.00")


def test_the_table_holds_every_figure_and_every_note() -> None:
    told = table([Report("title", [Figure("one", 1234.0, "/s", bar=2.0)], ["a note"])])
    assert "one" in told
    assert "1,234 /s" in told
    assert told.endswith("title:\n  a note")
