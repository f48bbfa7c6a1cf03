"""Templates inside secrets and configs (`templating: golang`): what they may say, and filling them in. Pure.

    {{.Service.Name}}  {{index .Service.Labels "tier"}}  {{env "MODE"}}  {{secret "db-password"}}  {{config "site"}}

Of Go's template language only this is known. `secret` and `config` name a file's target (or, where none was given, its
source) among the task's own. Messages tell the line and never quote the text: it may be a secret.
Source: the names and functions are Swarm's (template/context.go).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from msgspec import Struct

from shoal.api.grammar import LABEL, PLACEHOLDERS, label_in

_ACTION = re.compile(r"(?:\s*\{\{-|\{\{)\s*(.*?)\s*(?:-\}\}\s*|\}\})", re.DOTALL)
_CALL = re.compile(r'(secret|config|env)\s+(?:"([^"\\]*)"|`([^`]*)`)')

KNOWN = (*PLACEHOLDERS, LABEL, 'secret "<target>"', 'config "<target>"', 'env "<name>"')


class Sources(Struct, frozen=True):
    """Where a template's values come from; `secret` and `config` raise ValueError for what the task does not use."""

    values: Mapping[str, str]
    """Every name in `shoal.api.grammar.PLACEHOLDERS` → its value."""
    labels: Mapping[str, str]
    env: Mapping[str, str]
    secret: Callable[[str], str]
    config: Callable[[str], str]


def filled(text: str, sources: Sources) -> str:
    """Return the text with everything filled in; ValueError tells the line of what cannot be."""
    return _ACTION.sub(lambda found: _value(text, found, sources), text)


def problems(data: bytes) -> list[str]:
    """Return what is wrong with a template before any task uses it."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return ["a template must be UTF-8 text"]
    anything = Sources(dict.fromkeys(PLACEHOLDERS, ""), {}, {}, lambda _: "", lambda _: "")
    wrong = []
    for found in _ACTION.finditer(text):
        try:
            _value(text, found, anything)
        except ValueError as error:
            wrong.append(str(error))
    rest = _ACTION.sub("", text)
    return wrong + (["it has {{ without }}"] if "{{" in rest else [])


def _value(text: str, found: re.Match[str], sources: Sources) -> str:
    action = found[1]
    if action in sources.values:
        return sources.values[action]
    if (label := label_in(action)) is not None:
        return sources.labels.get(label, "")
    line = text.count("\n", 0, found.start(1)) + 1
    call = _CALL.fullmatch(action)
    if call is None:
        raise ValueError(f"line {line}: what stands between {{{{ and }}}} is not known; known are {', '.join(KNOWN)}")
    argument = call[2] if call[2] is not None else call[3]
    if call[1] == "env":
        return sources.env.get(argument, "")
    try:
        return (sources.secret if call[1] == "secret" else sources.config)(argument)
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from None
