"""Certificates: an authority of its own for etcd, later another one for nodes. ECDSA P-256.

Everything is valid from an hour before it was made, since hosts' clocks differ. Key files are 0600 and written whole.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shoal.host.files import make_private, write_atomic

BACKDATED = timedelta(hours=1)
"""Tolerated difference of two hosts' clocks."""

CA_LIFETIME = timedelta(days=20 * 365)
LEAF_LIFETIME = timedelta(days=5 * 365)
"""Etcd's certificates never leave the managers; they are made anew at a start with less than RENEW_WITHIN left."""

RENEW_WITHIN = timedelta(days=365)


@dataclass(frozen=True)
class Subject:
    """Who a certificate names: for a node, common name = node uid, unit = its role, organisation = cluster uid."""

    common_name: str
    organisation: str = ""
    unit: str = ""

    def as_name(self) -> x509.Name:
        parts = (
            (NameOID.ORGANIZATION_NAME, self.organisation),
            (NameOID.ORGANIZATIONAL_UNIT_NAME, self.unit),
            (NameOID.COMMON_NAME, self.common_name),
        )
        return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts if text])


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes

    @property
    def parsed(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate)

    def signing_key(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(self.key, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key


def make_authority(subject: Subject, now: datetime) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = subject.as_name()
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _builder(name, name, key.public_key(), now, CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def issue(authority: Pair, subject: Subject, now: datetime, *, hosts: Iterable[str] = (), server: bool = False) -> Pair:
    """Make a key and a certificate for it. Servers are clients too: etcd's members speak to each other."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.parsed
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        _builder(subject.as_name(), issuer.subject, key.public_key(), now, LEAF_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.signing_key().public_key()), critical=False
        )
    )
    names = [_general_name(host) for host in hosts]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _pair(builder.sign(authority.signing_key(), hashes.SHA256()), key)


def is_due(certificate: x509.Certificate, now: datetime, hosts: Iterable[str] = ()) -> bool:
    """Tell whether a certificate must be made anew: it ends within a year, or does not name one of `hosts`."""
    if certificate.not_valid_after_utc - now < RENEW_WITHIN:
        return True
    wanted = {_general_name(host) for host in hosts}
    try:
        named = set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        named = set()
    return not wanted <= named


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
        if held is None or not _is_signed_by(held, authority) or is_due(held.parsed, now, wanted):
            _save(folder, name, issue(authority, Subject(f"shoal etcd {name}"), now, hosts=wanted, server=server))


def _is_signed_by(held: Pair, authority: Pair) -> bool:
    try:
        held.parsed.verify_directly_issued_by(authority.parsed)
    except (InvalidSignature, ValueError):
        return False
    return held.signing_key().public_key() == held.parsed.public_key()


def _load(folder: Path, name: str) -> Pair | None:
    try:
        return Pair((folder / f"{name}.crt").read_bytes(), (folder / f"{name}.key").read_bytes())
    except FileNotFoundError:
        return None


def _save(folder: Path, name: str, pair: Pair) -> None:
    write_atomic(folder / f"{name}.key", pair.key)
    write_atomic(folder / f"{name}.crt", pair.certificate)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
