"""Which Docker networks a node needs for Shoal's networks, and how each must look. Pure.

A network of Shoal's is, on each node, a Docker bridge network of a name of ours whose gateway is the node's own
address on it; a tunnel to the other nodes is added to the same bridge.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Interface

from nodeagent.engine.contract import EngineNetwork
from nodeagent.network.sixes import interface6
from shoal.api.objects import Attachment, Network
from shoal.rules.networks import DEFAULT_MTU

BRIDGE_PREFIX = "shb-"
"""Every bridge of ours starts with it; interface names have at most 15 characters."""

BRIDGE_OPTION = "com.docker.network.bridge.name"

OURS = {"shoal.managed": "network"}
"""The label that every Docker network of ours carries."""


@dataclass(frozen=True)
class DockerNetwork:
    """How Docker's network must look."""

    uid: str
    """The uid of Shoal's network; also a label of Docker's."""
    name: str
    bridge: str
    subnet: str
    gateway: str
    internal: bool = False
    mtu: int = DEFAULT_MTU
    """Bytes."""
    gateway6: str = ""
    """This node's address on its IPv6 side, with the mask, where it has one. The engine knows nothing of that side."""

    def labels(self) -> dict[str, str]:
        """What tells our network, and that it is still the one wanted."""
        return {**OURS, "shoal.network": self.uid, "shoal.gateway": self.gateway}

    def body(self) -> dict[str, object]:
        """The request that creates it, in the Docker Engine API's words."""
        return {
            "Driver": "bridge",
            "CheckDuplicate": True,
            "Internal": self.internal,
            "EnableIPv6": False,
            "IPAM": {"Config": [{"Subnet": self.subnet, "Gateway": self.gateway}]},
            "Options": {
                BRIDGE_OPTION: self.bridge,
                "com.docker.network.driver.mtu": str(self.mtu),
            },
            "Labels": self.labels(),
        }


def docker_name(network: Network) -> str:
    """Docker's name of a network: `shoal-ingress`, `shoal-net-front.x3k9a`.

    Docker takes a container's default route from the network whose name comes first in the alphabet, and replies to the
    mesh's clients must leave by the ingress network: its name comes before all others. The uid tells a network from
    one of the same name that was deleted, whose last container may still be here.
    """
    if network.spec.ingress:
        return "shoal-ingress"
    return f"shoal-net-{network.metadata.name}.{network.metadata.uid[:5]}"


def bridge_name(uid: str) -> str:
    return f"{BRIDGE_PREFIX}{uid[:10]}"


def wanted(
    networks: Iterable[Network], attachments: Iterable[Attachment], node_uid: str, *, has_ipv6: bool = False
) -> tuple[DockerNetwork, ...]:
    """Return the Docker networks this node needs: those it has an address on, by name.

    Where the host has IPv6 the ingress network has it, too: published ports then answer over both.
    """
    own = {
        attachment.spec.network.uid: attachment.spec.address
        for attachment in attachments
        if attachment.spec.node.uid == node_uid and not attachment.spec.container and attachment.spec.address
    }
    return tuple(
        _make(network, own[network.metadata.uid], has_ipv6=has_ipv6 and network.spec.ingress)
        for network in sorted(networks, key=lambda network: network.metadata.name)
        if network.metadata.uid in own
    )


def abandoned(interfaces: Iterable[str], existing: Iterable[EngineNetwork]) -> tuple[str, ...]:
    """Return bridges of ours that no network of the engine has any more: their routes would shadow the present ones.

    An engine whose data was wiped forgets its networks, and the kernel keeps their bridges.
    """
    known = {network.options.get(BRIDGE_OPTION, "") for network in existing}
    return tuple(sorted(name for name in interfaces if name.startswith(BRIDGE_PREFIX) and name not in known))


def _make(network: Network, address: str, *, has_ipv6: bool) -> DockerNetwork:
    uid = network.metadata.uid
    interface = IPv4Interface(address)
    return DockerNetwork(
        uid=uid,
        name=docker_name(network),
        bridge=bridge_name(uid),
        subnet=str(interface.network),
        gateway=str(interface.ip),
        internal=network.spec.internal,
        mtu=network.status.mtu or DEFAULT_MTU,
        gateway6=interface6(uid, address) if has_ipv6 else "",
    )
