"""Runs the API server: `python -m apiserver --etcd URL --socket PATH --cluster-key FILE [--listen A:P --node UID]`."""

from __future__ import annotations

import grp
import os
import resource
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import click
from aiohttp import web
from prometheus_client.registry import REGISTRY

from apiserver.app import Server, serving
from apiserver.listener import Listener
from shoal.api.errors import InvalidError
from shoal.machinery.process import EtcdAddress, ProcessOptions, etcd_options, process_options, run_process
from shoal.machinery.sealing import KEY_BYTES
from shoal.machinery.status import Health

GROUP: Final = "docker"
"""Members of this group may use the socket, as they may use the engine's."""

DRAIN_S: Final = 1.0
"""Seconds that requests under way may take to end after SIGTERM; watches never end by themselves."""


@click.command()
@etcd_options
@click.option("--socket", type=click.Path(path_type=Path), default="/run/shoal/api.sock", show_default=True)
@click.option("--cluster-key", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File of 32 bytes.")
@click.option("--listen", default="", metavar="ADDRESS:PORT", help="Serve other hosts there, with mutual TLS.")
@click.option("--node", default="", help="This node's uid; --listen needs it.")
@click.option("--advertise", "hosts", multiple=True, help="A name or address others reach us at; may be repeated.")
@process_options
def main(
    etcd: EtcdAddress,
    socket: Path,
    cluster_key: Path,
    listen: str,
    node: str,
    hosts: tuple[str, ...],
    process: ProcessOptions,
) -> None:
    """Serve the native API on a unix socket, and to other hosts. An etcd that does not answer is waited for."""
    if listen and not node:
        raise click.UsageError("--listen needs --node: the certificate names this manager")
    sys.exit(run_process("apiserver", make_serve(etcd, socket, cluster_key, Door(listen, node, hosts)), process))


@dataclass(frozen=True)
class Door:
    """Where and as whom other hosts are served; an empty `listen` = not at all."""

    listen: str = ""
    node: str = ""
    hosts: tuple[str, ...] = ()


def make_serve(etcd: EtcdAddress, socket: Path, cluster_key: Path, door: Door) -> Callable[[Health], Awaitable[None]]:
    """Return what the process does until it is cancelled."""

    def listener_of(server: Server) -> Listener | None:
        if not door.listen:
            return None
        listener = Listener(server.membership, server.connections, door.listen, door.node, door.hosts)
        server.presences.arriving = listener.arriving
        return listener

    async def serve(health: Health) -> None:
        key = read_key(cluster_key)
        _allow_many_connections()
        store = etcd.connect()
        try:
            async with (
                serving(store, cluster_key=key, registry=REGISTRY, node=door.node) as server,
                anyio.create_task_group() as tasks,
            ):
                listener = listener_of(server)
                health.not_ready = lambda: _trouble(server, listener)
                runner = web.AppRunner(server.app, access_log=None, shutdown_timeout=DRAIN_S)
                await runner.setup()
                try:
                    await bind(runner, socket)
                    if listener is not None:
                        tasks.start_soon(listener.run, runner)
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        await runner.cleanup()
        finally:
            with anyio.CancelScope(shield=True):
                await store.close()

    return serve


def _allow_many_connections() -> None:
    """Agents hold two connections each; shells allow 1024 open files unless asked for more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _trouble(server: Server, listener: Listener | None) -> str:
    if not server.mirror.synced:
        return "waiting for etcd"
    return listener.trouble if listener is not None else ""


def read_key(path: Path) -> bytes:
    """Return the cluster key; InvalidError if the file holds none: nothing sealed could be read or written."""
    try:
        found = path.read_bytes()
    except OSError as error:
        raise InvalidError(f"cannot read the cluster key {path}: {error.strerror}") from error
    if len(found) != KEY_BYTES:
        raise InvalidError(f"the cluster key {path} has {len(found)} bytes, expected {KEY_BYTES}")
    return found


async def bind(runner: web.AppRunner, path: Path) -> None:
    """Listen on a unix socket for root and the group docker (mode 0660); a left-over socket is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = os.umask(0o117)
    try:
        await web.UnixSite(runner, str(path)).start()
    except OSError as error:
        raise InvalidError(f"cannot listen on {path}: {error.strerror or error}") from error
    finally:
        os.umask(before)
    try:
        os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
    except (KeyError, PermissionError):
        return  # no such group, or not root: then root, or whoever runs us, alone


if __name__ == "__main__":
    main()
