"""What may be said to `shoal logs --since`."""

from __future__ import annotations

import pytest

from shoal.api.errors import InvalidError
from shoal.cli.logs import _moment


@pytest.mark.parametrize("since", ["yesterday", "0001-01-01", "0001-01-01T00:00:00+10:00", "99999999h", "999999999d"])
def test_a_time_that_is_none_is_a_sentence(since: str) -> None:
    with pytest.raises(InvalidError, match="--since: expected"):
        _moment(since)


def test_a_time_is_asked_for_in_utc() -> None:
    assert _moment("2026-01-31T12:00:00+02:00") == "2026-01-31T10:00:00+00:00"
