"""What the files of one task hold: its secrets and configs, with their placeholders filled in. Pure.

Nothing raised here quotes any of the data.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from functools import partial

from msgspec import Struct

from nodeagent.assignments import Assignments
from shoal.api import keys
from shoal.api.errors import TerminalError
from shoal.api.objects import Config, Secret, Task
from shoal.api.payload import Sources, filled
from shoal.api.template import FileUse, path_of_config, path_of_secret
from shoal.rules.expand import NodeFacts, expanded, values_of

Kind = type[Secret] | type[Config]


class Content(Struct, frozen=True):
    """One file: where the container sees it, whose it is, what it says."""

    target: str
    owner: int
    group: int
    mode: int
    data: bytes

    def __repr__(self) -> str:
        return f"Content({self.target})"


def contents_of(task: Task, assignments: Assignments, node: NodeFacts) -> tuple[Content, ...]:
    """Return a task's files; TerminalError where one did not come with the task, or its template cannot be filled."""
    template = task.spec.template
    uses: list[tuple[Kind, FileUse, str]] = [
        *((Secret, use, path_of_secret(use)) for use in template.secrets),
        *((Config, use, path_of_config(use)) for use in template.configs),
    ]
    sources = _sources(task, assignments, node) if uses else None
    return tuple(
        Content(target, int(use.owner), int(use.group), use.file_mode, _data(kind, use, assignments, sources))
        for kind, use, target in uses
    )


def _data(kind: Kind, use: FileUse, assignments: Assignments, sources: Sources | None) -> bytes:
    found = _found(kind, use, assignments)
    raw = base64.b64decode(found.spec.data)
    if not found.spec.templating or sources is None:
        return raw
    try:
        return filled(raw.decode(), sources).encode()
    except UnicodeDecodeError:
        raise TerminalError(f"{_label(kind, use)} is a template, but no UTF-8 text") from None
    except ValueError as error:
        raise TerminalError(f"{_label(kind, use)}: {error}") from None


def _found(kind: Kind, use: FileUse, assignments: Assignments) -> Secret | Config:
    found = assignments.objects.get(keys.prefix_of(kind) + use.source)
    if not isinstance(found, (Secret, Config)) or found.metadata.uid != use.uid:
        raise TerminalError(f"{_label(kind, use)} did not come with the task: was it deleted?")
    return found


def _label(kind: Kind, use: FileUse) -> str:
    return f"{kind.KIND.lower()} {use.source}"


def _sources(task: Task, assignments: Assignments, node: NodeFacts) -> Sources:
    env = expanded(task, node).env
    template = task.spec.template
    return Sources(
        values=values_of(task, node),
        labels=task.metadata.labels,
        env={name: value for name, _, value in (entry.partition("=") for entry in env)},
        secret=partial(_named, Secret, template.secrets, assignments),
        config=partial(_named, Config, template.configs, assignments),
    )


def _named(kind: Kind, uses: Iterable[FileUse], assignments: Assignments, target: str) -> str:
    """Return the raw text of the task's own secret or config with this target."""
    use = next((use for use in uses if (use.target or use.source) == target), None)
    if use is None:
        raise ValueError(f"the task has no {kind.KIND.lower()} with the target that is named there")
    try:
        return base64.b64decode(_found(kind, use, assignments).spec.data).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{_label(kind, use)} is no UTF-8 text") from None
