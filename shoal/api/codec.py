"""Objects to bytes and back. Pure.

Stored objects are decoded leniently: a field this code does not know is ignored. Therefore an object written by newer
code (a higher `schema`) is never written back: `encode` refuses it.
"""

from __future__ import annotations

from typing import Any, TypeVar, Union

import msgspec

from shoal.api.errors import InvariantError
from shoal.api.keys import kind_at
from shoal.api.meta import SCHEMA, Meta
from shoal.api.objects import KINDS, Object
from shoal.api.units import Bytes, Cpus, Duration

T = TypeVar("T", bound=Object)
_UNITS = (Duration, Bytes, Cpus)


def enc_hook(value: Any) -> Any:
    """Spell what msgspec does not know: durations and sizes as text, CPUs as a number."""
    if isinstance(value, Cpus):
        whole, rest = divmod(int(value), 1_000_000_000)
        return float(str(value)) if rest else whole
    if isinstance(value, _UNITS):
        return str(value)
    raise NotImplementedError(type(value))


def dec_hook(kind: type, raw: Any) -> Any:
    if kind in _UNITS:
        return kind.parse(raw)
    raise NotImplementedError(kind)


_encoder = msgspec.json.Encoder(enc_hook=enc_hook)
_decoders: dict[type[Object], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind, dec_hook=dec_hook) for kind in KINDS.values()
}
_any_decoder: msgspec.json.Decoder[Object] = msgspec.json.Decoder(Union[tuple(KINDS.values())], dec_hook=dec_hook)  # noqa: UP007  made of data


def encode(obj: Object) -> bytes:
    """Return the stored form; the resource version is not part of it."""
    meta = obj.metadata
    if meta.schema > SCHEMA:
        raise InvariantError(f"{obj.KIND} {meta.name} was written by newer code (schema {meta.schema}); not rewritten")
    if meta.resource_version:
        obj = msgspec.structs.replace(obj, metadata=msgspec.structs.replace(meta, resource_version=0))
    return _encoder.encode(obj)


def decode(kind: type[T], raw: bytes, revision: int = 0) -> T:
    """Read a stored object and note the revision it was written at. ValueError if it is not one."""
    obj: T = _decoders[kind].decode(raw)
    if revision:
        msgspec.structs.force_setattr(obj.metadata, "resource_version", revision)
    return obj


def decode_at(key: str, raw: bytes, revision: int = 0) -> Object | None:
    """Read whatever lies at a key; None where no kind of ours does."""
    kind = kind_at(key)
    return None if kind is None else decode(kind, raw, revision)


def decode_any(raw: bytes | msgspec.Raw) -> Object:
    """Read an object of whatever kind, with the resource version it shows. ValueError if it is not one."""
    return _any_decoder.decode(raw)


def to_builtins(value: Any) -> Any:
    """Return plain dicts and lists, as `get -o yaml` shows them."""
    return msgspec.to_builtins(value, enc_hook=enc_hook)


def with_meta(obj: T, **changes: Any) -> T:
    """Return the object with some metadata replaced."""
    meta: Meta = msgspec.structs.replace(obj.metadata, **changes)
    return msgspec.structs.replace(obj, metadata=meta)
