"""Published ports as nft rules: which targets, and how one picture becomes the next."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from nodeagent.network.rules import (
    Picture,
    PortKey,
    Target,
    VipKey,
    clear,
    delta,
    full,
    near_addresses,
    peers,
    published_ports,
    renewed,
    vanished,
    virtual_ips,
)
from shoal.api.meta import Meta, Ref
from shoal.api.objects import (
    Attachment,
    AttachmentSpec,
    Backend,
    BackendSpec,
    BackendStatus,
    EndpointNetwork,
    EndpointSpec,
    ServiceEndpoint,
    TaskAddress,
)
from shoal.api.states import Protocol, PublishMode
from shoal.api.template import Port

GOLDEN = Path(__file__).parent.parent / "golden"
INGRESS = Ref("ingress", "net1")
WEB = Ref("web", "svc1")
BRIDGES = (("shb-net1", "10.0.0.0/24"),)


def target(last: int, port: int = 80) -> Target:
    return Target(IPv4Address(f"10.0.0.{last}"), port)


def backend(last: int, *, ready: bool = True, network: Ref = INGRESS, service: Ref = WEB) -> Backend:
    task = Ref(f"web.1.t{last}", f"t{last}")
    address = TaskAddress(network=network, address=f"10.0.0.{last}/24", mac="02:42:0a:00:00:00")
    spec = BackendSpec(service=service, task=task, node=Ref("n", "n1"), addresses=(address,))
    return Backend(metadata=Meta(name=task.uid), spec=spec, status=BackendStatus(ready=ready))


def endpoint(*ports: Port, networks: tuple[EndpointNetwork, ...] = ()) -> ServiceEndpoint:
    return ServiceEndpoint(metadata=Meta(name="web"), spec=EndpointSpec(service=WEB, ports=ports, networks=networks))


@pytest.mark.parametrize(
    ("ports", "backends", "expected"),
    [
        pytest.param([Port(80, 8080)], [backend(5), backend(4)], {("tcp", 8080): (4, 5)}, id="ready-sorted"),
        pytest.param([Port(80, 8080)], [backend(4, ready=False)], {}, id="not-ready-is-left-out"),
        pytest.param([Port(80, 8080, mode=PublishMode.HOST)], [backend(4)], {}, id="host-mode-is-the-engines"),
        pytest.param([Port(80, 0)], [backend(4)], {}, id="not-yet-allocated"),
        pytest.param([Port(80, 8080)], [backend(4, network=Ref("x", "x"))], {}, id="other-network"),
        pytest.param([Port(80, 8080)], [backend(4, service=Ref("x", "x"))], {}, id="other-service"),
        pytest.param(
            [Port(80, 8080), Port(80, 8080, protocol=Protocol.UDP)],
            [backend(4)],
            {("tcp", 8080): (4,), ("udp", 8080): (4,)},
            id="both-protocols-on-one-number",
        ),
    ],
)
def test_a_published_port_leads_to_the_ready_backends(
    ports: list[Port], backends: list[Backend], expected: dict[tuple[str, int], tuple[int, ...]]
) -> None:
    found = published_ports([endpoint(*ports)], backends, INGRESS.uid)
    assert {
        (key.protocol.value, key.published): tuple(int(t.address) & 255 for t in targets)
        for key, targets in found.items()
    } == expected


TWO = Picture(
    {
        PortKey(Protocol.TCP, 8080): (target(4), target(5), target(6)),
        PortKey(Protocol.UDP, 5353): (target(4, 53),),
    },
    {
        VipKey("shb-net1", IPv4Address("10.0.0.9")): (Target(IPv4Address("10.0.0.4")), Target(IPv4Address("10.0.0.5"))),
        VipKey("shb-net1", IPv4Address("10.0.0.10")): (),
    },
    BRIDGES,
    peers={2: "02:42:0a:00:00:02"},
    near=frozenset({IPv4Address("10.0.0.4")}),
)
CHANGED = Picture(
    {PortKey(Protocol.TCP, 8080): (target(4), target(6)), PortKey(Protocol.TCP, 9090): (target(7),)},
    {
        VipKey("shb-net1", IPv4Address("10.0.0.9")): (),
        VipKey("shb-net1", IPv4Address("10.0.0.10")): (Target(IPv4Address("10.0.0.6")),),
    },
    BRIDGES,
    peers={2: "02:42:0a:00:00:03", 3: "02:42:0a:00:00:02"},
    near=frozenset({IPv4Address("10.0.0.6")}),
)


def test_the_whole_tables_read_as_recorded() -> None:
    assert full(TWO) == (GOLDEN / "nft-tables.nft").read_text()


def test_tables_are_filled_anew_without_a_moment_in_which_nothing_translates() -> None:
    there = ("ip shoal prerouting", "ip shoal tcp-8080", "ip shoal tcp-9999", "ip others tcp-1", "bridge shoal back")
    lines = renewed(TWO, there).splitlines()
    assert [line for line in lines if line.startswith("delete")] == ["delete chain ip shoal tcp-9999"]
    assert [line for line in lines if line.startswith("flush table")] == [
        "flush table ip shoal",
        "flush table bridge shoal",
    ]
    assert {"flush map ip shoal ports", "flush set ip shoal idle", "flush map bridge shoal ways"} <= set(lines)
    assert "\n".join(lines).rpartition("flush map")[2].endswith(full(TWO).partition("table ip shoal {\n")[2].rstrip())


def test_an_ipv6_side_has_a_table_of_its_own() -> None:
    shown = full(replace(TWO, six="net1"))
    assert full(TWO).partition("table ip shoal {\n")[2].partition("add chain")[0] in shown
    assert "add element ip6 shoal ports { tcp . 8080 : goto tcp-8080, udp . 5353 : goto udp-5353 }" in shown
    assert "tcp-8080 meta l4proto { tcp, udp } dnat to numgen inc mod 3 map { 0 : fd6c:270e:f2f2::a00:4, 1 :" in shown
    assert "udp-5353 meta l4proto { tcp, udp } dnat to [fd6c:270e:f2f2::a00:4]:53" in shown
    assert "ip6 saddr fd6c:270e:f2f2::/96 masquerade" in shown
    assert delta(TWO, replace(TWO, six="net1")) == shown
    assert len(delta(replace(TWO, six="net1"), replace(CHANGED, six="net1")).splitlines()) > len(
        delta(TWO, CHANGED).splitlines()
    )
    assert "ip6 shoal" in clear(has_ipv6=True)
    assert "ip6" not in clear(has_ipv6=False)


def test_a_port_bound_to_an_ipv6_address_answers_over_ipv6_alone() -> None:
    bound = published_ports([endpoint(Port(80, 8080, address="2001:db8::1"))], [backend(4)], INGRESS.uid)
    shown = full(Picture(bound, six="net1"))
    assert "add rule ip6 shoal tcp-8080 ip6 daddr 2001:db8::1 meta l4proto" in shown
    assert "add rule ip shoal tcp-8080" not in shown
    assert "add element ip shoal ports" not in shown


def test_a_change_names_only_what_changed() -> None:
    assert delta(TWO, CHANGED) == (GOLDEN / "nft-delta.nft").read_text()


def test_nothing_changed_costs_nothing() -> None:
    assert delta(TWO, TWO) == ""


def test_one_backend_of_a_thousand_services_rewrites_one_chain() -> None:
    ports = {PortKey(Protocol.TCP, 1000 + n): (target(4), target(5)) for n in range(1000)}
    changed = {**ports, PortKey(Protocol.TCP, 1500): (target(4),)}
    assert len(delta(Picture(ports, bridges=BRIDGES), Picture(changed, bridges=BRIDGES)).splitlines()) == 2


def test_one_backend_of_a_thousand_virtual_ips_rewrites_one_chain() -> None:
    vips = {VipKey("shb-net1", IPv4Address(0x0A010000 + n)): (target(4), target(5)) for n in range(1000)}
    changed = {**vips, VipKey("shb-net1", IPv4Address("10.1.1.1")): (target(4),)}
    assert len(delta(Picture(vips=vips), Picture(vips=changed)).splitlines()) == 2


def test_a_new_bridge_costs_one_element() -> None:
    assert delta(Picture(TWO.ports), Picture(TWO.ports, bridges=BRIDGES)).splitlines() == [
        'add element ip shoal bridges { "shb-net1" }'
    ]


def test_a_port_bound_to_one_address_of_the_host_leads_nowhere_from_others() -> None:
    bound = published_ports([endpoint(Port(80, 8080, address="192.0.2.1"))], [backend(4)], INGRESS.uid)
    assert "add rule ip shoal tcp-8080 ip daddr 192.0.2.1 meta l4proto" in full(Picture(bound))
    for every in ("0.0.0.0", "::"):
        found = published_ports([endpoint(Port(80, 8080, address=every))], [backend(4)], INGRESS.uid)
        assert found == {PortKey(Protocol.TCP, 8080): (target(4),)}


def test_a_virtual_ip_leads_to_the_ready_backends_on_its_network_where_that_is_here() -> None:
    found = virtual_ips(
        [endpoint(networks=(EndpointNetwork(INGRESS, "10.0.0.9/24"), EndpointNetwork(Ref("x", "x"), "10.0.7.9/24")))],
        [backend(5), backend(4), backend(6, ready=False), backend(7, service=Ref("x", "x"))],
        {INGRESS.uid: "shb-net1"},
    )
    assert found == {VipKey("shb-net1", IPv4Address("10.0.0.9")): (target(4, 0), target(5, 0))}


def test_a_virtual_ip_without_ready_backends_is_there_and_refuses() -> None:
    found = virtual_ips([endpoint(networks=(EndpointNetwork(INGRESS, "10.0.0.9/24"),))], [], {INGRESS.uid: "shb-net1"})
    assert found == {VipKey("shb-net1", IPv4Address("10.0.0.9")): ()}
    assert 'add element ip shoal idle { "shb-net1" . 10.0.0.9 }' in full(Picture(vips=found))


def test_the_other_nodes_bridges_on_the_ingress_network_are_peers() -> None:
    def attached(node: str, number: int, network: Ref = INGRESS, container: str = "") -> Attachment:
        mac = f"02:42:0a:00:00:0{number}"
        spec = AttachmentSpec(network, Ref(node, node), container=container, mac=mac, number=number)
        return Attachment(metadata=Meta(name=node), spec=spec)

    here = [attached("n1", 1), attached("n2", 2), attached("n3", 3, Ref("x", "x")), attached("n4", 4, container="c")]
    assert peers(here, INGRESS.uid, "n1") == {2: "02:42:0a:00:00:02"}


def test_ready_backends_of_this_node_are_near() -> None:
    assert near_addresses([backend(4), backend(5, ready=False)], "n1") == {IPv4Address("10.0.0.4")}
    assert near_addresses([backend(4)], "n2") == frozenset()


def test_udp_flows_of_an_address_nothing_leads_to_are_forgotten() -> None:
    assert vanished(TWO, CHANGED) == {IPv4Address("10.0.0.4"), IPv4Address("10.0.0.5")}
    assert vanished(TWO, CHANGED, Protocol.TCP) == {IPv4Address("10.0.0.5")}
