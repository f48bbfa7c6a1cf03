"""What a network, and a service's use of networks, may say. Pure.

Source: Docker's options of the overlay driver, libnetwork's checks of address pools.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, ip_network
from typing import Final

from shoal.api.errors import Fault
from shoal.api.names import below, hint
from shoal.api.objects import LOCAL_DRIVERS, NetworkSpec, ServiceSpec, Subnet
from shoal.api.states import PublishMode
from shoal.api.template import NetworkUse

Faults = Iterator[Fault]

MTU_OPTION: Final = "com.docker.network.driver.mtu"
VNI_OPTION: Final = "com.docker.network.driver.overlay.vxlanid_list"
ENCRYPTED_OPTION: Final = "encrypted"
OPTIONS: Final = (MTU_OPTION, VNI_OPTION, ENCRYPTED_OPTION)

MIN_MTU: Final = 576
MAX_MTU: Final = 65485
"""Bytes: what every IPv4 host must take, and IPv4's largest packet less VXLAN's 50."""

LONGEST_PREFIX: Final = 29
"""Bits: a gateway, a node, a virtual IP and a few tasks need eight addresses. Source: Swarm's largest mask length."""

SHORTEST_PREFIX: Final = 8

RESERVED: Final = frozenset({"host", "bridge", "none", "default"})
"""Names that Docker gives to networks of its own."""

NO_ENCRYPTION: Final = (
    "encrypted networks are not available: they need IPsec (ESP) in every host's kernel, which Shoal does not set up,"
    " and what was to be encrypted is never sent in the clear; leave it out, and use TLS between the services, or"
    " WireGuard between the hosts (--data-path-addr with its address at init and join)"
)

_ENGINES: Final = (
    "each node's engine gives addresses of its own: make a config-only network with the node's subnet on each node"
    " (docker network create --config-only --subnet …), and give its name as configFrom"
)

_ENGINE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

_ALIAS: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")


def network_faults(spec: NetworkSpec) -> Faults:
    """Judge a network's spec by itself; what it meets in the cluster is admission's."""
    if spec.predefined:
        return
    if spec.is_local:
        yield from _local_faults(spec)
        return
    if spec.driver != "overlay":
        message = f"found {spec.driver!r}, expected overlay, or {', '.join(LOCAL_DRIVERS)} for a node-local network"
        yield Fault("spec.driver", f"{message}{hint(spec.driver, ('overlay', *LOCAL_DRIVERS))}")
    if spec.config_from:
        yield Fault("spec.configFrom", f"goes with the drivers {', '.join(LOCAL_DRIVERS)} only")
    if spec.ingress:
        for field, is_set in (("internal", spec.internal), ("attachable", spec.attachable)):
            if is_set:
                yield Fault(f"spec.{field}", f"the ingress network cannot be {field}")
    if len(spec.subnets) > 1:
        yield Fault("spec.subnets", f"found {len(spec.subnets)} subnets; a network has one")
    for at, subnet in enumerate(spec.subnets):
        yield from _subnet_faults(subnet, f"spec.subnets[{at}]")
    if spec.mtu and not MIN_MTU <= spec.mtu <= MAX_MTU:
        yield Fault("spec.mtu", f"found {spec.mtu}, expected {MIN_MTU} to {MAX_MTU} bytes, or 0 for the default")
    yield from _option_faults(spec)


def _local_faults(spec: NetworkSpec) -> Faults:
    """A node-local network is its driver's: what belongs to overlays, or would be the same on each node, is refused."""
    for field, is_set, why in (
        ("ingress", spec.ingress, "the routing mesh crosses hosts: its network is an overlay"),
        ("attachable", spec.attachable, "plain containers join what is on their own engine; leave it out"),
        ("subnets", spec.subnets, f"found subnets, but on a {spec.driver} network {_ENGINES}"),
        ("mtu", spec.mtu, f"goes with the driver overlay; {spec.driver} has options for what it can"),
    ):
        if is_set:
            yield Fault(f"spec.{field}", why)
    if spec.config_from and not _ENGINE_NAME.fullmatch(spec.config_from):
        yield Fault("spec.configFrom", f"found {spec.config_from!r}, expected the name of a Docker network")
    if spec.config_from and spec.options:
        yield Fault("spec.options", "what configFrom names says it all, on each node; leave the options out")
    for key in spec.options:
        if key in (VNI_OPTION, ENCRYPTED_OPTION):
            yield Fault(below("spec.options", key), "goes with the driver overlay; leave it out")


def _subnet_faults(subnet: Subnet, path: str) -> Faults:
    net = None
    if not subnet.subnet:
        yield Fault(f"{path}.subnet", "missing; a gateway or a range goes with a subnet")
    elif _is_ipv6(subnet.subnet):
        yield Fault(f"{path}.subnet", f"found {subnet.subnet!r}; tasks get IPv4 addresses only")
    else:
        net, problem = _network(subnet.subnet)
        problem = problem or _unfit(net)
        if problem:
            yield Fault(f"{path}.subnet", problem)
    if net is None:
        return
    if subnet.gateway and not _is_host_of(net, subnet.gateway):
        yield Fault(f"{path}.gateway", f"found {subnet.gateway!r}, expected a host's address in {net}")
    if subnet.range:
        inside, problem = _network(subnet.range)
        if problem:
            yield Fault(f"{path}.range", problem)
        elif inside is not None and not inside.subnet_of(net):
            yield Fault(f"{path}.range", f"found {inside}, which does not lie in the subnet {net}")


def pool_faults(pools: Sequence[str], size: int) -> Faults:
    """Judge a cluster's address pools, and the mask's bits of the subnets that are cut from them."""
    if not SHORTEST_PREFIX <= size <= LONGEST_PREFIX:
        yield Fault("spec.subnetSize", f"found {size}, expected {SHORTEST_PREFIX} to {LONGEST_PREFIX}")
    if not pools:
        yield Fault("spec.defaultAddrPools", "empty; expected a network such as 10.0.0.0/8")
    known: list[IPv4Network] = []
    for at, text in enumerate(pools):
        path = f"spec.defaultAddrPools[{at}]"
        net, problem = _network(text)
        if net is None:
            yield Fault(path, problem.replace("10.1.0.0/24", "10.0.0.0/8"))
            continue
        other = next((one for one in known if one.overlaps(net)), None)
        if other is not None:
            yield Fault(path, f"found {net}, which overlaps the pool {other}")
        elif _unfit(net) and net.prefixlen >= SHORTEST_PREFIX:
            yield Fault(path, _unfit(net))
        elif size < net.prefixlen:
            yield Fault(
                path, f"found {net}, which holds no subnet of {size} bits; expected a larger pool or a larger size"
            )
        known.append(net)


def _network(text: str) -> tuple[IPv4Network | None, str]:
    """Return the network a text spells, or what is wrong with it."""
    try:
        net = IPv4Network(text, strict=False)
    except ValueError:
        return None, f"found {text!r}, expected a network such as 10.1.0.0/24"
    if "/" not in text:
        return None, f"found {text!r}, expected a network such as 10.1.0.0/24"
    if str(net.network_address) != text.partition("/")[0]:
        return None, f"found {text!r}, which is an address in {net}; expected {net}"
    return net, ""


def _unfit(net: IPv4Network | None) -> str:
    if net is None:
        return ""
    if not SHORTEST_PREFIX <= net.prefixlen <= LONGEST_PREFIX:
        return f"found {net}, expected a mask of {SHORTEST_PREFIX} to {LONGEST_PREFIX} bits"
    if net.is_loopback or net.is_multicast or net.is_link_local or net.is_reserved or net.is_unspecified:
        return f"found {net}, whose addresses are not for hosts; expected a network such as 10.1.0.0/24"
    return ""


def _is_ipv6(text: str) -> bool:
    try:
        return ip_network(text, strict=False).version == 6
    except ValueError:
        return False


def _is_host_of(net: IPv4Network, text: str) -> bool:
    try:
        address = IPv4Address(text)
    except ValueError:
        return False
    return address in net and address not in (net.network_address, net.broadcast_address)


def _option_faults(spec: NetworkSpec) -> Faults:
    for key, value in spec.options.items():
        path = below("spec.options", key)
        if key == MTU_OPTION:
            if spec.mtu:
                yield Fault(path, "the MTU is given twice, here and as spec.mtu")
            elif not value.isdecimal() or not MIN_MTU <= int(value) <= MAX_MTU:
                yield Fault(path, f"found {value!r}, expected {MIN_MTU} to {MAX_MTU} bytes")
        elif key == VNI_OPTION:
            if not value.isdecimal() or not 1 <= int(value) < 1 << 24:
                yield Fault(path, f"found {value!r}, expected one number from 1 to {(1 << 24) - 1}")
        elif key == ENCRYPTED_OPTION:
            if value.lower() not in ("false", "0"):
                yield Fault(path, NO_ENCRYPTION)
        else:
            yield Fault(path, f"unknown option; known are {', '.join(OPTIONS)}{hint(key, OPTIONS)}")


def mtu_of(spec: NetworkSpec, default: int) -> int:
    """Return the MTU a network asks for, in bytes."""
    return spec.mtu or int(spec.options.get(MTU_OPTION, "0")) or default


def chosen_vni(spec: NetworkSpec) -> int:
    """Return the VXLAN number a network asks for, 0 = any."""
    return int(spec.options.get(VNI_OPTION, "0"))


def use_faults(spec: ServiceSpec) -> Faults:
    """Judge how a service uses networks; asked again once uids were turned into names."""
    times = Counter(use.name for use in spec.networks)
    for at, use in enumerate(spec.networks):
        path = f"spec.networks[{at}]"
        if not use.name:
            yield Fault(f"{path}.name", "missing; expected a network's name")
        elif times[use.name] > 1:
            yield Fault(f"{path}.name", f"network {use.name} is given {times[use.name]} times")
        if use.name in ("host", "bridge"):
            yield from _predefined_faults(use, path)
        for index, alias in enumerate(use.aliases):
            if not is_alias(alias):
                yield Fault(f"{path}.aliases[{index}]", f"found {alias!r}, expected a name such as db or db.example")
    if "host" in times:
        yield from _host_faults(spec)


def is_alias(text: str) -> bool:
    """Say whether a text can be a name on a network."""
    return _ALIAS.fullmatch(text) is not None


def _predefined_faults(use: NetworkUse, path: str) -> Faults:
    if use.aliases:
        yield Fault(f"{path}.aliases", f"nobody has an alias on the network {use.name}; leave them out")


def _host_faults(spec: ServiceSpec) -> Faults:
    if len(spec.networks) > 1:
        yield Fault("spec.networks", "a service on the network host is on no other")
    for at, port in enumerate(spec.ports):
        path = f"spec.ports[{at}]"
        if port.mode is PublishMode.INGRESS:
            yield Fault(
                f"{path}.mode", "found ingress, but a service on the network host is not on the mesh; use mode: host"
            )
        elif port.published not in (0, port.target):
            message = f"found {port.published}, but on the network host a port is not translated: {port.target} it is"
            yield Fault(f"{path}.published", message)
