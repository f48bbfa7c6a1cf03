"""How the command spells tables, ages and documents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from shoal.cli.text import age, as_json, as_yaml, plural, row_line, size, table

NOW = datetime(2026, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "spelled"),
    [
        (0, "0s"),
        (-5, "0s"),
        (42, "42s"),
        (60, "1m"),
        (200, "3m20s"),
        (3_599, "59m"),
        (3_600, "1h"),
        (20_000, "5h33m"),
        (40_000, "11h"),
        (86_400 * 9 + 7_300, "9d2h"),
        (86_400 * 300, "300d"),
        (86_400 * 400, "1y35d"),
    ],
)
def test_an_age_has_one_or_two_units(seconds: int, spelled: str) -> None:
    assert age((NOW - timedelta(seconds=seconds)).isoformat(), NOW) == spelled


def test_an_age_of_nothing_is_a_dash() -> None:
    assert age(None, NOW) == "-"
    assert age("", NOW) == "-"


def test_a_table_is_aligned_and_has_no_blanks_at_line_ends() -> None:
    assert table(["NAME", "X"], [["a", "1"], ["longer", ""]]) == ["NAME     X", "a        1", "longer"]


def test_later_rows_keep_the_columns_of_earlier_ones() -> None:
    assert row_line(["a", "b"], [5, 1]) == "a       b"
    assert row_line(["much longer", "b"], [5, 1]) == "much longer   b"


@pytest.mark.parametrize(
    ("count", "spelled"),
    [(0, "0B"), (999, "999B"), (1 << 10, "1.00K"), (1536 << 10, "1.50M"), (200 << 20, "200M"), (1 << 60, "1024P")],
)
def test_a_size_has_three_digits(count: int, spelled: str) -> None:
    assert size(count) == spelled


def test_one_is_singular() -> None:
    assert [plural(n, "task") for n in (0, 1, 2)] == ["0 tasks", "1 task", "2 tasks"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
@example({"ends with a line's end": "0\n"})
def test_a_document_in_yaml_reads_back_as_it_was_once_it_is_printed(document: dict[str, object]) -> None:
    assert yaml.safe_load(f"{as_yaml([document])}\n") == document


def test_several_documents_are_a_list_in_json_and_documents_in_yaml() -> None:
    assert '"kind": "List"' in as_json([{}, {}])
    assert len(list(yaml.safe_load_all(as_yaml([{"a": 1}, {"b": 2}])))) == 2
