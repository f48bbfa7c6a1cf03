"""What people may do with each kind, and by which rule. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from apiserver.admission import Admit, AdmitDelete
from apiserver.admit_file import admit_file, admit_file_delete
from apiserver.admit_network import admit_network, admit_network_delete
from apiserver.admit_node import admit_cluster, admit_cluster_delete, admit_node, admit_node_delete
from apiserver.admit_service import admit_service, admit_service_delete
from shoal.api import objects as o
from shoal.api.errors import ForbiddenError, NotFoundError
from shoal.api.ownership import WRITERS

KINDS: Final[Mapping[str, type[o.Object]]] = {kind.PLURAL: kind for kind in o.KINDS.values()}
"""Plural → kind: the words of the paths."""

HIDDEN: Final = frozenset({o.Presence})
"""Kinds that have no path: what API servers tell controllers is nobody else's business."""


SHOWN: Final = frozenset(kind for kind in KINDS.values() if kind is not o.Presence)
"""What this server keeps in memory."""


class Rules(Struct, frozen=True):
    admit: Admit
    delete: AdmitDelete


WRITABLE: Final[Mapping[type[o.Object], Rules]] = {
    o.Service: Rules(admit_service, admit_service_delete),
    o.Network: Rules(admit_network, admit_network_delete),
    o.Secret: Rules(admit_file, admit_file_delete),
    o.Config: Rules(admit_file, admit_file_delete),
    o.Node: Rules(admit_node, admit_node_delete),
    o.Cluster: Rules(admit_cluster, admit_cluster_delete),
}


def kind_of(plural: str) -> type[o.Object]:
    """Return the kind behind a word of a path; NotFoundError names the words there are."""
    kind = KINDS.get(plural)
    if kind is None or kind in HIDDEN:
        known = ", ".join(sorted(word for word, kind in KINDS.items() if kind not in HIDDEN))
        raise NotFoundError(f"there is nothing called {plural[:60]!r}; known are {known}")
    return kind


def rules_of(kind: type[o.Object]) -> Rules:
    """Return how people's writes of a kind are admitted; ForbiddenError says who writes it instead."""
    rules = WRITABLE.get(kind)
    if rules is None:
        writers = sorted(WRITERS.get(kind, frozenset()))
        raise ForbiddenError(f"{kind.PLURAL} are not written by people, but by {' and '.join(writers) or 'nobody'}")
    return rules
