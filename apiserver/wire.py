"""Bytes on the wire: objects as they are stored, joined into lists and watch lines without being encoded again. Pure.

A stored object begins `{"kind":"…","apiVersion":"shoal/v1","metadata":{` and, where its kind has a status, ends
`"status":{…}}`, because `shoal.api.codec` writes it so. Both ends are spliced; whatever looks otherwise (written by
hand, or by newer code) is decoded and encoded instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

_METADATA: Final = b'"apiVersion":"shoal/v1","metadata":{'
_FARTHEST: Final = 48
"""Bytes: `{"kind":"…",` is shorter for every kind, so a later match is no object's head."""
_EMPTY_STATUS: Final = b'"status":{}}'

_STATUS_LAST: Final = tuple(
    b'{"kind":"%b","apiVersion":"shoal/v1","metadata":{' % kind for kind in (b"Service", b"Network")
)

PIECE_BYTES: Final = 16 << 10
"""What is handed to a connection at once, a TLS record. Python's TLS keeps for good, per connection, as much memory as
was ever written at once: with the complete sets of a thousand agents, of half a megabyte each, half a gigabyte."""

encode = msgspec.json.encode


def pieces(line: bytes) -> Iterator[bytes | memoryview]:
    """Split what is to be written; a line that is small enough as it is."""
    if len(line) <= PIECE_BYTES:
        yield line
        return
    whole = memoryview(line)
    for at in range(0, len(line), PIECE_BYTES):
        yield whole[at : at + PIECE_BYTES]


def spliced(raw: bytes, version: int) -> bytes:
    """Return a stored object with `metadata.resourceVersion` put into it."""
    at = raw.find(_METADATA, 0, _FARTHEST + len(_METADATA))
    if at < 0 or not raw.startswith(b'{"kind":"'):
        return _slowly(raw, version)
    at += len(_METADATA)
    comma = b"" if raw[at : at + 1] == b"}" else b","
    return b'%b"resourceVersion":%d%b%b' % (raw[:at], version, comma, raw[at:])


def _slowly(raw: bytes, version: int) -> bytes:
    document: dict[str, Any] = msgspec.json.decode(raw)
    document["metadata"] = {**document.get("metadata", {}), "resourceVersion": version}
    return encode(document)


def joined_status(wire: bytes, extra: bytes) -> bytes:
    """Add members to the status of an object: `extra` is a JSON object whose members come last."""
    inner = extra[1:-1]
    if not inner:
        return wire
    if wire.endswith(_EMPTY_STATUS):
        return wire[:-2] + inner + b"}}"
    if b'"status":{' in wire and wire.endswith(b"}}") and _status_is_last(wire):
        return wire[:-2] + b"," + inner + b"}}"
    document: dict[str, Any] = msgspec.json.decode(wire)
    document["status"] = {**document.get("status", {}), **msgspec.json.decode(extra)}
    return encode(document)


def _status_is_last(wire: bytes) -> bool:
    """Whether the object closed by the last two braces is the status, by the codec's field order."""
    return wire.startswith(_STATUS_LAST)


def listing(kind: str, version: int, items: Iterable[bytes], more: str = "") -> bytes:
    """Join objects into `{"kind": "ServiceList", "resourceVersion", "continue", "items": […]}`."""
    head = b'{"kind":"%bList","apiVersion":"shoal/v1","resourceVersion":%d,"continue":%b,"items":[' % (
        kind.encode(), version, encode(more),
    )  # fmt: skip
    return b"%b%b]}" % (head, b",".join(items))


def put_line(key: str, version: int, wire: bytes) -> bytes:
    return b'{"type":"put","resourceVersion":%d,"key":%b,"object":%b}\n' % (version, encode(key), wire)


def delete_line(key: str, version: int) -> bytes:
    return b'{"type":"delete","resourceVersion":%d,"key":%b}\n' % (version, encode(key))


def bookmark_line(version: int) -> bytes:
    return b'{"type":"bookmark","resourceVersion":%d}\n' % version


def error_line(reason: str, message: str) -> bytes:
    return encode({"type": "error", "reason": reason, "message": message}) + b"\n"
