"""Plain data to objects, strictly: every fault at once, each with its field's path. Pure.

Stored objects are read leniently (`shoal.api.codec`); this is for what people and clients send.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from shoal.api.codec import dec_hook
from shoal.api.errors import Fault, InvalidError
from shoal.api.names import below, hint

T = TypeVar("T", bound=msgspec.Struct)

_ELSEWHERE = {
    "environment": "env",
    "volumes": "mounts",
    "entrypoint": "command",
    "cmd": "args",
    "deploy": "what stands under deploy in a Compose file stands directly under spec here",
    "restartPolicy": "restart",
    "restart_policy": "restart",
    "updateConfig": "update",
    "update_config": "update",
    "rollbackConfig": "rollback",
    "rollback_config": "rollback",
    "extraHosts": "hosts",
    "extra_hosts": "hosts",
    "logging": "logDriver",
    "nanoCpus": "cpus",
    "memoryBytes": "memory",
}
"""Docker's and Compose's words for fields, and their name here, or a sentence."""


def decode(kind: type[T], plain: Any, at: str = "") -> T:
    """Return the Struct that plain data spells; InvalidError with all faults. A null is a field not given."""
    found = _plainest(plain)
    faults = tuple(_faults(found, inspect.type_info(kind), at))
    if faults:
        raise InvalidError(faults)
    try:
        return msgspec.convert(found, kind, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        raise InvalidError((Fault(at, str(error)),)) from error


def _plainest(plain: Any) -> Any:
    """Drop mapping entries that are null and reduce numbers to Python's own, at any depth."""
    if isinstance(plain, Mapping):
        return {key: _plainest(value) for key, value in plain.items() if value is not None}
    if isinstance(plain, (list, tuple)):
        return [_plainest(item) for item in plain]
    if isinstance(plain, float):
        return float(plain)
    return plain


def describe(value: Any) -> str:
    """Name what was found, for a sentence: `the text 'x'`, `the number 3`, `a list`."""
    match value:
        case None:
            return "nothing"
        case bool():
            return f"the truth value {str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {value if len(value) <= 60 else value[:57] + '…'!r}"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "a mapping"
    return f"a {type(value).__name__}"


def _faults(value: Any, kind: inspect.Type, path: str) -> Iterator[Fault]:
    match kind:
        case inspect.UnionType():
            inner = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
            yield from _faults(value, inner[0], path)
        case inspect.StructType():
            yield from _struct_faults(value, kind, path)
        case inspect.VarTupleType():
            if not isinstance(value, list):
                yield _wrong(path, "a list", value)
                return
            for index, item in enumerate(value):
                yield from _faults(item, kind.item_type, f"{path}[{index}]")
        case inspect.DictType():
            yield from _mapping_faults(value, kind, path)
        case inspect.EnumType():
            yield from _enum_faults(value, kind, path)
        case inspect.CustomType():
            try:
                dec_hook(kind.cls, value)
            except ValueError as error:
                yield Fault(path, str(error))
        case _:
            expected = _expectation(kind, value)
            if expected:
                yield _wrong(path, expected, value)


def _struct_faults(value: Any, kind: inspect.StructType, path: str) -> Iterator[Fault]:
    if not isinstance(value, Mapping):
        yield _wrong(path, "a mapping", value)
        return
    fields = _fields(kind.cls)
    for key, item in value.items():
        field = fields.get(key)
        if field is not None:
            yield from _faults(item, field.type, below(path, key))
        elif key != kind.tag_field:
            yield Fault(below(path, str(key)), "unknown field" + _hint(str(key), fields))
    for name, field in fields.items():
        if field.required and name not in value:
            yield Fault(below(path, name), f"missing; expected {_noun(field.type)}")


def _mapping_faults(value: Any, kind: inspect.DictType, path: str) -> Iterator[Fault]:
    if not isinstance(value, Mapping):
        yield _wrong(path, "a mapping", value)
        return
    for key, item in value.items():
        if not isinstance(key, str):
            yield _wrong(below(path, str(key)), "a text as key", key)
        else:
            yield from _faults(item, kind.value_type, below(path, key))


def _enum_faults(value: Any, kind: inspect.EnumType, path: str) -> Iterator[Fault]:
    known = [str(member.value) for member in kind.cls]
    if value not in known:
        yield _wrong(path, f"one of {', '.join(known)}", value, hint(value, known) if isinstance(value, str) else "")


def _expectation(kind: inspect.Type, value: Any) -> str:
    """Return what was expected of a scalar, "" if it is that."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match kind:
        case inspect.StrType():
            return "" if isinstance(value, str) else "text (put it in quotes)" if is_number else "text"
        case inspect.BoolType():
            return "" if isinstance(value, bool) else "true or false"
        case inspect.IntType():
            whole = is_number and isinstance(value, int)
            return ("" if -(1 << 63) <= value < 1 << 63 else "a smaller number") if whole else "a whole number"
        case inspect.FloatType():
            return "" if is_number else "a number"
        case inspect.DateTimeType():
            return "" if _is_time(value) else "a time such as 2026-01-31T12:00:00Z"
    return ""


def _is_time(value: Any) -> bool:
    try:
        msgspec.convert(value, datetime)
    except msgspec.ValidationError:
        return False
    return True


@cache
def _fields(cls: type) -> dict[str, inspect.Field]:
    kind = inspect.type_info(cls)
    assert isinstance(kind, inspect.StructType)
    return {field.encode_name: field for field in kind.fields}


def _hint(key: str, fields: Mapping[str, Any]) -> str:
    other = _ELSEWHERE.get(key)
    if other is None:
        return hint(key, fields) or (f"; known here are {', '.join(sorted(fields))}" if len(fields) <= 12 else "")
    if other in fields:
        return f"; here it is {other}"
    return f"; {other}" if " " in other else ""


def _noun(kind: inspect.Type) -> str:
    match kind:
        case inspect.UnionType():
            return _noun(kind.types[0])
        case inspect.StructType() | inspect.DictType():
            return "a mapping"
        case inspect.VarTupleType():
            return "a list"
        case inspect.IntType() | inspect.FloatType():
            return "a number"
        case inspect.EnumType():
            return f"one of {', '.join(str(member.value) for member in kind.cls)}"
        case inspect.CustomType():
            return f"a {kind.cls.__name__.lower()}"
    return "text"


def _wrong(path: str, expected: str, found: Any, more: str = "") -> Fault:
    return Fault(path, f"expected {expected}, found {describe(found)}{more}")
