"""Sealing: what must not lie in the store in the clear, encrypted with the cluster key (AES-256-GCM).

A sealed text is `v1:` and base64 of a random 12-byte nonce and the ciphertext with its tag. The context says what the
secret is and whose (`cluster/<uid>/ca-key`); it is authenticated, so that one sealed value cannot take another's place.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shoal.api.errors import TerminalError

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_VERSION: Final = "v1:"


def seal(key: bytes, plaintext: bytes, context: str) -> str:
    """Encrypt; each call gives another text."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = AESGCM(key).encrypt(nonce, plaintext, context.encode())
    return _VERSION + base64.b64encode(nonce + sealed).decode()


def unseal(key: bytes, sealed: str, context: str) -> bytes:
    """Decrypt; TerminalError if it was sealed with another key, for another purpose, or altered since."""
    try:
        raw = base64.b64decode(sealed.removeprefix(_VERSION), validate=True)
        return AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], context.encode())
    except (InvalidTag, binascii.Error, ValueError) as error:
        raise TerminalError(
            f"{context} cannot be unsealed: it was sealed with another cluster key, or altered"
        ) from error
