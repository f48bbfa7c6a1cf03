"""What people call kinds."""

from __future__ import annotations

import pytest

from shoal.api.errors import InvalidError
from shoal.api.objects import Node, Object, Service, Task
from shoal.cli.words import kind_of, targets


@pytest.mark.parametrize("word", ["service", "services", "svc", "Service", "SVC"])
def test_a_kind_may_be_singular_plural_or_short_in_any_case(word: str) -> None:
    assert kind_of(word) is Service


def test_an_unknown_kind_gets_a_hint_and_the_known_ones() -> None:
    with pytest.raises(InvalidError, match=r"did you mean service\?; known are .*tasks"):
        kind_of("servcie")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        pytest.param(("svc",), [(Service, "")], id="all-of-a-kind"),
        pytest.param(("svc", "a", "b"), [(Service, "a"), (Service, "b")], id="names"),
        pytest.param(("svc/a", "no/b"), [(Service, "a"), (Node, "b")], id="kind-and-name"),
        pytest.param(("svc,ps",), [(Service, ""), (Task, "")], id="several-kinds"),
        pytest.param(("svc", "service/a"), [(Service, "a")], id="kind-twice"),
    ],
)
def test_targets_are_read(words: tuple[str, ...], found: list[tuple[type[Object], str]]) -> None:
    assert targets(words) == found


@pytest.mark.parametrize("words", [(), ("pod/x",), ("svc/a", "b"), ("svc/",), ("svc", "a", "node/b"), ("svc", "svc/")])
def test_what_names_nothing_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidError):
        targets(words)
