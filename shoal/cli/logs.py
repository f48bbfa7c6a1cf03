"""`shoal logs`: what containers wrote, merged over a service's tasks."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from shoal.api.errors import InvalidError, NotFoundError
from shoal.api.units import Duration
from shoal.cli.client import Client, Plain, one, run
from shoal.cli.columns import at
from shoal.cli.options import api_of, complete_services
from shoal.cli.words import kind_of

_COLOURS: Final = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow", "bright_green")


@click.command()
@click.argument("target", metavar="SERVICE|TASK", shell_complete=complete_services)
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written from now on.")
@click.option("--tail", default="all", metavar="N|all", help="Only the last N lines of each task.")
@click.option("--since", default="", metavar="SPAN|TIME", help="Only what is newer, as 10m or 2026-01-31T12:00:00Z.")
@click.option("--timestamps", "-t", is_flag=True, help="Show when each line was written.")
@click.option("--no-prefix", is_flag=True, help="Do not say which task wrote a line.")
@click.pass_context
def logs(
    ctx: click.Context, target: str, follow: bool, tail: str, since: str, timestamps: bool, no_prefix: bool
) -> int:
    """Print what a service's or a task's containers wrote; lines written to standard error go there."""
    if tail != "all" and not tail.isdecimal():
        raise InvalidError(f"--tail: expected a number of lines or all, found {tail!r}")
    query: dict[str, str | int] = {
        "follow": int(follow), "timestamps": int(timestamps), "stdout": 1, "stderr": 1,
        **({"tail": tail} if tail != "all" else {}), **({"since": _moment(since)} if since else {}),
    }  # fmt: skip

    async def work(client: Client) -> int:
        path, is_service = await _path(client, target)
        printer = Printer(timestamps, prefix=is_service and not no_prefix)
        async for line in client.lines(f"{path}/logs", None, **query):
            printer.show(line)
        return 1 if printer.warned else 0

    return run(api_of(ctx), work)


async def _path(client: Client, target: str) -> tuple[str, bool]:
    """Find what is meant: a service of that name, else a task."""
    word, slash, name = target.partition("/")
    if slash:
        kind = kind_of(word)
        if kind.PLURAL not in ("services", "tasks"):
            raise InvalidError(f"{kind.PLURAL} have no logs; services and tasks do")
        return one(kind.PLURAL, name), kind.PLURAL == "services"
    try:
        await client.get("services", target)
        return one("services", target), True
    except NotFoundError:
        try:
            task = await client.get("tasks", target)
        except NotFoundError as error:
            raise NotFoundError(f"there is no service and no task {target}") from error
        return one("tasks", at(task, "metadata.name")), False


def _moment(since: str) -> str:
    """Spell `10m` or a time as a time."""
    try:
        moment = datetime.now(UTC) - timedelta(seconds=Duration.parse(since).seconds)
    except (ValueError, OverflowError):
        try:
            moment = datetime.fromisoformat(since).astimezone(UTC)
        except (ValueError, OverflowError):
            raise InvalidError(
                f"--since: expected a span such as 10m, or a time such as 2026-01-31T12:00:00Z, found {since!r}"
            ) from None
    return moment.isoformat()


class Printer:
    """Writes log lines; tasks are told apart by colour on a terminal."""

    def __init__(self, timestamps: bool, prefix: bool) -> None:
        self._timestamps, self._prefix = timestamps, prefix
        self._colours: dict[str, str] = {}
        self.warned = False

    def show(self, line: Plain) -> None:
        if "warning" in line:
            self.warned = True
            click.echo(f"shoal: {line['warning']}", err=True)
            return
        is_error = line.get("stream") == "stderr"
        click.echo(self._text(line, is_coloured=(sys.stderr if is_error else sys.stdout).isatty()), err=is_error)

    def _text(self, line: Plain, is_coloured: bool) -> str:
        parts: list[Any] = []
        if self._prefix:
            task = short_name(str(line.get("task", "")), str(line.get("node", "")))
            colour = self._colours.setdefault(task, _COLOURS[len(self._colours) % len(_COLOURS)])
            parts.append(click.style(f"{task} |", fg=colour) if is_coloured else f"{task} |")
        if self._timestamps and line.get("time"):
            parts.append(line["time"])
        parts.append(str(line.get("line", "")).rstrip("\n"))
        return " ".join(parts)


def short_name(task: str, node: str) -> str:
    """Spell which task, shortly: hello.1.k3jx9@node-1."""
    head, dot, uid = task.rpartition(".")
    short = f"{head}.{uid[:5]}" if dot else task
    return f"{short}@{node}" if node else short
