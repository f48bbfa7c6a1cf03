"""Brings a node's kernel and engine to what its assignments say of the network.

The order is: bridges, then tunnels with their entries, then rules; a container is created only after all three are
there for its networks, and a rule leads only to addresses that entries lead to. If we die between two of them the next
pass starts from what is there: every step compares before it acts, and rules are replaced in one transaction.

Rules, tunnels and bridges outlive this process on purpose: containers go on serving while the agent is away. While the
engine is away, what is not its business is brought up to date without it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address

import anyio
import structlog
from anyio import to_thread

from nodeagent.assignments import Assignments
from nodeagent.engine.contract import Engine, EngineNetwork
from nodeagent.network import commands, netlink, rules
from nodeagent.network.docker_networks import OURS, DockerNetwork, abandoned, wanted
from nodeagent.network.local_networks import LocalNetwork, config_of, local_networks
from nodeagent.network.overlay import changes, tunnel_name
from nodeagent.network.scene import Scene, parts, picture, tunnels
from nodeagent.network.sixes import address6, interface6
from nodeagent.network.told import Told
from nodeagent.ports import ContainerNetwork, NetworkEndpoint
from nodeagent.tasks.container import NODE_LABEL
from shoal.api.errors import DataplaneError, EngineError
from shoal.api.objects import Task, TaskAddress
from shoal.api.states import Protocol
from shoal.rules.addresses import without_mask
from shoal.rules.networks import is_on_bridge, is_on_host, local_uses

log = structlog.get_logger()

BRIDGE_WAIT_S = 30.0
"""Seconds a task waits for its network to exist on the node. Source: Swarm waits as long for node attachments."""

CHECK_AFTER_S = 20.0
"""Seconds after which all is compared with engine and kernel though nothing changed: mends what hands altered."""


class NodeNetwork:
    """A `NetworkPort` on the real engine and kernel."""

    def __init__(self, engine: Engine, node_uid: str) -> None:
        self._engine, self._node_uid = engine, node_uid
        self._wanted: dict[str, DockerNetwork | LocalNetwork] = {}
        """What this node is attached to, and the node-local networks its tasks are on, by network uid."""
        self._ready: dict[str, DockerNetwork] = {}
        """Those of them whose bridge, entries and rules are in force."""
        self._local: dict[str, LocalNetwork] = {}
        """Those of them that are node-local and that the engine has."""
        self._refused: dict[str, str] = {}
        """Why node-local networks cannot be made as things are here, by uid: also among the troubles."""
        self._troubles: dict[str, str] = {}
        """Why the engine could not make a network, by its uid."""
        self._tunnel_troubles: dict[str, str] = {}
        """Why the kernel could not make a network's tunnel, by the network's uid."""
        self._is_engine_asked = False
        """The engine's networks are as wanted, as far as it could be asked."""
        self._incomplete: dict[str, tuple[Task, int]] = {}
        """Tasks, by uid, with a process of each, whose containers were found running before their network was ready."""
        self._told = Told()
        """What was told last, whether or not it is in force."""
        self._tunnelled: Scene | None = None
        """What the kernel's tunnels are made from; None = that is not known, and they are read."""
        self._ruled: Scene | None = None
        """What the rules are made from; None = that is not known, and they are written anew."""
        self._turned_back: frozenset[int] = frozenset()
        """Ports of bridges that were seen to send back what came by them; seen anew with every comparison."""
        self._served: Scene | None = None
        """What the last rules in force were made from, also while they are written anew; None = there were none yet."""
        self._stale_flows: set[IPv4Address | int] = set()
        """Addresses that serve no more, and ports that do so again: their tracked flows have yet to be forgotten."""
        self._in_force: Told | None = None
        """What was told that the last pass brought into force; None = it did not come to its end."""
        self._checked_at = float("-inf")
        self._changed = anyio.Event()
        self._lock = anyio.Lock()

    def troubles(self) -> dict[str, str]:
        """Why networks are not whole here, by uid."""
        return {**self._tunnel_troubles, **self._troubles}

    async def prepare(self, task: Task) -> ContainerNetwork:
        """Wait until the task's networks exist here; EngineError (temporary) if they do not within BRIDGE_WAIT_S.

        A node-local network that this node lacks something for is an EngineError at once, and not temporary: the task
        is rejected and says why, and another is tried here or elsewhere.
        """
        template = task.spec.template
        if is_on_host(template):
            return ContainerNetwork(mode="host")
        needed = {address.network.uid: address.network.name for address in task.spec.addresses}
        needed |= {use.uid: use.name for use in local_uses(task)}
        with anyio.move_on_after(BRIDGE_WAIT_S):
            while self._lacks(needed) and not needed.keys() & self._refused.keys():
                await self._changed.wait()
        for uid in sorted(needed.keys() & self._refused.keys()):
            raise EngineError(f"network {needed[uid]} cannot be made on this node: {self._refused[uid]}")
        if missing := sorted(self._lacks(needed)):
            troubles = self.troubles()
            why = "; ".join(troubles[uid] for uid in missing if uid in troubles)
            names = ", ".join(sorted(needed[uid] for uid in missing))
            raise EngineError(f"network {names} is not ready on this node{why and f': {why}'}", temporary=True)
        options = {use.uid: use.driver_opts for use in template.networks}
        endpoints = tuple(
            _endpoint(self._ready[one.network.uid], one, options.get(one.network.uid, {}))
            for one in task.spec.addresses
        )
        endpoints += tuple(
            NetworkEndpoint(self._local[use.uid].name, aliases=use.aliases, options=use.driver_opts)
            for use in local_uses(task)
        )
        beside = (NetworkEndpoint("bridge"),) if endpoints and is_on_bridge(template) else ()
        return ContainerNetwork(endpoints=endpoints + beside)

    def _lacks(self, needed: Mapping[str, str]) -> set[str]:
        return needed.keys() - self._ready.keys() - self._local.keys()

    async def complete(self, task: Task, pid: int) -> None:
        """Give it its IPv6 address: an engine would take longer for that than for all else, and keep it waiting.

        Where that fails, the container does with IPv4.
        """
        if any("disable_ipv6" in setting for setting in task.spec.template.sysctls):
            return
        addresses = {one.network.uid: one for one in task.spec.addresses}
        if addresses.keys() - self._ready.keys():
            self._incomplete[task.metadata.uid] = task, pid
            return
        for uid, one in addresses.items():
            if gateway := self._ready[uid].gateway6:
                await self._give_ipv6(pid, one, gateway.partition("/")[0])

    async def _give_ipv6(self, pid: int, one: TaskAddress, gateway: str) -> None:
        own, beside = interface6(one.network.uid, one.address), without_mask(one.address)
        try:
            await to_thread.run_sync(netlink.give_ipv6, pid, beside, own, gateway)
        except DataplaneError as error:
            log.warning("address_not_given", pid=pid, address=own, reason=str(error))

    def distrust(self) -> None:
        self._checked_at = float("-inf")

    async def program(self, assignments: Assignments) -> None:
        if not assignments.objects:
            return  # nothing is known: what is in force stays
        async with self._lock:
            self._forget_what_is_old()
            told = self._told = self._told.after(assignments)
            if self._is_in_force(told):
                return
            self._in_force = None
            found = wanted(told.frame.networks, told.frame.attachments, self._node_uid, has_ipv6=commands.has_ipv6())
            local = local_networks(told.frame.networks)
            every: tuple[DockerNetwork | LocalNetwork, ...] = (*found, *local)
            await self._ensure_bridges({network.uid: network for network in every})
            interfaces = netlink.link_names()
            scene = Scene(tuple(network for network in found if network.bridge in interfaces), told)
            await self._ensure_tunnels(scene)
            await self._ensure_rules(scene)
            self._announce(scene.here, local)
            await self._complete_found()
            self._in_force = told

    async def cleanup(self) -> None:
        async with self._lock:
            await self._remove_unwanted((await self._existing()).values())

    async def _complete_found(self) -> None:
        found, self._incomplete = self._incomplete, {}
        for task, pid in found.values():
            await self.complete(task, pid)

    def _forget_what_is_old(self) -> None:
        if anyio.current_time() - self._checked_at > CHECK_AFTER_S:
            self._ruled = self._tunnelled = None
            self._turned_back = frozenset()
            self._is_engine_asked, self._in_force = False, None
            self._checked_at = anyio.current_time()

    def _is_in_force(self, told: Told) -> bool:
        """Nothing of the network changed since the last pass, and that has left nothing undone."""
        is_whole = self._is_engine_asked and not (self._troubles or self._tunnel_troubles or self._stale_flows)
        return is_whole and self._in_force == told

    def _announce(self, here: Iterable[DockerNetwork], local: Iterable[LocalNetwork]) -> None:
        troubled = self._troubles.keys() | self._tunnel_troubles.keys()
        self._ready = {network.uid: network for network in here if network.uid not in troubled}
        is_known = self._is_engine_asked
        self._local = {network.uid: network for network in local if is_known and network.uid not in troubled}
        self._changed.set()
        self._changed = anyio.Event()

    async def _existing(self) -> dict[str, EngineNetwork]:
        return {network.name: network for network in await self._engine.networks(OURS)}

    async def _ensure_bridges(self, networks: dict[str, DockerNetwork | LocalNetwork]) -> None:
        """Have the engine make what is missing. One network it refuses, or its absence, keeps nothing else waiting."""
        if networks == self._wanted and self._is_engine_asked and not self._troubles:
            return
        self._wanted, self._is_engine_asked, self._troubles, self._refused = networks, False, {}, {}
        try:
            existing = await self._existing()
        except EngineError as error:
            log.debug("bridge_kept", reason=str(error))
            return
        await self._remove_strays(existing.values())
        if any(not _fits(network, existing.get(network.name)) for network in networks.values()):
            await self._remove_unwanted(existing.values())
        for network in networks.values():
            try:
                if isinstance(network, LocalNetwork):
                    await self._ensure_local(network, existing.get(network.name))
                else:
                    await self._ensure_bridge(network, existing.get(network.name))
            except EngineError as error:
                self._troubles[network.uid] = str(error)
                if isinstance(network, LocalNetwork) and not error.temporary:
                    self._refused[network.uid] = str(error)
                log.warning("bridge_not_created", network=network.name, reason=str(error))
        self._is_engine_asked = True

    async def _remove_strays(self, existing: Collection[EngineNetwork]) -> None:
        for bridge in abandoned(netlink.link_names(), existing):
            await commands.delete_link(bridge)
            log.info("bridge_removed", bridge=bridge, reason="no network of the engine has it")

    async def _ensure_bridge(self, network: DockerNetwork, existing: EngineNetwork | None) -> None:
        if existing is not None and not _fits(network, existing):
            try:
                await self._engine.remove_network(network.name)
                existing = None
            except EngineError:
                if existing is None or not _is_wanted(network, existing):
                    raise
                await self._restore_bridge(network)
        if existing is None:
            await self._engine.create_network(network.name, network.body())
            log.info("bridge_created", network=network.name, bridge=network.bridge, gateway=network.gateway)
        commands.allow_loopback_clients(network.bridge)

    async def _ensure_local(self, network: LocalNetwork, existing: EngineNetwork | None) -> None:
        """Have the engine make a node-local network; what it has made stays as it is."""
        if existing is None:
            config = config_of(network, await self._engine.networks({}) if network.config_from else ())
            await self._engine.create_network(network.name, network.body(config))
            log.info("local_network_created", network=network.name, driver=network.driver)

    async def _restore_bridge(self, network: DockerNetwork) -> None:
        """Make the bridge of a network anew that has containers: the engine does so for an empty one only."""
        prefix = network.subnet.rpartition("/")[2]
        ports: list[int] = []
        for found in await self._engine.containers({NODE_LABEL: self._node_uid}):
            container = await self._engine.inspect(found.id)
            if container is not None and container.pid and network.name in container.networks:
                ports += await commands.outer_ports(container.pid, network.subnet)
        await to_thread.run_sync(netlink.restore_bridge, network.bridge, f"{network.gateway}/{prefix}", tuple(ports))
        log.info("bridge_restored", network=network.name, bridge=network.bridge, containers=len(ports))

    async def _remove_unwanted(self, existing: Iterable[EngineNetwork]) -> None:
        """Remove the networks that this node is not attached to any more; one with containers on it stays."""
        names = {network.name for network in self._wanted.values()}
        for network in existing:
            if network.name in names:
                continue
            try:
                await self._engine.remove_network(network.name)
                log.info("bridge_removed", network=network.name)
            except EngineError as error:
                log.debug("bridge_kept", network=network.name, reason=str(error))

    async def _ensure_tunnels(self, scene: Scene) -> None:
        before = self._tunnelled
        was, now = parts(before, scene) if before is not None else (Scene(), scene)
        have = tunnels(was, self._node_uid) if before is not None else await to_thread.run_sync(netlink.read)
        self._tunnel_troubles = {}
        if todo := changes(have, tunnels(now, self._node_uid)):
            self._tunnelled = None
            refused = await to_thread.run_sync(netlink.apply, todo)
            if refused:
                self._note_refused(refused, scene.here)
                return
            if before is None and self._served is not None:
                log.info("tunnels_mended", changes=len(todo))
            else:
                log.debug("tunnels_changed", changes=len(todo))
        self._tunnelled = scene

    def _note_refused(self, refused: Mapping[str, DataplaneError], here: Iterable[DockerNetwork]) -> None:
        """A tunnel that the kernel refuses keeps its network's new tasks waiting, and nothing else."""
        for device, error in sorted(refused.items()):
            log.warning("tunnel_not_made", device=device, reason=str(error))
        devices = {network.uid: tunnel_name(network.uid) for network in here}
        self._tunnel_troubles = {uid: str(refused[name]) for uid, name in devices.items() if name in refused}

    async def _ensure_rules(self, scene: Scene) -> None:
        """Ports of containers turn back before a rule can send a container to itself."""
        before = self._ruled
        was, now = parts(before, scene) if before is not None else (Scene(), scene)
        old, new = picture(was, self._node_uid), picture(now, self._node_uid)
        if new.bridges and not old.bridges:
            await commands.ensure_forwarding(has_ipv6=bool(new.six))
        if before is None or new.near - old.near:
            bridges = tuple(bridge for bridge, _ in new.bridges)
            self._turned_back = await to_thread.run_sync(netlink.turn_back, bridges, self._turned_back)
        if before is None:
            await self._renew_rules(new)
        elif script := rules.delta(old, new):
            self._ruled = None
            await commands.apply_nft(script)
        self._ruled = scene
        await self._forget_flows(scene)

    async def _renew_rules(self, picture: rules.Picture) -> None:
        """Fill our tables anew; where somebody made them otherwise, or an older version of ours did, replace them."""
        script = rules.renewed(picture, await commands.rule_chains())
        try:
            await commands.apply_nft(script)
        except DataplaneError as error:
            log.info("rules_replaced", reason=str(error))
            await commands.apply_nft(rules.full(picture))

    async def _forget_flows(self, scene: Scene) -> None:
        """Forget UDP flows to what serves no more, also to what vanished while no agent ran; a failure is made up.

        Rules are in force before: what is forgotten is tracked anew as they say.
        """
        if self._served is not None:
            old, new = (picture(part, self._node_uid) for part in parts(self._served, scene))
            self._stale_flows |= rules.vanished(old, new, Protocol.UDP)
            self._stale_flows |= rules.appeared(old, new, Protocol.UDP)
        elif scene.here:
            whole = picture(scene, self._node_uid)
            self._stale_flows |= rules.strangers(await commands.udp_flow_targets(), whole, Protocol.UDP)
        self._served = scene
        for stale in sorted(self._stale_flows, key=int):
            await commands.forget_udp_flows(stale)
            if scene.six:
                await commands.forget_udp_flows(_stale6(stale, scene.six), family="ipv6")
            self._stale_flows.discard(stale)


def _stale6(stale: IPv4Address | int, six: str) -> IPv6Address | int:
    return address6(six, str(stale)) if isinstance(stale, IPv4Address) else stale


def _endpoint(network: DockerNetwork, address: TaskAddress, options: Mapping[str, str]) -> NetworkEndpoint:
    return NetworkEndpoint(network.name, ip=without_mask(address.address), mac=address.mac, options=options)


def _fits(network: DockerNetwork | LocalNetwork, existing: EngineNetwork | None) -> bool:
    """Is the Docker network the wanted one, with its bridge in the kernel if that is ours?"""
    if isinstance(network, LocalNetwork):
        return existing is not None
    return existing is not None and _is_wanted(network, existing) and network.bridge in netlink.link_names()


def _is_wanted(network: DockerNetwork, existing: EngineNetwork) -> bool:
    return network.subnet in existing.subnets and network.labels().items() <= existing.labels.items()
