"""Runs the agent of one node as a process: `python -m nodeagent --api … --node UID --docker … --state-dir DIR`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import anyio
import click
import structlog

from nodeagent.agent import Agent
from nodeagent.clear import clear, clear_rules
from nodeagent.client import ApiClient
from nodeagent.dns.feed import SOCKET
from nodeagent.dns.named import NamedNetwork, NamesLink
from nodeagent.engine.docker import DockerEngine
from nodeagent.network.network import NodeNetwork
from nodeagent.network.probe import NetworkProbe
from nodeagent.tls import NodeTls
from shoal.api.errors import DataplaneError, EngineError, RemovedError
from shoal.machinery.clock import SystemClock
from shoal.machinery.process import ProcessOptions, process_options, run_process
from shoal.machinery.status import Health

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)

CLEAR_AGAIN_S: Final = 2.0
"""Seconds before the engine is asked again to let go of what is ours."""

log = structlog.get_logger()


@click.command()
@click.option(
    "--api", "apis", multiple=True, required=True,
    help="An API server, unix:///path or https://host:port; may be repeated.",
)  # fmt: skip
@click.option("--tls-ca", type=_FILE, help="The cluster's root certificate; https needs it.")
@click.option("--tls-chain", type=_FILE, help="This node's certificate and key, in one file; https needs it.")
@click.option("--node", "node_uid", required=True, help="This node's uid.")
@click.option("--docker", default="unix:///var/run/docker.sock", show_default=True, help="The Docker engine.")
@click.option("--state-dir", type=_FOLDER, default="/var/lib/shoal", show_default=True, help="What must outlive us.")
@click.option(
    "--run-dir", type=_FOLDER, default="/run/shoal", show_default=True, help="Sockets, and tasks' secrets in memory."
)
@click.option("--address", default="", help="This node's address, as its peers reach it.")
@process_options
def main(
    apis: tuple[str, ...],
    tls_ca: Path | None,
    tls_chain: Path | None,
    node_uid: str,
    docker: str,
    state_dir: Path,
    run_dir: Path,
    address: str,
    process: ProcessOptions,
) -> None:
    """Run the tasks assigned to this node on its Docker engine."""
    run_dir.mkdir(parents=True, exist_ok=True)
    tls = NodeTls(tls_ca, tls_chain) if tls_ca is not None and tls_chain is not None else None
    if tls is None and any(url.startswith("https://") for url in apis):
        raise click.UsageError("an https:// API server needs --tls-ca and --tls-chain")
    sys.exit(run_process("nodeagent", make_serve(apis, node_uid, docker, state_dir, run_dir, address, tls), process))


def make_serve(
    apis: tuple[str, ...],
    node_uid: str,
    docker: str,
    state_dir: Path,
    run_dir: Path,
    address: str,
    tls: NodeTls | None = None,
) -> Callable[[Health], Awaitable[None]]:
    """Return what the process does. An engine or an API server that does not answer is waited for.

    A node that was removed from its cluster lets go of its containers, since others run elsewhere in their place, and
    then ends with RemovedError.
    """

    async def serve(health: Health) -> None:
        engine = DockerEngine(docker)
        names = NamesLink(run_dir / SOCKET)
        network = NodeNetwork(engine, node_uid)
        async with ApiClient(apis, node_uid, tls) as api:
            agent = Agent(
                node_uid=node_uid,
                engine=engine,
                network=NamedNetwork(network, names, node_uid),
                api=api,
                clock=SystemClock(),
                state_dir=state_dir,
                run_dir=run_dir,
                address=address,
                probe=NetworkProbe(node_uid, network.troubles),
            )
            health.not_ready = lambda: "; ".join(agent.troubles())
            try:
                try:
                    await agent.run()
                except* RemovedError as group:
                    log.error("node_removed", reason=str(_first(group)))
                    await _let_go(engine, node_uid, run_dir)
                    raise
            finally:
                with anyio.CancelScope(shield=True):
                    await names.aclose()
                    await engine.close()

    return serve


def _first(group: BaseExceptionGroup[RemovedError]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def _let_go(engine: DockerEngine, node_uid: str, run_dir: Path) -> None:
    """Remove what is ours from the engine and the kernel, however often it takes to ask."""
    while True:
        try:
            await clear(engine, node_uid, run_dir)
            await clear_rules()
            return
        except* (EngineError, DataplaneError) as group:
            log.warning("host_not_cleared", reason=str(group.exceptions[0]))
        await anyio.sleep(CLEAR_AGAIN_S)


if __name__ == "__main__":
    main()
