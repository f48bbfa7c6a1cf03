"""Runs one controller as a process: `python -m controllers NAME --etcd URL`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

import anyio
import click

from controllers import CONTROLLERS, load
from shoal.machinery.election import TTL_S
from shoal.machinery.process import (
    EtcdAddress,
    ProcessOptions,
    candidate_name,
    etcd_options,
    process_options,
    run_process,
)
from shoal.machinery.runner import Runner
from shoal.machinery.status import Health


@click.command()
@click.argument("name", type=click.Choice(list(CONTROLLERS)))
@etcd_options
@click.option(
    "--lease",
    "ttl_s",
    type=click.FloatRange(min=1),
    default=TTL_S,
    show_default=True,
    help="Seconds after which another process takes over from a leader that is silent.",
)
@process_options
def main(name: str, etcd: EtcdAddress, ttl_s: float, process: ProcessOptions) -> None:
    """Run the controller NAME: campaign for its leadership, and while it leads, reconcile."""
    sys.exit(run_process(name, make_serve(name, etcd, ttl_s), process))


def make_serve(name: str, etcd: EtcdAddress, ttl_s: float) -> Callable[[Health], Awaitable[None]]:
    """Return what a controller's process does. An etcd that does not answer is waited for."""

    async def serve(health: Health) -> None:
        store = etcd.connect()
        try:
            runner = Runner(load(name), store, candidate=candidate_name(), ttl_s=ttl_s)
            health.not_ready = lambda: "" if runner.is_ready else "waiting for etcd"
            await runner.run()
        finally:
            with anyio.CancelScope(shield=True):
                await store.close()

    return serve


if __name__ == "__main__":
    main()
