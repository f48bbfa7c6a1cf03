"""docs/features.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [line for line in (ROOT / "docs" / "features.md").read_text().splitlines() if line.startswith("| ")][2:]
FILES = {path.name: path.read_text() for path in (ROOT / "tests").glob("*/test_*.py")}


def label(row: str) -> str:
    return "-".join(cell.strip() for cell in row.split("|")[1:3])


@pytest.mark.parametrize("row", ROWS, ids=label)
def test_a_feature_s_tests_are_there(row: str) -> None:
    named = re.findall(r"`(test_\w+\.py)?(?:::(\w+))?`", row.split("|")[-2])
    assert named, "no test is named"
    file = ""
    for other, test in named:
        file = other or file
        assert file in FILES, f"there is no {file}"
        assert not test or re.search(rf"def {test}\b", FILES[file]), f"there is no {test} in {file}"
