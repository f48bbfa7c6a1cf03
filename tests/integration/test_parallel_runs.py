"""Tests that run in several processes are one run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

TELLING = """
import pathlib
import pytest

@pytest.mark.parametrize("number", range(4))
def test_tells(seed, number):
    pathlib.Path(__file__).with_name(f"seed-{number}").write_text(str(seed))
"""


def test_all_processes_have_the_seed_that_is_printed(tmp_path: Path) -> None:
    (tmp_path / "test_telling.py").write_text(TELLING)
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-n", "2", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (seed,) = {path.read_text() for path in tmp_path.glob("seed-*")}
    assert f"seed: {seed} " in done.stdout
