"""Every object's key leads back to its kind."""

from __future__ import annotations

import pytest

from shoal.api import keys
from shoal.api import objects as o
from shoal.api.meta import Meta, Owner, Ref
from shoal.api.states import DesiredState, RolloutState, TaskState
from shoal.api.template import TaskTemplate

WEB = Ref("web", "s1")
NET = Ref("front", "w1")
NODE = Ref("alpha", "n1")
TASK = Ref("web.1.t1", "t1")
META = Meta(name="x", uid="u1")
OWNER = Owner("Service", "web", "s1")
TEMPLATE = TaskTemplate(image="x")

OBJECTS: list[tuple[o.Object, str]] = [
    (o.Service(metadata=Meta(name="web"), spec=o.ServiceSpec(image="x")), "/shoal/services/web"),
    (o.Revision(metadata=META, spec=o.RevisionSpec(WEB, "h1", 1, TEMPLATE)), "/shoal/revisions/web.s1/h1"),
    (
        o.Rollout(metadata=META, status=o.RolloutStatus(service=WEB, state=RolloutState.PAUSED)),
        "/shoal/rollouts/web.s1",
    ),
    (o.Slot(metadata=META, spec=o.SlotSpec(WEB, "1", "t1")), "/shoal/slots/web.s1/1"),
    (
        o.Task(
            metadata=Meta(name="web.1.t1", uid="t1"),
            spec=o.TaskSpec(WEB, "1", "h1", TEMPLATE, DesiredState.RUNNING),
            status=o.TaskStatus(TaskState.NEW),
        ),
        "/shoal/tasks/web.1.t1",
    ),
    (o.ServiceEndpoint(metadata=META, spec=o.EndpointSpec(WEB)), "/shoal/endpoints/web.s1"),
    (
        o.Backend(metadata=META, spec=o.BackendSpec(WEB, TASK, NODE), status=o.BackendStatus(True)),
        "/shoal/backends/web.s1/t1",
    ),
    (o.Network(metadata=Meta(name="front")), "/shoal/networks/front"),
    (o.Attachment(metadata=META, spec=o.AttachmentSpec(NET, NODE)), "/shoal/attachments/front.w1/n1"),
    (o.Claim(metadata=META, key="addresses/front/10.0.0.4"), "/shoal/addresses/front/10.0.0.4"),
    (o.Claim(metadata=META, key="claims/vni/4096"), "/shoal/claims/vni/4096"),
    (o.Reference(metadata=Meta(owner=OWNER), to=Owner("Secret", "db", "x1")), "/shoal/refs/secret/x1/s1"),
    (o.Secret(metadata=Meta(name="db"), spec=o.FileSpec()), "/shoal/secrets/db"),
    (o.Config(metadata=Meta(name="db"), spec=o.FileSpec()), "/shoal/configs/db"),
    (o.Credential(metadata=Meta(name="db"), spec=o.FileSpec()), "/shoal/credentials/db"),
    (o.Node(metadata=Meta(name="alpha", uid="n1")), "/shoal/nodes/n1"),
    (o.Cluster(metadata=META), "/shoal/cluster"),
    (o.Event(metadata=META, about=OWNER, reason="Created"), "/shoal-events/service/s1/Created"),
    (o.Presence(metadata=META), "/shoal-live/u1"),
]


@pytest.mark.parametrize(("obj", "key"), OBJECTS, ids=[f"{type(obj).__name__}-{key}" for obj, key in OBJECTS])
def test_an_object_lies_at_its_key_under_its_kinds_prefix(obj: o.Object, key: str) -> None:
    assert keys.key_of(obj) == key
    assert keys.kind_at(key) is type(obj)
    assert key.startswith(keys.prefix_of(type(obj)))


def test_every_kind_is_in_the_table() -> None:
    assert {type(obj) for obj, _ in OBJECTS} == set(o.KINDS.values())


@pytest.mark.parametrize("key", ["/registry/x", "/shoal/", "/shoal/unknown/x", "/shoal-leaders/rollout", ""])
def test_a_foreign_key_has_no_kind(key: str) -> None:
    assert keys.kind_at(key) is None


def test_ports_of_both_modes_lie_under_one_prefix() -> None:
    prefix = keys.port_claims("tcp", 80)
    assert keys.ingress_port_claim("tcp", 80) == prefix + "ingress"
    assert keys.host_port_claim("tcp", 80, "s1") == prefix + "host.s1"
