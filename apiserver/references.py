"""What a service uses of secrets and configs: resolved, and held by References. Pure.

A Reference is created in the transaction that makes the service use an object, and compares that the object is
still the one that was looked at; deleting the object compares that there is no Reference. What a service stops
using keeps its Reference until its rollout is over, because a rollback may want it: rollout removes it then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from apiserver.admission import View
from shoal.api import keys
from shoal.api import objects as o
from shoal.api.errors import Fault
from shoal.api.meta import Meta, Owner, Ref, derived_uid
from shoal.api.template import FileUse
from shoal.machinery.controller import Create, Step
from shoal.machinery.store import Compare, Exists, Unchanged

MAX_FILES: Final = 64
"""Secrets and configs one service may use: their References go into one transaction with everything else of it."""

_KINDS: Final[tuple[tuple[str, type[o.Secret | o.Config]], ...]] = (("secrets", o.Secret), ("configs", o.Config))


def resolved(spec: o.ServiceSpec, view: View) -> tuple[o.ServiceSpec, list[Fault]]:
    """Fill in the names and uids of the secrets and configs a spec uses, and say which do not exist."""
    faults: list[Fault] = []
    changed: dict[str, tuple[FileUse, ...]] = {}
    for field, kind in _KINDS:
        uses: list[FileUse] = []
        for at, use in enumerate(getattr(spec, field)):
            found, problem = _found(use, kind, view)
            if found is None:
                faults.append(Fault(f"spec.{field}[{at}].{'uid' if use.uid else 'source'}", problem))
            else:
                uses.append(msgspec.structs.replace(use, source=found.metadata.name, uid=found.metadata.uid))
        if uses:
            changed[field] = tuple(uses)
    if len({use.uid for uses in changed.values() for use in uses}) > MAX_FILES:
        faults.append(Fault("spec", f"more than {MAX_FILES} different secrets and configs; at most {MAX_FILES}"))
    return (spec if faults else msgspec.structs.replace(spec, **changed)), faults


def _found(use: FileUse, kind: type[o.Secret | o.Config], view: View) -> tuple[o.Secret | o.Config | None, str]:
    """Return what a use means: by name, or by uid alone; a uid that is given must be the named one's."""
    word = kind.KIND.lower()
    found = view.get(kind, keys.prefix_of(kind) + use.source)
    if found is None:
        found = next((one for one in view.all(kind) if one.metadata.uid == use.source), None)
    if found is None:
        return None, f"{word} {use.source} not found"
    if use.uid not in ("", found.metadata.uid):
        more = "; the file's user and group are `owner` and `group`" if use.uid.isdecimal() else ""
        return None, f"{word} {use.source} has the uid {found.metadata.uid}, found {use.uid}{more}"
    return found, ""


def held(spec: o.ServiceSpec, ref: Ref, view: View) -> tuple[tuple[Step, ...], tuple[Compare, ...]]:
    """Return what makes a service hold all it uses, and what must be so meanwhile."""
    steps: list[Step] = []
    compares: list[Compare] = []
    for kind, use in _distinct(spec):
        made = _reference(kind, use, ref)
        key = keys.key_of(made)
        if view.get(o.Reference, key) is not None:
            compares.append(Exists(key))
            continue
        steps.append(Create(made))
        key = keys.prefix_of(kind) + use.source
        target = view.get(kind, key)
        version = target.metadata.resource_version if target is not None else 0
        compares.append(Unchanged(key, version) if version else Exists(key))
    return tuple(steps), tuple(compares)


def _distinct(spec: o.ServiceSpec) -> Iterable[tuple[type[o.Secret | o.Config], FileUse]]:
    found = {use.uid: (kind, use) for field, kind in _KINDS for use in getattr(spec, field)}
    return found.values()


def _reference(kind: type[o.Object], use: FileUse, ref: Ref) -> o.Reference:
    owner = Owner(o.Service.KIND, ref.name, ref.uid)
    meta = Meta(
        name=f"{kind.KIND.lower()}.{use.uid}.{ref.uid}", uid=derived_uid("reference", use.uid, ref.uid), owner=owner
    )
    return o.Reference(metadata=meta, to=Owner(kind.KIND, use.source, use.uid))
