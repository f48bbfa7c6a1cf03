"""The kernel's doors the agent's network uses: nft scripts, iptables' one rule, conntrack, sysctl files."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from glob import glob
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import anyio

from nodeagent.network.docker_networks import BRIDGE_PREFIX
from shoal.api.errors import DataplaneError

_MESH_RULE = (
    "-o", f"{BRIDGE_PREFIX}+", "-m", "conntrack", "--ctstate", "DNAT",
    "-m", "comment", "--comment", "shoal-mesh", "-j", "ACCEPT",
)  # fmt: skip


async def run(command: Sequence[str], script: str = "") -> str:
    """Run a program and return its output; DataplaneError carries its stderr."""
    try:
        done = await anyio.run_process(command, input=script.encode() or None, check=False, stderr=subprocess.PIPE)
    except FileNotFoundError as error:
        raise DataplaneError(command[0], f"is not installed; install the package that brings {command[0]}") from error
    if done.returncode != 0:
        raise DataplaneError(" ".join(command), done.stderr.decode(errors="replace"))
    return done.stdout.decode(errors="replace")


async def apply_nft(script: str) -> None:
    """Apply a script in one transaction: all of it, or nothing."""
    await run(("nft", "-f", "-"), script)


async def rule_chains() -> frozenset[str]:
    """Return every chain of every table, as `ip shoal tcp-80`."""
    return chains_in(await run(("nft", "list", "chains")))


def chains_in(listing: str) -> frozenset[str]:
    """Read nft's listing of chains. Pure."""
    found, table = set(), ""
    for line in listing.splitlines():
        match line.split():
            case ["table", family, name, *_]:
                table = f"{family} {name}"
            case ["chain", name, *_]:
                found.add(f"{table} {name}")
    return frozenset(found)


async def ensure_forwarding(*, has_ipv6: bool) -> None:
    """Let published connections into our bridges past Docker's FORWARD policy, which drops what it does not know.

    An accept in a table of ours does not outvote that policy, so one rule of ours, known by its comment, lies in
    DOCKER-USER. It admits connections that were translated on the way (published ports and virtual IPs), and no others.
    A firewall that starts anew may take the chain away, and the engine makes it only when it starts itself.
    """
    await _ensure_bridge_netfilter()
    _set("/proc/sys/net/ipv4/ip_forward")
    if await _refuses("iptables", "-w", "-C", "DOCKER-USER", *_MESH_RULE):
        if await _refuses("iptables", "-w", "-n", "-L", "DOCKER-USER"):
            await run(("iptables", "-w", "-N", "DOCKER-USER"))
            await run(("iptables", "-w", "-I", "FORWARD", "-j", "DOCKER-USER"))
        await run(("iptables", "-w", "-I", "DOCKER-USER", *_MESH_RULE))
    if has_ipv6:
        await _ensure_forwarding6()


async def _ensure_forwarding6() -> None:
    """A host that forwards takes no routes from routers any more, unless it is told to: one that did goes on to.

    Older engines leave IPv6 alone, and have no chain of that name there.
    """
    for setting in glob("/proc/sys/net/ipv6/conf/*/accept_ra"):
        if _read(setting) == "1":
            _set(setting, "2")
    _set("/proc/sys/net/ipv6/conf/all/forwarding")
    has_chain = not await _refuses("ip6tables", "-w", "-n", "-L", "DOCKER-USER")
    if has_chain and await _refuses("ip6tables", "-w", "-C", "DOCKER-USER", *_MESH_RULE):
        await run(("ip6tables", "-w", "-I", "DOCKER-USER", *_MESH_RULE))


def has_ipv6() -> bool:
    """Does the host speak IPv6?"""
    return _read("/proc/sys/net/ipv6/conf/all/disable_ipv6") == "0"


async def _refuses(*command: str) -> bool:
    try:
        await run(command)
    except DataplaneError:
        return True
    return False


async def _ensure_bridge_netfilter() -> None:
    """Have packet rules see what bridges forward; each bridge of ours asks for it, and the kernel must be able to."""
    if not os.path.exists("/proc/sys/net/bridge"):  # noqa: ASYNC240 -- the kernel answers at once
        await run(("modprobe", "br_netfilter"))


async def remove_forwarding() -> None:
    """Take our rule from DOCKER-USER, as often as it is there; no rule, or no such chain, is fine."""
    for program in ("iptables", "ip6tables"):
        while not await _refuses(program, "-w", "-C", "DOCKER-USER", *_MESH_RULE):
            await run((program, "-w", "-D", "DOCKER-USER", *_MESH_RULE))


async def delete_link(name: str) -> None:
    await run(("ip", "link", "delete", name))


async def outer_ports(pid: int, subnet: str) -> list[int]:
    """Return the numbers of the host's links that lead to a container's addresses in a subnet."""
    return links_to(await run(("nsenter", "-t", str(pid), "--net", "ip", "-j", "address")), subnet)


def links_to(listing: str, subnet: str) -> list[int]:
    """Read which links of the outside lead to addresses in a subnet, from ip's own listing inside. Pure."""
    inside = IPv4Network(subnet)
    return [
        int(link["link_index"])
        for link in json.loads(listing)
        if "link_index" in link
        and any(one["family"] == "inet" and IPv4Address(one["local"]) in inside for one in link["addr_info"])
    ]


def allow_loopback_clients(bridge: str) -> None:
    """Let 127.0.0.1 reach translated ports over a bridge."""
    _set(f"/proc/sys/net/ipv4/conf/{bridge}/route_localnet")


def _set(setting: str, value: str = "1") -> None:
    path = Path(setting)
    try:
        if path.read_text().strip() != value:
            path.write_text(value)
    except OSError as error:
        raise DataplaneError(f"set {setting}", str(error)) from error


def _read(setting: str) -> str:
    """Return a kernel setting, "" if there is none."""
    try:
        return Path(setting).read_text().strip()
    except OSError:
        return ""


async def forget_udp_flows(stale: IPv4Address | IPv6Address | int, family: str = "ipv4") -> None:
    """Drop tracked UDP flows that lead to an address, or were begun to a port; there may be none."""
    which = ("--orig-port-dst", str(stale)) if isinstance(stale, int) else ("--reply-src", str(stale))
    try:
        await run(("conntrack", "-D", "-f", family, "-p", "udp", *which))
    except DataplaneError as error:
        if "0 flow entries" not in error.stderr:
            raise


async def udp_flow_targets() -> frozenset[IPv4Address]:
    """Return the addresses that tracked UDP flows were translated to."""
    return translated_to(await run(("conntrack", "-L", "-p", "udp", "--dst-nat")))


def translated_to(listing: str) -> frozenset[IPv4Address]:
    """Read who answers in each line of conntrack's listing: the second `src=`. Pure."""
    found = (_SOURCE.findall(line) for line in listing.splitlines())
    return frozenset(IPv4Address(sources[1]) for sources in found if len(sources) > 1)


_SOURCE = re.compile(r"\bsrc=([0-9.]+)")
