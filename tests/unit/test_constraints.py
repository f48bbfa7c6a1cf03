"""Constraints: which nodes they allow."""

from __future__ import annotations

import pytest

from shoal.api.meta import Meta
from shoal.api.objects import Node, NodeDescription, NodeSpec, NodeState, NodeStatus
from shoal.api.states import Role
from shoal.rules.constraints import matches, parse

NODE = Node(
    metadata=Meta(name="alpha", uid="n1", labels={"zone": "A", "Rack": "7"}),
    spec=NodeSpec(role=Role.MANAGER),
    status=NodeStatus(
        state=NodeState.READY,
        address="10.0.0.7",
        description=NodeDescription(
            hostname="alpha", os="linux", architecture="x86_64", engine_labels={"storage": "ssd"}
        ),
    ),
)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("node.id == n1", True),
        ("node.id != n1", False),
        ("node.hostname == ALPHA", True),
        ("NODE.ROLE==Manager", True),
        ("node.role == worker", False),
        ("node.platform.os == linux", True),
        ("node.platform.arch != arm64", True),
        ("node.ip == 10.0.0.7", True),
        ("node.ip == 10.0.0.0/24", True),
        ("node.ip != 10.0.0.0/24", False),
        ("node.ip == 10.1.0.0/24", False),
        ("node.ip == nonsense", False),
        ("node.ip == fe80::/64", False),
        ("node.labels.zone == a", True),
        ("node.labels.Zone == a", False),
        ("node.labels.Rack == 7", True),
        ("node.labels.none == x", False),
        ("node.labels.none != x", True),
        ("engine.labels.storage == ssd", True),
        ("engine.labels.storage != ssd", False),
        ("node.size == big", False),
        ("node.size != big", False),
        ("no constraint at all", False),
    ],
)
def test_a_constraint_holds_for_a_node(text: str, holds: bool) -> None:
    assert matches([text], NODE) is holds


def test_several_constraints_must_all_hold() -> None:
    assert matches([], NODE)
    assert matches([parse("node.role == manager"), parse("node.labels.zone == a")], NODE)
    assert not matches([parse("node.role == manager"), parse("node.labels.zone == b")], NODE)


def test_a_node_without_an_address_is_in_no_subnet() -> None:
    bare = Node(metadata=Meta(name="x", uid="x"))
    assert not matches(["node.ip == 0.0.0.0/0"], bare)
    assert matches(["node.ip != 0.0.0.0/0"], bare)


@pytest.mark.parametrize(
    "text", ["", "a", "node.role = x", "node.role == a == b", "1a == b", "node.role == ä", "a == "]
)
def test_what_is_no_constraint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        parse(text)


def test_a_constraint_is_spelled_in_one_way() -> None:
    assert str(parse("node.role==worker")) == "node.role == worker"
