"""What becomes of networks that people send, and of the services that use them."""

from __future__ import annotations

from typing import Any

import pytest

from apiserver.admission import Admission, View
from apiserver.admit_network import admit_network, admit_network_delete
from apiserver.admit_service import admit_service
from apiserver.containers import AttachRequest, admit_container
from apiserver.joined import joined_network
from apiserver.mirror import INDEXES
from apiserver.references import NO_INGRESS
from shoal.api import keys
from shoal.api import objects as o
from shoal.api.codec import with_meta
from shoal.api.meta import Meta, Owner, derived_uid
from shoal.api.networks import VNI_OPTION
from shoal.api.states import TaskState
from shoal.api.template import NetworkUse, Port
from shoal.machinery.cache import Cache
from shoal.machinery.controller import Create, Remove, Replace
from shoal.machinery.store import NoneUnder, Unchanged
from shoal.machinery.testkit import make_cluster, make_network, make_node, make_service, make_task, ref_of
from shoal.rules.claims import make_claim


class Store:
    """A store with a cluster, its ingress network and a node at 192.168.7.1; admissions are written into it."""

    def __init__(self, *objects: o.Object, pools: tuple[str, ...] = ("10.0.0.0/8",), size: int = 24) -> None:
        self.cache = Cache(INDEXES)
        cluster = make_cluster(default_addr_pools=pools, subnet_size=size)
        host = o.Network(metadata=Meta(name="host", uid="h" * 25), spec=o.NetworkSpec(driver="host", predefined=True))
        self.put(cluster, make_network(), host, make_node("n1", address="192.168.7.1"), *objects)

    def put(self, *objects: o.Object) -> None:
        for obj in objects:
            self.cache.revision += 1
            self.cache.set(keys.key_of(obj), with_meta(obj, resource_version=self.cache.revision))

    def written(self, admission: Admission) -> Admission:
        for step in admission.steps:
            if isinstance(step, Remove):
                self.cache.set(keys.key_of(step.obj), None)
            else:
                self.put(step.new if isinstance(step, Replace) else step.obj)
        return admission

    def network(self, name: str, *, labels: dict[str, str] | None = None, **spec: Any) -> Admission:
        new = o.Network(metadata=Meta(name=name, labels=labels or {}), spec=o.NetworkSpec(**spec))
        old = self.cache.get(o.Network, keys.network(name))
        return self.written(admit_network(old, new, View(self.cache), derived_uid("network", name)))

    def service(self, name: str = "web", **spec: Any) -> Admission:
        new = o.Service(metadata=Meta(name=name), spec=o.ServiceSpec(**{"image": "busybox:1", **spec}))
        old = self.cache.get(o.Service, keys.service(name))
        return self.written(admit_service(old, new, View(self.cache), derived_uid("service", name)))

    def delete(self, name: str) -> Admission:
        old = self.cache.get(o.Network, keys.network(name))
        assert old is not None
        return self.written(admit_network_delete(old, View(self.cache), False))

    def status(self, name: str) -> tuple[str, str, int]:
        network = self.cache.get(o.Network, keys.network(name))
        assert network is not None
        (subnet,) = network.status.subnets
        return subnet.subnet, subnet.gateway, network.status.vni

    def claims(self) -> set[str]:
        return {claim.key for claim in self.cache.all(o.Claim).values()}


def messages(admission: Admission) -> list[str]:
    return [f"{fault.path}: {fault.message}" for fault in admission.faults]


def test_a_network_gets_the_next_subnet_and_number_and_claims_them() -> None:
    store = Store()
    admission = store.network("front")
    assert store.status("front") == ("10.0.1.0/24", "10.0.1.1", 4097)
    assert store.claims() == {"claims/subnet/10.0.1.0/24/auto", "claims/vni/4097"}
    assert admission.compares == (NoneUnder("/shoal/claims/subnet/10.0.1.0/24/"),)
    assert all(isinstance(step, Create) for step in admission.steps)
    store.network("back")
    assert store.status("back") == ("10.0.2.0/24", "10.0.2.1", 4098)


@pytest.mark.parametrize("driver", ["bridge", "ipvlan", "macvlan"])
def test_a_node_local_network_is_allocated_nothing_and_is_held_all_the_same(driver: str) -> None:
    store = Store()
    store.network("lan", driver=driver, config_from="here")
    network = store.cache.get(o.Network, keys.network("lan"))
    assert network is not None
    assert (network.status, store.claims()) == (o.NetworkStatus(), set())
    assert joined_network(network, store.cache) == {}
    assert not store.service("web", networks=(NetworkUse("lan", aliases=("site",)),)).faults
    assert messages(store.delete("lan")) == [": network 'lan' is in use by service web"]
    for reference in list(store.cache.all(o.Reference)):
        store.cache.set(reference, None)
    store.put(make_task(store.cache.get(o.Service, keys.service("web"))))
    assert "is in use by task web." in messages(store.delete("lan"))[0]


def test_a_chosen_subnet_gateway_range_number_and_mtu_are_taken() -> None:
    store = Store()
    subnet = o.Subnet("172.20.0.0/16", "172.20.0.254", "172.20.8.0/24")
    store.network("own", subnets=(subnet,), mtu=1400, options={VNI_OPTION: "5000"})
    network = store.cache.get(o.Network, keys.network("own"))
    assert network is not None
    assert network.status == o.NetworkStatus((subnet,), 5000, 1400)
    assert f"claims/subnet/172.20.0.0/16/chosen.{network.metadata.uid}" in store.claims()
    store.network("front")
    assert store.status("front")[2] == 4097, "a chosen number does not lead the others away"


def test_chosen_subnets_may_overlap_and_automatic_ones_never_do() -> None:
    store = Store()
    assert not store.network("one", subnets=(o.Subnet("10.0.2.0/23"),)).faults
    assert not store.network("two", subnets=(o.Subnet("10.0.3.0/24"),)).faults
    store.network("front")
    store.network("back")
    assert [store.status(name)[0] for name in ("front", "back")] == ["10.0.1.0/24", "10.0.4.0/24"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"subnets": (o.Subnet("10.0.0.128/25"),)},
         "spec.subnets[0].subnet: 10.0.0.128/25 overlaps the subnet 10.0.0.0/24 of network ingress, which is on every"
         " node"),
        ({"subnets": (o.Subnet("192.168.0.0/16"),)},
         "spec.subnets[0].subnet: 192.168.0.0/16 holds the address 192.168.7.1 of node n1 itself"),
        ({"options": {VNI_OPTION: "4096"}},
         "spec.options: VXLAN number 4096 is already in use by network ingress"),
        ({"ingress": True}, "spec.ingress: there is an ingress network already: ingress; delete it first"),
        ({"predefined": True}, "spec.predefined: every engine has the predefined networks; they are not created"),
    ],
    ids=["the mesh's subnet", "a host's address", "a taken number", "a second ingress", "predefined"],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_the_call(spec: dict[str, Any], expected: str) -> None:
    store = Store()
    assert messages(store.network("front", **spec)) == [expected]
    assert store.claims() == set(), "nothing half-made stays behind"


@pytest.mark.parametrize("name", ["host", "bridge", "none"])
def test_names_of_the_engine_s_own_networks_are_refused(name: str) -> None:
    store = Store()
    store.cache.set(keys.network("host"), None)
    assert messages(store.network(name)) == [f"metadata.name: {name} is the name of a network that every engine has"]


def test_used_up_pools_are_told() -> None:
    store = Store(pools=("10.0.0.0/23",))
    store.network("front")
    (message,) = messages(store.network("back"))
    assert message.startswith("spec.subnets: no subnet of 24 bits is free in the address pools 10.0.0.0/23; give one")


def test_a_host_s_own_address_is_passed_over() -> None:
    store = Store(make_node("n2", address="10.0.1.77"))
    store.network("front")
    assert store.status("front")[0] == "10.0.2.0/24"


def test_labels_can_be_changed_and_nothing_else() -> None:
    store = Store()
    store.network("front")
    assert store.network("front").result == "unchanged"
    assert store.network("front", labels={"a": "b"}).result == "configured"
    assert messages(store.network("front", internal=True)) == [
        "spec: only the labels of a network can be changed: delete it and create it again"
    ]


def test_a_network_in_use_is_not_deleted_and_one_that_is_not_gives_everything_back() -> None:
    store = Store()
    store.network("front")
    store.service("web", networks=(NetworkUse("front"),))
    store.service("api", networks=(NetworkUse("front"),))
    assert messages(store.delete("front")) == [": network 'front' is in use by service api, service web"]
    for reference in list(store.cache.all(o.Reference)):
        store.cache.set(reference, None)
    admission = store.delete("front")
    uid = derived_uid("network", "front")
    assert admission.compares == (NoneUnder(f"/shoal/refs/network/{uid}/"),)
    assert store.claims() == set()
    store.network("again")
    assert store.status("again")[0] == "10.0.1.0/24"


def test_a_network_is_not_deleted_while_tasks_of_a_deleted_service_still_stop() -> None:
    store = Store()
    store.network("front")
    network = store.cache.get(o.Network, keys.network("front"))
    assert network is not None
    address = o.TaskAddress(ref_of(network), "10.0.1.3/24", "02:42:0a:00:01:03")
    task = make_task(make_service("web"), 1, state=TaskState.RUNNING, addresses=(address,))
    store.put(task)
    assert messages(store.delete("front")) == [f": network 'front' is in use by task {task.metadata.name}"]
    store.put(make_task(make_service("web"), 1, state=TaskState.SHUTDOWN, addresses=(address,)))
    assert not store.delete("front").faults


def test_predefined_networks_are_used_and_not_deleted() -> None:
    store = Store()
    admission = store.service("web", networks=(NetworkUse("host"),))
    assert isinstance(admission.obj, o.Service)
    assert admission.obj.spec.networks == (NetworkUse("host", uid="h" * 25),)
    assert store.cache.all(o.Reference) == {}
    assert messages(store.delete("host")) == [": network 'host' is predefined and cannot be deleted"]


def test_the_ingress_network_goes_when_nobody_publishes_and_comes_again_with_options() -> None:
    store = Store()
    store.service("web", ports=(Port(80, 8080),))
    assert messages(store.delete("ingress")) == [": network 'ingress' is in use by service web"]
    for reference in list(store.cache.all(o.Reference)):
        store.cache.set(reference, None)
    assert not store.delete("ingress").faults
    assert messages(store.service("other", ports=(Port(80, 8081),))) == [f"spec.ports: {NO_INGRESS}"]
    assert not store.service("plain").faults
    store.network("mesh", ingress=True, subnets=(o.Subnet("10.77.0.0/24"),), mtu=1400)
    assert store.status("mesh")[0] == "10.77.0.0/24"
    assert "claims/network/ingress" in store.claims()
    assert not store.service("other", ports=(Port(80, 8081),)).faults


def test_a_service_holds_its_networks_and_compares_that_they_are_the_ones_looked_at() -> None:
    store = Store()
    store.network("front")
    network = store.cache.get(o.Network, keys.network("front"))
    assert network is not None
    admission = store.service("web", networks=(NetworkUse(network.metadata.uid, ("db",)),))
    assert isinstance(admission.obj, o.Service)
    assert admission.obj.spec.networks == (NetworkUse("front", ("db",), uid=network.metadata.uid),)
    assert Unchanged(keys.network("front"), network.metadata.resource_version) in admission.compares
    assert [one.to.name for one in store.cache.all(o.Reference).values()] == ["front"]


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        ((NetworkUse("gone"),), "spec.networks[0].name: network gone not found"),
        ((NetworkUse("ingress"),),
         "spec.networks[0].name: a service cannot be attached to the ingress network 'ingress' by name"),
        ((NetworkUse("one"), NetworkUse("two")),
         "spec.networks[1].name: the subnets of networks two and one overlap: no node can have both"),
        ((NetworkUse("h" * 25), NetworkUse("one")), "spec.networks: a service on the network host is on no other"),
    ],
    ids=["unknown", "ingress", "overlapping", "host by its uid"],
)  # fmt: skip
def test_networks_a_service_cannot_use(networks: tuple[NetworkUse, ...], expected: str) -> None:
    store = Store()
    store.network("one", subnets=(o.Subnet("10.9.0.0/16"),))
    store.network("two", subnets=(o.Subnet("10.9.1.0/24"),))
    assert messages(store.service("web", networks=networks)) == [expected]


def test_free_addresses_are_told_with_a_network() -> None:
    store = Store()
    store.network("front", subnets=(o.Subnet("10.9.0.0/28", "10.9.0.14"),))
    network = store.cache.get(o.Network, keys.network("front"))
    assert network is not None
    claim = make_claim(keys.address(ref_of(network), "10.9.0.2"), Owner("Task", "web.1.x", "t"))
    store.put(claim)
    assert joined_network(network, store.cache) == {"addresses": {"total": 12, "used": 1, "free": 11}}
    host = store.cache.get(o.Network, keys.network("host"))
    assert host is not None
    assert joined_network(host, store.cache) == {}


class Attachable(Store):
    """A store with the networks front (attachable) and closed (not)."""

    def __init__(self) -> None:
        super().__init__()
        self.network("front", attachable=True)
        self.network("closed")

    def attach(self, container: str, name: str = "front", **wanted: Any) -> Admission:
        network = self.cache.get(o.Network, keys.network(name))
        node = make_node("n1")
        assert network is not None
        request = AttachRequest(name, **wanted)
        return self.written(admit_container(network, node, container, request, View(self.cache)))


def test_a_plain_container_gets_an_address_that_nobody_else_has_and_holds_the_network() -> None:
    store = Attachable()
    found = [store.attach(f"{number:064x}").obj for number in (1, 2)]
    specs = [one.spec for one in found if isinstance(one, o.Attachment)]
    assert [(spec.address, spec.mac, spec.node.name) for spec in specs] == [
        ("10.0.1.2/24", "02:42:0a:00:01:02", "n1"),
        ("10.0.1.3/24", "02:42:0a:00:01:03", "n1"),
    ]
    assert store.attach(f"{1:064x}").result == "unchanged"
    assert messages(store.delete("front")) == [
        ": network 'front' is in use by attachment front.000000000000, attachment front.000000000000"
    ]


@pytest.mark.parametrize(
    ("name", "wanted", "expected"),
    [
        ("closed", {}, "network: network closed is not manually attachable"),
        ("front", {"address": "10.0.1.2"}, "address: 10.0.1.2 is attachment front.aa's"),
        ("front", {"address": "10.0.1.1"}, "address: found '10.0.1.1', no address of network front to give"),
        ("front", {"address": "10.9.0.1"}, "address: found '10.9.0.1', no address of network front to give"),
        ("front", {"names": ("my shell",)}, "names[0]: found 'my shell', which is no name"),
    ],
    ids=["not attachable", "taken", "the gateway", "elsewhere", "a bad name"],
)
def test_a_plain_container_that_cannot_be_attached(name: str, wanted: dict[str, Any], expected: str) -> None:
    store = Attachable()
    store.attach("aa")
    assert messages(store.attach("bb", name, **wanted)) == [expected]


def test_a_plain_container_may_have_any_free_address() -> None:
    obj = Attachable().attach("aa", address="10.0.1.77", names=("shell",)).obj
    assert isinstance(obj, o.Attachment)
    assert (obj.spec.address, obj.spec.names) == ("10.0.1.77/24", ("shell",))
