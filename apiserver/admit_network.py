"""Admission of networks: their subnets and VXLAN numbers are allocated and claimed in the call. Pure.

A node-local network has neither: all of it is its engines'.

An automatic subnet overlaps nothing: its claim compares that nobody holds the same one. One that people choose may
overlap another network's (placement keeps the two apart), but not the ingress network's, which is on every node.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Final

from apiserver.admission import Admission, View, identity_faults, refuse, replaced, updated
from shoal.api import keys
from shoal.api import objects as o
from shoal.api.errors import Fault
from shoal.api.meta import Meta
from shoal.api.networks import RESERVED, chosen_vni, mtu_of
from shoal.machinery.controller import Create, Remove, Step
from shoal.machinery.store import Compare, NoneUnder
from shoal.rules.addresses import without_mask
from shoal.rules.claims import make_claim
from shoal.rules.networks import DEFAULT_MTU
from shoal.rules.subnets import FIRST_VNI, first_free, next_vni, subnets_of, with_gateway

INGRESS_CLAIM: Final = keys.claim("network", "ingress")
"""There is one ingress network at most."""


def admit_network(old: o.Network | None, new: o.Network, view: View, uid: str) -> Admission:
    """Create a network with all it needs; of an existing one, change labels only."""
    if old is None:
        return _created(new, view, uid)
    faults = identity_faults(old, new)
    if new.spec != old.spec:
        message = "only the labels of a network can be changed: delete it and create it again"
        faults.append(Fault("spec", message))
    return refuse(new, *faults) if faults else replaced(old, updated(old, labels=new.metadata.labels))


def admit_network_delete(old: o.Network, view: View, forced: bool) -> Admission:
    """Refuse while anybody uses it, and name them; its subnet and number are free at once."""
    name, uid = old.metadata.name, old.metadata.uid
    if old.spec.predefined:
        return refuse(old, Fault("", f"network '{name}' is predefined and cannot be deleted"))
    users = sorted(
        f"{ref.metadata.owner.kind.lower()} {ref.metadata.owner.name}"
        for ref in view.references_to(uid)
        if ref.metadata.owner
    )
    users = users or sorted(f"task {task.metadata.name}" for task in view.tasks_on(uid))
    if users:
        return refuse(old, Fault("", f"network '{name}' is in use by {', '.join(users)}"))
    claims = tuple(Remove(claim) for claim in view.claims_of(uid))
    return Admission(old, (Remove(old), *claims), (NoneUnder(keys.references_to(old.KIND, uid)),))


def _created(new: o.Network, view: View, uid: str) -> Admission:
    faults = list(_name_faults(new, view))
    if new.spec.is_local:
        obj = o.Network(metadata=Meta(name=new.metadata.name, uid=uid, labels=new.metadata.labels), spec=new.spec)
        return refuse(new, *faults) if faults else Admission(obj, (Create(obj),))
    subnet, subnet_faults = _subnet(new, view)
    vni, vni_faults = _vni(new.spec, view)
    faults += subnet_faults + vni_faults
    if faults or subnet is None:
        return refuse(new, *faults)
    obj = o.Network(
        metadata=Meta(name=new.metadata.name, uid=uid, labels=new.metadata.labels),
        spec=new.spec,
        status=o.NetworkStatus((subnet,), vni, mtu_of(new.spec, DEFAULT_MTU)),
    )
    claims, compares = _claims(obj)
    return Admission(obj, (Create(obj), *claims), compares)


def _claims(network: o.Network) -> tuple[tuple[Step, ...], tuple[Compare, ...]]:
    """Return what a new network takes, and what must be free meanwhile."""
    subnet = network.status.subnets[0].subnet
    claimed = [keys.claim("vni", network.status.vni)]
    compares: tuple[Compare, ...] = ()
    if network.spec.subnets:
        claimed.append(keys.chosen_subnet_claim(subnet, network.metadata.uid))
    else:
        claimed.append(keys.auto_subnet_claim(subnet))
        compares = (NoneUnder(keys.subnet_claims(subnet)),)
    if network.spec.ingress:
        claimed.append(INGRESS_CLAIM)
    owner = o.owner_of(network)
    return tuple(Create(make_claim(key, owner)) for key in claimed), compares


def _name_faults(new: o.Network, view: View) -> list[Fault]:
    faults = []
    if new.metadata.name in RESERVED:
        faults.append(Fault("metadata.name", f"{new.metadata.name} is the name of a network that every engine has"))
    if new.spec.predefined:
        faults.append(Fault("spec.predefined", "every engine has the predefined networks; they are not created"))
    other = next((one for one in view.all(o.Network) if one.spec.ingress), None)
    if new.spec.ingress and other is not None:
        message = f"there is an ingress network already: {other.metadata.name}; delete it first"
        faults.append(Fault("spec.ingress", message))
    return faults


def _subnet(new: o.Network, view: View) -> tuple[o.Subnet | None, list[Fault]]:
    """Return the subnet a network gets, or why it gets none."""
    others = view.all(o.Network)
    if new.spec.subnets:
        chosen = with_gateway(new.spec.subnets[0])
        faults = _overlap_faults(new, IPv4Network(chosen.subnet), others, view.all(o.Node))
        return chosen, faults
    cluster = view.get(o.Cluster, keys.CLUSTER)
    spec = cluster.spec if cluster is not None else o.ClusterSpec()
    taken = [net for one in others for net in subnets_of(one)]
    taken += [IPv4Network(address) for node in view.all(o.Node) for address in _addresses(node)]
    found = first_free(spec.default_addr_pools, spec.subnet_size, taken)
    if found is None:
        pools = ", ".join(spec.default_addr_pools)
        message = (
            f"no subnet of {spec.subnet_size} bits is free in the address pools {pools}; give one, delete a network,"
            " or add a pool to the cluster's defaultAddrPools"
        )
        return None, [Fault("spec.subnets", message)]
    return with_gateway(o.Subnet(str(found))), []


def _overlap_faults(new: o.Network, net: IPv4Network, others: list[o.Network], nodes: list[o.Node]) -> list[Fault]:
    """What a chosen subnet may not overlap: the hosts' own addresses, and what is with it on every node."""
    faults = []
    for other in others:
        if (other.spec.ingress or new.spec.ingress) and any(net.overlaps(theirs) for theirs in subnets_of(other)):
            which = ", which is on every node" if other.spec.ingress else ""
            message = (
                f"{net} overlaps the subnet {other.status.subnets[0].subnet} of network {other.metadata.name}{which}"
            )
            faults.append(Fault("spec.subnets[0].subnet", message))
    for node in nodes:
        for address in _addresses(node):
            if IPv4Address(address) in net:
                message = f"{net} holds the address {address} of node {node.metadata.name} itself"
                faults.append(Fault("spec.subnets[0].subnet", message))
    return faults


def _addresses(node: o.Node) -> list[str]:
    """A host's own IPv4 addresses, as far as they are known."""
    found = dict.fromkeys(without_mask(text) for text in (node.status.address, node.status.data_path))
    return [text for text in found if text and _is_ipv4(text)]


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True


def _vni(spec: o.NetworkSpec, view: View) -> tuple[int, list[Fault]]:
    """Return the VXLAN number a network gets, or who has the one it asks for."""
    networks = view.all(o.Network)
    taken = {network.status.vni: network.metadata.name for network in networks if network.status.vni}
    wanted = chosen_vni(spec)
    if wanted:
        holder = taken.get(wanted)
        message = f"VXLAN number {wanted} is already in use by network {holder}"
        return wanted, [Fault("spec.options", message)] if holder is not None else []
    newest = max((one.status.vni for one in networks if not chosen_vni(one.spec)), default=FIRST_VNI - 1)
    found = next_vni(taken.keys(), newest)
    return (found, []) if found is not None else (0, [Fault("spec", "every VXLAN number is taken")])
