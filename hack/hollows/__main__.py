"""Runs hollow nodes until Ctrl-C: `hack/hollow 1000`, or `hack/hollow 50 --join TOKEN HOST:2377` in a real swarm."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from hack.benchmarks import kernel
from hack.hollows.crowd import Crowd, crowd
from hack.hollows.swarm import private_swarm

EVERY_S = 2.0
"""Seconds between looks at how many nodes are connected."""


@click.command()
@click.argument("count", type=click.IntRange(1, 100_000), metavar="N")
@click.option("--join", "joining", nargs=2, metavar="TOKEN HOST:PORT", help="Join this swarm instead of a private one.")
@click.option("--processes", type=click.IntRange(1), help="Share the nodes among so many; one per core by default.")
@click.option("--name", default="hollow", show_default=True, help="What the nodes' names begin with.")
def main(count: int, joining: tuple[str, str] | None, processes: int | None, name: str) -> None:
    """Run N hollow nodes: real agents that join with a token and speak mutual TLS, on engines in memory."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with (
            _where(joining) as (token, remote),
            crowd(count, token, remote, processes=processes or 0, name=name, leaving=joining is not None) as nodes,
        ):
            _report(nodes)
    except KeyboardInterrupt:
        click.echo("")


@contextmanager
def _where(joining: tuple[str, str] | None) -> Iterator[tuple[str, str]]:
    """Yield the token and the manager's address, of a swarm made for this if none is given."""
    if joining is not None:
        yield joining
        return
    directory = Path(tempfile.mkdtemp(prefix="shoal-hollow-"))
    try:
        with private_swarm(directory) as swarm:
            click.echo(f"a private swarm answers at {swarm.remote}; to use it from another shell:")
            click.echo(f"  export SHOAL_API=unix://{swarm.socket}")
            click.echo("  .venv/bin/shoal node ls")
            yield swarm.token, swarm.remote
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _report(nodes: Crowd) -> None:
    """Say how many nodes are there whenever that changes, for ever."""
    said = ""
    while True:
        trouble = nodes.trouble()
        memory = sum(map(kernel.pss_bytes, nodes.pids())) / nodes.count / (1 << 20)
        now = trouble or f"{nodes.count} hollow nodes connected, {memory:.1f} MB each; Ctrl-C ends them"
        if now.partition(",")[0] != said:
            click.echo(now)
            said = now.partition(",")[0]
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
