"""Tunnels: which entries a node needs, and that any kernel becomes the wanted one by what differs alone."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.network import overlay as o
from nodeagent.network.sixes import address6
from shoal.api.meta import Meta, Ref
from shoal.api.objects import (
    Attachment,
    AttachmentSpec,
    Backend,
    BackendSpec,
    BackendStatus,
    EndpointNetwork,
    EndpointSpec,
    Network,
    NetworkStatus,
    ServiceEndpoint,
    TaskAddress,
)
from shoal.rules.addresses import mac_of
from tests.support.kernel import Kernel

FRONT = Ref("front", "net1")
NETWORK = Network(metadata=Meta(name="front", uid="net1"), status=NetworkStatus(vni=4097, mtu=1400))
DEVICE = "shx-net1"


def attachment(node: str, last: int, vtep: str = "", container: str = "") -> Attachment:
    address = f"10.0.1.{last}/24"
    spec = AttachmentSpec(
        FRONT, Ref(node, node), container=container, address=address, mac=mac_of(address), vtep=vtep, number=last
    )
    return Attachment(metadata=Meta(name=f"{node}{container}"), spec=spec)


def backend(last: int, node: str, *, ready: bool = True) -> Backend:
    address = f"10.0.1.{last}/24"
    spec = BackendSpec(
        service=Ref("web", "svc1"), task=Ref(f"web.{last}", f"t{last}"), node=Ref(node, node),
        addresses=(TaskAddress(FRONT, address, mac_of(address)),),
    )  # fmt: skip
    return Backend(metadata=Meta(name=f"t{last}"), spec=spec, status=BackendStatus(ready=ready))


NODES = (attachment("n1", 2, "192.0.2.1"), attachment("n2", 3, "192.0.2.2"), attachment("n3", 4, ""))


def overlay(*backends: Backend, attachments: tuple[Attachment, ...] = NODES, vip: str = "") -> o.Overlay:
    endpoint = ServiceEndpoint(
        metadata=Meta(name="web"), spec=EndpointSpec(Ref("web", "svc1"), networks=(EndpointNetwork(FRONT, vip),))
    )
    return o.overlays([NETWORK], attachments, backends, [endpoint], "n1", 4789)[DEVICE]


def entries(found: o.Overlay) -> dict[str, str]:
    """Last byte of each address → the host it leads to, "" = this one's bridge."""
    hosts = dict(found.far_ends)
    assert found.ways == hosts.keys()
    return {one.address.rpartition(".")[2]: hosts.get(one.mac, "") for one in found.neighbours}


def test_the_tunnel_is_the_network_s_and_this_node_s() -> None:
    assert overlay().tunnel == o.Tunnel(
        DEVICE,
        4097,
        4789,
        local="192.0.2.1",
        bridge="shb-net1",
        mac="02:42:0a:00:01:02",
        address="10.0.1.2/24",
        mtu=1400,
    )


def test_every_bridge_and_container_of_other_nodes_has_entries_ready_or_not() -> None:
    plain = attachment("n2", 9, "192.0.2.2", container="c1")
    found = overlay(backend(11, "n2"), backend(12, "n2", ready=False), attachments=(*NODES, plain))
    assert entries(found) == dict.fromkeys(("3", "9", "11", "12"), "192.0.2.2")


def test_this_node_s_own_containers_and_those_of_nodes_without_a_tunnel_have_none() -> None:
    assert entries(overlay(backend(11, "n1"), backend(12, "n3"), backend(13, "n4"))) == {"3": "192.0.2.2"}


def test_a_virtual_ip_is_answered_for_with_this_node_s_bridge() -> None:
    assert entries(overlay(vip="10.0.1.7/24")) == {"3": "192.0.2.2", "7": ""}
    assert o.Neighbour("10.0.1.7", "02:42:0a:00:01:02") in overlay(vip="10.0.1.7/24").neighbours


def test_with_an_ipv6_side_each_has_a_second_neighbour_entry_with_the_same_mac() -> None:
    (found,) = o.overlays([NETWORK], NODES, [backend(11, "n2")], [], "n1", 4789, "net1").values()
    assert found.ways == {"02:42:0a:00:01:03", "02:42:0a:00:01:0b"}
    assert {one.address for one in found.neighbours if one.mac == "02:42:0a:00:01:0b"} == {
        "10.0.1.11",
        str(address6("net1", "10.0.1.11/24")),
    }


def test_a_network_the_node_is_not_attached_to_has_no_tunnel() -> None:
    assert o.overlays([NETWORK], NODES[1:], [], [], "n1", 4789) == {}


def test_one_backend_more_or_less_costs_its_three_entries_however_many_there_are() -> None:
    many = [backend(last, "n2") for last in range(10, 200)]
    before, after = overlay(*many[1:]), overlay(*many)
    mac = "02:42:0a:00:01:0a"
    assert o.changes({DEVICE: before}, {DEVICE: after}) == (
        o.SetFarEnd(DEVICE, mac, "192.0.2.2"),
        o.SetWay(DEVICE, mac),
        o.SetNeighbour(DEVICE, "10.0.1.10", mac),
    )
    assert len(o.changes({DEVICE: after}, {DEVICE: before})) == 3
    assert o.changes({DEVICE: after}, {DEVICE: after}) == ()


def test_a_container_that_moves_changes_where_its_mac_leads() -> None:
    nodes = (*NODES[:2], attachment("n3", 4, "192.0.2.3"))
    before, after = overlay(backend(9, "n2"), attachments=nodes), overlay(backend(9, "n3"), attachments=nodes)
    assert o.changes({DEVICE: before}, {DEVICE: after}) == (o.SetFarEnd(DEVICE, "02:42:0a:00:01:09", "192.0.2.3"),)


def test_a_device_that_goes_makes_room_before_another_comes() -> None:
    old = replace(overlay(), tunnel=replace(overlay().tunnel, name="shx-old"))
    todo = o.changes({"shx-old": old}, {DEVICE: overlay()})
    assert todo[:2] == (o.DropTunnel("shx-old"), o.MakeTunnel(overlay().tunnel))


_macs = st.sampled_from([f"02:42:0a:00:01:{last:02x}" for last in range(2, 6)])
_addresses = st.sampled_from([f"10.0.1.{last}" for last in range(2, 6)])
_hosts = st.sampled_from(["192.0.2.2", "192.0.2.3"])


def _tunnels(name: str) -> st.SearchStrategy[o.Tunnel]:
    return st.builds(
        o.Tunnel, name=st.just(name), vni=st.sampled_from([4097, 4098]), port=st.just(4789),
        local=st.sampled_from(["", "192.0.2.1"]), bridge=st.sampled_from(["", "shb-net1"]),
        mac=st.just("02:42:0a:00:01:02"), address=st.sampled_from(["", "10.0.1.2/24"]),
        mtu=st.sampled_from([1400, 1450]), is_up=st.booleans(),
        is_quiet=st.booleans(),
    )  # fmt: skip


def _found(name: str) -> st.SearchStrategy[o.Overlay]:
    return st.builds(
        o.Overlay, _tunnels(name), st.frozensets(st.builds(o.FarEnd, _macs, _hosts)), st.frozensets(_macs),
        st.dictionaries(_addresses, _macs).map(lambda found: frozenset(o.Neighbour(*one) for one in found.items())),
    )  # fmt: skip


_wanted = st.builds(
    lambda hosts, names: o.Overlay(
        overlay().tunnel,
        frozenset(o.FarEnd(*one) for one in hosts.items()),
        frozenset(hosts),
        frozenset(o.Neighbour(*one) for one in names.items()),
    ),
    st.dictionaries(_macs, _hosts),
    st.dictionaries(_addresses, _macs),
)


@given(st.fixed_dictionaries({}, optional={DEVICE: _found(DEVICE), "shx-x": _found("shx-x")}), _wanted, st.integers(0))
def test_whatever_the_kernel_holds_becomes_what_is_wanted_also_after_breaking_off(
    have: dict[str, o.Overlay], want: o.Overlay, stop: int
) -> None:
    kernel = Kernel(dict(have))
    todo = o.changes(kernel.read(), {DEVICE: want})
    kernel.apply(todo[: stop % (len(todo) + 1)])
    kernel.apply(o.changes(kernel.read(), {DEVICE: want}))
    assert kernel.read() == {DEVICE: want}
    assert o.changes(kernel.read(), {DEVICE: want}) == ()
