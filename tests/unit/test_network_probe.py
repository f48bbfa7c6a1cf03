"""Whom a node looks at when it is asked how its network is, and how it tells answers to its own pings from others."""

from __future__ import annotations

import struct

from nodeagent.assignments import Assignments
from nodeagent.network.echoes import HEADERS_BYTES, ping, sequence_of_reply
from nodeagent.network.targets import NamesAt, targets_of
from shoal.api import objects as o
from shoal.api.meta import Meta, Ref
from shoal.api.probes import Host, Way
from shoal.machinery.factories import make_network
from shoal.rules.addresses import mac_of

HERE, THERE = Ref("here", "n1"), Ref("there", "n2")
INGRESS, FRONT = make_network(ingress=True), make_network("front", subnet="10.0.1.0/24")
WEB, PEERS = Ref("web", "s1"), Ref("peers", "s2")


def on(network: o.Network) -> Ref:
    return Ref(network.metadata.name, network.metadata.uid)


def attached(network: o.Network, node: Ref, address: str, vtep: str = "", container: str = "") -> o.Attachment:
    spec = o.AttachmentSpec(on(network), node, container=container, address=f"{address}/24", vtep=vtep)
    return o.Attachment(metadata=Meta(name=f"{network.metadata.name}.{node.name}{container}"), spec=spec)


def endpoint(service: Ref, mode: str = "vip", **found: object) -> o.ServiceEndpoint:
    spec = o.EndpointSpec(service, mode, networks=(o.EndpointNetwork(on(FRONT), **found),))  # type: ignore[arg-type]
    return o.ServiceEndpoint(metadata=Meta(name=service.name), spec=spec)


def backend(service: Ref, address: str, *, ready: bool = True) -> o.Backend:
    at = o.TaskAddress(on(FRONT), f"{address}/24", mac_of(address))
    spec = o.BackendSpec(service, Ref(f"{service.name}.{address}", address), HERE, (at,))
    return o.Backend(metadata=Meta(name=address), spec=spec, status=o.BackendStatus(ready))


ASSIGNED = Assignments().replaced(
    [
        INGRESS,
        FRONT,
        attached(INGRESS, HERE, "10.0.0.2", "10.99.0.1"),
        attached(INGRESS, THERE, "10.0.0.3", "10.99.0.2"),
        attached(FRONT, HERE, "10.0.1.5", "10.99.0.1"),
        attached(FRONT, THERE, "10.0.1.6", "10.99.0.2"),
        attached(FRONT, THERE, "10.0.1.7", container="c1"),
        endpoint(WEB, vip="10.0.1.2/24"),
        endpoint(PEERS, "dnsrr"),
        endpoint(Ref("leaving", "s3"), vip="10.0.1.9/24", withdrawn=True),
        backend(PEERS, "10.0.1.20"),
        backend(PEERS, "10.0.1.10"),
        backend(PEERS, "10.0.1.30", ready=False),
    ],
    1,
)


def test_every_other_node_is_looked_at_on_each_network_that_both_are_on() -> None:
    found = targets_of(ASSIGNED, HERE.uid)
    assert (found.source, found.networks, found.hosts) == (
        "10.99.0.1",
        ("front", "ingress"),
        (Host("there", "10.99.0.2"),),
    )
    assert found.ways == (Way("front", "there", "10.0.1.6", 1450), Way("ingress", "there", "10.0.0.3", 1450))


def test_names_lead_to_virtual_ips_or_to_who_is_ready_and_ingress_has_none() -> None:
    expected = {"peers": ("10.0.1.10", "10.0.1.20"), "web": ("10.0.1.2",)}
    assert targets_of(ASSIGNED, HERE.uid).names == (NamesAt("front", "10.0.1.5", expected),)


def test_other_networks_are_left_out_where_some_are_named() -> None:
    found = targets_of(ASSIGNED, HERE.uid, [INGRESS.metadata.uid])
    assert (found.networks, found.names, len(found.ways)) == (("ingress",), (), 1)


def test_a_ping_is_as_large_as_asked_and_its_checksum_right() -> None:
    packet = ping(0xFFFE, 7, 1450)
    assert len(packet) == 1450 - 20
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


def test_replies_to_own_pings_are_told_from_everything_else() -> None:
    header = bytes([0x45]) + bytes(19)
    request = ping(9, 7, HEADERS_BYTES)
    reply = b"\0" + request[1:]
    assert sequence_of_reply(header + reply, 9) == 7
    assert [sequence_of_reply(packet, 9) for packet in (header + request, header + reply[:4], b"")] == [-1, -1, -1]
    assert sequence_of_reply(header + reply, 10) == -1
