"""What can be wrong with a host before anything is started, each told in a sentence that says what to do."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import aiohttp

from shoal.api.errors import InvalidError, TerminalError

INSTALL_ENGINE = "install it with `apt-get install docker.io`, or name its socket with --docker"
START_ENGINE = "start it (`systemctl start docker`, or `dockerd` without systemd), or name its socket with --docker"

LONGEST_SOCKET_PATH = 107
"""Bytes: the kernel's sun_path, less its final zero."""

ENGINE_WAIT_S = 5.0
"""An engine that has not answered a ping by then does not answer."""


def need_programs(names: Iterable[str] = ("etcd", "nft"), find: Callable[[str], str | None] = shutil.which) -> None:
    """TerminalError if a program is not on the PATH."""
    packages = {"etcd": "etcd-server", "nft": "nftables"}
    missing = [name for name in names if find(name) is None]
    if missing:
        install = " ".join(packages.get(name, name) for name in missing)
        raise TerminalError(f"{' and '.join(missing)} not found: install with `apt-get install {install}`, then retry")


def need_folder(folder: Path, what: str, option: str, mode: int = 0o755) -> None:
    """Create a folder if it is missing; TerminalError if it cannot be made or written to."""
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise TerminalError(
            f"the {what} {folder} is not writable ({os.strerror(error.errno or errno.EIO)}): run as root, "
            f"or choose another with {option}"
        ) from error


def need_short_path(socket_path: Path) -> None:
    """InvalidError if a unix socket cannot have this path. Pure."""
    length = len(os.fsencode(socket_path))
    if length > LONGEST_SOCKET_PATH:
        raise InvalidError(
            f"--run-dir: {socket_path} has {length} bytes, and a socket's path at most {LONGEST_SOCKET_PATH}; "
            "choose a shorter directory"
        )


def need_free_port(port: int, what: str, option: str, address: str = "127.0.0.1") -> None:
    """TerminalError if something listens on a port of ours."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise TerminalError(
                f"port {port}, which {what} needs, is in use on this host; stop what listens there "
                f"(`ss -ltnp sport = :{port}` names it), or choose another with {option}"
            ) from error


async def need_engine(docker: str) -> None:
    """TerminalError if the Docker engine does not answer."""
    scheme, _, place = docker.partition("://")
    if scheme == "unix":
        connector: aiohttp.BaseConnector = aiohttp.UnixConnector(place)
        url = "http://docker/_ping"
    elif scheme == "tcp":
        connector, url = aiohttp.TCPConnector(), f"http://{place}/_ping"
    else:
        raise InvalidError(f"--docker: expected unix:///path or tcp://host:port, found {docker!r}")
    try:
        timeout = aiohttp.ClientTimeout(total=ENGINE_WAIT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, session.get(url) as answer:
            if answer.status != 200:
                raise TerminalError(
                    f"the Docker engine at {docker} answered with HTTP {answer.status}; look at its log"
                )
    except (OSError, TimeoutError, aiohttp.ClientError) as error:
        reason = getattr(error, "strerror", "") or str(error) or f"no answer within {ENGINE_WAIT_S:.0f} s"
        remedy = START_ENGINE if shutil.which("dockerd") else INSTALL_ENGINE
        raise TerminalError(f"the Docker engine at {docker} does not answer ({reason}): {remedy}") from error


def choose_address(wanted: str, by_interface: dict[str, tuple[str, ...]], towards: str = "") -> str:
    """Return the IPv4 address other hosts reach this one at. Pure.

    `wanted` is an address, an interface's name, or "" for `towards` (the one that packets to a manager leave from),
    else the only one there is, else loopback. InvalidError says what there is to choose from.
    """
    if wanted in by_interface:
        if not by_interface[wanted]:
            raise InvalidError(f"--advertise-addr: interface {wanted} has no IPv4 address")
        return by_interface[wanted][0]
    if wanted:
        try:
            ipaddress.IPv4Address(wanted)
        except ValueError:
            known = ", ".join(sorted(by_interface)) or "none"
            raise InvalidError(
                f"--advertise-addr: expected an IPv4 address or an interface of this host ({known}), found {wanted!r}"
            ) from None
        return wanted
    if towards:
        return towards
    candidates = [
        (address, name)
        for name, found in sorted(by_interface.items())
        for address in found
        if not ipaddress.IPv4Address(address).is_loopback
    ]
    if len(candidates) > 1:
        told = ", ".join(f"{address} on {name}" for address, name in candidates)
        raise InvalidError(
            f"could not choose an IP address to advertise, since this host has several ({told}): "
            "say which with --advertise-addr"
        )
    return candidates[0][0] if candidates else "127.0.0.1"


def addresses_by_interface() -> dict[str, tuple[str, ...]]:
    """Return the host's IPv4 addresses, Docker's bridges and container ends left out."""
    found = subprocess.run(["ip", "-json", "-4", "address", "show"], capture_output=True, check=False, text=True)
    links = json.loads(found.stdout or "[]")
    return {
        link["ifname"]: tuple(entry["local"] for entry in link.get("addr_info", ()))
        for link in links
        if "ifname" in link and not link["ifname"].startswith(("docker", "br-", "veth", "shb-"))
    }


def address_towards(host: str, port: int) -> str:
    """Return the address packets to another host leave from, "" where there is no way to it. Sends nothing."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(place)  # a datagram socket only looks the route up
            return str(probe.getsockname()[0])
    except OSError:
        return ""
