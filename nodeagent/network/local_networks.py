"""Node-local networks: what the engine makes of a network that ends at its host. Pure.

Each node with a live task on one has a Docker network of the network's driver, made from the options of the spec, or
from a config-only network of the engine's own. That one is read, not referred to: Docker gives no labels to a network
that refers to one, and labels say which networks are ours to remove.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nodeagent.engine.contract import EngineNetwork
from nodeagent.network.docker_networks import OURS, docker_name
from shoal.api.errors import EngineError
from shoal.api.objects import Network


@dataclass(frozen=True)
class LocalNetwork:
    uid: str
    name: str
    """The engine's."""
    driver: str
    options: Mapping[str, str] = field(default_factory=dict)
    internal: bool = False
    config_from: str = ""

    def labels(self) -> dict[str, str]:
        return {**OURS, "shoal.network": self.uid}

    def body(self, config: EngineNetwork | None) -> dict[str, object]:
        """The request that creates it, in the Docker Engine API's words."""
        return {
            "Driver": self.driver,
            "CheckDuplicate": True,
            "Internal": self.internal,
            "EnableIPv6": config is not None and config.has_ipv6,
            "IPAM": dict(config.ipam) if config is not None else {},
            "Options": dict(config.options if config is not None else self.options),
            "Labels": self.labels(),
        }


def local_networks(networks: Iterable[Network]) -> tuple[LocalNetwork, ...]:
    """Return the node-local networks among those a node is told of, by name: it is told of them while it needs them."""
    return tuple(
        LocalNetwork(
            uid=network.metadata.uid,
            name=docker_name(network),
            driver=network.spec.driver,
            options=network.spec.options,
            internal=network.spec.internal,
            config_from=network.spec.config_from,
        )
        for network in sorted(networks, key=lambda network: network.metadata.name)
        if network.spec.is_local
    )


def config_of(network: LocalNetwork, existing: Iterable[EngineNetwork]) -> EngineNetwork | None:
    """Return the config-only network a network is made from, None = from none; EngineError if there is no such."""
    if not network.config_from:
        return None
    found = next((one for one in existing if one.name == network.config_from), None)
    if found is None:
        raise EngineError(
            f"this node has no network {network.config_from} to configure it; make one there:"
            f" docker network create --config-only … {network.config_from}"
        )
    if not found.is_config_only:
        raise EngineError(f"the network {network.config_from} of this node is not a config-only one")
    return found
