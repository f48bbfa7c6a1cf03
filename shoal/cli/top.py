"""`shoal top`: what running tasks use."""

from __future__ import annotations

import click

from shoal.cli.client import Client, Plain, run
from shoal.cli.columns import at
from shoal.cli.options import api_of, complete_services
from shoal.cli.text import size, table


@click.command()
@click.argument("services", nargs=-1, metavar="[SERVICE…]", shell_complete=complete_services)
@click.option("--sort-by", type=click.Choice(["cpu", "memory", "task"]), default="cpu", show_default=True)
@click.pass_context
def top(ctx: click.Context, services: tuple[str, ...], sort_by: str) -> int:
    """Show what running tasks use of CPU (100 % is one processor) and memory."""

    async def work(client: Client) -> int:
        wanted = {at(await client.get("services", name), "metadata.name") for name in services}
        answer = await client.call("GET", "top")
        items = [item for item in answer["items"] if not services or item["service"] in wanted]
        items.sort(key=lambda item: item["task"] if sort_by == "task" else -(item.get(sort_by) or 0))
        if not items:
            click.echo("no running tasks", err=True)
        for line in table(["TASK", "NODE", "CPU", "MEMORY", "LIMIT", "OF LIMIT"], map(_row, items)) if items else ():
            click.echo(line)
        for warning in answer.get("warnings", []):
            click.echo(f"shoal: {warning}", err=True)
        return 1 if answer.get("warnings") else 0

    return run(api_of(ctx), work)


def _row(item: Plain) -> list[str]:
    memory, limit = item.get("memory") or 0, item.get("memoryLimit") or 0
    return [
        item["task"],
        str(item.get("node") or "-"),
        f"{(item.get('cpu') or 0) * 100:.1f} %",
        size(memory),
        size(limit) if limit else "-",
        f"{memory / limit:.0%}" if limit else "-",
    ]
