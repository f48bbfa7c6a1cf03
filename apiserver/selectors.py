"""Label and field selectors: `tier=front,env!=dev,zone in (a,b),!old`. Pure.

A missing label satisfies `!=` and `notin`, as in Kubernetes. Fields are paths in the object's JSON
(`spec.node.uid`, `status.state`); a path that the kind does not have is a fault, never an empty list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Struct

from shoal.api.errors import Fault, InvalidError
from shoal.api.objects import Object

_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_./\-]*"
_SET: Final = re.compile(rf"({_NAME})\s+(in|notin)\s*\(([^()]*)\)")
_EQUALS: Final = re.compile(rf"({_NAME})\s*(==|!=|=)\s*([^,()!=\s]*)")
_EXISTS: Final = re.compile(rf"(!?)\s*({_NAME})")


class Term(Struct, frozen=True):
    """One requirement: the value is among `values` (or, negated, is not); `values` None = the name exists."""

    name: str
    values: frozenset[str] | None
    negated: bool = False

    def holds(self, value: str | None) -> bool:
        found = value is not None if self.values is None else value in self.values
        return found != self.negated

    @property
    def only(self) -> str | None:
        """The one value that satisfies the term, if there is exactly one."""
        if self.negated or self.values is None or len(self.values) != 1:
            return None
        return next(iter(self.values))


class Selector(Struct, frozen=True):
    """What a list or a watch asks for. An empty selector takes everything."""

    labels: tuple[Term, ...] = ()
    fields: tuple[Term, ...] = ()

    def matches(self, obj: Object) -> bool:
        labels = obj.metadata.labels
        return all(term.holds(labels.get(term.name)) for term in self.labels) and all(
            term.holds(value_at(obj, term.name)) for term in self.fields
        )

    def only(self, field: str) -> str | None:
        """The single value a field must have, None if it may have several: what an index can answer."""
        return next((term.only for term in self.fields if term.name == field and term.only is not None), None)


def parse(text: str, what: str = "labels") -> tuple[Term, ...]:
    """Read a selector; InvalidError names the place where it stops making sense."""
    terms: list[Term] = []
    at, rest = 0, text.strip()
    while at < len(rest):
        term, at = _term(rest, at, what)
        terms.append(term)
        while at < len(rest) and rest[at].isspace():
            at += 1
        if at < len(rest):
            if rest[at] != ",":
                raise InvalidError([Fault(what, f"expected a comma before {rest[at:]!r}")])
            at += 1
    return tuple(terms)


def _term(text: str, at: int, what: str) -> tuple[Term, int]:
    while at < len(text) and text[at].isspace():
        at += 1
    if match := _SET.match(text, at):
        values = frozenset(value.strip() for value in match[3].split(","))
        return Term(match[1], values, match[2] == "notin"), match.end()
    if match := _EQUALS.match(text, at):
        return Term(match[1], frozenset({match[3]}), match[2] == "!="), match.end()
    if match := _EXISTS.match(text, at):
        return Term(match[2], None, match[1] == "!"), match.end()
    raise InvalidError(
        [Fault(what, f"expected name=value, name!=value, name in (a,b), name or !name at {text[at:]!r}")]
    )


def parse_for(kind: type[Object], labels: str, fields: str) -> Selector:
    """Read both selectors of a request for one kind; every unknown field path is a fault."""
    selector = Selector(parse(labels, "labels"), parse(fields, "fields"))
    unknown = [term.name for term in selector.fields if not has_field(kind, term.name)]
    if unknown:
        raise InvalidError([Fault("fields", f"{kind.KIND} has no field {name!r} to select by") for name in unknown])
    return selector


def value_at(obj: Any, path: str) -> str | None:
    """Return the value at a JSON path as text; None where there is nothing (or no single value)."""
    while path:
        if isinstance(obj, Mapping):
            return _text(obj.get(path))
        name, _, path = path.partition(".")
        attribute = _attributes(type(obj)).get(name) if isinstance(obj, Struct) else None
        if attribute is None:
            return obj.KIND if name == "kind" and isinstance(obj, Object) and not path else None
        obj = getattr(obj, attribute)
    return _text(obj)


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return str(value.value)
    return str(value) if isinstance(value, (str, int, float)) else None


@lru_cache(maxsize=256)
def _attributes(kind: type[Struct]) -> dict[str, str]:
    return dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))


@lru_cache(maxsize=1024)
def has_field(kind: type[Object], path: str) -> bool:
    """Whether a kind has a plain value at a JSON path (any name below a mapping counts)."""
    return path == "kind" or _reaches(msgspec.inspect.type_info(kind), path)


def _reaches(info: Any, path: str) -> bool:
    if isinstance(info, msgspec.inspect.UnionType):
        return any(_reaches(one, path) for one in info.types if not isinstance(one, msgspec.inspect.NoneType))
    if not path:
        return not isinstance(
            info, (msgspec.inspect.StructType, msgspec.inspect.CollectionType, msgspec.inspect.DictType)
        )
    if isinstance(info, msgspec.inspect.DictType):
        return True
    if not isinstance(info, msgspec.inspect.StructType):
        return False
    name, _, rest = path.partition(".")
    return any(field.encode_name == name and _reaches(field.type, rest) for field in info.fields)
