"""What becomes of services, nodes and the cluster's settings that people send."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from apiserver.admission import Admission, View
from apiserver.admit_node import admit_cluster, admit_node, admit_node_delete
from apiserver.admit_service import admit_service, admit_service_delete, template_hash, template_of
from apiserver.mirror import INDEXES
from shoal.api import keys
from shoal.api import objects as o
from shoal.api.codec import with_meta
from shoal.api.meta import Meta, derived_uid
from shoal.api.states import Availability, EndpointMode, Mode, NodeState, PublishMode, Role
from shoal.api.template import Endpoint, NetworkUse, Port
from shoal.machinery.cache import Cache
from shoal.machinery.controller import Create, Remove, Replace
from shoal.machinery.store import Exists, NoneUnder, Unchanged
from shoal.machinery.testkit import make_cluster, make_network, make_node

UID = derived_uid("fresh")


def wanted(name: str = "web", *, labels: dict[str, str] | None = None, **spec: Any) -> o.Service:
    return o.Service(
        metadata=Meta(name=name, labels=labels or {}), spec=o.ServiceSpec(**{"image": "busybox:1", **spec})
    )


class Cluster:
    """Objects as they would lie in the store, each with a revision of its own; an ingress network is there."""

    def __init__(self, *objects: o.Object) -> None:
        self.cache = Cache(INDEXES)
        for obj in (make_network(), *objects):
            self.put(obj)

    def put(self, obj: o.Object) -> None:
        self.cache.revision += 1
        self.cache.set(keys.key_of(obj), with_meta(obj, resource_version=self.cache.revision))

    def write(self, admission: Admission) -> None:
        assert not admission.faults, admission.faults
        for step in admission.steps:
            if isinstance(step, Remove):
                self.cache.set(keys.key_of(step.obj), None)
            else:
                self.put(step.new if isinstance(step, Replace) else step.obj)

    def service(self, name: str = "web") -> o.Service | None:
        return self.cache.get(o.Service, keys.service(name))

    def apply(self, new: o.Service, uid: str = UID) -> Admission:
        admission = admit_service(self.service(new.metadata.name), new, View(self.cache), uid)
        if not admission.faults:
            self.write(admission)
        return admission

    def claims(self) -> set[str]:
        return {claim.key for claim in self.cache.all(o.Claim).values()}


def written(admission: Admission, kind: type[o.Object]) -> list[str]:
    return [
        type(step).__name__
        for step in admission.steps
        if isinstance(step.new if isinstance(step, Replace) else step.obj, kind)
    ]


def test_a_new_service_comes_with_its_revision_and_its_claims() -> None:
    cluster = Cluster()
    admission = cluster.apply(wanted(ports=(Port(80, 8080), Port(81, 8081, mode=PublishMode.HOST), Port(82))))
    assert admission.result == "created"
    assert cluster.claims() == {"claims/port/tcp/8080/ingress", f"claims/port/tcp/8081/host.{UID}"}
    assert NoneUnder("/shoal/claims/port/tcp/8080/") in admission.compares
    assert Unchanged("/shoal/claims/port/tcp/8081/ingress", 0) in admission.compares
    service = cluster.service()
    assert service is not None
    assert (service.metadata.uid, service.status.revision_number) == (UID, 1)
    assert service.status.revision == template_hash(template_of(service.spec))
    assert [len(service.status.revision), service.status.previous_spec] == [16, None]


def test_an_unchanged_service_is_no_write() -> None:
    cluster = Cluster()
    cluster.apply(wanted(ports=(Port(80, 8080),), replicas=2))
    admission = cluster.apply(wanted(ports=(Port(80, 8080),), replicas=2))
    assert (admission.result, admission.steps) == ("unchanged", ())


@pytest.mark.parametrize(
    ("change", "number", "revisions"),
    [
        ({"replicas": 9}, 1, []),
        ({"update": o.Update(parallelism=2)}, 1, []),
        ({"image": "busybox:2"}, 2, ["Create"]),
        ({"env": ("A=1",)}, 2, ["Create"]),
        ({"ports": (Port(80, 8080),)}, 2, ["Create"]),
    ],
    ids=["replicas are no template", "nor is the update policy", "the image is", "the environment is", "ports are"],
)
def test_only_a_changed_template_makes_a_revision(change: dict[str, Any], number: int, revisions: list[str]) -> None:
    cluster = Cluster()
    cluster.apply(wanted())
    admission = cluster.apply(wanted(**change))
    assert written(admission, o.Revision) == revisions
    service = cluster.service()
    assert service is not None
    assert service.status.revision_number == number
    assert service.status.previous_spec == wanted().spec


def test_labels_alone_leave_spec_previous_spec_and_revision() -> None:
    cluster = Cluster()
    cluster.apply(wanted())
    admission = cluster.apply(wanted(labels={"tier": "front"}))
    assert (admission.result, len(admission.steps)) == ("configured", 1)
    service = cluster.service()
    assert service is not None
    assert service.status.previous_spec is None


def test_a_template_of_old_gets_its_revision_again_if_it_is_still_there() -> None:
    cluster = Cluster()
    cluster.apply(wanted())
    first = cluster.service()
    cluster.apply(wanted(image="busybox:2"))
    admission = cluster.apply(wanted())
    again = cluster.service()
    assert first is not None
    assert again is not None
    assert again.status.revision == first.status.revision
    assert any(isinstance(compare, Exists) and "/revisions/" in compare.key for compare in admission.compares)


def test_a_revision_number_is_never_given_twice() -> None:
    cluster = Cluster()
    numbers = []
    for image in ("a:1", "b:1", "a:1", "c:1"):
        cluster.apply(wanted(image=image))
        service = cluster.service()
        assert service is not None
        numbers.append(service.status.revision_number)
    assert numbers == [1, 2, 1, 3]


def test_a_hash_does_not_depend_on_the_order_of_mappings() -> None:
    one, other = (
        template_of(wanted(container_labels=labels).spec) for labels in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    )
    assert template_hash(one) == template_hash(other)


@pytest.mark.parametrize(
    ("theirs", "ours", "text"),
    [
        (PublishMode.INGRESS, PublishMode.INGRESS, "as an ingress port"),
        (PublishMode.INGRESS, PublishMode.HOST, "as an ingress port"),
        (PublishMode.HOST, PublishMode.INGRESS, "as a host-published port"),
        (PublishMode.HOST, PublishMode.HOST, ""),
    ],
    ids=["ingress twice", "host under ingress", "ingress under host", "host ports may coexist"],
)
def test_a_port_has_one_holder(theirs: PublishMode, ours: PublishMode, text: str) -> None:
    cluster = Cluster()
    holder = derived_uid("holder")
    cluster.apply(wanted("api", ports=(Port(80, 8080, mode=theirs),)), holder)
    admission = cluster.apply(wanted(ports=(Port(81), Port(80, 8080, mode=ours))))
    expected = [f"port '8080' is already in use by service 'api' ({holder}) {text}"] if text else []
    assert [fault.message for fault in admission.faults] == expected
    assert [fault.path for fault in admission.faults] == ["spec.ports[1].published"][: len(expected)]


@pytest.mark.parametrize("protocol", ["udp", "sctp"])
def test_another_protocol_is_another_port(protocol: Any) -> None:
    cluster = Cluster()
    cluster.apply(wanted("api", ports=(Port(80, 8080),)), derived_uid("holder"))
    assert not cluster.apply(wanted(ports=(Port(80, 8080, protocol=protocol),))).faults


def test_claims_follow_the_ports_of_the_spec() -> None:
    cluster = Cluster()
    cluster.apply(wanted(ports=(Port(80, 8080), Port(81, 8081))))
    cluster.apply(wanted(ports=(Port(81, 8081), Port(80, 8082))))
    assert cluster.claims() == {"claims/port/tcp/8081/ingress", "claims/port/tcp/8082/ingress"}
    cluster.apply(wanted(ports=(Port(81, 8081, mode=PublishMode.HOST),)))
    assert cluster.claims() == {f"claims/port/tcp/8081/host.{UID}"}
    cluster.apply(wanted(ports=(Port(81, 8081),)))
    assert cluster.claims() == {"claims/port/tcp/8081/ingress"}


def test_a_port_the_service_was_given_may_become_its_own_choice() -> None:
    cluster = Cluster()
    cluster.apply(wanted(ports=(Port(80),)))
    service = cluster.service()
    assert service is not None
    owner = o.Owner("Service", "web", UID)
    cluster.put(o.Claim(metadata=Meta(name="c", owner=owner), key="claims/port/tcp/30000/ingress"))
    admission = cluster.apply(wanted(ports=(Port(80, 30000),)))
    assert not admission.faults
    assert written(admission, o.Claim) == []


def test_deleting_a_service_frees_its_ports_in_the_same_transaction() -> None:
    cluster = Cluster()
    cluster.apply(wanted(ports=(Port(80, 8080),)))
    service = cluster.service()
    assert service is not None
    cluster.write(admit_service_delete(service, View(cluster.cache), False))
    assert (cluster.service(), cluster.claims()) == (None, set())
    assert cluster.cache.all(o.Revision), "revisions are collected by rollout"


@pytest.mark.parametrize(
    ("new", "path"),
    [
        (wanted(mode=Mode.GLOBAL), "spec.mode"),
        (with_meta(wanted(), name="other"), "metadata.name"),
        (with_meta(wanted(), uid=derived_uid("other")), "metadata.uid"),
        (wanted(networks=(NetworkUse("nowhere"),)), "spec.networks[0].name"),
        (wanted(networks=(NetworkUse("ingress"),)), "spec.networks[0].name"),
    ],
    ids=["mode", "name", "uid", "a network that is not there", "the ingress network"],
)
def test_what_is_refused_names_its_field(new: o.Service, path: str) -> None:
    cluster = Cluster(make_network("ingress"))
    cluster.apply(wanted())
    admission = admit_service(cluster.service(), new, View(cluster.cache), UID)
    assert [fault.path for fault in admission.faults] == [path]
    assert admission.steps == ()


def test_networks_are_stored_with_their_uids_whichever_way_they_are_named() -> None:
    network = make_network("front", subnet="10.0.1.0/24")
    cluster = Cluster(network)
    cluster.apply(wanted(networks=(NetworkUse("front", aliases=("db",)),)))
    service = cluster.service()
    assert service is not None
    assert service.spec.networks == (NetworkUse("front", ("db",), uid=network.metadata.uid),)
    by_uid = wanted(networks=(NetworkUse(network.metadata.uid, aliases=("db",)),))
    assert cluster.apply(by_uid).result == "unchanged"


def test_one_apply_sees_what_came_before_in_it() -> None:
    view = View(Cluster().cache)
    first = admit_service(None, wanted("api", ports=(Port(80, 8080),)), view, derived_uid("api"))
    second = admit_service(None, wanted(ports=(Port(80, 8080),)), view.after(first.steps), UID)
    assert [fault.path for fault in second.faults] == ["spec.ports[0].published"]


def test_dnsrr_keeps_its_ports_mode() -> None:
    port = Port(80, 8080, mode=PublishMode.HOST)
    assert not Cluster().apply(wanted(ports=(port,), endpoint=Endpoint(EndpointMode.DNSRR))).faults


def test_a_node_keeps_its_status_whatever_people_send() -> None:
    node = with_meta(make_node("n1"), resource_version=3)
    new = msgspec.structs.replace(
        make_node("n1", labels={"zone": "a"}, availability=Availability.DRAIN),
        status=o.NodeStatus(state=NodeState.DOWN),
    )
    admission = admit_node(node, new, View(Cluster(node).cache), UID)
    (step,) = admission.steps
    assert isinstance(step, Replace)
    assert isinstance(step.new, o.Node)
    assert (step.new.status, step.new.metadata.labels) == (node.status, {"zone": "a"})
    assert step.new.spec.availability is Availability.DRAIN


@pytest.mark.parametrize(
    ("nodes", "refused"),
    [
        ([make_node("n1", role=Role.MANAGER)], True),
        ([make_node("n1", role=Role.MANAGER), make_node("n2", role=Role.MANAGER)], False),
    ],
    ids=["the only manager stays one", "one of two may become a worker"],
)
def test_a_cluster_keeps_a_manager(nodes: list[o.Node], refused: bool) -> None:
    admission = admit_node(nodes[0], make_node("n1", role=Role.WORKER), View(Cluster(*nodes).cache), UID)
    assert bool(admission.faults) == refused


@pytest.mark.parametrize(
    ("node", "forced", "refused"),
    [
        (make_node("n1", state=NodeState.DOWN), False, False),
        (make_node("n1"), False, True),
        (make_node("n1"), True, False),
        (make_node("n1", role=Role.MANAGER), True, True),
    ],
    ids=["down goes", "ready stays", "ready goes by force", "a manager never"],
)
def test_removing_nodes(node: o.Node, forced: bool, refused: bool) -> None:
    assert bool(admit_node_delete(node, View(Cluster(node).cache), forced).faults) == refused


def test_people_create_neither_nodes_nor_clusters() -> None:
    view = View(Cluster().cache)
    assert admit_node(None, make_node("n9"), view, UID).faults
    assert admit_cluster(None, make_cluster(), view, UID).faults


def test_the_clusters_keys_stay_when_its_defaults_change() -> None:
    cluster = with_meta(make_cluster(), resource_version=1)
    new = o.Cluster(metadata=Meta(name="default"), spec=o.ClusterSpec(task_history_limit=9))
    admission = admit_cluster(cluster, new, View(Cluster(cluster).cache), UID)
    assert isinstance(admission.steps[0], Replace)
    assert admission.obj == msgspec.structs.replace(cluster, spec=new.spec)
    assert not any(isinstance(step, Create) for step in admission.steps)


def test_the_port_of_overlay_traffic_is_chosen_once() -> None:
    old = make_cluster()
    faults = admit_cluster(old, make_cluster(data_path_port=7789), View(Cache(INDEXES)), UID).faults
    assert [fault.path for fault in faults] == ["spec.dataPathPort"]
    pools = make_cluster(default_addr_pools=("172.30.0.0/16",))
    assert not admit_cluster(with_meta(old, resource_version=1), pools, View(Cache(INDEXES)), UID).faults
