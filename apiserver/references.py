"""What a service uses of secrets, configs and networks: resolved, and held by References. Pure.

A Reference is created in the transaction that makes the service use an object, and compares that the object is
still the one that was looked at; deleting the object compares that there is no Reference. What a service stops
using keeps its Reference until its rollout is over, because a rollback may want it: rollout removes it then.
Published ports use the ingress network.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from apiserver.admission import View
from shoal.api import keys
from shoal.api import objects as o
from shoal.api.errors import Fault
from shoal.api.meta import Meta, Owner, Ref, derived_uid
from shoal.api.networks import use_faults
from shoal.api.template import FileUse, NetworkUse
from shoal.machinery.controller import Create, Step
from shoal.machinery.store import Compare, Exists, Unchanged
from shoal.rules.networks import INGRESS_LABEL
from shoal.rules.ports import needs_ingress
from shoal.rules.subnets import are_apart

MAX_USES: Final = 40
"""Published ports, secrets, configs and networks of one service: what an update of all of them takes, gives back and
compares goes into one transaction.
"""

_KINDS: Final[tuple[tuple[str, type[o.Secret | o.Config]], ...]] = (("secrets", o.Secret), ("configs", o.Config))

NO_INGRESS: Final = "service needs ingress network, but no ingress network is present"
"""Source: SwarmKit's manager/controlapi."""

T = TypeVar("T", bound=o.Object)


def resolved(spec: o.ServiceSpec, view: View) -> tuple[o.ServiceSpec, list[Fault]]:
    """Fill in the names and uids of what a spec uses, and say what does not exist."""
    faults: list[Fault] = []
    changed: dict[str, tuple[FileUse, ...] | tuple[NetworkUse, ...]] = {}
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
    networks, network_faults = _networks(spec, view)
    faults += network_faults
    if networks:
        changed["networks"] = networks
    new = msgspec.structs.replace(spec, **changed)
    faults += [] if faults else list(use_faults(new))
    count = len({(kind, uid) for kind, _, uid in _distinct(new, view)}) + sum(1 for port in new.ports if port.published)
    if count > MAX_USES:
        message = f"{count} published ports, secrets, configs and networks; at most {MAX_USES} together"
        faults.append(Fault("spec", message))
    return (spec if faults else new), faults


def _found(use: FileUse, kind: type[o.Secret | o.Config], view: View) -> tuple[o.Secret | o.Config | None, str]:
    """Return what a use means: by name, or by uid alone; a uid that is given must be the named one's."""
    word = kind.KIND.lower()
    found = _named(use.source, kind, view)
    if found is None:
        return None, f"{word} {use.source} not found"
    if use.uid not in ("", found.metadata.uid):
        more = "; the file's user and group are `owner` and `group`" if use.uid.isdecimal() else ""
        return None, f"{word} {use.source} has the uid {found.metadata.uid}, found {use.uid}{more}"
    return found, ""


def _named(name: str, kind: type[T], view: View) -> T | None:
    """Return the object of a name, or of a uid."""
    found = view.get(kind, keys.prefix_of(kind) + name)
    return found or next((one for one in view.all(kind) if one.metadata.uid == name), None)


def _networks(spec: o.ServiceSpec, view: View) -> tuple[tuple[NetworkUse, ...], list[Fault]]:
    faults: list[Fault] = []
    uses: list[NetworkUse] = []
    for at, use in enumerate(spec.networks):
        network = _named(use.name, o.Network, view)
        if network is None:
            faults.append(Fault(f"spec.networks[{at}].name", f"network {use.name} not found"))
        elif network.spec.ingress:
            message = f"a service cannot be attached to the ingress network {use.name!r} by name"
            faults.append(Fault(f"spec.networks[{at}].name", message))
        else:
            uses.append(msgspec.structs.replace(use, name=network.metadata.name, uid=network.metadata.uid))
    faults += _overlap_faults(spec, view)
    if needs_ingress(spec) and _ingress(view) is None:
        faults.append(Fault("spec.ports", NO_INGRESS))
    return tuple(uses), faults


def _overlap_faults(spec: o.ServiceSpec, view: View) -> list[Fault]:
    """Networks that no engine can have together."""
    found = [_named(use.name, o.Network, view) for use in spec.networks]
    clashing = (
        (at, one.metadata.name, other.metadata.name)
        for at, one in enumerate(found)
        for other in found[:at]
        if one is not None and other is not None and one != other and not are_apart(one, other)
    )
    return [
        Fault(f"spec.networks[{at}].name", f"the subnets of networks {one} and {other} overlap: no node can have both")
        for at, one, other in clashing
    ]


def _ingress(view: View) -> o.Network | None:
    return next((network for network in view.all(o.Network) if network.spec.ingress), None)


def held(spec: o.ServiceSpec, ref: Ref, view: View) -> tuple[tuple[Step, ...], tuple[Compare, ...]]:
    """Return what makes a service hold all it uses, and what must be so meanwhile."""
    steps: list[Step] = []
    compares: list[Compare] = []
    for kind, name, uid in _distinct(spec, view):
        target = view.get(kind, keys.prefix_of(kind) + name)
        is_ingress = isinstance(target, o.Network) and target.spec.ingress
        made = make_reference(kind, Ref(name, uid), Owner(o.Service.KIND, ref.name, ref.uid), is_ingress=is_ingress)
        key = keys.key_of(made)
        if view.get(o.Reference, key) is not None:
            compares.append(Exists(key))
            continue
        steps.append(Create(made))
        compares.append(still_there(kind, name, view))
    return tuple(steps), tuple(compares)


def still_there(kind: type[o.Object], name: str, view: View) -> Compare:
    """Compare that an object of a name is the one that was looked at."""
    key = keys.prefix_of(kind) + name
    target = view.get(kind, key)
    version = target.metadata.resource_version if target is not None else 0
    return Unchanged(key, version) if version else Exists(key)


def _distinct(spec: o.ServiceSpec, view: View) -> list[tuple[type[o.Object], str, str]]:
    """Return (kind, name, uid) of all that a spec holds; predefined networks need no holding."""
    found: dict[str, tuple[type[o.Object], str, str]] = {}
    for field, kind in _KINDS:
        found |= {use.uid: (kind, use.source, use.uid) for use in getattr(spec, field)}
    for use in spec.networks:
        network = view.get(o.Network, keys.network(use.name))
        if network is not None and not network.spec.predefined:
            found[use.uid] = (o.Network, use.name, use.uid)
    ingress = _ingress(view) if needs_ingress(spec) else None
    if ingress is not None:
        found[ingress.metadata.uid] = (o.Network, ingress.metadata.name, ingress.metadata.uid)
    return list(found.values())


def make_reference(kind: type[o.Object], to: Ref, owner: Owner, *, is_ingress: bool = False) -> o.Reference:
    """Return the Reference by which `owner` holds an object."""
    meta = Meta(
        name=f"{kind.KIND.lower()}.{to.uid}.{owner.uid}",
        uid=derived_uid("reference", to.uid, owner.uid),
        labels={INGRESS_LABEL: "true"} if is_ingress else {},
        owner=owner,
    )
    return o.Reference(metadata=meta, to=Owner(kind.KIND, to.name, to.uid))
