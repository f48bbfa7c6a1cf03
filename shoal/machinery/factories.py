"""Objects for tests, as the API server and the controllers store them. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from shoal.api import codec
from shoal.api import objects as o
from shoal.api.meta import Meta, Ref, derived_uid
from shoal.api.states import Availability, DesiredState, NodeState, Role, RolloutState, TaskState
from shoal.api.template import TaskTemplate
from shoal.api.units import Bytes, Cpus
from shoal.machinery.clock import VirtualClock
from shoal.rules.attempts import after_change
from shoal.rules.dirtiness import template_of


def template_hash(template: TaskTemplate) -> str:
    return hashlib.sha256(msgspec.json.encode(template, enc_hook=codec.enc_hook, order="sorted")).hexdigest()[:16]


def make_service(
    name: str = "web", *, labels: Mapping[str, str] | None = None, previous: o.ServiceSpec | None = None, **spec: Any
) -> o.Service:
    """Make a service as the API server stores it: `make_service("web", replicas=3, ports=(Port(80),))`."""
    full = o.ServiceSpec(**{"image": "busybox:1", **spec})
    return o.Service(
        metadata=Meta(
            name=name,
            uid=derived_uid("service", name),
            labels=dict(labels or {}),
            generation=1,
            created_at=VirtualClock.START,
        ),
        spec=full,
        status=o.ServiceStatus(revision=template_hash(template_of(full)), revision_number=1, previous_spec=previous),
    )


def changed(old: o.Service, new: o.Service) -> o.Service:
    """Return a stored service after people have applied another one in its place."""
    if old.spec == new.spec:
        return codec.with_meta(old, labels=new.metadata.labels)
    revision = o.RevisionSpec(o.ref_of(old), new.status.revision, new.status.revision_number, template_of(new.spec))
    status = after_change(old, new.spec, revision)
    return msgspec.structs.replace(codec.with_meta(old, labels=new.metadata.labels), spec=new.spec, status=status)


def make_revision(service: o.Service, number: int = 1) -> o.Revision:
    """Make the Revision that the API server stores together with a service."""
    digest = service.status.revision
    return o.Revision(
        metadata=Meta(
            name=f"{service.metadata.name}.{digest}",
            uid=derived_uid("revision", service.metadata.uid, digest),
            created_at=VirtualClock.START,
            owner=o.owner_of(service),
        ),
        spec=o.RevisionSpec(service=o.ref_of(service), hash=digest, number=number, template=template_of(service.spec)),
    )


def make_rollout(service: o.Service, *, stable: str | None = None, **status: Any) -> o.Rollout:
    """Make a service's Rollout: completed, with the service's own revision, unless told otherwise."""
    target = status.pop("target", service.status.revision)
    return o.Rollout(
        metadata=Meta(
            name=service.metadata.name,
            uid=derived_uid("rollout", service.metadata.uid),
            created_at=VirtualClock.START,
            owner=o.owner_of(service),
        ),
        status=o.RolloutStatus(
            **{
                "service": o.ref_of(service),
                "state": RolloutState.COMPLETED,
                "stable": target if stable is None else stable,
                "target": target,
                **status,
            }
        ),
    )


def make_node(
    name: str = "n1",
    *,
    cpus: float = 4,
    memory: str = "8G",
    role: Role = Role.WORKER,
    availability: Availability = Availability.ACTIVE,
    state: NodeState = NodeState.READY,
    labels: Mapping[str, str] | None = None,
    address: str = "127.0.0.1",
    **description: Any,
) -> o.Node:
    """Make a node that is ready for tasks; `description` is what its agent says of its host."""
    about = {
        "hostname": name,
        "os": "linux",
        "architecture": "x86_64",
        "cpus": Cpus.parse(cpus),
        "memory": Bytes.parse(memory),
        "engine_version": "20.10.24",
        **description,
    }
    return o.Node(
        metadata=Meta(
            name=name,
            uid=derived_uid("node", name),
            labels=dict(labels or {}),
            generation=1,
            created_at=VirtualClock.START,
        ),
        spec=o.NodeSpec(role=role, availability=availability),
        status=o.NodeStatus(
            description=o.NodeDescription(**about), address=address, state=state, since=VirtualClock.START
        ),
    )


def make_task(
    service: o.Service | None = None,
    slot: str | int = 1,
    *,
    state: TaskState = TaskState.RUNNING,
    desired: DesiredState = DesiredState.RUNNING,
    node: o.Node | Ref | None = None,
    uid: str = "",
    status: Mapping[str, Any] | None = None,
    **spec: Any,
) -> o.Task:
    """Make a task of a service's slot, in any state: `make_task(web, 2, state=TaskState.FAILED, node=n1)`."""
    service = service if service is not None else make_service()
    uid = uid or derived_uid("task", service.metadata.uid, str(slot))
    return o.Task(
        metadata=Meta(
            name=f"{service.metadata.name}.{slot}.{uid}",
            uid=uid,
            generation=1,
            created_at=VirtualClock.START,
            owner=o.owner_of(service),
        ),
        spec=o.TaskSpec(
            **{
                "service": o.ref_of(service),
                "slot": str(slot),
                "revision": service.status.revision,
                "template": template_of(service.spec),
                "desired_state": desired,
                "node": o.ref_of(node) if isinstance(node, o.Node) else node,
                **spec,
            }
        ),
        status=o.TaskStatus(**{"state": state, "timestamp": VirtualClock.START, **(status or {})}),
    )


def make_slot(task: o.Task) -> o.Slot:
    """Make the Slot that holds a task."""
    service, slot = task.spec.service, task.spec.slot
    return o.Slot(
        metadata=Meta(
            name=f"{service.name}.{slot}", uid=derived_uid("slot", service.uid, slot), owner=task.metadata.owner
        ),
        spec=o.SlotSpec(service=service, slot=slot, task=task.metadata.uid),
    )


def make_network(name: str = "ingress", *, subnet: str = "10.0.0.0/24", **spec: Any) -> o.Network:
    """Make a network as the API server stores it, its subnet allocated."""
    gateway = subnet.rsplit(".", 1)[0] + ".1"
    given = o.Subnet(subnet=subnet, gateway=gateway)
    return o.Network(
        metadata=Meta(name=name, uid=derived_uid("network", name), generation=1, created_at=VirtualClock.START),
        spec=o.NetworkSpec(**{"ingress": name == "ingress", **spec}),
        status=o.NetworkStatus(subnets=(given,), vni=4096),
    )


def make_cluster(**spec: Any) -> o.Cluster:
    return o.Cluster(
        metadata=Meta(name="default", uid=derived_uid("cluster"), generation=1, created_at=VirtualClock.START),
        spec=o.ClusterSpec(**spec),
        status=o.ClusterStatus(incarnation=derived_uid("incarnation")),
    )


def at_revision(obj: codec.T, revision: int = 1) -> codec.T:
    """Return the object as if it had been read at a revision, for tests of pure `plan` functions."""
    return codec.with_meta(obj, resource_version=revision)
