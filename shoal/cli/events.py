"""`shoal events`: what happened, newest last."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from shoal.api.objects import Event
from shoal.cli.client import Client, Plain, run
from shoal.cli.columns import head, row, sort_key
from shoal.cli.options import api_of, complete_targets
from shoal.cli.text import row_line, table, widths_of
from shoal.cli.watched import follow
from shoal.cli.words import targets


@click.command()
@click.argument("words", nargs=-1, metavar="[KIND NAME | KIND/NAME]", shell_complete=complete_targets)
@click.option("--watch", "-w", is_flag=True, help="Go on and print what happens.")
@click.pass_context
def events(ctx: click.Context, words: tuple[str, ...], watch: bool) -> None:
    """List what happened, newest last; with a kind and a name, to that object."""
    found = targets(words) if words else []

    async def work(client: Client) -> None:
        uids = {(await client.get(kind.PLURAL, name))["metadata"]["uid"] for kind, name in found if name}
        kinds = {kind.KIND for kind, name in found if not name}

        def is_wanted(event: Plain) -> bool:
            return not found or event["about"]["uid"] in uids or event["about"]["kind"] in kinds

        if watch:
            await _watch(client, is_wanted)
            return
        items, _ = await client.list(Event.PLURAL)
        shown = sorted(filter(is_wanted, items), key=sort_key("Event"))
        if not shown:
            click.echo("no events", err=True)
            return
        now = datetime.now(UTC)
        for line in table(head("Event", False), [row("Event", event, now, False) for event in shown]):
            click.echo(line)

    run(api_of(ctx), work)


async def _watch(client: Client, is_wanted: object) -> None:
    assert callable(is_wanted)
    titles, widths = head("Event", False), [0]
    is_first = True
    async for changes in follow(client, Event):
        shown = sorted(
            (change.new for change in changes if change.new and is_wanted(change.new)), key=sort_key("Event")
        )
        rows = [row("Event", event, datetime.now(UTC), False) for event in shown]
        if is_first:
            widths = widths_of([titles, *(cells[:-1] for cells in rows)])
            click.echo(row_line(titles, widths))
            is_first = False
        for cells in rows:
            click.echo(row_line(cells, widths))
