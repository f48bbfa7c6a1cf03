"""Admission of services. Pure.

One transaction holds the service, its Revision if the template is new, its claims on published ports and its
References to secrets, configs and networks. So etcd itself refuses a second holder of a port and the deletion of
what is in use, and no controller sees a service without its revision.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from apiserver import references
from apiserver.admission import Admission, View, identity_faults, refuse, replaced, updated
from shoal.api import codec, keys
from shoal.api import objects as o
from shoal.api.defaults import desired_count, effective_update
from shoal.api.errors import Fault
from shoal.api.meta import Meta, Owner, Ref, derived_uid
from shoal.api.states import Protocol, PublishMode, UpdateOrder
from shoal.api.template import Port, TaskTemplate
from shoal.machinery.controller import Create, Remove, Step
from shoal.machinery.store import Compare, Exists, NoneUnder, Unchanged
from shoal.rules import attempts
from shoal.rules.claims import make_claim
from shoal.rules.liveness import is_drained
from shoal.rules.slots import is_member

HASH_LENGTH: Final = 16
"""Hex digits of a revision's hash: 64 bits tell apart the few templates of one service."""

_encoder = msgspec.json.Encoder(enc_hook=codec.enc_hook, order="sorted")


def template_of(spec: o.ServiceSpec) -> TaskTemplate:
    """Return the part of a service's spec that its tasks are made from."""
    return TaskTemplate(**{name: getattr(spec, name) for name in TaskTemplate.__struct_fields__})


def template_hash(template: TaskTemplate) -> str:
    """Name a template by its content: the same on every server, whatever the order of its mappings."""
    return hashlib.sha256(_encoder.encode(template)).hexdigest()[:HASH_LENGTH]


def admit_service(old: o.Service | None, new: o.Service, view: View, uid: str) -> Admission:
    """Decide what writing a service means; `uid` is the one it gets if it is new."""
    spec, faults = references.resolved(new.spec, view)
    ref = Ref(new.metadata.name, old.metadata.uid if old else uid)
    if old is not None:
        ref = o.ref_of(old)
        faults += identity_faults(old, new) + _mode_faults(old.spec, spec)
        faults += _order_faults(old.spec, spec, view)
    port_faults = [fault for at, port in enumerate(spec.ports) for fault in _port_faults(at, port, ref, view)]
    if faults or port_faults:
        return refuse(new, *faults, *port_faults)
    if old is None:
        return _created(new, spec, ref, view)
    if old.spec == spec and old.metadata.labels == new.metadata.labels:
        return Admission(old)
    return _configured(old, new, spec, ref, view)


def admit_service_delete(old: o.Service, view: View, forced: bool) -> Admission:
    """The object goes at once, its name, ports and references with it; its tasks follow in their own time."""
    ref = o.ref_of(old)
    claims = [claim for key in _claim_keys(old.spec, ref) if (claim := view.get(o.Claim, key)) and _is_own(claim, ref)]
    return Admission(old, (Remove(old), *map(Remove, claims), *map(Remove, view.references_of(ref.uid))))


def _created(new: o.Service, spec: o.ServiceSpec, ref: Ref, view: View) -> Admission:
    revision, revision_steps, _ = _revision(None, spec, ref, view)
    claim_steps, claim_compares = _claims(None, spec, ref, view)
    use_steps, use_compares = references.held(spec, ref, view)
    obj = o.Service(
        metadata=Meta(name=ref.name, uid=ref.uid, labels=new.metadata.labels),
        spec=spec,
        status=o.ServiceStatus(
            revision=revision.hash,
            revision_number=revision.number,
            last_execution=view.now if spec.mode.is_job else None,
        ),
    )
    steps = (Create(obj), *revision_steps, *claim_steps, *use_steps)
    return Admission(obj, steps, (*claim_compares, *use_compares))


def _configured(old: o.Service, new: o.Service, spec: o.ServiceSpec, ref: Ref, view: View) -> Admission:
    if old.spec == spec:
        return replaced(old, updated(old, labels=new.metadata.labels, status=_begun_anew(old, view)))
    revision, revision_steps, revision_compares = _revision(old, spec, ref, view)
    claim_steps, claim_compares = _claims(old.spec, spec, ref, view)
    use_steps, use_compares = references.held(spec, ref, view)
    status = attempts.after_change(msgspec.structs.replace(old, status=_begun_anew(old, view)), spec, revision)
    wanted = updated(old, labels=new.metadata.labels, spec=spec, status=status)
    steps = (*revision_steps, *claim_steps, *use_steps)
    return replaced(old, wanted, steps, (*revision_compares, *claim_compares, *use_compares))


def _begun_anew(old: o.Service, view: View) -> o.ServiceStatus:
    """Whatever is written to a job, its labels too, runs it once more. Source: SwarmKit's controlapi/service.go."""
    if not old.spec.mode.is_job:
        return old.status
    return msgspec.structs.replace(old.status, job_iteration=old.status.job_iteration + 1, last_execution=view.now)


def _order_faults(old: o.ServiceSpec, new: o.ServiceSpec, view: View) -> list[Fault]:
    """Refuse an update that can never converge: its tasks need a host's port while the old ones still hold it.

    That is start-first on every node, or on all nodes that fit. Nodes that are down count: they may come back.
    """
    update = effective_update(new)
    ports = [port.published for port in new.ports if port.mode is PublishMode.HOST and port.published]
    held = {port.published for port in old.ports if port.mode is PublishMode.HOST}
    shared = [port for port in ports if port in held]
    if update.order is not UpdateOrder.START_FIRST or not shared or template_of(old) == template_of(new):
        return []
    fitting = [node for node in view.all(o.Node) if is_member(node, template_of(new)) and not is_drained(node)]
    if not new.mode.is_global and len(fitting) > desired_count(old, 0):
        return []
    where = "every node runs one" if new.mode.is_global else f"all {len(fitting)} nodes that fit may hold one"
    message = f"start-first cannot work with host-mode port {shared[0]}: {where}, so that no new task finds it free"
    return [Fault("spec.update.order", f"{message}; use stop-first")]


def _mode_faults(old: o.ServiceSpec, new: o.ServiceSpec) -> list[Fault]:
    if old.mode == new.mode:
        return []
    return [Fault("spec.mode", f"the mode of a service cannot change: it is {old.mode}, found {new.mode}")]


def _revision(
    old: o.Service | None, spec: o.ServiceSpec, ref: Ref, view: View
) -> tuple[o.RevisionSpec, tuple[Step, ...], tuple[Compare, ...]]:
    """Return the revision of a spec's template: the one it has, one it had before, or a new one and its creation."""
    template = template_of(spec)
    known = [revision for revision in view.revisions(ref.uid) if revision.spec.service.uid == ref.uid]
    if old is not None and template_of(old.spec) == template:
        return o.RevisionSpec(ref, old.status.revision, old.status.revision_number, template), (), ()
    for revision in known:
        if revision.spec.template == template:
            return revision.spec, (), (Exists(keys.key_of(revision)),)
    highest = max((one.spec.number for one in known), default=old.status.revision_number if old else 0)
    made = o.RevisionSpec(ref, template_hash(template), highest + 1, template)
    owner = Owner(o.Service.KIND, ref.name, ref.uid)
    name = f"{ref.name}.{made.number}"
    meta = Meta(name=name, uid=derived_uid("revision", ref.uid, made.hash), owner=owner)
    return made, (Create(o.Revision(metadata=meta, spec=made)),), ()


_TEXT: Final = {PublishMode.INGRESS: "an ingress port", PublishMode.HOST: "a host-published port"}


def _claim_key(port: Port, ref: Ref) -> str:
    if port.mode is PublishMode.INGRESS:
        return keys.ingress_port_claim(port.protocol, port.published)
    return keys.host_port_claim(port.protocol, port.published, ref.uid)


def _claim_keys(spec: o.ServiceSpec | None, ref: Ref) -> dict[str, Port]:
    """The claims that a spec's explicit ports need; dynamic ones are endpoint's."""
    return {_claim_key(port, ref): port for port in spec.ports if port.published} if spec else {}


def _is_own(claim: o.Claim, ref: Ref) -> bool:
    return claim.metadata.owner is not None and claim.metadata.owner.uid == ref.uid


def _port_faults(at: int, port: Port, ref: Ref, view: View) -> list[Fault]:
    """Whose published port this already is. Host ports of several services may coexist: placement keeps them apart."""
    if not port.published:
        return []
    faults = []
    for claim in view.port_claims(port.protocol, port.published):
        mode = PublishMode.INGRESS if claim.key.endswith("/ingress") else PublishMode.HOST
        if _is_own(claim, ref) or mode is port.mode is PublishMode.HOST:
            continue
        holder = claim.metadata.owner or Owner(o.Service.KIND, "unknown", "")
        text = f"port '{port.published}' is already in use by service '{holder.name}' ({holder.uid}) as {_TEXT[mode]}"
        faults.append(Fault(f"spec.ports[{at}].published", text))
    return faults


def _claims(
    old: o.ServiceSpec | None, new: o.ServiceSpec, ref: Ref, view: View
) -> tuple[tuple[Step, ...], tuple[Compare, ...]]:
    """Return what takes and gives back ports, and what must hold meanwhile."""
    before, after = _claim_keys(old, ref), _claim_keys(new, ref)
    steps: list[Step] = []
    compares: list[Compare] = []
    for key in before.keys() - after.keys():
        claim = view.get(o.Claim, key)
        if claim is not None and _is_own(claim, ref):
            steps.append(Remove(claim))
    for key, port in after.items():
        held = view.get(o.Claim, key)
        if held is not None:
            compares.append(Unchanged(key, held.metadata.resource_version) if _is_stored(held) else Exists(key))
            continue
        steps.append(Create(make_claim(key, Owner(o.Service.KIND, ref.name, ref.uid))))
        compares += _nobody_else(port, ref, before)
    return tuple(sorted(steps, key=lambda step: isinstance(step, Create))), tuple(compares)


def _nobody_else(port: Port, ref: Ref, before: dict[str, Port]) -> list[Compare]:
    """What keeps two services from holding one port in both modes.

    A service that turns its own host port into an ingress port cannot compare for an empty prefix, for its own claim
    lies there: it then relies on the check of the cache.
    """
    if port.mode is PublishMode.HOST:
        return [Unchanged(keys.ingress_port_claim(Protocol(port.protocol), port.published), 0)]
    if keys.host_port_claim(port.protocol, port.published, ref.uid) in before:
        return []
    return [NoneUnder(keys.port_claims(port.protocol, port.published))]


def _is_stored(claim: o.Claim) -> bool:
    return claim.metadata.resource_version > 0
