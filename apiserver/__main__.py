"""Runs the API server: `python -m apiserver --etcd URL --socket PATH --cluster-key FILE`."""

from __future__ import annotations

import grp
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import anyio
import click
from aiohttp import web
from prometheus_client import REGISTRY

from apiserver.app import serving
from shoal.api.errors import InvalidError
from shoal.machinery.process import EtcdAddress, Health, ProcessOptions, etcd_options, process_options, run_process

GROUP: Final = "docker"
"""Members of this group may use the socket, as they may use the engine's."""

KEY_BYTES: Final = 32

DRAIN_S: Final = 1.0
"""Seconds that requests under way may take to end after SIGTERM; watches never end by themselves."""


@click.command()
@etcd_options
@click.option("--socket", type=click.Path(path_type=Path), default="/run/shoal/api.sock", show_default=True)
@click.option("--cluster-key", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File of 32 bytes.")
@process_options
def main(etcd: EtcdAddress, socket: Path, cluster_key: Path, process: ProcessOptions) -> None:
    """Serve the native API on a unix socket. An etcd that does not answer is waited for."""
    sys.exit(run_process("apiserver", make_serve(etcd, socket, cluster_key), process))


def make_serve(etcd: EtcdAddress, socket: Path, cluster_key: Path) -> Callable[[Health], Awaitable[None]]:
    """Return what the process does until it is cancelled."""

    async def serve(health: Health) -> None:
        check_key(cluster_key)
        store = etcd.connect()
        try:
            async with serving(store, registry=REGISTRY) as server:
                health.not_ready = lambda: "" if server.mirror.synced else "waiting for etcd"
                runner = web.AppRunner(server.app, access_log=None, shutdown_timeout=DRAIN_S)
                await runner.setup()
                try:
                    await bind(runner, socket)
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        await runner.cleanup()
        finally:
            with anyio.CancelScope(shield=True):
                await store.close()

    return serve


def check_key(path: Path) -> None:
    """InvalidError unless the file holds a cluster key: without it nothing sealed could be read or written."""
    try:
        found = len(path.read_bytes())
    except OSError as error:
        raise InvalidError(f"cannot read the cluster key {path}: {error.strerror}") from error
    if found != KEY_BYTES:
        raise InvalidError(f"the cluster key {path} has {found} bytes, expected {KEY_BYTES}")


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
