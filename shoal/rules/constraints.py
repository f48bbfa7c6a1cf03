"""Which nodes a service's constraints allow. Pure.

Source: SwarmKit's manager/constraint. Built-in keys and all values compare without case, a label's key with it; a
label that is missing is unequal to everything; a key nobody knows never matches. Several constraints are an AND.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from shoal.api.grammar import Constraint, parse_constraint
from shoal.api.objects import Node

parse = lru_cache(maxsize=4096)(parse_constraint)
"""Text to Constraint; ValueError says what was expected."""


def matches(constraints: Iterable[Constraint | str], node: Node) -> bool:
    """Say whether a node satisfies all constraints. Text that is no constraint is satisfied by no node."""
    return all(_holds(constraint, node) for constraint in constraints)


def _holds(constraint: Constraint | str, node: Node) -> bool:
    if isinstance(constraint, str):
        try:
            constraint = parse(constraint)
        except ValueError:
            return False
    key = constraint.key.lower()
    if key == "node.ip":
        return _ip_holds(constraint, node.status.address)
    found = _value(constraint.key, key, node)
    return found is not None and (found.lower() == constraint.value.lower()) == constraint.equal


def _value(spelled: str, key: str, node: Node) -> str | None:
    """Return what a node says to a key ("" for a missing label), None for a key nobody knows."""
    description = node.status.description
    if key.startswith("node.labels."):
        return node.metadata.labels.get(spelled[len("node.labels.") :], "")
    if key.startswith("engine.labels."):
        return description.engine_labels.get(spelled[len("engine.labels.") :], "")
    return {
        "node.id": node.metadata.uid,
        "node.hostname": description.hostname or node.metadata.name,
        "node.role": node.spec.role.value,
        "node.platform.os": description.os,
        "node.platform.arch": description.architecture,
    }.get(key)


def _ip_holds(constraint: Constraint, address: str) -> bool:
    """A value is one address or a subnet; a node without an address is inside none."""
    try:
        wanted = ipaddress.ip_network(constraint.value, strict=False)
    except ValueError:
        return False
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return not constraint.equal
    return (found in wanted) == constraint.equal
