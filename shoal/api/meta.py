"""What every object carries, and how objects refer to each other. Pure."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Final

from msgspec import Struct

API_VERSION: Final = "shoal/v1"

SCHEMA: Final = 1
"""The stored form this code writes. An object with a newer one is read leniently and never rewritten."""

UID_LENGTH: Final = 25
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


class Ref(Struct, frozen=True, gc=False):
    """A reference: the uid decides, the name is for people."""

    name: str
    uid: str


class Owner(Struct, frozen=True, gc=False):
    kind: str
    name: str
    uid: str


class Meta(Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """An object's metadata.

    `generation` moves when `spec` moves. `resource_version` is etcd's mod revision: never stored, set by whoever
    decoded the object (0 = not in the store yet).
    """

    name: str = ""
    uid: str = ""
    labels: dict[str, str] = {}
    generation: int = 0
    created_at: datetime | None = None
    updated_at: datetime | None = None
    owner: Owner | None = None
    schema: int = SCHEMA
    resource_version: int = 0


def uid_from(digest: bytes) -> str:
    """Spell the first 128 bits of a digest as a uid of 25 base-36 characters, as Docker's ids."""
    number, text = int.from_bytes(digest[:16], "big"), ""
    for _ in range(UID_LENGTH):
        number, digit = divmod(number, 36)
        text = _BASE36[digit] + text
    return text


def derived_uid(*parts: str) -> str:
    """Return the uid that these parts always give: how pure code names what it creates.

    Uniqueness comes from the parts: an owner's uid is random, and a time or a predecessor tells its children apart.
    """
    return uid_from(hashlib.sha256("\x00".join(parts).encode()).digest())
