"""What people may write as a placeholder is what an agent fills in."""

from __future__ import annotations

from shoal.api.grammar import PLACEHOLDERS
from shoal.machinery.factories import make_service, make_task
from shoal.rules.expand import NodeFacts, expanded


def test_every_placeholder_that_is_accepted_is_filled_in() -> None:
    service = make_service("web", env=tuple(f"A={{{{{name}}}}}" for name in PLACEHOLDERS))
    template = expanded(make_task(service), NodeFacts("u", "h", "linux", "x86_64"))
    assert not any("{{" in entry for entry in template.env)
