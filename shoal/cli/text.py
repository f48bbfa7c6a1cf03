"""Tables, ages and documents as text. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

Row = Sequence[str]

_AGES: Final = ((86_400 * 365, "y"), (86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def table(head: Row, rows: Iterable[Row], widths: Sequence[int] = ()) -> list[str]:
    """Return aligned lines, the head first; `widths` are least widths, so that later rows align with earlier ones."""
    lines = [list(head), *(list(row) for row in rows)]
    columns = widths_of(lines, widths)
    return [_line(line, columns) for line in lines]


def widths_of(lines: Iterable[Row], least: Sequence[int] = ()) -> list[int]:
    found = list(least)
    for line in lines:
        for index, cell in enumerate(line):
            if index == len(found):
                found.append(0)
            found[index] = max(found[index], len(cell))
    return found


def row_line(row: Row, widths: Sequence[int]) -> str:
    return _line(row, widths_of([row], widths))


def _line(row: Row, widths: Sequence[int]) -> str:
    return "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()


def pairs(*pairs: tuple[str, Any]) -> Iterator[str]:
    """Spell names and values; what is empty is left out, a list takes a line per item."""
    for name, value in pairs:
        if value in ("", None, [], {}, ()):
            continue
        items = value if isinstance(value, list) else [value]
        for index, item in enumerate(items):
            yield f"{name + ':' if not index else '':<14} {item}"


def age(stamp: str | None, now: datetime) -> str:
    """Spell the time since a stamp in one or two units: 42s, 3m20s, 5h, 12d. A future one, by another clock, is 0s."""
    then = moment(stamp)
    if then is None:
        return "-"
    seconds = max(0, int((now - then).total_seconds()))
    for index, (size, unit) in enumerate(_AGES):
        if seconds >= size:
            whole, rest = divmod(seconds, size)
            text = f"{whole}{unit}"
            if whole < 10 and index + 1 < len(_AGES):
                small, small_unit = _AGES[index + 1]
                text += f"{rest // small}{small_unit}" if rest // small else ""
            return text
    return "0s"


def moment(stamp: str | None) -> datetime | None:
    """Read a stamp of the API; None for none."""
    if not stamp:
        return None
    found = datetime.fromisoformat(stamp)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def as_json(documents: list[Any]) -> str:
    """Spell one document, or several as a list."""
    found = documents[0] if len(documents) == 1 else {"apiVersion": "shoal/v1", "kind": "List", "items": documents}
    return json.dumps(found, indent=2, ensure_ascii=False)


def as_yaml(documents: list[Any]) -> str:
    """Spell documents, without the last line's end, so that they can be edited and applied again once printed."""
    import yaml

    class Dumper(yaml.CSafeDumper):
        """Texts of several lines are shown line by line, wherever YAML can."""

    def represented(dumper: yaml.CSafeDumper, text: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    Dumper.add_representer(str, represented)
    return yaml.dump_all(
        documents, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120
    ).removesuffix("\n")


def size(count: int) -> str:
    """Spell bytes with three digits: 512B, 1.50M, 12.3G."""
    number, units = float(count), ["B", "K", "M", "G", "T", "P"]
    while number >= 999.5 and len(units) > 1:
        number /= 1024
        units.pop(0)
    if units[0] == "B":
        return f"{count}B"
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits}f}{units[0]}"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
