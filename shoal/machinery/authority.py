"""The cluster's root: its certificate in the clear, its key and the secrets of its join tokens sealed.

Made once, when a cluster is founded; opened by API servers only.
"""

from __future__ import annotations

import secrets

import msgspec
from msgspec import Struct

from shoal.api.errors import TerminalError, UnavailableError
from shoal.api.meta import uid_from
from shoal.api.objects import Cluster, ClusterStatus
from shoal.api.states import Role
from shoal.api.tokens import Token, digest_of
from shoal.machinery.pki import Pair, to_der
from shoal.machinery.sealing import seal, unseal


class Root(Struct, frozen=True, rename="camel"):
    """A root as the Cluster object holds it."""

    ca_certificate: str
    sealed_ca_key: str
    sealed_tokens: str


class Secrets(Struct, frozen=True):
    """What proves that somebody may join: one per role."""

    worker: str
    manager: str

    def of(self, role: Role) -> str:
        return self.manager if role is Role.MANAGER else self.worker


def fresh_secret() -> str:
    return uid_from(secrets.token_bytes(16))


def make_root(authority: Pair, cluster_uid: str, key: bytes) -> Root:
    """Seal an authority and fresh join secrets for a new cluster."""
    return Root(
        authority.certificate.decode(),
        seal(key, authority.key, _context(cluster_uid, "ca-key")),
        seal_secrets(Secrets(fresh_secret(), fresh_secret()), cluster_uid, key),
    )


def with_root(status: ClusterStatus, root: Root) -> ClusterStatus:
    return msgspec.structs.replace(status, **msgspec.structs.asdict(root))


def seal_secrets(found: Secrets, cluster_uid: str, key: bytes) -> str:
    return seal(key, msgspec.json.encode(found), _context(cluster_uid, "tokens"))


def open_authority(cluster: Cluster, key: bytes) -> Pair:
    """Return the authority; UnavailableError where the cluster has none, TerminalError where the key does not fit."""
    if not cluster.status.sealed_ca_key:
        raise UnavailableError("this cluster has no certificate authority yet")
    return Pair(cluster.status.ca_certificate.encode(), _opened(key, cluster.status.sealed_ca_key, cluster, "ca-key"))


def open_secrets(cluster: Cluster, key: bytes) -> Secrets:
    """Return the secrets of the join tokens; errors as `open_authority`."""
    if not cluster.status.sealed_tokens:
        raise UnavailableError("this cluster has no join tokens yet")
    return msgspec.json.decode(_opened(key, cluster.status.sealed_tokens, cluster, "tokens"), type=Secrets)


def token_of(cluster: Cluster, secret: str) -> Token:
    return Token(digest_of(to_der(cluster.status.ca_certificate.encode())), secret)


def _opened(key: bytes, sealed: str, cluster: Cluster, what: str) -> bytes:
    try:
        return unseal(key, sealed, _context(cluster.metadata.uid, what))
    except ValueError as error:
        raise TerminalError(str(error)) from error


def _context(cluster_uid: str, what: str) -> str:
    return f"cluster/{cluster_uid}/{what}"
