"""`shoal apply|diff|scale`: what changes services."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click
import msgspec

from shoal.api.codec import to_builtins
from shoal.api.errors import InvalidError, ShoalError
from shoal.api.manifest import Document
from shoal.api.validation import MAX_BODY_BYTES
from shoal.cli.client import Client, Plain, one, run
from shoal.cli.columns import at
from shoal.cli.options import api_of, complete_scale, detach_option, file_option, timeout_option
from shoal.cli.progress import PARTIAL, follow_services
from shoal.cli.sources import documents_from, located
from shoal.cli.text import as_yaml, plural

DIFFERENT: Final = 1
"""diff's exit code where something would change."""

UNWRITTEN: Final = ("refused", "unknown", "not written")
"""Results of an apply that something stopped half-way: the object it was stopped at, and those after it."""


@click.command()
@file_option
@click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")
@detach_option
@timeout_option("10m")
@click.pass_context
def apply(ctx: click.Context, files: tuple[str, ...], dry_run: bool, detach: bool, timeout_s: float) -> int:
    """Create or change what manifests describe, and wait until it is so.

    All objects are checked first; if anything is wrong, nothing is written. Ends when every service runs as asked
    (0), or says why one does not (1; 3 if others do), or is out of time (4). Interrupting it changes nothing. If
    something comes in between the check and the last write, it says what is written and what is not (3).
    """
    documents = documents_from(files)

    async def work(client: Client) -> int:
        results = await _apply(client, documents, dry_run)
        for result in results:
            click.echo(_told(result, dry_run=dry_run), err=result["result"] in UNWRITTEN)
        if any(result["result"] in UNWRITTEN for result in results):
            return PARTIAL
        services = [result["name"] for result in results if result["kind"] == "Service"]
        if dry_run or detach or not services:
            return 0
        return await follow_services(client, await _revisions(client, services), timeout_s)

    return run(api_of(ctx), work)


@click.command()
@file_option
@click.pass_context
def diff(ctx: click.Context, files: tuple[str, ...]) -> int:
    """Show what apply would change: exit code 0 for nothing, 1 for something, 2 or more for an error."""
    documents = documents_from(files)

    async def work(client: Client) -> int:
        results = await _apply(client, documents, dry_run=True)
        lines = [line for result in results for line in difference(result)]
        for line in lines:
            click.secho(line, fg=_COLOURS.get(line[:1]))
        return DIFFERENT if lines else 0

    try:
        return run(api_of(ctx), work)
    except InvalidError:
        raise
    except ShoalError as error:
        click.echo(f"shoal: {error}", err=True)
        return max(2, error.exit_code)


def _told(result: Plain, *, dry_run: bool) -> str:
    """Say what became of one object."""
    why = f": {result['message']}" if result.get("message") else ""
    return f"{result['kind'].lower()}/{result['name']} {result['result']}{why}{' (dry run)' if dry_run else ''}"


_COLOURS: Final = {"+": "green", "-": "red", "@": "cyan"}


@click.command()
@click.argument("pairs", nargs=-1, required=True, metavar="SERVICE=N…", shell_complete=complete_scale)
@detach_option
@timeout_option("10m")
@click.pass_context
def scale(ctx: click.Context, pairs: tuple[str, ...], detach: bool, timeout_s: float) -> int:
    """Set how many tasks services have, and wait until it is so.

    A rollout that is paused stays so: new tasks run the revision that was stable before it.
    """
    wanted = dict(map(_pair, pairs))

    async def work(client: Client) -> int:
        done, errors = [], []
        for name, count in wanted.items():
            try:
                scaled = await client.call("PATCH", one("services", name), {"spec": {"replicas": count}})
            except ShoalError as error:
                click.echo(f"shoal: {name}: {error}", err=True)
                errors.append(error)
                continue
            done.append(str(at(scaled, "metadata.name")))
            click.echo(f"service/{done[-1]} scaled to {count}")
        if errors and not done:
            return errors[0].exit_code
        if detach:
            return PARTIAL if errors else 0
        code = await follow_services(client, await _revisions(client, done), timeout_s, is_scaling=True)
        return PARTIAL if errors else code

    return run(api_of(ctx), work)


def _pair(text: str) -> tuple[str, int]:
    name, equals, count = text.partition("=")
    if not name or not equals or not count.isdecimal():
        raise InvalidError(f"expected SERVICE=N, such as hello=5, found {text!r}")
    return name.removeprefix("service/"), int(count)


async def _apply(client: Client, documents: Sequence[Document], dry_run: bool) -> list[Plain]:
    body = {"objects": [to_builtins(document.obj) for document in documents]}
    _need_room(len(msgspec.json.encode(body)), len(documents))
    try:
        answer = await client.call("POST", "apply", body, **({"dryRun": 1} if dry_run else {}))
    except InvalidError as error:
        raise located(error, documents) from error
    results: list[Plain] = answer["results"]
    return results


def _need_room(size: int, count: int) -> None:
    """One apply is checked as a whole, so it is sent as a whole; InvalidError if it is too large for that."""
    if size > MAX_BODY_BYTES:
        found, most = f"{size / 1e6:.1f} MB", f"{MAX_BODY_BYTES / 1e6:.1f} MB"
        raise InvalidError(
            f"{plural(count, 'object')} of {found} in all, and one apply takes {most}: "
            "apply them in several goes, secrets, configs and networks before the services that use them"
        )


async def _revisions(client: Client, services: list[str]) -> dict[str, str]:
    """Return the revision that each service now asks for."""
    found = {}
    for name in services:
        found[name] = str(at(await client.get("services", name), "status.revision"))
    return found


def difference(result: Plain) -> Iterator[str]:
    """Yield the lines of a unified diff of what people write of an object: metadata, labels and spec."""
    if result["result"] == "unchanged":
        return
    name = f"{result['kind'].lower()}/{result['name']}"
    before, after = (_people_s(result.get(side)) for side in ("before", "after"))
    yield from difflib.unified_diff(
        before, after, f"{name} (now)" if before else "/dev/null", f"{name} (manifest)", lineterm=""
    )


def _people_s(obj: Any) -> list[str]:
    """Return the lines of what people write of an object, without what the system adds."""
    if not obj:
        return []
    meta = {key: value for key, value in obj["metadata"].items() if key in ("name", "labels")}
    return as_yaml([{"kind": obj["kind"], "metadata": meta, "spec": obj.get("spec", {})}]).splitlines()
