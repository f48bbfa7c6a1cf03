"""From the plain data that people and clients send to a checked object. Pure.

The one way in: known kind, short forms in full, strict types, valid values. What the system owns is ignored, so that
what `get -o yaml` shows can be edited and applied again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from shoal.api.errors import Fault, InvalidError
from shoal.api.meta import API_VERSION
from shoal.api.names import hint
from shoal.api.objects import KINDS, Cluster, Config, Network, Node, Object, Secret, Service
from shoal.api.shortforms import expand
from shoal.api.strict import decode, describe
from shoal.api.validation import validate

WRITABLE: Final[dict[str, type[Object]]] = {
    kind.KIND: kind for kind in (Service, Network, Secret, Config, Node, Cluster)
}
"""Kinds that people may write; all others are made from them."""

_IGNORED_META: Final = frozenset({"uid", "createdAt", "updatedAt", "generation", "owner", "schema"})
"""Metadata the system owns. A node keeps its uid: nodes' names need not be unique."""


class Intake(Struct, frozen=True):
    """An object, or what is wrong with it (`faults`); never both."""

    obj: Object | None
    faults: tuple[Fault, ...] = ()


def read_object(plain: Any) -> Object:
    """Return the checked object that plain data spells; InvalidError with every fault."""
    found = examine(plain)
    if found.obj is None:
        raise InvalidError(found.faults)
    return found.obj


def examine(plain: Any) -> Intake:
    """Like `read_object`, with the faults returned instead of raised."""
    plain = _without_nulls_at_top(plain)
    kind, faults = _kind_of(plain)
    if kind is None:
        return Intake(None, faults)
    found = _examine(kind, plain, faults)
    return found if kind is not Secret else Intake(found.obj, tuple(map(_unquoted, found.faults)))


def _unquoted(fault: Fault) -> Fault:
    """Leave out what was found in a secret's spec: it may be the secret."""
    if not fault.path.startswith("spec"):
        return fault
    return Fault(fault.path, fault.message.partition(", found ")[0], fault.file, fault.line, fault.object)


def _examine(kind: type[Object], plain: Any, faults: tuple[Fault, ...]) -> Intake:
    full, short_faults = expand(_without_system_fields(kind, plain))
    try:
        obj = decode(kind, full)
    except InvalidError as error:
        faults = _merge(faults + short_faults, error.faults)
        return Intake(None, faults + _rest_faults(kind, full, faults))
    faults = _merge(faults + short_faults, tuple(validate(obj)))
    return Intake(None, faults) if faults else Intake(obj)


def _without_nulls_at_top(plain: Any) -> Any:
    return {key: value for key, value in plain.items() if value is not None} if isinstance(plain, Mapping) else plain


def _kind_of(plain: Any) -> tuple[type[Object] | None, tuple[Fault, ...]]:
    if not isinstance(plain, Mapping):
        return None, (
            Fault("", f"expected an object with apiVersion, kind, metadata and spec, found {describe(plain)}"),
        )
    known = f"known are {', '.join(WRITABLE)}"
    faults: list[Fault] = []
    version, name = plain.get("apiVersion"), plain.get("kind")
    if version is None:
        faults.append(Fault("apiVersion", f"missing; expected {API_VERSION}"))
    elif version != API_VERSION:
        faults.append(Fault("apiVersion", f"found {describe(version)}, expected {API_VERSION}"))
    if name is None:
        faults.append(Fault("kind", f"missing; {known}"))
    elif not isinstance(name, str) or name not in KINDS:
        more = hint(name, WRITABLE) if isinstance(name, str) else ""
        faults.append(Fault("kind", f"found {describe(name)}, which is no kind; {known}{more}"))
    elif name not in WRITABLE:
        faults.append(Fault("kind", f"{name} objects are made by Shoal itself and cannot be applied; {known}"))
    usable = isinstance(name, str) and name in WRITABLE
    return (WRITABLE[str(name)] if usable else None), tuple(faults)


def _without_system_fields(kind: type[Object], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Drop status and the system's metadata; read a resource version that came as text."""
    kept = {key: value for key, value in plain.items() if key != "status"}
    kept["apiVersion"] = API_VERSION
    meta = plain.get("metadata")
    if isinstance(meta, Mapping):
        ignored = _IGNORED_META - {"uid"} if kind is Node else _IGNORED_META
        meta = {key: value for key, value in meta.items() if key not in ignored}
        version = meta.get("resourceVersion")
        if isinstance(version, str) and version.isdecimal():
            meta["resourceVersion"] = int(version)
        kept["metadata"] = meta
    return kept


def _rest_faults(kind: type[Object], full: Mapping[str, Any], faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    """Judge the values of the fields that could be read, although others could not."""
    parts = {part: full.get(part) for part in ("metadata", "spec")}
    bad = {re.split(r"[.\[]", fault.path)[1] for fault in faults if fault.path.startswith(("metadata.", "spec."))}
    left: dict[str, Any] = {
        part: {key: value for key, value in fields.items() if key not in bad} if isinstance(fields, Mapping) else {}
        for part, fields in parts.items()
    }
    if kind is Service:
        left["metadata"].setdefault("name", "unnamed")
        left["spec"].setdefault("image", "unnamed")
    try:
        obj = decode(kind, {"kind": kind.KIND, **left})
    except InvalidError:
        return ()
    return _merge(faults, tuple(validate(obj)))[len(faults) :]


def _merge(first: tuple[Fault, ...], second: tuple[Fault, ...]) -> tuple[Fault, ...]:
    """What lies at or below a path already found wrong is not judged again by a later stage."""
    wrong = [fault.path for fault in first if fault.path]
    return first + tuple(fault for fault in second if not any(_is_at_or_below(fault.path, path) for path in wrong))


def _is_at_or_below(path: str, other: str) -> bool:
    return path.startswith(other) and path[len(other) :][:1] in ("", ".", "[")
