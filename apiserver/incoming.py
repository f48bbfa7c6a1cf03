"""Requests' bytes and words to checked values; whatever is wrong becomes a sentence. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from apiserver.merge import merged
from apiserver.vault import shown
from shoal.api import codec
from shoal.api import objects as o
from shoal.api.errors import Fault, InvalidError
from shoal.api.intake import Intake, examine
from shoal.api.meta import API_VERSION

T = TypeVar("T")

TRUE = frozenset({"1", "true", "yes"})
FALSE = frozenset({"", "0", "false", "no"})


def json_from(body: bytes) -> Any:
    """Decode a JSON body; InvalidError where it is none."""
    if not body.strip():
        raise InvalidError("the body is empty; expected a JSON document")
    try:
        return msgspec.json.decode(body)
    except ValueError as error:
        raise InvalidError(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidError("the body is nested too deeply") from error


def checked(plain: Any) -> Intake:
    """Judge one object; nesting beyond all reason is a fault like any other."""
    try:
        return examine(plain)
    except RecursionError:
        return Intake(None, (Fault("", "the object is nested too deeply"),))


def object_from(plain: Any, kind: type[o.Object], stored: o.Object | None = None) -> o.Object:
    """Return the object of a kind that a body spells; what the path already says need not be said again."""
    if isinstance(plain, Mapping):
        plain = {"apiVersion": API_VERSION, "kind": kind.KIND, **plain}
        if stored is not None and isinstance(plain.get("metadata", {}), Mapping):
            given = plain.get("metadata") or {}
            plain["metadata"] = {"name": stored.metadata.name, **given}
        if plain.get("kind") != kind.KIND:
            raise InvalidError([Fault("kind", f"expected {kind.KIND}, found {plain.get('kind')!r}")])
    intake = checked(plain)
    if intake.obj is None:
        raise InvalidError(intake.faults)
    return intake.obj


def patched(stored: o.Object, patch: Any) -> Any:
    """Return the stored object as plain data with a merge patch applied."""
    if not isinstance(patch, Mapping):
        raise InvalidError("the body is not a JSON object; expected a merge patch")
    plain = codec.to_builtins(shown(stored))
    plain["metadata"].pop("resourceVersion", None)
    try:
        return merged(plain, patch)
    except RecursionError as error:
        raise InvalidError("the body is nested too deeply") from error


def understood(body: bytes, kind: type[T]) -> T:
    """Decode a body that is no object; InvalidError says what is wrong with it."""
    try:
        return msgspec.convert(json_from(body), kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidError(f"the request is not understood: {error}") from error


def only(query: Mapping[str, str], *known: str) -> Mapping[str, str]:
    """Return the parameters; InvalidError for one that means nothing here: it would be silently ignored."""
    unknown = [name for name in query if name not in known]
    if unknown:
        more = f"known here are {', '.join(known)}" if known else "there are none here"
        raise InvalidError([Fault(name[:100], f"unknown parameter; {more}") for name in unknown])
    return query


def flag(query: Mapping[str, str], name: str) -> bool:
    """Read a yes-or-no parameter; its bare name means yes."""
    if name not in query:
        return False
    text = query[name].lower()
    if text in TRUE or text == "":
        return True
    if text in FALSE:
        return False
    raise InvalidError([Fault(name, f"expected 1 or 0, found {query[name]!r}")])


def number(query: Mapping[str, str], name: str, default: int = 0) -> int:
    """Read a whole number that is not negative."""
    text = query.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 19:
        raise InvalidError([Fault(name, f"expected a whole number, found {text[:60]!r}")])
    return int(text)
