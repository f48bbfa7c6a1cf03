"""From what a node is told, and the bridges it has, to what its tunnels and rules must be. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from nodeagent.network import rules
from nodeagent.network.docker_networks import DockerNetwork
from nodeagent.network.overlay import Overlay, overlays
from nodeagent.network.told import Told, apart


@dataclass(frozen=True)
class Scene:
    here: tuple[DockerNetwork, ...] = ()
    """The networks whose bridges are in the kernel."""
    told: Told = field(default_factory=Told)

    @property
    def six(self) -> str:
        """The uid of the network that has an IPv6 side on this node, "" if none has."""
        return next((network.uid for network in self.here if network.gateway6), "")


def parts(old: Scene, new: Scene) -> tuple[Scene, Scene]:
    """Return both without what makes no difference between their pictures."""
    if old.here != new.here:
        return old, new
    was, now = apart(old.told, new.told)
    return Scene(old.here, was), Scene(new.here, now)


def tunnels(scene: Scene, node_uid: str) -> dict[str, Overlay]:
    """Return the wanted tunnels with their entries, by device."""
    told, frame, uids = scene.told, scene.told.frame, {network.uid for network in scene.here}
    networks = tuple(network for network in frame.networks if network.metadata.uid in uids)
    return overlays(
        networks, frame.attachments, told.backends(), told.endpoints(), node_uid, frame.port, scene.six
    )  # fmt: skip


def picture(scene: Scene, node_uid: str) -> rules.Picture:
    """Return what the rules must say."""
    told, frame = scene.told, scene.told.frame
    bridges = {network.uid: network.bridge for network in scene.here}
    ingress = _ingress(scene, bridges)
    return rules.Picture(
        ports=rules.published_ports(told.endpoints(), told.backends(), ingress) if ingress else {},
        vips=rules.virtual_ips(told.endpoints(), told.backends(), bridges),
        bridges=tuple(sorted((network.bridge, network.subnet) for network in scene.here)),
        peers=rules.peers(frame.attachments, ingress, node_uid) if ingress else {},
        near=rules.near_addresses(told.backends(), node_uid),
        six=scene.six,
    )


def _ingress(scene: Scene, uids: Iterable[str]) -> str:
    """Return the uid of the ingress network, "" if the node has no bridge for it."""
    known = frozenset(uids)
    found = (network.metadata.uid for network in scene.told.frame.networks if network.spec.ingress)
    return next((uid for uid in found if uid in known), "")
