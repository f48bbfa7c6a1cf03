"""Certificates: authorities, and what they sign. ECDSA P-256; a root brought by a user may be RSA.

Everything is valid from an hour before it was made, since hosts' clocks differ.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shoal.api.errors import InvalidError

BACKDATED = timedelta(hours=1)
"""Tolerated difference of two hosts' clocks."""

CA_LIFETIME = timedelta(days=20 * 365)
"""630,720,000 seconds, as Swarm's."""

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


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

    def signing_key(self) -> SigningKey:
        key = serialization.load_pem_private_key(self.key, None)
        assert isinstance(key, SigningKey)
        return key


def make_authority(subject: Subject, now: datetime) -> Pair:
    key = make_key()
    name = subject.as_name()
    certificate = (
        _builder(name, name, key.public_key(), now - BACKDATED, now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(to_pem(certificate), key_to_pem(key))


def read_authority(certificate: bytes, key: bytes, now: datetime) -> Pair:
    """Read an authority that a user brings; InvalidError says why it cannot sign nodes' certificates."""
    try:
        parsed = x509.load_pem_x509_certificate(certificate)
    except ValueError as error:
        raise InvalidError("the CA certificate is not one certificate in PEM form") from error
    try:
        private = serialization.load_pem_private_key(key, None)
    except TypeError as error:
        raise InvalidError("the CA's key is protected by a passphrase: give it in the clear") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidError("the CA's key is not a private key in PEM form") from error
    if not isinstance(private, SigningKey):
        raise InvalidError("the CA's key is neither ECDSA nor RSA")
    if private.public_key() != parsed.public_key():
        raise InvalidError("the CA's key does not belong to the CA certificate")
    try:
        is_authority = parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_authority = False
    if not is_authority:
        raise InvalidError("the CA certificate may not sign others: its basic constraints do not say CA")
    if not parsed.not_valid_before_utc <= now <= parsed.not_valid_after_utc:
        until = f"{parsed.not_valid_before_utc:%Y-%m-%d} to {parsed.not_valid_after_utc:%Y-%m-%d}"
        raise InvalidError(f"the CA certificate is valid from {until}, not now")
    return Pair(to_pem(parsed), key_to_pem(private))


def issue(
    authority: Pair, subject: Subject, now: datetime, lifetime: timedelta, *,
    hosts: Iterable[str] = (), server: bool = False,
) -> Pair:  # fmt: skip
    """Make a key and a certificate for it."""
    key = make_key()
    return Pair(sign(authority, key.public_key(), subject, now, lifetime, hosts=hosts, server=server), key_to_pem(key))


def sign(
    authority: Pair, public: ec.EllipticCurvePublicKey, subject: Subject, now: datetime, lifetime: timedelta, *,
    hosts: Iterable[str] = (), server: bool = False,
) -> bytes:  # fmt: skip
    """Return a certificate (PEM) for a public key, never longer valid than its authority. Servers are clients too."""
    issuer, signer = authority.parsed, authority.signing_key()
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
    until = min(now + lifetime, issuer.not_valid_after_utc)
    builder = (
        _builder(subject.as_name(), issuer.subject, public, now - BACKDATED, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    names = [general_name(host) for host in hosts]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return to_pem(builder.sign(signer, hashes.SHA256()))


def make_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a signing request (PEM): the key alone; the authority decides whose it is."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def requested_key(request: bytes) -> ec.EllipticCurvePublicKey:
    """Return the key a signing request is about; InvalidError if it is none of ours or not signed by its key."""
    try:
        parsed = x509.load_pem_x509_csr(request)
        public = parsed.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidError("csr: not a certificate signing request in PEM form") from error
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise InvalidError("csr: expected an ECDSA P-256 key")
    if not parsed.is_signature_valid:
        raise InvalidError("csr: not signed by the key it is about")
    return public


def make_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def names_of(certificate: x509.Certificate) -> set[x509.GeneralName]:
    """Return the hosts a certificate is for."""
    try:
        return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return set()


def general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def to_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def to_der(certificate: bytes) -> bytes:
    """Turn a certificate in PEM form into its DER form: what digests are taken of."""
    return x509.load_pem_x509_certificate(certificate).public_bytes(serialization.Encoding.DER)


def public_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_to_pem(key: SigningKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs_certificates, crl_sign=signs_certificates, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    since: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
    )
