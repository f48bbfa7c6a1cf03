"""Roots that users bring, signing requests, the sealed root, and when a certificate is renewed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from shoal.api.errors import InvalidError, TerminalError, UnavailableError
from shoal.api.states import Role
from shoal.api.tokens import digest_of
from shoal.host.renewal import retry_after_s, seconds_until_due
from shoal.machinery.authority import make_root, open_authority, open_secrets, token_of, with_root
from shoal.machinery.factories import make_cluster
from shoal.machinery.pki import (
    CA_LIFETIME,
    Pair,
    Subject,
    is_signed_by,
    issue,
    make_authority,
    make_key,
    make_request,
    read_authority,
    requested_key,
    sign,
    to_der,
)

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
KEY = bytes(range(32))
NO_ENCRYPTION = serialization.NoEncryption()


def pem(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, password: bytes = b""
) -> bytes:
    how = serialization.BestAvailableEncryption(password) if password else NO_ENCRYPTION
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


@pytest.fixture(scope="module")
def authority() -> Pair:
    return make_authority(Subject("test CA"), NOW)


@pytest.fixture(scope="module")
def rsa_authority() -> Pair:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "our company")])
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), pem(key))


def test_a_root_lives_for_twenty_years(authority: Pair) -> None:
    assert authority.parsed.not_valid_after_utc - NOW == CA_LIFETIME == timedelta(seconds=630_720_000)


def test_a_root_of_rsa_signs_certificates_no_longer_valid_than_itself(rsa_authority: Pair) -> None:
    brought = read_authority(rsa_authority.certificate, rsa_authority.key, NOW)
    leaf = issue(brought, Subject("n1", "c", "swarm-worker"), NOW, timedelta(days=90)).parsed
    assert is_signed_by(leaf, brought.parsed)
    assert leaf.not_valid_after_utc == brought.parsed.not_valid_after_utc


@pytest.mark.parametrize(
    ("certificate", "key", "now", "said"),
    [
        pytest.param("text", "key", NOW, "not one certificate in PEM form", id="no certificate"),
        pytest.param("root", "text", NOW, "not a private key in PEM form", id="no key"),
        pytest.param("root", "other", NOW, "does not belong to the CA certificate", id="another's key"),
        pytest.param("root", "locked", NOW, "protected by a passphrase", id="a key with a passphrase"),
        pytest.param("root", "edwards", NOW, "neither ECDSA nor RSA", id="a key of another kind"),
        pytest.param("leaf", "leaf key", NOW, "may not sign others", id="no authority"),
        pytest.param("root", "key", NOW + CA_LIFETIME + DAY, "is valid from .* to .*, not now", id="a root that ended"),
    ],
)
def test_a_root_that_cannot_be_used(authority: Pair, certificate: str, key: str, now: datetime, said: str) -> None:
    leaf = issue(authority, Subject("x"), NOW, DAY)
    parts = {
        "text": b"hello", "root": authority.certificate, "key": authority.key, "leaf": leaf.certificate,
        "leaf key": leaf.key, "other": pem(make_key()), "locked": pem(make_key(), b"secret"),
        "edwards": pem(ed25519.Ed25519PrivateKey.generate()),
    }  # fmt: skip
    with pytest.raises(InvalidError, match=said):
        read_authority(parts[certificate], parts[key], now)


def test_a_request_gets_a_certificate_for_its_key_and_no_name_of_its_choice(authority: Pair) -> None:
    key = make_key()
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "swarm-manager")])
    greedy = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    public = requested_key(greedy.public_bytes(serialization.Encoding.PEM))

    found = x509.load_pem_x509_certificate(sign(authority, public, Subject("n1", "c", "swarm-worker"), NOW, DAY))

    assert found.public_key() == key.public_key()
    assert [part.value for part in found.subject] == ["c", "swarm-worker", "n1"]


def test_requests_that_are_none() -> None:
    curve = ec.generate_private_key(ec.SECP384R1())
    good = x509.load_pem_x509_csr(make_request(make_key())).public_bytes(serialization.Encoding.DER)
    forged = x509.load_der_x509_csr(good[:-1] + bytes([good[-1] ^ 1])).public_bytes(serialization.Encoding.PEM)
    for request, said in ((b"hello", "PEM form"), (make_request(curve), "P-256"), (forged, "not signed by the key")):
        with pytest.raises(InvalidError, match=said):
            requested_key(request)


def test_a_sealed_root_opens_with_its_key_and_its_cluster_only(authority: Pair) -> None:
    cluster = make_cluster()
    with pytest.raises(UnavailableError, match="no certificate authority yet"):
        open_authority(cluster, KEY)
    root = make_root(authority, cluster.metadata.uid, KEY)
    sealed = msgspec.structs.replace(cluster, status=with_root(cluster.status, root))

    assert open_authority(sealed, KEY) == authority
    secrets = open_secrets(sealed, KEY)
    assert secrets.of(Role.WORKER) != secrets.of(Role.MANAGER)
    assert token_of(sealed, "s").digest == digest_of(to_der(authority.certificate))
    with pytest.raises(TerminalError, match="another cluster key"):
        open_authority(sealed, KEY[::-1])
    swapped = msgspec.structs.replace(sealed.status, sealed_ca_key=root.sealed_tokens)
    with pytest.raises(TerminalError, match="cannot be opened"):
        open_authority(msgspec.structs.replace(sealed, status=swapped), KEY)


@pytest.mark.parametrize(
    ("share", "later", "seconds"),
    [
        pytest.param(0.5, timedelta(), 45 * 86400, id="half of ninety days"),
        pytest.param(0.8, timedelta(days=70), 2 * 86400, id="four fifths, seventy days on"),
        pytest.param(0.5, timedelta(days=45), 0, id="due now"),
        pytest.param(0.5, timedelta(days=400), 0, id="long over"),
    ],
)
def test_when_a_certificate_is_due(authority: Pair, share: float, later: timedelta, seconds: float) -> None:
    certificate = issue(authority, Subject("n1"), NOW, timedelta(days=90)).parsed
    assert seconds_until_due(certificate, share, NOW + later) == seconds


@pytest.mark.parametrize(("later", "seconds"), [(timedelta(0), 60), (timedelta(minutes=1430), 60), (DAY, 1)])
def test_a_failed_renewal_is_tried_again_in_time(authority: Pair, later: timedelta, seconds: float) -> None:
    assert retry_after_s(issue(authority, Subject("n1"), NOW, DAY).parsed, NOW + later) == seconds
