"""`shoal get`: objects as tables, documents or names, once or as they change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import click

from shoal.api.errors import InvalidError, NotFoundError, ShoalError
from shoal.api.objects import Object, Service
from shoal.cli.client import Client, Plain, run
from shoal.cli.columns import at, head, row, sort_key
from shoal.cli.options import api_of, complete_targets, labels_option
from shoal.cli.progress import PARTIAL
from shoal.cli.text import as_json, as_yaml, row_line, table, widths_of
from shoal.cli.watched import follow
from shoal.cli.words import targets

FORMATS: Final = ("wide", "json", "yaml", "name")


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="KIND [NAME…] | KIND/NAME…", shell_complete=complete_targets)
@click.option("--output", "-o", type=click.Choice(FORMATS), help="Another form than the plain table.")
@click.option("--watch", "-w", is_flag=True, help="Go on and print every change.")
@labels_option
@click.option("--fields", default="", help="Fields, as spec.service.name=hello,status.state!=running.")
@click.option("--service", "-s", default="", help="Only tasks and other parts of this service.")
@click.option("--sort-by", default="", metavar="FIELD", help="Sort by a field, as metadata.createdAt.")
@click.option("--no-headers", is_flag=True, help="Print rows only.")
@click.pass_context
def get(
    ctx: click.Context,
    words: tuple[str, ...],
    output: str | None,
    watch: bool,
    labels: str,
    fields: str,
    service: str,
    sort_by: str,
    no_headers: bool,
) -> int:
    """List objects, or show some.

    Kinds may be plural, singular or short (services, service, svc), and several at once (services,tasks).
    """
    found = targets(words)
    kinds = list(dict.fromkeys(kind for kind, _ in found))
    if watch and (len(kinds) > 1 or output == "name"):
        raise InvalidError("-w watches one kind, as a table, json or yaml")
    if any(name for _, name in found) and (labels or fields or service) and not watch:
        raise InvalidError("a name says which one: give names, or -l, --fields and --service, not both")
    if service:
        fields = ",".join(filter(None, [fields, f"{_SERVICE_FIELD.get(kinds[0].KIND, 'spec.service.name')}={service}"]))
    shown = Shown(output or "", sort_by, no_headers)

    async def work(client: Client) -> int:
        if watch:
            objects = [await client.get(kind.PLURAL, name) for kind, name in found if name]
            names = {str(at(one, "metadata.name")) for one in objects}
            return await _watch(client, kinds[0], names, labels, fields, shown)
        lists: dict[type[Object], list[Plain]] = {}
        errors: list[ShoalError] = []
        for kind, name in found:
            try:
                items = (
                    [await client.get(kind.PLURAL, name)]
                    if name
                    else (await client.list(kind.PLURAL, labels, fields))[0]
                )
            except NotFoundError as error:
                errors.append(error)
                continue
            lists.setdefault(kind, []).extend(items)
        if service and not any(lists.values()):
            await client.get(Service.PLURAL, service)  # nothing of a service that is not there is a mistake
        shown.lists(lists)
        for missing in errors:
            click.echo(f"shoal: {missing}", err=True)
        return 0 if not errors else PARTIAL if lists else errors[0].exit_code

    return run(api_of(ctx), work)


_SERVICE_FIELD: Final = {"Service": "metadata.name", "Rollout": "status.service.name", "Event": "about.name"}
"""Kind → the field that names its service, where it is another than spec.service.name."""


class Shown:
    """How objects are printed."""

    def __init__(self, output: str, sort_by: str, no_headers: bool) -> None:
        self.output, self._sort_by, self.no_headers = output, sort_by, no_headers

    @property
    def is_wide(self) -> bool:
        return self.output == "wide"

    def key(self, kind: str) -> Callable[[Plain], Any]:
        if not self._sort_by:
            return sort_key(kind)
        return lambda obj: _sortable(at(obj, self._sort_by.lstrip(".")))

    def lists(self, lists: dict[type[Object], list[Plain]]) -> None:
        ordered = {kind: sorted(items, key=self.key(kind.KIND)) for kind, items in lists.items()}
        everything = [item for items in ordered.values() for item in items]
        if self.output == "name":
            for kind, items in ordered.items():
                for item in items:
                    click.echo(f"{kind.KIND.lower()}/{at(item, 'metadata.name')}")
        elif self.output in ("json", "yaml"):
            self.documents(everything)
        else:
            is_first = True
            for kind, items in ordered.items():
                if items and not is_first:
                    click.echo()
                self._table(kind, items, prefix=len(ordered) > 1)
                is_first = is_first and not items

    def documents(self, items: list[Plain]) -> None:
        if self.output == "json":
            click.echo(as_json(items))
        elif items:
            click.echo(as_yaml(items))

    def _table(self, kind: type[Object], items: list[Plain], prefix: bool) -> None:
        if not items:
            click.echo(f"no {kind.PLURAL}", err=True)
            return
        now = datetime.now(UTC)
        rows = [row(kind.KIND, item, now, self.is_wide) for item in items]
        if prefix and head(kind.KIND, False)[0] == "NAME":
            rows = [[f"{kind.KIND.lower()}/{cells[0]}", *cells[1:]] for cells in rows]
        lines = table(head(kind.KIND, self.is_wide), rows)
        for line in lines[1:] if self.no_headers else lines:
            click.echo(line)


def _sortable(value: Any) -> tuple[int, Any]:
    """Numbers before texts, each in its own order."""
    return (0, value) if isinstance(value, (int, float)) else (1, str(value))


async def _watch(client: Client, kind: type[Object], names: set[str], labels: str, fields: str, shown: Shown) -> int:
    """Print what is, then a line or document per change, until interrupted."""
    titles = head(kind.KIND, shown.is_wide)
    widths: list[int] = []
    async for changes in follow(client, kind, labels, fields):
        objects = [change.new or change.old or {} for change in changes]
        wanted = [
            (obj, change.new is None)
            for obj, change in zip(objects, changes, strict=True)
            if not names or at(obj, "metadata.name") in names
        ]
        if not widths:
            wanted.sort(key=lambda pair: shown.key(kind.KIND)(pair[0]))
        if shown.output in ("json", "yaml"):
            for obj, _ in wanted:
                shown.documents([obj])
                click.echo("---" if shown.output == "yaml" else "", nl=shown.output == "yaml")
            continue
        rows = [
            [*row(kind.KIND, obj, datetime.now(UTC), shown.is_wide), *(["deleted"] if is_gone else [])]
            for obj, is_gone in wanted
        ]
        if not widths:
            widths = widths_of([titles, *(cells[: len(titles)] for cells in rows)])
            if not shown.no_headers:
                click.echo(row_line(titles, widths))
        for cells in rows:
            click.echo(row_line(cells, [*widths, 0]))
    await anyio.lowlevel.checkpoint()
    return 0
