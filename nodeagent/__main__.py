"""`python -m nodeagent`: the agent of one node, in the foreground."""

from __future__ import annotations

from pathlib import Path

import anyio
import click

from nodeagent.agent import Agent
from nodeagent.client import ApiClient
from nodeagent.engine.docker import DockerEngine
from nodeagent.network.network import NodeNetwork
from shoal.machinery.clock import SystemClock


@click.command()
@click.option("--api", "apis", multiple=True, required=True, help="An API server: unix:///path or https://host:port.")
@click.option("--node", "node_uid", required=True, help="This node's uid.")
@click.option("--docker", default="unix:///var/run/docker.sock", show_default=True, help="The Docker engine.")
@click.option("--state-dir", type=click.Path(path_type=Path), required=True)
@click.option("--address", default="", help="This node's address, as its peers reach it.")
def main(apis: tuple[str, ...], node_uid: str, docker: str, state_dir: Path, address: str) -> None:
    """Run the tasks assigned to this node on its Docker engine."""
    anyio.run(_run, apis, node_uid, docker, state_dir, address)


async def _run(apis: tuple[str, ...], node_uid: str, docker: str, state_dir: Path, address: str) -> None:
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
        await agent.run()


if __name__ == "__main__":
    main()
