"""`shoal doctor`: what is wrong with what the swarm stands on, in sentences."""

from __future__ import annotations

import click
import msgspec

from shoal.api.probes import ProbedNodes
from shoal.cli.client import Client, run
from shoal.cli.diagnosis import findings, summary
from shoal.cli.options import api_of, complete_networks
from shoal.cli.text import plural


@click.group()
def doctor() -> None:
    """Tell what is wrong with what the swarm stands on."""


@doctor.command()
@click.argument("networks", nargs=-1, metavar="[NETWORK…]", shell_complete=complete_networks)
@click.pass_context
def network(ctx: click.Context, networks: tuple[str, ...]) -> int:
    """Look at the network between all nodes: who reaches whom, with how large packets, and whether names are answered.

    Every node looks at once, at all networks or at those named; it takes some seconds. Exit code 0: all is well, 1: the
    sentences tell what is not.
    """

    async def work(client: Client) -> int:
        query = {"networks": ",".join(networks)} if networks else {}
        found = msgspec.convert(await client.call("GET", "doctor/network", **query), ProbedNodes)
        sentences = findings(found)
        for sentence in sentences or [summary(found)]:
            click.echo(sentence)
        if sentences:
            click.echo(f"shoal: {plural(len(sentences), 'thing')} to mend", err=True)
        return 1 if sentences else 0

    return run(api_of(ctx), work)
