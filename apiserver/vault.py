"""What only API servers can do: seal and open the data of secrets and registry credentials with the cluster key.

A sealed text is bound to the kind, the name and the uid of what holds it. Plain data exists only while a request or
a message to an agent is made; nobody keeps it.
"""

from __future__ import annotations

import base64
from typing import Final

import msgspec

from shoal.api import objects as o
from shoal.machinery import sealing

Sealed = o.Secret | o.Credential
SEALED: Final = (o.Secret, o.Credential)


class Vault:
    """`key` is the cluster key. ValueError, without any of the data, where something cannot be sealed or opened."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sealed(self, obj: o.Object) -> o.Object:
        """Return the object as it is stored: its base64 data sealed, if it is of a kind whose data is."""
        if not isinstance(obj, SEALED):
            return obj
        return _with_data(obj, sealing.seal(self._key, base64.b64decode(obj.spec.data), _context(obj)))

    def opened(self, obj: Sealed) -> o.Object:
        """Return a stored object with its data in base64: what an agent is sent, and nobody else."""
        plain = sealing.unseal(self._key, obj.spec.data, _context(obj))
        return _with_data(obj, base64.b64encode(plain).decode())


NO_VAULT: Final = Vault(b"")
"""Opens and seals nothing."""


def shown(obj: o.Object) -> o.Object:
    """Return what people may see of an object: never the data of a secret or credential, sealed or not."""
    return _with_data(obj, "") if isinstance(obj, SEALED) else obj


def _with_data(obj: Sealed, data: str) -> o.Object:
    return msgspec.structs.replace(obj, spec=msgspec.structs.replace(obj.spec, data=data))


def _context(obj: Sealed) -> str:
    return f"{obj.KIND.lower()}/{obj.metadata.name}/{obj.metadata.uid}"
