"""Admission of nodes and of the cluster's settings. Pure."""

from __future__ import annotations

from apiserver.admission import Admission, View, identity_faults, refuse, replaced, updated
from shoal.api import objects as o
from shoal.api.errors import Fault
from shoal.api.states import NodeState, Role
from shoal.machinery.controller import Remove


def admit_node(old: o.Node | None, new: o.Node, view: View, uid: str) -> Admission:
    """People set a node's labels, availability and role; its status is told by others and stays."""
    if old is None:
        return refuse(new, Fault("", "a node is not created by hand: run `shoal init` or `shoal join` on the host"))
    faults = identity_faults(old, new)
    if old.spec.role is Role.MANAGER and new.spec.role is Role.WORKER and len(_managers(view)) <= 1:
        message = f"node {old.metadata.name} is the only manager and cannot become a worker"
        faults.append(Fault("spec.role", message))
    if old.spec.role is Role.WORKER and new.spec.role is Role.MANAGER:
        message = f"node {old.metadata.name} stays a worker: several managers are not available yet in this version"
        faults.append(Fault("spec.role", message))
    if faults:
        return refuse(new, *faults)
    return replaced(old, updated(old, labels=new.metadata.labels, spec=new.spec))


def admit_node_delete(old: o.Node, view: View, forced: bool) -> Admission:
    """A manager is demoted first, and a node that still answers leaves by itself, unless it is forced."""
    if old.spec.role is Role.MANAGER:
        message = f"node {old.metadata.name} is the last manager: `shoal leave --force` on it erases the swarm"
        return refuse(old, Fault("spec.role", message))
    if old.status.state is NodeState.READY and not forced:
        message = f"node {old.metadata.name} is not down and cannot be removed; leave on it first, or force it"
        return refuse(old, Fault("status.state", message))
    return Admission(old, (Remove(old),))


def _managers(view: View) -> list[o.Node]:
    return [node for node in view.all(o.Node) if node.spec.role is Role.MANAGER]


def admit_cluster(old: o.Cluster | None, new: o.Cluster, view: View, uid: str) -> Admission:
    """People set the cluster's defaults; its identity and keys stay."""
    if old is None:
        return refuse(new, Fault("", "the cluster does not exist yet: run `shoal init` first"))
    faults = identity_faults(old, new)
    if new.spec.data_path_port != old.spec.data_path_port:
        message = f"it is {old.spec.data_path_port}, and was chosen for good when the swarm began (shoal init)"
        faults.append(Fault("spec.dataPathPort", message))
    if faults:
        return refuse(new, *faults)
    return replaced(old, updated(old, labels=new.metadata.labels, spec=new.spec))


def admit_cluster_delete(old: o.Cluster, view: View, forced: bool) -> Admission:
    return refuse(old, Fault("", "the cluster cannot be deleted: `shoal leave` its last manager instead"))
