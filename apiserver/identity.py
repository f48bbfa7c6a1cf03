"""Who asks, and what they may: one table, route × identity. Pure.

Whoever opens the unix socket is root or in the group `docker`: an admin. Over TCP (with mutual TLS) the certificate
says who it is: common name = node uid, organisational unit = role. A route without a row here is refused to all.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct

from shoal.api.states import Role


class Access(StrEnum):
    """To whom a route is open."""

    ANYONE = "anyone"
    """Also without a certificate: what a host needs before it has one."""
    MEMBERS = "members"
    """Admins and every node."""
    PEOPLE = "people"
    """Admins alone."""
    OWN_NODE = "own-node"
    """The node that the path names, and admins."""


class Identity(Struct, frozen=True):
    """`node` is the uid in a certificate; an admin has none. `until`: when that ends, in seconds since 1970."""

    admin: bool = False
    node: str = ""
    role: Role = Role.WORKER
    until: float = 0.0

    def __str__(self) -> str:
        return "admin" if self.admin else f"node:{self.node}" if self.node else "nobody"


ADMIN: Final = Identity(admin=True)
NOBODY: Final = Identity()

RULES: Final[Mapping[str, Access]] = {
    "ca": Access.ANYONE,
    "join": Access.ANYONE,
    "healthz": Access.MEMBERS,
    "readyz": Access.MEMBERS,
    "tokens": Access.PEOPLE,
    "tokens-rotate": Access.PEOPLE,
    "metrics": Access.PEOPLE,
    "openapi": Access.PEOPLE,
    "objects-list": Access.PEOPLE,
    "objects-create": Access.PEOPLE,
    "object-get": Access.PEOPLE,
    "object-replace": Access.PEOPLE,
    "object-patch": Access.PEOPLE,
    "object-delete": Access.PEOPLE,
    "apply": Access.PEOPLE,
    "service-logs": Access.PEOPLE,
    "service-rollout": Access.PEOPLE,
    "task-logs": Access.PEOPLE,
    "top": Access.PEOPLE,
    "doctor-network": Access.PEOPLE,
    "node-state": Access.PEOPLE,
    "assignments": Access.OWN_NODE,
    "node-report": Access.OWN_NODE,
    "node-events": Access.OWN_NODE,
    "node-answer": Access.OWN_NODE,
    "container-attach": Access.OWN_NODE,
    "container-detach": Access.OWN_NODE,
    "certificate": Access.OWN_NODE,
    "leave": Access.OWN_NODE,
}


def may(identity: Identity, route: str, node: str = "") -> bool:
    """Whether an identity may use a route; `node` is the node uid that the path names."""
    access = RULES.get(route)
    if access is Access.ANYONE:
        return True
    if access is None:
        return False
    if identity.admin:
        return True
    if access is Access.MEMBERS:
        return bool(identity.node)
    return access is Access.OWN_NODE and bool(identity.node) and identity.node == node
