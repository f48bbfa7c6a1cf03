"""Certificates: who signed them, what they allow, when they are made anew."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shoal.host.pki import LEAF_LIFETIME, ensure_etcd_pki, is_due
from shoal.machinery.pki import BACKDATED, Pair, Subject, issue, make_authority

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOSTS = ("localhost", "127.0.0.1", "10.99.0.1")


@pytest.fixture(scope="module")
def authority() -> Pair:
    return make_authority(Subject("test CA"), NOW)


def usages(pair: Pair) -> set[x509.ObjectIdentifier]:
    return set(pair.parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_certificate_is_valid_from_an_hour_ago(authority: Pair) -> None:
    assert issue(authority, Subject("x"), NOW, LEAF_LIFETIME).parsed.not_valid_before_utc == NOW - BACKDATED


def test_only_the_authority_may_sign(authority: Pair) -> None:
    leaf = issue(authority, Subject("x"), NOW, LEAF_LIFETIME)
    leaf.parsed.verify_directly_issued_by(authority.parsed)
    constraints = [
        pair.parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca for pair in (authority, leaf)
    ]
    assert constraints == [True, False]


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        pytest.param(True, {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}, id="server"),
        pytest.param(False, {ExtendedKeyUsageOID.CLIENT_AUTH}, id="client: it cannot pose as a server"),
    ],
)
def test_usages(authority: Pair, server: bool, expected: set[x509.ObjectIdentifier]) -> None:
    assert usages(issue(authority, Subject("x"), NOW, LEAF_LIFETIME, server=server)) == expected


def test_a_node_is_named_by_uid_role_and_cluster(authority: Pair) -> None:
    subject = issue(authority, Subject("node1", "cluster1", "swarm-manager"), NOW, LEAF_LIFETIME).parsed.subject
    found = {part.oid: part.value for part in subject}
    assert found == {
        NameOID.COMMON_NAME: "node1",
        NameOID.ORGANIZATIONAL_UNIT_NAME: "swarm-manager",
        NameOID.ORGANIZATION_NAME: "cluster1",
    }


@pytest.mark.parametrize(
    ("later", "hosts", "due"),
    [
        pytest.param(timedelta(), HOSTS, False, id="fresh"),
        pytest.param(timedelta(days=4 * 365 - 1), HOSTS, False, id="more than a year left"),
        pytest.param(timedelta(days=4 * 365 + 1), HOSTS, True, id="less than a year left"),
        pytest.param(timedelta(days=6 * 365), HOSTS, True, id="over"),
        pytest.param(timedelta(), ("10.99.0.2",), True, id="the host's address changed"),
        pytest.param(timedelta(), ("localhost",), False, id="it may name more than is wanted"),
    ],
)
def test_when_a_certificate_is_made_anew(authority: Pair, later: timedelta, hosts: tuple[str, ...], due: bool) -> None:
    leaf = issue(authority, Subject("x"), NOW, LEAF_LIFETIME, hosts=HOSTS, server=True)
    assert is_due(leaf.parsed, NOW + later, hosts) is due


def test_what_is_there_and_good_stays(tmp_path: Path) -> None:
    ensure_etcd_pki(tmp_path, NOW, HOSTS)
    before = read(tmp_path)
    ensure_etcd_pki(tmp_path, NOW + timedelta(days=30), HOSTS)
    assert read(tmp_path) == before
    assert set(before) == {f"{name}.{kind}" for name in ("ca", "server", "client") for kind in ("crt", "key")}


def test_every_file_is_private(tmp_path: Path) -> None:
    ensure_etcd_pki(tmp_path / "etcd", NOW, HOSTS)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "etcd").iterdir()} == {0o600}
    assert (tmp_path / "etcd").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("lost", ["ca.crt", "ca.key", "server.crt", "server.key", "client.key"])
def test_a_crash_between_two_files_is_mended(tmp_path: Path, lost: str) -> None:
    ensure_etcd_pki(tmp_path, NOW, HOSTS)
    (tmp_path / lost).unlink()

    ensure_etcd_pki(tmp_path, NOW, HOSTS)

    authority = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    for name in ("server", "client"):
        leaf = x509.load_pem_x509_certificate((tmp_path / f"{name}.crt").read_bytes())
        leaf.verify_directly_issued_by(authority)
        ssl.create_default_context().load_cert_chain(tmp_path / f"{name}.crt", tmp_path / f"{name}.key")


def test_a_key_that_does_not_fit_its_certificate_is_replaced(tmp_path: Path) -> None:
    ensure_etcd_pki(tmp_path, NOW, HOSTS)
    (tmp_path / "server.key").write_bytes((tmp_path / "client.key").read_bytes())

    ensure_etcd_pki(tmp_path, NOW, HOSTS)

    ssl.create_default_context().load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
