"""Brings a node's kernel and engine to what its assignments say of the network.

The order is: bridges, then forwarding, then rules; a container is created only after its bridge exists, and a rule
leads only to addresses whose bridge exists. If we die between two of them the next pass starts from what is there:
every step compares before it acts, and rules are replaced in one transaction.

Rules and bridges outlive this process on purpose: containers go on serving while the agent is away.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from ipaddress import IPv4Address

import anyio
import structlog

from nodeagent.assignments import Assignments
from nodeagent.engine.contract import Engine, EngineNetwork
from nodeagent.network import commands, rules
from nodeagent.network.docker_networks import OURS, DockerNetwork, abandoned, docker_name, wanted
from nodeagent.ports import ContainerNetwork, NetworkEndpoint
from shoal.api.errors import EngineError
from shoal.api.objects import Attachment, Backend, Network, ServiceEndpoint, Task
from shoal.api.states import Protocol

log = structlog.get_logger()

BRIDGE_WAIT_S = 30.0
"""Seconds a task waits for its network to exist on the node. Source: Swarm waits as long for node attachments."""

REWRITE_AFTER_S = 20.0
"""Seconds after which bridges are looked at and rules written anew though nothing changed: mends what hands altered."""


class NodeNetwork:
    """A `NetworkPort` on the real engine and kernel."""

    def __init__(self, engine: Engine, node_uid: str) -> None:
        self._engine, self._node_uid = engine, node_uid
        self._bridges: dict[str, DockerNetwork] = {}
        self._picture: rules.Picture | None = None
        """What the rules say; None = they are not known, and are written anew."""
        self._served: rules.Picture | None = None
        """The last picture in force, kept while rules are written anew; None = this process has made none yet."""
        self._stale_flows: set[IPv4Address] = set()
        """Addresses that serve no more, whose tracked flows have yet to be forgotten."""
        self._checked_at = float("-inf")
        self._changed = anyio.Event()
        self._lock = anyio.Lock()

    async def prepare(self, task: Task) -> ContainerNetwork:
        """Wait until the task's networks exist here; EngineError (temporary) if they do not within BRIDGE_WAIT_S."""
        needed = {docker_name(address.network) for address in task.spec.addresses}
        with anyio.move_on_after(BRIDGE_WAIT_S):
            while needed - self._bridges.keys():
                await self._changed.wait()
        if missing := needed - self._bridges.keys():
            raise EngineError(f"network {', '.join(sorted(missing))} is not ready on this node", temporary=True)
        return ContainerNetwork(
            endpoints=tuple(
                NetworkEndpoint(docker_name(address.network), address.address.split("/")[0], address.mac)
                for address in task.spec.addresses
            )
        )

    async def program(self, assignments: Assignments) -> None:
        async with self._lock:
            if anyio.current_time() - self._checked_at > REWRITE_AFTER_S:
                self._picture = None
            networks = assignments.of(Network)
            await self._ensure_bridges(wanted(networks.values(), assignments.of(Attachment).values(), self._node_uid))
            await self._ensure_rules(self._desired(networks, assignments))

    async def cleanup(self) -> None:
        async with self._lock:
            for name in (await self._existing()).keys() - self._bridges.keys():
                await self._remove_unused(name)

    async def _existing(self) -> dict[str, EngineNetwork]:
        return {network.name: network for network in await self._engine.networks(OURS)}

    async def _ensure_bridges(self, networks: tuple[DockerNetwork, ...]) -> None:
        needed = {network.name: network for network in networks}
        if needed == self._bridges and self._picture is not None:
            return
        existing = await self._existing()
        for bridge in abandoned(_interfaces(), existing.values()):
            await commands.delete_link(bridge)
            log.info("bridge_removed", bridge=bridge, reason="no network of the engine has it")
        for network in networks:
            await self._ensure_bridge(network, existing.get(network.name))
        if networks:
            await commands.ensure_forwarding()
        self._bridges = needed
        self._changed.set()
        self._changed = anyio.Event()

    async def _ensure_bridge(self, network: DockerNetwork, existing: EngineNetwork | None) -> None:
        if existing is not None and not _fits(network, existing):
            await self._engine.remove_network(network.name)
            existing = None
        if existing is None:
            await self._engine.create_network(network.name, network.body())
            log.info("bridge_created", network=network.name, bridge=network.bridge, gateway=network.gateway)
        commands.allow_loopback_clients(network.bridge)

    async def _remove_unused(self, name: str) -> None:
        try:
            await self._engine.remove_network(name)
            log.info("bridge_removed", network=name)
        except EngineError as error:
            log.debug("bridge_kept", network=name, error=str(error))

    def _desired(self, networks: Mapping[str, Network], assignments: Assignments) -> rules.Picture:
        uid = next((network.metadata.uid for network in networks.values() if network.spec.ingress), "")
        bridges = tuple((b.bridge, b.subnet) for b in self._bridges.values() if b.uid == uid)
        if not bridges:
            return rules.Picture()
        # Another node's bridge is out of reach until tunnels lead there: a port leads to the tasks of its own node.
        near = [b for b in assignments.of(Backend).values() if b.spec.node.uid == self._node_uid]
        ports = rules.published_ports(assignments.of(ServiceEndpoint).values(), near, uid)
        return rules.Picture(ports, bridges)

    async def _ensure_rules(self, picture: rules.Picture) -> None:
        old = self._picture
        script = rules.full(picture) if old is None else rules.delta(old, picture)
        if script:
            await commands.apply_nft(script)
        if old is None:
            self._checked_at = anyio.current_time()
        self._picture = picture
        await self._forget_flows(picture)

    async def _forget_flows(self, picture: rules.Picture) -> None:
        """Forget UDP flows to what serves no more, also to what vanished while no agent ran; a failure is made up."""
        if self._served is not None:
            self._stale_flows |= rules.vanished(self._served, picture, Protocol.UDP)
        elif picture.bridges:
            self._stale_flows |= rules.strangers(await commands.udp_flow_targets(), picture, Protocol.UDP)
        self._served = picture
        for address in sorted(self._stale_flows):
            await commands.forget_udp_flows(address)
            self._stale_flows.discard(address)


def _fits(network: DockerNetwork, existing: EngineNetwork) -> bool:
    """Is the Docker network the wanted one, with its bridge in the kernel?"""
    return (
        network.subnet in existing.subnets
        and network.labels().items() <= existing.labels.items()
        and network.bridge in _interfaces()
    )


def _interfaces() -> frozenset[str]:
    """Asked of this network namespace: /sys may show another's."""
    return frozenset(name for _, name in socket.if_nameindex())
