"""Durations, sizes and CPUs: spelling and parsing are inverse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.api.units import Bytes, Cpus, Duration


@given(st.integers(-(1 << 63) + 1, (1 << 63) - 1))
def test_every_duration_survives_its_own_spelling(nanoseconds: int) -> None:
    assert Duration.parse(str(Duration(nanoseconds))) == nanoseconds


@given(st.integers(0, (1 << 63) - 1))
def test_every_size_survives_its_own_spelling(size: int) -> None:
    assert Bytes.parse(str(Bytes(size))) == size


@given(st.integers(0, 1_000_000 * 1_000_000_000))
def test_every_number_of_cpus_survives_its_own_spelling(nano_cpus: int) -> None:
    assert Cpus.parse(str(Cpus(nano_cpus))) == nano_cpus


@pytest.mark.parametrize(
    ("text", "nanoseconds", "spelled"),
    [
        ("5s", 5_000_000_000, "5s"),
        ("90s", 90_000_000_000, "1m30s"),
        ("1h0m0s", 3_600_000_000_000, "1h"),
        ("1.5h", 5_400_000_000_000, "1h30m"),
        ("500ms", 500_000_000, "500ms"),
        ("1500us", 1_500_000, "1.5ms"),
        ("-2s", -2_000_000_000, "-2s"),
        ("0", 0, "0s"),
    ],
)
def test_durations_are_spelled_as_go_does(text: str, nanoseconds: int, spelled: str) -> None:
    found = Duration.parse(text)
    assert (found, str(found)) == (nanoseconds, spelled)


@pytest.mark.parametrize("raw", ["5", "five", "5 s", "", "s", "1m 5s", 5, 1.5, True, None, "999999999h"])
def test_what_is_no_duration_is_refused_with_an_example(raw: object) -> None:
    with pytest.raises(ValueError, match=r"duration"):
        Duration.parse(raw)


@pytest.mark.parametrize(
    ("raw", "size", "spelled"),
    [("512M", 512 << 20, "512M"), ("1gb", 1 << 30, "1G"), ("1.5KiB", 1536, "1536"), (4096, 4096, "4K"), ("0", 0, "0")],
)
def test_sizes_are_powers_of_1024(raw: object, size: int, spelled: str) -> None:
    found = Bytes.parse(raw)
    assert (found, str(found)) == (size, spelled)


@pytest.mark.parametrize("raw", ["12X", "", "-1M", True, None, 1.5, "9999999P"])
def test_what_is_no_size_is_refused(raw: object) -> None:
    with pytest.raises(ValueError, match=r"size"):
        Bytes.parse(raw)


@pytest.mark.parametrize(("raw", "nano"), [(0.2, 200_000_000), ("0.2", 200_000_000), (2, 2_000_000_000)])
def test_cpus_are_decimal(raw: object, nano: int) -> None:
    assert Cpus.parse(raw) == nano


@pytest.mark.parametrize("raw", ["many", True, None, "nan", "inf", 1e12])
def test_what_is_no_number_of_cpus_is_refused(raw: object) -> None:
    with pytest.raises(ValueError, match="CPUs"):
        Cpus.parse(raw)
