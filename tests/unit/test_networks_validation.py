"""What a network, a service's networks and the cluster's pools may say."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.api.networks import MTU_OPTION, NO_ENCRYPTION, VNI_OPTION, network_faults, pool_faults, use_faults
from shoal.api.objects import NetworkSpec, ServiceSpec, Subnet
from shoal.api.states import PublishMode
from shoal.api.template import NetworkUse, Port


def judged(**spec: Any) -> list[str]:
    return [f"{fault.path}: {fault.message}" for fault in network_faults(NetworkSpec(**spec))]


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"subnets": (Subnet("10.5.0.0/24"),)},
        {"subnets": (Subnet("192.168.0.0/16", "192.168.1.1", "192.168.4.0/22"),)},
        {"mtu": 1400},
        {"options": {MTU_OPTION: "1400", VNI_OPTION: "5000", "encrypted": "false"}},
        {"internal": True, "attachable": True},
        {"ingress": True},
        {"driver": "bridge", "internal": True, "options": {MTU_OPTION: "1400"}},
        {"driver": "macvlan", "config_from": "lan.10"},
        {"driver": "ipvlan", "options": {"parent": "eth1", "ipvlan_mode": "l3"}},
    ],
)
def test_accepted(spec: dict[str, Any]) -> None:
    assert judged(**spec) == []


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"driver": "macvlam"},
         "spec.driver: found 'macvlam', expected overlay, or bridge, ipvlan, macvlan for a node-local network; did you"
         " mean macvlan?"),
        ({"config_from": "lan"}, "spec.configFrom: goes with the drivers bridge, ipvlan, macvlan only"),
        ({"driver": "bridge", "config_from": "a lan"},
         "spec.configFrom: found 'a lan', expected the name of a Docker network"),
        ({"driver": "macvlan", "config_from": "lan", "options": {"parent": "eth1"}},
         "spec.options: what configFrom names says it all, on each node; leave the options out"),
        ({"driver": "bridge", "ingress": True},
         "spec.ingress: the routing mesh crosses hosts: its network is an overlay"),
        ({"driver": "bridge", "attachable": True},
         "spec.attachable: plain containers join what is on their own engine; leave it out"),
        ({"driver": "macvlan", "subnets": (Subnet("10.5.0.0/24"),)},
         "spec.subnets: found subnets, but on a macvlan network each node's engine gives addresses of its own: make a"
         " config-only network with the node's subnet on each node (docker network create --config-only --subnet …),"
         " and give its name as configFrom"),
        ({"driver": "bridge", "mtu": 1400},
         "spec.mtu: goes with the driver overlay; bridge has options for what it can"),
        ({"driver": "bridge", "options": {"encrypted": ""}},
         "spec.options.encrypted: goes with the driver overlay; leave it out"),
        ({"subnets": (Subnet("10.5.0.7/24"),)},
         "spec.subnets[0].subnet: found '10.5.0.7/24', which is an address in 10.5.0.0/24; expected 10.5.0.0/24"),
        ({"subnets": (Subnet("10.5.0/24"),)},
         "spec.subnets[0].subnet: found '10.5.0/24', expected a network such as 10.1.0.0/24"),
        ({"subnets": (Subnet("10.5.0.0"),)},
         "spec.subnets[0].subnet: found '10.5.0.0', expected a network such as 10.1.0.0/24"),
        ({"subnets": (Subnet("fd00::/64"),)},
         "spec.subnets[0].subnet: found 'fd00::/64'; tasks get IPv4 addresses only"),
        ({"subnets": (Subnet("10.5.0.0/30"),)},
         "spec.subnets[0].subnet: found 10.5.0.0/30, expected a mask of 8 to 29 bits"),
        ({"subnets": (Subnet("127.1.0.0/16"),)},
         "spec.subnets[0].subnet: found 127.1.0.0/16, whose addresses are not for hosts; expected a network such as"
         " 10.1.0.0/24"),
        ({"subnets": (Subnet("10.5.0.0/24", "10.6.0.1"),)},
         "spec.subnets[0].gateway: found '10.6.0.1', expected a host's address in 10.5.0.0/24"),
        ({"subnets": (Subnet("10.5.0.0/24", "10.5.0.255"),)},
         "spec.subnets[0].gateway: found '10.5.0.255', expected a host's address in 10.5.0.0/24"),
        ({"subnets": (Subnet("10.5.0.0/24", range="10.5.1.0/28"),)},
         "spec.subnets[0].range: found 10.5.1.0/28, which does not lie in the subnet 10.5.0.0/24"),
        ({"subnets": (Subnet("10.5.0.0/24"), Subnet("10.6.0.0/24"))},
         "spec.subnets: found 2 subnets; a network has one"),
        ({"mtu": 100}, "spec.mtu: found 100, expected 576 to 65485 bytes, or 0 for the default"),
        ({"mtu": 1400, "options": {MTU_OPTION: "1400"}},
         f'spec.options["{MTU_OPTION}"]: the MTU is given twice, here and as spec.mtu'),
        ({"options": {VNI_OPTION: "4096,4097"}},
         f'spec.options["{VNI_OPTION}"]: found \'4096,4097\', expected one number from 1 to 16777215'),
        ({"options": {"encrypted": ""}}, f"spec.options.encrypted: {NO_ENCRYPTION}"),
        ({"options": {"encrypted": "true"}}, f"spec.options.encrypted: {NO_ENCRYPTION}"),
        ({"options": {"encrypt": "true"}},
         f"spec.options.encrypt: unknown option; known are {MTU_OPTION}, {VNI_OPTION}, encrypted; did you mean"
         " encrypted?"),
        ({"ingress": True, "attachable": True}, "spec.attachable: the ingress network cannot be attachable"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value.partition(":")[0],
)  # fmt: skip
def test_refused(spec: dict[str, Any], expected: str) -> None:
    assert judged(**spec) == [expected]


@pytest.mark.parametrize(
    ("networks", "ports", "expected"),
    [
        ((NetworkUse("front"), NetworkUse("back", ("db", "db.example"))), (), []),
        ((NetworkUse("front"), NetworkUse("bridge")), (), []),
        ((NetworkUse("host"),), (Port(80, 80, mode=PublishMode.HOST), Port(81, mode=PublishMode.HOST)), []),
        ((NetworkUse("front"), NetworkUse("front")), (),
         [f"spec.networks[{at}].name: network front is given 2 times" for at in (0, 1)]),
        ((NetworkUse("front", ("my db",)),), (),
         ["spec.networks[0].aliases[0]: found 'my db', expected a name such as db or db.example"]),
        ((NetworkUse("bridge", ("db",)),), (),
         ["spec.networks[0].aliases: nobody has an alias on the network bridge; leave them out"]),
        ((NetworkUse("host"), NetworkUse("front")), (),
         ["spec.networks: a service on the network host is on no other"]),
        ((NetworkUse("host"),), (Port(80, 8080),),
         ["spec.ports[0].mode: found ingress, but a service on the network host is not on the mesh; use mode: host"]),
        ((NetworkUse("host"),), (Port(80, 8080, mode=PublishMode.HOST),),
         ["spec.ports[0].published: found 8080, but on the network host a port is not translated: 80 it is"]),
    ],
    ids=["several with aliases", "the default bridge", "host ports on the host", "twice", "a bad alias",
         "an alias on bridge", "host and another", "host and mesh", "host and a translated port"],
)  # fmt: skip
def test_how_a_service_uses_networks(
    networks: tuple[NetworkUse, ...], ports: tuple[Port, ...], expected: list[str]
) -> None:
    spec = ServiceSpec(image="busybox:1", networks=networks, ports=ports)
    assert [f"{fault.path}: {fault.message}" for fault in use_faults(spec)] == expected


@pytest.mark.parametrize(
    ("pools", "size", "expected"),
    [
        (("10.0.0.0/8",), 24, []),
        (("10.0.0.0/8", "172.16.0.0/12"), 20, []),
        (("10.0.0.0/8", "10.7.0.0/16"), 24,
         ["spec.defaultAddrPools[1]: found 10.7.0.0/16, which overlaps the pool 10.0.0.0/8"]),
        (("10.0.0.0/25",), 24,
         ["spec.defaultAddrPools[0]: found 10.0.0.0/25, which holds no subnet of 24 bits; expected a larger pool or a"
          " larger size"]),
        (("10.0.0.0/8",), 30, ["spec.subnetSize: found 30, expected 8 to 29"]),
        (("ten",), 24, ["spec.defaultAddrPools[0]: found 'ten', expected a network such as 10.0.0.0/8"]),
        ((), 24, ["spec.defaultAddrPools: empty; expected a network such as 10.0.0.0/8"]),
    ],
    ids=["the default", "two", "overlapping", "too small", "size", "no network", "none"],
)  # fmt: skip
def test_address_pools(pools: tuple[str, ...], size: int, expected: list[str]) -> None:
    assert [f"{fault.path}: {fault.message}" for fault in pool_faults(pools, size)] == expected
