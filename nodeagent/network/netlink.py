"""Reads and changes the kernel's links, forwarding and neighbour entries. Only importer of pyroute2.

Every call takes milliseconds and blocks: call it from a worker thread. What the kernel refuses is a DataplaneError.
Every change may be repeated: what is there already is replaced, what is gone already is fine.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nodeagent.network.overlay import (
    TUNNEL_PREFIX,
    Change,
    DropFarEnd,
    DropNeighbour,
    DropTunnel,
    DropWay,
    FarEnd,
    MakeTunnel,
    MendTunnel,
    Neighbour,
    Overlay,
    SetFarEnd,
    SetNeighbour,
    SetWay,
    Tunnel,
    device_of,
)
from nodeagent.network.sixes import PREFIX6
from shoal.api.errors import DataplaneError

_PERMANENT: Final = 0x80
_NO_ARP: Final = 0x40
_SELF: Final = 0x02
_MASTER: Final = 0x04
"""NUD_ and NTF_ numbers of linux/neighbour.h: `permanent`, `static`, the device's own table, its bridge's."""

_UNDOUBTED: Final = 0x02
"""IFA_F_NODAD of linux/if_addr.h: nobody else has the address, so it serves at once."""

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_NEW_NETWORK: Final = 0x40000000
"""CLONE_NEWNET of linux/sched.h."""

_GONE: Final = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL})
"""How the kernel says that what should be removed is not there."""


def read() -> dict[str, Overlay]:
    """Return every tunnel of ours in the kernel, by name, whoever made it."""
    with _translated("read tunnels"), IPRoute() as kernel:
        links = {name: _index(name) for name in sorted(link_names()) if name.startswith(TUNNEL_PREFIX)}
        return {name: _read(kernel, index) for name, index in links.items() if index}


def apply(changes: Iterable[Change]) -> dict[str, DataplaneError]:
    """Make changes in their order; return the devices of which one was refused, whose further ones were left out."""
    links: dict[str, int] = {}
    refused: dict[str, DataplaneError] = {}
    with IPRoute() as kernel:
        for change in changes:
            device = device_of(change)
            if device not in refused:
                try:
                    with _translated(_spelled(change)):
                        _apply(kernel, links, change)
                except DataplaneError as error:
                    refused[device] = error
    return refused


def turn_back(bridges: Iterable[str], known: frozenset[int]) -> frozenset[int]:
    """Let bridges send packets back through the port they came by, as a container's that reaches itself by a VIP.

    Tunnels are left out: those must never send anything back. Ports in `known` (by number, which no other link gets)
    are not read, for that costs a third of a millisecond each. Returns those, and all that were read.
    """
    new = {index for index in map(_index, link_names()) if index} - known
    indexes = {index for index in map(_index, bridges) if index}
    if not new:
        return known
    with _translated("set hairpin"), IPRoute() as kernel:
        found = [port for index in sorted(new) for port in _ports(kernel, index)]
        for port in found:
            if _may_turn_back(port, indexes):
                kernel.brport("set", index=port["index"], mode=1)
        return known.union(port["index"] for port in found if not _may_yet_join(port))


def _ports(kernel: IPRoute, index: int) -> Iterator[Any]:
    """The link as a port of a bridge; nothing if it has gone."""
    with _perhaps_gone():
        yield from kernel.link("get", index=index)


def link_names() -> frozenset[str]:
    """The links of this network namespace; /sys may show another's.

    Asking the kernel by netlink would wait for whoever changes links, such as an engine that starts many containers.
    """
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    return frozenset(line.partition(":")[0].strip() for line in lines if ":" in line)


def restore_bridge(bridge: str, address: str, ports: Iterable[int]) -> None:
    """Make a bridge anew that somebody deleted, and put ports back that have been in it, known by their numbers."""
    with _translated(f"restore {bridge}"), IPRoute() as kernel:
        kernel.link("add", ifname=bridge, kind="bridge")
        index = _index(bridge)
        _give_address(kernel, index, address)
        kernel.link("set", index=index, state="up")
        for port in ports:
            kernel.link("set", index=port, master=index)


def give_ipv6(pid: int, beside: str, address: str, gateway: str) -> None:
    """Give a container an IPv6 address, with its mask, and a default route, on the link that has an IPv4 address.

    `pid` is any process of the container; if it has ended, there is nobody to give anything. DataplaneError if no link
    has that address.
    """
    with _translated(f"give {address}"), suppress(FileNotFoundError), _inside(pid), IPRoute() as kernel:
        index = next((one["index"] for one in kernel.get_addr(family=socket.AF_INET, address=beside)), 0)
        if not index:
            raise DataplaneError(f"give {address}", f"the container has no link with {beside}")
        _speak_ipv6(socket.if_indextoname(index))
        _give_address(kernel, index, address)
        kernel.route("replace", family=socket.AF_INET6, dst="default", gateway=gateway, oif=index)


def drop_tunnels() -> int:
    """Remove every tunnel of ours; return how many. DataplaneError if one is not to be removed."""
    found = [name for name in link_names() if name.startswith(TUNNEL_PREFIX)]
    for error in apply(DropTunnel(name) for name in found).values():
        raise error
    return len(found)


def _apply(kernel: IPRoute, links: dict[str, int], change: Change) -> None:
    match change:
        case MakeTunnel(tunnel):
            _make(kernel, tunnel)
        case MendTunnel(tunnel):
            _mend(kernel, tunnel)
        case DropTunnel(device):
            links.pop(device, None)
            if index := _index(device):
                with _perhaps_gone():
                    kernel.link("del", index=index)
        case SetFarEnd(device, mac, host):
            index = _known(links, device)
            kernel.fdb("replace", ifindex=index, lladdr=mac, dst=host, flags=_SELF, state=_PERMANENT | _NO_ARP)
        case DropFarEnd(device, mac):
            with _perhaps_gone():
                kernel.fdb("del", ifindex=_known(links, device), lladdr=mac, flags=_SELF)
        case SetWay(device, mac):
            kernel.fdb("replace", ifindex=_known(links, device), lladdr=mac, flags=_MASTER, state=_NO_ARP)
        case DropWay(device, mac):
            with _perhaps_gone():
                kernel.fdb("del", ifindex=_known(links, device), lladdr=mac, flags=_MASTER)
        case SetNeighbour(device, address, mac):
            index = _known(links, device)
            kernel.neigh("replace", ifindex=index, dst=address, lladdr=mac, family=_family(address), state=_PERMANENT)
        case DropNeighbour(device, address):
            with _perhaps_gone():
                kernel.neigh("del", ifindex=_known(links, device), dst=address, family=_family(address))


def _make(kernel: IPRoute, tunnel: Tunnel) -> None:
    """Make the device, down and in no bridge: mending does the rest."""
    local = {"vxlan_local6" if ":" in tunnel.local else "vxlan_local": tunnel.local} if tunnel.local else {}
    kernel.link(
        "add", ifname=tunnel.name, kind="vxlan", vxlan_id=tunnel.vni, vxlan_port=tunnel.port, vxlan_learning=0,
        vxlan_proxy=1, **local,
    )  # fmt: skip


def _mend(kernel: IPRoute, tunnel: Tunnel) -> None:
    """The bridge gets its MAC first, so that others reach it as soon as the tunnel is up."""
    bridge, index = _index(tunnel.bridge), _index(tunnel.name)
    kernel.link("set", index=bridge, address=tunnel.mac, state="up")
    kernel.link("set", index=bridge, kind="bridge", br_nf_call_iptables=1, br_nf_call_ip6tables=1)
    _give_address(kernel, bridge, tunnel.address)
    if tunnel.address6:
        _speak_ipv6(tunnel.bridge)
        _give_address(kernel, bridge, tunnel.address6)
    kernel.link("set", index=index, master=bridge, mtu=tunnel.mtu)
    kernel.brport("set", index=index, learning=0)
    kernel.link("set", index=index, state="up")


def _give_address(kernel: IPRoute, index: int, address: str) -> None:
    local, _, prefix = address.partition("/")
    flags = _UNDOUBTED if ":" in local else 0
    kernel.addr("replace", index=index, address=local, prefixlen=int(prefix), family=_family(local), flags=flags)


def _speak_ipv6(link: str) -> None:
    """An engine switches IPv6 off where it gives no such address; what routers announce there counts for nothing."""
    settings = Path("/proc/sys/net/ipv6/conf") / link
    (settings / "accept_ra").write_text("0")
    (settings / "disable_ipv6").write_text("0")


@contextmanager
def _inside(pid: int) -> Iterator[None]:
    """Let this thread's sockets and settings be those of a process's network namespace meanwhile."""
    with Path("/proc/thread-self/ns/net").open() as home, Path(f"/proc/{pid}/ns/net").open() as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(namespace: int) -> None:
    """Source: setns(2), which Python has from 3.12 on."""
    if _LIBC.setns(namespace, _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "setns")


def _read(kernel: IPRoute, index: int) -> Overlay:
    (link,) = kernel.get_links(index)
    master = link.get("master")
    bridge = kernel.get_links(master)[0] if master else None
    addresses = list(kernel.get_addr(index=master)) if master else []
    address = next((_with_mask(one) for one in addresses if one["family"] == socket.AF_INET), "")
    address6 = next((_with_mask(one) for one in addresses if one["prefixlen"] == PREFIX6), "")
    forwarding = list(kernel.fdb("dump", ifindex=index))
    own = (entry for entry in forwarding if entry["flags"] & _SELF)
    ways = (entry for entry in forwarding if not entry["flags"] & _SELF and entry["state"] & _NO_ARP)
    neighbours = (entry for entry in kernel.get_neighbours(ifindex=index) if entry["state"] & _PERMANENT)
    return Overlay(
        _tunnel(link, bridge, address, address6),
        frozenset(FarEnd(entry.get("lladdr"), entry.get("dst", "")) for entry in own),
        frozenset(entry.get("lladdr") for entry in ways if not entry["state"] & _PERMANENT),
        frozenset(Neighbour(entry.get("dst"), entry.get("lladdr")) for entry in neighbours),
    )


def _with_mask(entry: Any) -> str:
    return f"{entry.get('address')}/{entry['prefixlen']}"


def _tunnel(link: Any, bridge: Any, address: str, address6: str) -> Tunnel:
    """A device that cannot answer for others, or is none of ours but for its name, gets a number that nobody wants."""
    made = link.get(("linkinfo", "data")) or {}
    port = link.get(("linkinfo", "slave_data"))
    upper = bridge.get(("linkinfo", "data")) if bridge is not None else None
    answers = made.get("vxlan_proxy") and not made.get("vxlan_learning")
    return Tunnel(
        name=link.get("ifname"),
        vni=(made.get("vxlan_id") or 0) if answers else 0,
        port=made.get("vxlan_port") or 0,
        local=made.get("vxlan_local") or made.get("vxlan_local6") or "",
        bridge=bridge.get("ifname") if bridge is not None else "",
        mac=bridge.get("address") if bridge is not None else "",
        address=address,
        address6=address6,
        mtu=link.get("mtu"),
        is_up=link["state"] == "up" and bridge is not None and bridge["state"] == "up",
        is_quiet=port is not None and not port.get("brport_learning"),
        is_filtered=bool(upper and upper.get("br_nf_call_iptables") and upper.get("br_nf_call_ip6tables")),
    )


def _may_turn_back(port: Any, bridges: set[int]) -> bool:
    return port.get("master") in bridges and not port.get("ifname").startswith(TUNNEL_PREFIX)


def _may_yet_join(link: Any) -> bool:
    """An engine makes a container's link before it puts it into a bridge."""
    return not link.get("master") and link.get(("linkinfo", "kind")) == "veth"


def _known(links: dict[str, int], name: str) -> int:
    if name not in links:
        links[name] = _index(name)
    return links[name]


def _index(name: str) -> int:
    """The number of a link; 0 = there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _spelled(change: Change) -> str:
    """Name a change in an error: "SetWay shx-net1 02:42:0a:00:00:04"."""
    rest = change[1:] if not isinstance(change, MakeTunnel | MendTunnel) else ()
    return " ".join((type(change).__name__, device_of(change), *rest))


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (NetlinkError, OSError) as error:
        number = error.code if isinstance(error, NetlinkError) else error.errno
        raise DataplaneError(what, os.strerror(number or errno.EIO)) from error


@contextmanager
def _perhaps_gone() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code not in _GONE:
            raise
