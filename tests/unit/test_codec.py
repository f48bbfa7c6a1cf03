"""Objects and their stored form."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from shoal.api.codec import decode, decode_at, encode, to_builtins, with_meta
from shoal.api.errors import InvariantError
from shoal.api.meta import SCHEMA, Meta, derived_uid, uid_from
from shoal.api.objects import Node, NodeDescription, NodeState, NodeStatus, Service, ServiceSpec
from shoal.api.template import Limits, Resources, Restart
from shoal.api.units import Bytes, Cpus, Duration

WEB = Service(
    metadata=Meta(name="web", uid="u" * 25, created_at=datetime(2026, 1, 2, tzinfo=UTC)),
    spec=ServiceSpec(
        image="nginx:1.27",
        resources=Resources(limits=Limits(cpus=Cpus(200_000_000), memory=Bytes(1 << 30))),
        restart=Restart(delay=Duration.of(5)),
    ),
)


def test_the_stored_form_is_readable_json_in_human_units() -> None:
    found = json.loads(encode(WEB))
    assert list(found)[:3] == ["kind", "apiVersion", "metadata"]
    assert found["spec"]["resources"]["limits"] == {"cpus": 0.2, "memory": "1G"}
    assert found["spec"]["restart"] == {"delay": "5s"}


def test_parts_that_were_not_given_are_not_stored() -> None:
    assert b"healthcheck" not in encode(WEB)
    assert b"condition" not in encode(WEB)


def test_an_object_survives_its_stored_form_and_gets_its_revision() -> None:
    again = decode(Service, encode(WEB), revision=42)
    assert again.metadata.resource_version == 42
    assert with_meta(again, resource_version=0) == WEB
    assert b"resourceVersion" not in encode(again)


def test_an_unknown_stored_field_is_ignored() -> None:
    raw = json.dumps({**json.loads(encode(WEB)), "invented": 1}).encode()
    assert decode(Service, raw) == WEB


def test_an_object_written_by_newer_code_is_never_written_back() -> None:
    with pytest.raises(InvariantError, match="newer code"):
        encode(with_meta(WEB, schema=SCHEMA + 1))


def test_a_foreign_key_holds_no_object() -> None:
    assert decode_at("/registry/pods/x", b"{}") is None
    assert decode_at("/shoal/services/web", encode(WEB)) == WEB


def test_plain_data_spells_units_for_people() -> None:
    node = Node(
        metadata=Meta(name="n"),
        status=NodeStatus(
            state=NodeState.READY, description=NodeDescription(cpus=Cpus(2 * 10**9), memory=Bytes(2 << 30))
        ),
    )
    assert to_builtins(node)["status"]["description"] == {"cpus": 2, "memory": "2G"}


def test_uids_are_25_characters_of_base_36_and_follow_from_their_parts() -> None:
    assert uid_from(bytes(16)) == "0" * 25
    assert len(derived_uid("a", "b")) == 25
    assert derived_uid("a", "b") == derived_uid("a", "b")
    assert derived_uid("a", "b") != derived_uid("ab")
