"""What becomes of an object that a person sends: faults, or the steps of one transaction. Pure.

`admit` compares the wanted object with the stored one and a view of the rest. What must hold when the steps are
written (a port still free, a network still there) is in `compares`, so that a stale view meets a conflict, never
a double.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from apiserver.mirror import BY_OWNER, PORT_CLAIMS, REFERENCES_TO, REVISIONS_BY_SERVICE, TASKS_BY_NETWORK
from apiserver.vault import NO_VAULT, Vault
from shoal.api import codec
from shoal.api import objects as o
from shoal.api.errors import Fault
from shoal.api.keys import key_of
from shoal.machinery.cache import Cache
from shoal.machinery.controller import Create, Remove, Replace, Step
from shoal.machinery.store import Compare

T = TypeVar("T", bound=o.Object)


@dataclass(frozen=True)
class View:
    """The cache, and on top of it what the same request has already been admitted to write.

    `vault` seals what may not be stored in plain text.
    """

    cache: Cache
    pending: Mapping[str, o.Object | None] = field(default_factory=dict)
    vault: Vault = NO_VAULT
    now: datetime | None = None
    """When the request is admitted."""

    def get(self, kind: type[T], key: str) -> T | None:
        if key in self.pending:
            found = self.pending[key]
            return found if isinstance(found, kind) else None
        return self.cache.get(kind, key)

    def all(self, kind: type[T]) -> list[T]:
        stored = [obj for key, obj in self.cache.all(kind).items() if key not in self.pending]
        return stored + [obj for obj in self.pending.values() if isinstance(obj, kind)]

    def port_claims(self, protocol: str, published: int) -> list[o.Claim]:
        """Every claim on one published port."""
        stored = self.cache.by(PORT_CLAIMS, f"{protocol}/{published}")
        found = [claim for key, claim in stored.items() if key not in self.pending]
        under = f"claims/port/{protocol}/{published}/"
        return found + [
            claim for claim in self.pending.values() if isinstance(claim, o.Claim) and claim.key.startswith(under)
        ]

    def revisions(self, service_uid: str) -> list[o.Revision]:
        stored = self.cache.by(REVISIONS_BY_SERVICE, service_uid).values()
        return [*stored, *(r for r in self.pending.values() if isinstance(r, o.Revision))]

    def tasks_on(self, network_uid: str) -> list[o.Task]:
        """Return the tasks that have an address on a network and have not ended."""
        return [t for t in self.cache.by(TASKS_BY_NETWORK, network_uid).values() if not t.status.state.is_terminal]

    def claims_of(self, owner_uid: str) -> list[o.Claim]:
        """Return what an object has claimed."""
        stored = self.cache.by(BY_OWNER[o.Claim], owner_uid)
        return [claim for key, claim in sorted(stored.items()) if key not in self.pending]

    def references_to(self, uid: str) -> list[o.Reference]:
        """Return what holds an object, so that it cannot be deleted."""
        return self._references(self.cache.by(REFERENCES_TO, uid), lambda one: one.to.uid == uid)

    def references_of(self, owner_uid: str) -> list[o.Reference]:
        """Return what a service holds."""
        of_owner = self.cache.by(BY_OWNER[o.Reference], owner_uid)
        return self._references(
            of_owner, lambda one: one.metadata.owner is not None and one.metadata.owner.uid == owner_uid
        )

    def _references(self, stored: Mapping[str, o.Reference], fits: Callable[[o.Reference], bool]) -> list[o.Reference]:
        kept = [one for key, one in stored.items() if key not in self.pending]
        return kept + [one for one in self.pending.values() if isinstance(one, o.Reference) and fits(one)]

    def after(self, steps: Iterable[Step]) -> View:
        """Return the view as it will be once these steps are written."""
        pending = dict(self.pending)
        for step in steps:
            obj = step.new if isinstance(step, Replace) else step.obj
            pending[key_of(obj)] = None if isinstance(step, Remove) else obj
        return View(self.cache, pending, self.vault, self.now)


@dataclass(frozen=True)
class Admission:
    """`result` is created, configured, unchanged or deleted; with faults, `steps` is empty."""

    obj: o.Object
    steps: tuple[Step, ...] = ()
    compares: tuple[Compare, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def result(self) -> str:
        if not self.steps:
            return "unchanged"
        match self.steps[0]:
            case Create():
                return "created"
            case Remove():
                return "deleted"
        return "configured"


Admit = Callable[[Any, Any, View, str], Admission]
"""(stored object or None, wanted object, view, a fresh uid) → admission."""

AdmitDelete = Callable[[Any, View, bool], Admission]
"""(stored object, view, forced) → admission."""


def refuse(obj: o.Object, *faults: Fault) -> Admission:
    return Admission(obj, faults=faults)


def identity_faults(old: o.Object, new: o.Object) -> list[Fault]:
    """What nobody can change: an object's name and its uid."""
    faults = []
    if new.metadata.name not in ("", old.metadata.name, old.metadata.uid):
        message = f"a {old.KIND.lower()} cannot be renamed: it is {old.metadata.name!r}, found {new.metadata.name!r}"
        faults.append(Fault("metadata.name", message))
    if new.metadata.uid and new.metadata.uid != old.metadata.uid:
        message = f"expected {old.metadata.uid!r}, the stored object's, found {new.metadata.uid!r}"
        faults.append(Fault("metadata.uid", message))
    return faults


def updated(old: T, *, labels: dict[str, str] | None = None, **changes: Any) -> T:
    """Return the stored object with people's part of it replaced; everything else stays."""
    if labels is not None:
        old = codec.with_meta(old, labels=labels)
    return msgspec.structs.replace(old, **changes)


def replaced(old: T, new: T, extra: tuple[Step, ...] = (), compares: tuple[Compare, ...] = ()) -> Admission:
    """Admit a replacement; nothing at all is written where nothing differs."""
    if old == new:
        return Admission(old)
    return Admission(new, (Replace(new), *extra), compares)
