"""Where each object lies in etcd. Pure.

/shoal/services/<name>
/shoal/revisions/<service>.<uid>/<hash>
/shoal/rollouts/<service>.<uid>
/shoal/slots/<service>.<uid>/<slot or node uid>
/shoal/tasks/<service>.<slot>.<uid>
/shoal/endpoints/<service>.<uid>
/shoal/backends/<service>.<uid>/<task uid>
/shoal/networks/<name>
/shoal/attachments/<network>.<uid>/<node uid or container>
/shoal/addresses/<network>.<uid>/<ip>
/shoal/claims/port/<protocol>/<published>/ingress | host.<service uid>
/shoal/claims/subnet/<subnet>/auto | chosen.<network uid>
/shoal/claims/{vni,node-number,node-name,node-address}/<value>
/shoal/claims/network/ingress           whichever network is the mesh's
/shoal/refs/<kind>/<uid>/<owner uid>
/shoal/{secrets,configs,credentials}/<name>
/shoal/nodes/<uid>
/shoal/cluster
/shoal-events/<kind>/<uid>/<reason>     outside the watched prefix
/shoal-live/<apiserver uid>             outside the watched prefix
/shoal-leaders/<controller>             outside the watched prefix
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shoal.api import objects as o
from shoal.api.meta import Ref

ROOT: Final = "/shoal/"
EVENTS: Final = "/shoal-events/"
LIVE: Final = "/shoal-live/"
LEADERS: Final = "/shoal-leaders/"
CLUSTER: Final = "/shoal/cluster"
_AFTER_ROOT: Final = len(ROOT)

_PREFIXES: dict[type[o.Object], str] = {
    kind: f"{ROOT}{kind.PLURAL}/" for kind in o.KINDS.values() if kind not in (o.Claim, o.Cluster, o.Event, o.Presence)
}
_BY_PLURAL: dict[str, type[o.Object]] = {kind.PLURAL: kind for kind in o.KINDS.values()} | {"addresses": o.Claim}


def prefix_of(kind: type[o.Object]) -> str:
    """Return the prefix under which every object of a kind lies (a Claim's two prefixes: use ROOT)."""
    if kind is o.Cluster:
        return CLUSTER
    if kind is o.Event:
        return EVENTS
    if kind is o.Presence:
        return LIVE
    return _PREFIXES.get(kind, ROOT)


def kind_at(key: str) -> type[o.Object] | None:
    """Return the kind of object that lies at a key, None for a key that is none of ours."""
    if key.startswith(ROOT):
        end = key.find("/", _AFTER_ROOT)
        if end < 0:
            return o.Cluster if key == CLUSTER else _BY_PLURAL.get(key[_AFTER_ROOT:])
        return _BY_PLURAL.get(key[_AFTER_ROOT:end])
    if key.startswith(LIVE):
        return o.Presence
    return o.Event if key.startswith(EVENTS) else None


def service(name: str) -> str:
    return f"{ROOT}services/{name}"


def of_service(ref: Ref) -> str:
    """The part of a key that belongs to one object for its whole life: name for people, uid for truth."""
    return f"{ref.name}.{ref.uid}"


def revision(service_ref: Ref, digest: str) -> str:
    return f"{ROOT}revisions/{of_service(service_ref)}/{digest}"


def rollout(service_ref: Ref) -> str:
    return f"{ROOT}rollouts/{of_service(service_ref)}"


def slot(service_ref: Ref, slot_name: str) -> str:
    return f"{ROOT}slots/{of_service(service_ref)}/{slot_name}"


def task_name(service_name: str, slot_name: str, uid: str) -> str:
    """A task's name, which is its container's: `<service>.<slot or node uid>.<uid>`."""
    return f"{service_name}.{slot_name}.{uid}"


def task(name: str) -> str:
    return f"{ROOT}tasks/{name}"


def endpoint(service_ref: Ref) -> str:
    return f"{ROOT}endpoints/{of_service(service_ref)}"


def backend(service_ref: Ref, task_uid: str) -> str:
    return f"{ROOT}backends/{of_service(service_ref)}/{task_uid}"


def network(name: str) -> str:
    return f"{ROOT}networks/{name}"


def attachment(network_ref: Ref, holder: str) -> str:
    return f"{ROOT}attachments/{network_ref.name}.{network_ref.uid}/{holder}"


def address(network_ref: Ref, ip: str) -> str:
    return f"{ROOT}addresses/{network_ref.name}.{network_ref.uid}/{ip}"


def port_claims(protocol: str, published: int) -> str:
    """The prefix of every claim on one published port."""
    return f"{ROOT}claims/port/{protocol}/{published}/"


def ingress_port_claim(protocol: str, published: int) -> str:
    return port_claims(protocol, published) + "ingress"


def host_port_claim(protocol: str, published: int, service_uid: str) -> str:
    """Host-mode ports may be held by several services: placement keeps them apart."""
    return port_claims(protocol, published) + f"host.{service_uid}"


def claim(what: str, value: str | int) -> str:
    """A claim of another kind: vni, node-number, node-name, node-address, network."""
    return f"{ROOT}claims/{what}/{value}"


def subnet_claims(subnet: str) -> str:
    """The prefix of every claim on one subnet."""
    return f"{ROOT}claims/subnet/{subnet}/"


def auto_subnet_claim(subnet: str) -> str:
    return subnet_claims(subnet) + "auto"


def chosen_subnet_claim(subnet: str, network_uid: str) -> str:
    """A subnet that people chose may be held by several networks: placement keeps them apart."""
    return subnet_claims(subnet) + f"chosen.{network_uid}"


def node_claims(name: str, address: str) -> tuple[str, str]:
    """What a node takes for itself alone when it joins: its name and its address."""
    return claim("node-name", name), claim("node-address", address)


def reference(to_kind: str, to_uid: str, owner_uid: str) -> str:
    return f"{ROOT}refs/{to_kind.lower()}/{to_uid}/{owner_uid}"


def references_to(to_kind: str, to_uid: str) -> str:
    return f"{ROOT}refs/{to_kind.lower()}/{to_uid}/"


def node(uid: str) -> str:
    return f"{ROOT}nodes/{uid}"


def event(about_kind: str, about_uid: str, reason: str) -> str:
    return f"{EVENTS}{about_kind.lower()}/{about_uid}/{reason}"


def presence(apiserver_uid: str) -> str:
    return f"{LIVE}{apiserver_uid}"


def election(controller: str) -> str:
    return f"{LEADERS}{controller}"


_KEY_OF: dict[type[o.Object], Callable[..., str]] = {
    o.Service: lambda x: service(x.metadata.name),
    o.Revision: lambda x: revision(x.spec.service, x.spec.hash),
    o.Rollout: lambda x: rollout(x.status.service),
    o.Slot: lambda x: slot(x.spec.service, x.spec.slot),
    o.Task: lambda x: task(x.metadata.name),
    o.ServiceEndpoint: lambda x: endpoint(x.spec.service),
    o.Backend: lambda x: backend(x.spec.service, x.spec.task.uid),
    o.Network: lambda x: network(x.metadata.name),
    o.Attachment: lambda x: attachment(x.spec.network, x.spec.container or x.spec.node.uid),
    o.Claim: lambda x: ROOT + x.key,
    o.Reference: lambda x: reference(x.to.kind, x.to.uid, x.metadata.owner.uid),
    o.Secret: lambda x: f"{ROOT}secrets/{x.metadata.name}",
    o.Config: lambda x: f"{ROOT}configs/{x.metadata.name}",
    o.Credential: lambda x: f"{ROOT}credentials/{x.metadata.name}",
    o.Node: lambda x: node(x.metadata.uid),
    o.Cluster: lambda _: CLUSTER,
    o.Event: lambda x: event(x.about.kind, x.about.uid, x.reason),
    o.Presence: lambda x: presence(x.metadata.uid),
}


def key_of(obj: o.Object) -> str:
    """Return the key an object lies at."""
    return _KEY_OF[type(obj)](obj)
