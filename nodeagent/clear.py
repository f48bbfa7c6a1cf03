"""Takes from a host what Shoal made on it: `python -m nodeagent.clear --node UID`, when the host leaves its swarm.

The node's task containers, then their secrets and the networks they were on, then tunnels and rules. Whatever others
made stays. It may be run again after a crash.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import anyio
import click
import structlog
from anyio import CapacityLimiter, to_thread

from nodeagent.engine.contract import Engine
from nodeagent.engine.docker import DockerEngine
from nodeagent.mounts.files import TaskFiles
from nodeagent.network import commands, netlink, rules
from nodeagent.network.docker_networks import OURS
from nodeagent.tasks.container import NODE_LABEL
from shoal.api.errors import EngineError
from shoal.machinery.process import ProcessOptions, process_options, run_process
from shoal.machinery.status import Health

AT_ONCE: Final = 8
"""Containers removed at once."""

ENGINE_WITHIN_S: Final = 10.0
"""An engine that does not answer by then does not answer."""

AGAIN_S: Final = 0.5

log = structlog.get_logger()


@click.command()
@click.option("--node", required=True, help="The node's uid.")
@click.option("--docker", default="unix:///var/run/docker.sock", show_default=True, help="The Docker engine.")
@click.option(
    "--run-dir", type=click.Path(path_type=Path), default="/run/shoal", show_default=True, help="The agent's."
)
@process_options
def main(node: str, docker: str, run_dir: Path, process: ProcessOptions) -> None:
    """Remove the node's task containers, their secrets, Shoal's networks and its rules."""
    sys.exit(run_process("clear", make_serve(node, docker, run_dir), process))


def make_serve(node: str, docker: str, run_dir: Path) -> Callable[[Health], Awaitable[None]]:
    async def serve(_: Health) -> None:
        engine = DockerEngine(docker)
        try:
            await clear_in_time(engine, node, run_dir)
            await clear_rules()
        finally:
            with anyio.CancelScope(shield=True):
                await engine.close()

    return serve


async def clear_in_time(engine: Engine, node: str, run_dir: Path) -> None:
    """As `clear`, waiting a while for an engine that is only just starting."""
    with anyio.move_on_after(ENGINE_WITHIN_S):
        while True:
            try:
                return await clear(engine, node, run_dir)
            except* EngineError as group:
                log.warning("host_not_cleared", reason=str(group.exceptions[0]))
            await anyio.sleep(AGAIN_S)
    return await clear(engine, node, run_dir)


async def clear(engine: Engine, node: str, run_dir: Path) -> None:
    """Remove the node's containers, their files, then Shoal's networks; EngineError if the engine does not let us."""
    limiter = CapacityLimiter(AT_ONCE)

    async def remove(container: str) -> None:
        async with limiter:
            await engine.remove(container)

    found = await engine.containers({NODE_LABEL: node})
    async with anyio.create_task_group() as tasks:
        for summary in found:
            tasks.start_soon(remove, summary.id)
    await TaskFiles(run_dir / "files").sweep(())
    networks = await engine.networks(OURS)
    for network in networks:
        await engine.remove_network(network.name)
    log.info("host_cleared", containers=len(found), networks=len(networks))


async def clear_rules() -> None:
    """Remove our tunnels and packet rules; DataplaneError if the kernel does not let us."""
    await to_thread.run_sync(netlink.drop_tunnels)
    await commands.apply_nft(rules.clear(has_ipv6=commands.has_ipv6()))
    await commands.remove_forwarding()


if __name__ == "__main__":
    main()
