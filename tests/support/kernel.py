"""A kernel that keeps tunnels, their entries and what rules it was given in memory, and counts what it is asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from nodeagent.network import commands, netlink
from nodeagent.network import overlay as o
from shoal.api.errors import DataplaneError


@dataclass
class Kernel:
    tunnels: dict[str, o.Overlay] = field(default_factory=dict)
    bridges: set[str] = field(default_factory=set)
    scripts: list[str] = field(default_factory=list)
    tracked: set[IPv4Address | int] = field(default_factory=set)
    """UDP flows: the addresses they lead to, and the ports they were begun to while nothing served those."""
    asked: list[o.Change] = field(default_factory=list)
    restored: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)
    given: list[tuple[int, str, str, str]] = field(default_factory=list)
    """IPv6 addresses inside containers: process, the IPv4 address beside it, itself, the way out."""
    unable: set[str] = field(default_factory=set)
    """Devices that cannot be made; IPv4 addresses that no container has."""
    has_ipv6: bool = False
    chains: set[str] = field(default_factory=set)
    """Those of tables of rules."""
    is_otherwise: bool = False
    """The tables there are were made with other definitions."""
    is_stubborn: bool = False
    """Forgets no flow."""

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Kernel:
        """Stand in for the real one."""
        for name in (
            "apply_nft",
            "rule_chains",
            "udp_flow_targets",
            "forget_udp_flows",
            "ensure_forwarding",
            "delete_link",
        ):
            monkeypatch.setattr(commands, name, getattr(self, name))
        monkeypatch.setattr(commands, "allow_loopback_clients", lambda bridge: None)
        monkeypatch.setattr(commands, "has_ipv6", lambda: self.has_ipv6)
        monkeypatch.setattr(commands, "outer_ports", self.outer_ports)
        for name in ("read", "apply", "turn_back", "restore_bridge", "give_ipv6"):
            monkeypatch.setattr(netlink, name, getattr(self, name))
        monkeypatch.setattr(netlink, "link_names", lambda: frozenset(self.bridges))
        return self

    def read(self) -> dict[str, o.Overlay]:
        return dict(self.tunnels)

    def apply(self, changes: Iterable[o.Change]) -> dict[str, DataplaneError]:
        refused: dict[str, DataplaneError] = {}
        for change in changes:
            if (device := o.device_of(change)) not in refused:
                self.asked.append(change)
                try:
                    self._apply(change)
                except DataplaneError as error:
                    refused[device] = error
        return refused

    def _apply(self, change: o.Change) -> None:
        match change:
            case o.MakeTunnel(tunnel):
                if tunnel.name in self.unable:
                    raise DataplaneError(f"MakeTunnel {tunnel.name}", "Operation not supported")
                if any(tunnel.vni == other.tunnel.vni for other in self.tunnels.values()):
                    raise DataplaneError(f"make {tunnel.name}", "File exists")
                self.tunnels[tunnel.name] = o.Overlay(replace(tunnel, bridge="", is_up=False))
            case o.MendTunnel(tunnel):
                self.tunnels[tunnel.name] = replace(self.tunnels[tunnel.name], tunnel=tunnel)
            case o.DropTunnel(device):
                self.tunnels.pop(device, None)
            case o.SetFarEnd(device, mac, host):
                found = self.tunnels[device]
                doubled = sum(end.mac == mac for end in found.far_ends) > 1
                kept = frozenset(end for end in found.far_ends if doubled or end.mac != mac)
                self.tunnels[device] = replace(found, far_ends=kept | {o.FarEnd(mac, host)})
            case o.DropFarEnd(device, mac):
                found = self.tunnels[device]
                kept = frozenset(end for end in found.far_ends if end.mac != mac)
                self.tunnels[device] = replace(found, far_ends=kept)
            case o.SetWay(device, mac):
                self.tunnels[device] = replace(self.tunnels[device], ways=self.tunnels[device].ways | {mac})
            case o.DropWay(device, mac):
                self.tunnels[device] = replace(self.tunnels[device], ways=self.tunnels[device].ways - {mac})
            case o.SetNeighbour(device, address, mac):
                self._neighbours(device, address, frozenset({o.Neighbour(address, mac)}))
            case o.DropNeighbour(device, address):
                self._neighbours(device, address, frozenset())

    def _neighbours(self, device: str, address: str, new: frozenset[o.Neighbour]) -> None:
        found = self.tunnels[device]
        kept = frozenset(one for one in found.neighbours if one.address != address)
        self.tunnels[device] = replace(found, neighbours=kept | new)

    async def outer_ports(self, pid: int, subnet: str) -> list[int]:
        return [7]

    def restore_bridge(self, bridge: str, address: str, ports: tuple[int, ...]) -> None:
        self.restored.append((bridge, address, ports))
        self.bridges.add(bridge)

    def turn_back(self, bridges: Iterable[str], known: frozenset[int]) -> frozenset[int]:
        return known

    def give_ipv6(self, pid: int, beside: str, address: str, gateway: str) -> None:
        if beside in self.unable:
            raise DataplaneError(f"give {address}", f"the container has no link with {beside}")
        self.given.append((pid, beside, address, gateway))

    async def rule_chains(self) -> frozenset[str]:
        return frozenset(self.chains)

    async def apply_nft(self, script: str) -> None:
        if self.is_otherwise and not script.startswith("table ip shoal {}"):
            raise DataplaneError("nft -f -", "File exists")
        self.scripts.append(script)

    async def ensure_forwarding(self, *, has_ipv6: bool) -> None:
        pass

    async def delete_link(self, name: str) -> None:
        self.bridges.discard(name)

    async def udp_flow_targets(self) -> frozenset[IPv4Address]:
        return frozenset(one for one in self.tracked if isinstance(one, IPv4Address))

    async def forget_udp_flows(self, stale: IPv4Address | IPv6Address | int, family: str = "ipv4") -> None:
        if self.is_stubborn:
            raise DataplaneError("conntrack", "no buffer space")
        self.tracked -= {stale}
