"""Published ports as nft rules: which targets, and how one picture becomes the next."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from nodeagent.network.rules import Picture, PortKey, Target, delta, full, published_ports, vanished
from shoal.api.meta import Meta, Ref
from shoal.api.objects import Backend, BackendSpec, BackendStatus, EndpointSpec, ServiceEndpoint, TaskAddress
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


def endpoint(*ports: Port) -> ServiceEndpoint:
    return ServiceEndpoint(metadata=Meta(name="web"), spec=EndpointSpec(service=WEB, ports=ports))


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
    BRIDGES,
)
CHANGED = Picture(
    {PortKey(Protocol.TCP, 8080): (target(4), target(6)), PortKey(Protocol.TCP, 9090): (target(7),)}, BRIDGES
)


def test_the_whole_table_reads_as_recorded() -> None:
    assert full(TWO) == (GOLDEN / "nft-two-ports.nft").read_text()


def test_a_change_names_only_the_ports_that_changed() -> None:
    assert delta(TWO, CHANGED) == (GOLDEN / "nft-delta.nft").read_text()


def test_nothing_changed_costs_nothing() -> None:
    assert delta(TWO, TWO) == ""


def test_one_backend_of_a_thousand_services_rewrites_one_chain() -> None:
    ports = {PortKey(Protocol.TCP, 1000 + n): (target(4), target(5)) for n in range(1000)}
    changed = {**ports, PortKey(Protocol.TCP, 1500): (target(4),)}
    assert len(delta(Picture(ports, BRIDGES), Picture(changed, BRIDGES)).splitlines()) == 2


def test_a_new_bridge_replaces_the_table() -> None:
    assert delta(Picture(TWO.ports), TWO) == full(TWO)


def test_udp_flows_of_an_address_nothing_leads_to_are_forgotten() -> None:
    assert vanished(TWO, CHANGED) == {IPv4Address("10.0.0.4")}
    assert vanished(TWO, CHANGED, Protocol.TCP) == {IPv4Address("10.0.0.5")}
