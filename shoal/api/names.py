"""What may be called what, and how field paths are spelled. Pure.

Source: the rules for names of services, secrets and configs are SwarmKit's (manager/controlapi).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

MAX_SERVICE_NAME = 63
"""Characters: a service's name is a DNS label."""

MAX_FILE_NAME = 64
"""Characters in the name of a secret or config."""

_SERVICE = re.compile(r"[a-zA-Z0-9](?:[-_]*[a-zA-Z0-9])*")
_FILE = re.compile(r"[a-zA-Z0-9](?:[-_.a-zA-Z0-9]*[a-zA-Z0-9])?")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}")
_PLAIN_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def service_name_problem(name: str) -> str:
    """Return what is wrong with a service's name, "" if nothing is."""
    if not name:
        return "missing; a service needs a name"
    if len(name) > MAX_SERVICE_NAME:
        return f"{len(name)} characters long; a service's name has at most {MAX_SERVICE_NAME}, as a DNS label"
    if not _SERVICE.fullmatch(name):
        return (
            f"found {name!r}, expected a DNS label: letters, digits, '-' and '_', beginning and ending with a letter"
            " or digit"
        )
    return ""


def file_name_problem(name: str) -> str:
    """Return what is wrong with the name of a secret, config or network, "" if nothing is."""
    if not name:
        return "missing; expected a name"
    if len(name) > MAX_FILE_NAME:
        return f"{len(name)} characters long; at most {MAX_FILE_NAME} are allowed"
    if not _FILE.fullmatch(name):
        return (
            f"found {name!r}, expected letters, digits, '-', '_' and '.', beginning and ending with a letter or digit"
        )
    return ""


def node_name_problem(name: str) -> str:
    """Return what is wrong with a node's name, "" if nothing is."""
    if _NODE.fullmatch(name):
        return ""
    return f"expected a host's name (letters, digits, -, _ and .), found {name[:60]!r}"


def below(path: str, key: str) -> str:
    """Return the path of a mapping's entry: `spec.env`, or `metadata.labels["a.b"]` where the key is no plain word."""
    if not _PLAIN_FIELD.fullmatch(key):
        return f'{path}["{key}"]'
    return f"{path}.{key}" if path else key


def parent_of(path: str) -> str:
    """Return the path one step up: `a.b[0]` → `a.b` → `a` → ``."""
    if path.endswith('"]'):
        return path[: path.rindex('["')]
    if path.endswith("]"):
        return path[: path.rindex("[")]
    return path.rpartition(".")[0]


def hint(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the nearest known word, "" where none is near.

    Case and separators do not count: `read_only` finds `readOnly`.
    """
    folded = {_fold(candidate): candidate for candidate in known}
    near = difflib.get_close_matches(_fold(word), folded, n=1, cutoff=0.7)
    return f"; did you mean {folded[near[0]]}?" if near else ""


def _fold(word: str) -> str:
    return re.sub(r"[-_ ]", "", word).lower()
