"""What `shoal wait` says of what has not come about in time."""

from __future__ import annotations

import pytest

from shoal.cli.wait import unmet


@pytest.mark.parametrize(
    ("condition", "said"),
    [("delete", "is not deleted"), ("ready", "is not ready"), ("spec.replicas=3", "is not spec.replicas=3")],
)
def test_what_has_not_come_about_is_said_in_a_sentence(condition: str, said: str) -> None:
    assert unmet(condition) == said
