from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def logged_events() -> Iterator[tuple[str, str]]:
    """Yield every event name in the sources, with the file it is in."""
    for package in ("shoal", "apiserver", "controllers", "nodeagent"):
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            if "structlog" in text:
                for node in ast.walk(ast.parse(text)):
                    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                        name = node.args[0] if node.args else None
                        if node.func.attr in LEVELS and isinstance(name, ast.Constant) and isinstance(name.value, str):
                            yield name.value, str(path.relative_to(ROOT))


def listed_events() -> list[str]:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/logging.md").read_text(), re.MULTILINE)
    assert rows
    return rows


def test_every_logged_event_is_listed() -> None:
    listed = set(listed_events())
    assert {event: path for event, path in logged_events() if event not in listed} == {}


def test_every_listed_event_is_logged_and_listed_once() -> None:
    logged = {event for event, _ in logged_events()}
    listed = listed_events()
    assert [event for event in listed if event not in logged] == []
    assert len(listed) == len(set(listed))


def test_events_are_snake_case_words_of_two_or_more() -> None:
    names = {event for event, _ in logged_events()} - {"reconciled"}
    assert [event for event in names if not re.fullmatch(r"[a-z]+(_[a-z]+)+", event)] == []
