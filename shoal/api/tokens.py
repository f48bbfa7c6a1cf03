"""Join tokens: `SWMTKN-1-<digest of the root certificate>-<secret>`, as Swarm's. Pure.

The digest lets a joining host check whom it speaks to, the secret lets the managers check who speaks to them.
"""

from __future__ import annotations

import hashlib
from typing import Final

from msgspec import Struct

from shoal.api.errors import InvalidError
from shoal.api.meta import UID_LENGTH

PREFIX: Final = "SWMTKN"
VERSION: Final = "1"

DIGEST_LENGTH: Final = 50
"""Base-36 characters of a SHA-256."""

SECRET_LENGTH: Final = UID_LENGTH
"""Base-36 characters of 16 random bytes."""

_BASE36: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


class Token(Struct, frozen=True):
    digest: str
    secret: str

    def __str__(self) -> str:
        return f"{PREFIX}-{VERSION}-{self.digest}-{self.secret}"


def digest_of(certificate: bytes) -> str:
    """Spell the SHA-256 of a root certificate (DER) as a token does."""
    number, text = int.from_bytes(hashlib.sha256(certificate).digest(), "big"), ""
    for _ in range(DIGEST_LENGTH):
        number, digit = divmod(number, 36)
        text = _BASE36[digit] + text
    return text


def parse_token(text: str) -> Token:
    """Read a token; InvalidError says what is wrong, without repeating a secret."""
    parts = text.strip().split("-")
    if len(parts) != 4 or parts[0] != PREFIX:
        raise InvalidError(
            f"this is no join token: expected {PREFIX}-{VERSION}-<digest>-<secret>; `shoal token` has it"
        )
    _, version, digest, secret = parts
    if version != VERSION:
        raise InvalidError(f"a join token of version {version[:8]!r} is not understood; expected {PREFIX}-{VERSION}-…")
    for what, found, length in (("digest", digest, DIGEST_LENGTH), ("secret", secret, SECRET_LENGTH)):
        if len(found) != length or not set(found) <= set(_BASE36):
            raise InvalidError(
                f"the join token is damaged: its {what} has {len(found)} characters of 0-9 and a-z, expected {length}"
                if set(found) <= set(_BASE36)
                else f"the join token is damaged: its {what} may hold 0-9 and a-z only"
            )
    return Token(digest, secret)
