"""Runs the agent of one node as a process: `python -m nodeagent --api … --node UID --docker … --state-dir DIR`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import click

from nodeagent.agent import Agent
from nodeagent.client import ApiClient
from nodeagent.engine.docker import DockerEngine
from nodeagent.network.network import NodeNetwork
from shoal.machinery.clock import SystemClock
from shoal.machinery.process import Health, ProcessOptions, process_options, run_process

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--api", "apis", multiple=True, required=True, help="An API server, unix:///path; may be repeated.")
@click.option("--node", "node_uid", required=True, help="This node's uid.")
@click.option("--docker", default="unix:///var/run/docker.sock", show_default=True, help="The Docker engine.")
@click.option("--state-dir", type=_FOLDER, default="/var/lib/shoal", show_default=True, help="What must outlive us.")
@click.option("--run-dir", type=_FOLDER, default="/run/shoal", show_default=True, help="Sockets.")
@click.option("--address", default="", help="This node's address, as its peers reach it.")
@process_options
def main(
    apis: tuple[str, ...],
    node_uid: str,
    docker: str,
    state_dir: Path,
    run_dir: Path,
    address: str,
    process: ProcessOptions,
) -> None:
    """Run the tasks assigned to this node on its Docker engine."""
    run_dir.mkdir(parents=True, exist_ok=True)
    sys.exit(run_process("nodeagent", make_serve(apis, node_uid, docker, state_dir, address), process))


def make_serve(
    apis: tuple[str, ...], node_uid: str, docker: str, state_dir: Path, address: str
) -> Callable[[Health], Awaitable[None]]:
    """Return what the process does. An engine or an API server that does not answer is waited for."""

    async def serve(health: Health) -> None:
        engine = DockerEngine(docker)
        async with ApiClient(apis, node_uid) as api:
            agent = Agent(
                node_uid=node_uid,
                engine=engine,
                network=NodeNetwork(engine, node_uid),
                api=api,
                clock=SystemClock(),
                state_dir=state_dir,
                address=address,
            )
            health.not_ready = lambda: "; ".join(agent.troubles())
            try:
                await agent.run()
            finally:
                with anyio.CancelScope(shield=True):
                    await engine.close()

    return serve


if __name__ == "__main__":
    main()
