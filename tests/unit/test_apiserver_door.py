"""Who is behind a certificate, how often one may guess, and what the door's address looks like."""

from __future__ import annotations

from typing import Any

import pytest

from apiserver.attempts import MOST_ADDRESSES, MOST_PER_S, Attempts
from apiserver.identity import NOBODY, Identity
from apiserver.listener import identity_in, split_address
from shoal.api.errors import InvalidError
from shoal.api.states import Role


def certificate(cn: str = "n1", ou: str = "swarm-worker", o: str = "c1") -> dict[str, Any]:
    parts = (("organizationName", o), ("organizationalUnitName", ou), ("commonName", cn))
    return {"subject": tuple((part,) for part in parts if part[1]), "notAfter": "Jan  1 00:00:10 1970 GMT"}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        pytest.param(certificate(), Identity(node="n1", role=Role.WORKER, until=10.0), id="a worker"),
        pytest.param(
            certificate(ou="swarm-manager"), Identity(node="n1", role=Role.MANAGER, until=10.0), id="a manager"
        ),
        pytest.param({}, NOBODY, id="no certificate"),
        pytest.param(certificate(o="c2"), NOBODY, id="another cluster's"),
        pytest.param(certificate(o=""), NOBODY, id="no cluster's"),
        pytest.param(certificate(ou="swarm-root"), NOBODY, id="an unknown role"),
        pytest.param(certificate(ou=""), NOBODY, id="no role"),
        pytest.param(certificate(cn=""), NOBODY, id="no node"),
    ],
)
def test_a_certificate_names_a_node_of_this_cluster_or_nobody(shown: dict[str, Any], expected: Identity) -> None:
    assert identity_in(shown, "c1") == expected


def test_before_the_cluster_is_known_everybody_is_nobody() -> None:
    assert identity_in(certificate(o=""), "") == NOBODY


def test_an_address_may_fail_ten_times_a_second_and_others_are_not_held_up() -> None:
    attempts = Attempts()
    for at in range(MOST_PER_S):
        assert attempts.may_try("a", at / 100)
        attempts.failed("a", at / 100)
    assert not attempts.may_try("a", 0.5)
    assert attempts.may_try("b", 0.5)
    assert attempts.may_try("a", 1.001)


def test_a_thousand_addresses_are_remembered_and_no_more() -> None:
    attempts = Attempts()
    for number in range(MOST_ADDRESSES + 10):
        for _ in range(MOST_PER_S):
            attempts.failed(str(number), 0.0)
    assert attempts.may_try("0", 0.0)
    assert not attempts.may_try(str(MOST_ADDRESSES), 0.0)


@pytest.mark.parametrize("address", ["2377", ":2377", "0.0.0.0", "0.0.0.0:", "0.0.0.0:x", "0.0.0.0:65536", "0.0.0.0:0"])
def test_an_address_to_listen_on_has_a_port(address: str) -> None:
    assert split_address("0.0.0.0:2377") == ("0.0.0.0", 2377)
    with pytest.raises(InvalidError, match="expected ADDRESS:PORT"):
        split_address(address)
