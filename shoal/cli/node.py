"""`shoal node …`: the hosts of a swarm, in Docker's words."""

from __future__ import annotations

import json
from typing import Any

import click

from shoal.api.errors import InvalidError, ShoalError
from shoal.api.objects import Node, Task
from shoal.cli.client import Client, one, run
from shoal.cli.columns import at, head, row, sort_key
from shoal.cli.get import Shown
from shoal.cli.options import api_of, complete_nodes
from shoal.cli.progress import PARTIAL
from shoal.cli.text import table


@click.group()
def node() -> None:
    """Manage the swarm's hosts."""


@node.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="Print uids alone.")
@click.option("--selector", "-l", "labels", default="", help="Labels, as zone=a,disk!=slow.")
@click.option("-o", "--output", type=click.Choice(["table", "wide", "json", "yaml", "name"]), default="table")
@click.pass_context
def list_nodes(ctx: click.Context, quiet: bool, labels: str, output: str) -> None:
    """List the nodes."""

    async def work(client: Client) -> None:
        items, _ = await client.list(Node.PLURAL, labels)
        if quiet:
            for item in sorted(items, key=sort_key(Node.KIND)):
                click.echo(at(item, "metadata.uid"))
            return
        Shown("" if output == "table" else output, "", no_headers=False).lists({Node: items})

    run(api_of(ctx), work)


@node.command()
@click.argument("names", nargs=-1, required=True, metavar="NODE…", shell_complete=complete_nodes)
@click.option("--pretty", is_flag=True, help="Tell it in words: the same as `shoal describe node`.")
@click.pass_context
def inspect(ctx: click.Context, names: tuple[str, ...], pretty: bool) -> None:
    """Print all about nodes, as a list in JSON."""
    from shoal.cli.describe import lines_of

    async def work(client: Client) -> None:
        found = [await client.get(Node.PLURAL, name) for name in names]
        if not pretty:
            click.echo(json.dumps(found, indent=2, ensure_ascii=False))
            return
        for obj in found:
            click.echo("\n".join(await lines_of(client, Node, at(obj, "metadata.uid"))))

    run(api_of(ctx), work)


@node.command()
@click.argument("names", nargs=-1, metavar="NODE…", shell_complete=complete_nodes)
@click.pass_context
def ps(ctx: click.Context, names: tuple[str, ...]) -> None:
    """List the tasks of nodes, of all nodes if none is named."""
    from datetime import UTC, datetime

    async def work(client: Client) -> None:
        tasks: list[dict[str, Any]] = []
        if not names:
            tasks = [task for task in (await client.list(Task.PLURAL))[0] if at(task, "spec.node.uid")]
        for name in names:
            uid = at(await client.get(Node.PLURAL, name), "metadata.uid")
            tasks += (await client.list(Task.PLURAL, fields=f"spec.node.uid={uid}"))[0]
        rows = [row(Task.KIND, task, datetime.now(UTC), False) for task in sorted(tasks, key=sort_key(Task.KIND))]
        for line in table(head(Task.KIND, False), rows):
            click.echo(line)

    run(api_of(ctx), work)


@node.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NODE…", shell_complete=complete_nodes)
@click.option("--force", "-f", is_flag=True, help="Remove a node that still answers; its tasks run elsewhere.")
@click.pass_context
def remove(ctx: click.Context, names: tuple[str, ...], force: bool) -> int:
    """Remove nodes from the swarm. Their certificates are worth nothing from then on."""

    async def work(client: Client) -> int:
        errors: list[ShoalError] = []
        for name in names:
            try:
                old = await client.get(Node.PLURAL, name)
                uid = at(old, "metadata.uid")
                await client.call("DELETE", one(Node.PLURAL, uid), **({"force": 1} if force else {}))
            except ShoalError as error:
                click.echo(f"shoal: {name}: {error}", err=True)
                errors.append(error)
            else:
                click.echo(name)
        return 0 if not errors else PARTIAL if len(errors) < len(names) else errors[0].exit_code

    return run(api_of(ctx), work)


@node.command()
@click.argument("name", metavar="NODE", shell_complete=complete_nodes)
@click.option("--availability", type=click.Choice(["active", "pause", "drain"]), help="drain moves its tasks away.")
@click.option("--label-add", "added", multiple=True, metavar="KEY[=VALUE]", help="Set a label; may be repeated.")
@click.option("--label-rm", "removed", multiple=True, metavar="KEY", help="Remove a label; may be repeated.")
@click.option("--role", type=click.Choice(["worker", "manager"]), help="Worker or manager.")
@click.pass_context
def update(
    ctx: click.Context,
    name: str,
    availability: str | None,
    added: tuple[str, ...],
    removed: tuple[str, ...],
    role: str | None,
) -> None:
    """Change a node's availability or labels."""
    patch = patch_of(availability, added, removed, role)

    async def work(client: Client) -> None:
        found = await client.get(Node.PLURAL, name)
        if missing := sorted(set(removed) - at(found, "metadata.labels", {}).keys()):
            raise InvalidError(f"node {name} has no label {', '.join(missing)}")
        await client.call("PATCH", one(Node.PLURAL, at(found, "metadata.uid")), patch)
        click.echo(name)

    run(api_of(ctx), work)


def patch_of(
    availability: str | None, added: tuple[str, ...], removed: tuple[str, ...], role: str | None
) -> dict[str, Any]:
    """Return the merge patch that the options ask for; InvalidError if they ask for nothing. Pure."""
    labels: dict[str, str | None] = dict.fromkeys(removed)
    labels |= {key: value for key, _, value in (label.partition("=") for label in added)}
    spec = {key: value for key, value in (("availability", availability), ("role", role)) if value}
    if not labels and not spec:
        raise InvalidError("nothing to change: give --availability, --label-add or --label-rm")
    return {
        **({"spec": spec} if spec else {}),
        **({"metadata": {"labels": labels}} if labels else {}),
    }
