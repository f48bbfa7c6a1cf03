"""Seals small secrets with the cluster key, so that what reaches etcd, its log and its backups says nothing.

AES-256-GCM with a fresh random nonce. The context (what the secret is, and whose) is authenticated with it: a sealed
text that was moved to another object does not open there.

Source: NIST SP 800-38D; a random 96-bit nonce is safe for 2^32 texts under one key.
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32

_FORM: Final = "sealed1:"
"""How a sealed text begins; another form would get another number."""

_NONCE_BYTES: Final = 12


def seal(key: bytes, plaintext: bytes, context: str) -> str:
    """Return text that only `unseal` with the same key and context opens. ValueError for a key of a wrong length."""
    nonce = os.urandom(_NONCE_BYTES)
    sealed = _cipher(key).encrypt(nonce, plaintext, context.encode())
    return _FORM + base64.b64encode(nonce + sealed).decode()


def unseal(key: bytes, sealed: str, context: str) -> bytes:
    """Return the plain bytes. ValueError, which never quotes the text, if it was not sealed with this key and context.

    The context is the one the text was sealed with: kind, name and uid of what holds it, as in `secret/db/4k…`.
    """
    if not is_sealed(sealed):
        raise ValueError(f"{context} is not sealed as expected: it does not begin with {_FORM}")
    cipher = _cipher(key)
    try:
        raw = base64.b64decode(sealed.removeprefix(_FORM), validate=True).rjust(_NONCE_BYTES, b"\0")
        return cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], context.encode())
    except (InvalidTag, binascii.Error):
        raise ValueError(
            f"{context} cannot be opened: it was sealed with another cluster key, for another object, or was altered"
        ) from None


def is_sealed(text: str) -> bool:
    """Whether a text looks like what `seal` returns."""
    return text.startswith(_FORM)


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:
        raise ValueError(f"the cluster key has {len(key)} bytes, expected {KEY_BYTES}")
    return AESGCM(key)
