"""Reads objects as the API shows them; what cannot be read is logged, and stands in nobody's way."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
import structlog

from shoal.api import codec, keys
from shoal.api.objects import KINDS, Object, Task

Reader = Callable[[Iterable[msgspec.Raw]], tuple[list[Object], frozenset[str]]]
"""What `read_objects` is, and whatever does the same."""

log = structlog.get_logger()


class _HeadMeta(msgspec.Struct):
    name: str = ""


class _Head(msgspec.Struct):
    """What can be said even of an object that cannot be read."""

    kind: str = ""
    metadata: _HeadMeta = msgspec.field(default_factory=_HeadMeta)


_heads = msgspec.json.Decoder(_Head)


def read_objects(raws: Iterable[msgspec.Raw]) -> tuple[list[Object], frozenset[str]]:
    """Return the objects, and the keys of tasks that cannot be read: they are not to be taken for gone."""
    found: list[Object] = []
    unreadable: set[str] = set()
    for raw in raws:
        try:
            found.append(codec.decode_any(raw))
        except ValueError as error:
            head = _heads.decode(raw)
            if head.kind in KINDS:  # else newer code's, and nothing to us
                log.error("object_unreadable", object=f"{head.kind} {head.metadata.name}", error=str(error))
            if head.kind == Task.KIND:
                unreadable.add(keys.task(head.metadata.name))
    return found, frozenset(unreadable)
