"""Certificates on a host's disk: etcd's, of an authority of their own, and a new cluster's root, sealed.

Key files are 0600 and written whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509

from shoal.machinery.authority import Root, make_root
from shoal.machinery.files import make_private, write_atomic
from shoal.machinery.pki import Pair, Subject, general_name, is_signed_by, issue, make_authority, names_of

LEAF_LIFETIME = timedelta(days=5 * 365)
"""Etcd's certificates never leave the managers; they are made anew at a start with less than RENEW_WITHIN left."""

RENEW_WITHIN = timedelta(days=365)


def is_due(certificate: x509.Certificate, now: datetime, hosts: Iterable[str] = ()) -> bool:
    """Tell whether a certificate must be made anew: it ends within a year, or does not name one of `hosts`."""
    if certificate.not_valid_after_utc - now < RENEW_WITHIN:
        return True
    return not {general_name(host) for host in hosts} <= names_of(certificate)


def ensure_etcd_pki(folder: Path, now: datetime, hosts: Iterable[str]) -> None:
    """Have `ca`, `server` and `client` (`.crt` and `.key`) in a folder; what is there and good stays.

    In this order, so that a crash leaves nothing that does not fit its authority.
    """
    hosts = tuple(hosts)
    make_private(folder)
    authority = _load(folder, "ca")
    if authority is None:
        authority = make_authority(Subject("shoal etcd CA"), now)
        _save(folder, "ca", authority)
    for name, wanted, server in (("server", hosts, True), ("client", (), False)):
        held = _load(folder, name)
        if held is None or not _fits(held, authority) or is_due(held.parsed, now, wanted):
            subject = Subject(f"shoal etcd {name}")
            _save(folder, name, issue(authority, subject, now, LEAF_LIFETIME, hosts=wanted, server=server))


def ensure_first_root(path: Path, cluster_uid: str, key: bytes, now: datetime, brought: Pair | None = None) -> Root:
    """Have a new cluster's root in a file, sealed with the cluster key: made here, or brought by the user.

    It is on disk before etcd is asked, so that an init which was interrupted goes on with the same root.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Root)
    except (FileNotFoundError, msgspec.DecodeError):
        authority = brought or make_authority(Subject("swarm-ca"), now)
        root = make_root(authority, cluster_uid, key)
        write_atomic(path, msgspec.json.encode(root))
        return root


def _fits(held: Pair, authority: Pair) -> bool:
    return is_signed_by(held.parsed, authority.parsed) and held.signing_key().public_key() == held.parsed.public_key()


def _load(folder: Path, name: str) -> Pair | None:
    try:
        return Pair((folder / f"{name}.crt").read_bytes(), (folder / f"{name}.key").read_bytes())
    except FileNotFoundError:
        return None


def _save(folder: Path, name: str, pair: Pair) -> None:
    write_atomic(folder / f"{name}.key", pair.key)
    write_atomic(folder / f"{name}.crt", pair.certificate)
