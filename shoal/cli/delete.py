"""`shoal delete`: objects by name or by manifest."""

from __future__ import annotations

import anyio
import click

from shoal.api.errors import InvalidError, NotFoundError, ShoalError
from shoal.api.objects import Network, Object, Service, Task
from shoal.cli.client import Client, one, run
from shoal.cli.options import api_of, complete_targets, detach_option, file_option, timeout_option
from shoal.cli.progress import PARTIAL, TIMED_OUT
from shoal.cli.sources import documents_from
from shoal.cli.text import plural
from shoal.cli.watched import follow
from shoal.cli.words import targets


@click.command()
@click.argument("words", nargs=-1, metavar="KIND NAME… | KIND/NAME…", shell_complete=complete_targets)
@file_option
@click.option("--ignore-not-found", is_flag=True, help="Take what is not there as deleted.")
@click.option("--force", is_flag=True, help="Delete a node that still answers.")
@detach_option
@timeout_option("2m")
@click.pass_context
def delete(
    ctx: click.Context,
    words: tuple[str, ...],
    files: tuple[str, ...],
    ignore_not_found: bool,
    force: bool,
    detach: bool,
    timeout_s: float,
) -> int:
    """Delete objects by name or by manifest, and wait until a service's containers are gone."""
    found = _targets(words, files)

    async def work(client: Client) -> int:
        errors: list[ShoalError] = []
        gone: dict[str, str] = {}
        done = code = 0
        for kind, name in found:
            if kind is Network and gone and not detach:  # its services' tasks are on it until they have stopped
                code = await _until_no_tasks(client, gone, timeout_s)
                gone = {}
            label = f"{kind.KIND.lower()}/{name}"
            try:
                old = await client.call("DELETE", one(kind.PLURAL, name), **({"force": 1} if force else {}))
            except NotFoundError as error:
                if not ignore_not_found:
                    click.echo(f"shoal: {label}: {error}", err=True)
                    errors.append(error)
                continue
            except ShoalError as error:
                click.echo(f"shoal: {label}: {error}", err=True)
                errors.append(error)
                continue
            done += 1
            click.echo(f"{label} deleted")
            if kind is Service:
                gone[old["metadata"]["uid"]] = name
        if gone and not detach:
            code = await _until_no_tasks(client, gone, timeout_s) or code
        return code if not errors else PARTIAL if done else errors[0].exit_code

    return run(api_of(ctx), work)


def _targets(words: tuple[str, ...], files: tuple[str, ...]) -> list[tuple[type[Object], str]]:
    if files:
        if words:
            raise InvalidError("give names or -f, not both")
        found = [(type(document.obj), document.obj.metadata.name) for document in documents_from(files)]
        return sorted(found, key=lambda one: (one[0] is not Service, one[0] is Network))  # what services use goes last
    found = targets(words)
    if any(not name for _, name in found):
        raise InvalidError(f"expected names of {found[0][0].PLURAL}, such as `shoal delete service hello`")
    return found


async def _until_no_tasks(client: Client, services: dict[str, str], timeout_s: float) -> int:
    """Wait until no task of these services (uid → name) is left; tell how many are if they do not go."""
    left: set[str] = set()
    with anyio.move_on_after(timeout_s or None):
        async for changes in follow(client, Task, fields=f"spec.service.uid in ({','.join(services)})"):
            left |= {change.key for change in changes if change.new is not None}
            left -= {change.key for change in changes if change.new is None}
            if not left:
                return 0
    click.echo(f"shoal: {plural(len(left), 'task')} still stopping after {timeout_s:g} s", err=True)
    return TIMED_OUT
