"""Following services until they are as asked, with live lines on a terminal and plain ones elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import click

from shoal.api.objects import Service, Task
from shoal.cli.client import Client
from shoal.cli.convergence import Progress, Stage, Watch
from shoal.cli.watched import Mirror

OK, FAILED, PARTIAL, TIMED_OUT, ROLLED_BACK = 0, 1, 3, 4, 5
"""Exit codes."""

_TICK_S: Final = 0.5
"""Seconds after which time alone may have changed a verdict."""

_GATHER_S: Final = 0.1
"""Seconds over which changes are gathered before they are shown."""

_BAR: Final = 20


async def follow_services(client: Client, wanted: dict[str, str], timeout_s: float, *, is_scaling: bool = False) -> int:
    """Show services' progress until each has come to an end, or time is up; return the exit code.

    `wanted` is the name of each and the revision that was asked for ("" = whichever it has); with `is_scaling` nothing
    was asked for but a number of tasks.
    """
    names = sorted(wanted)
    judge = _Judge(wanted, is_scaling=is_scaling)
    woken = _Bell()
    services, tasks = Mirror(), Mirror()
    with _display() as display:
        async with anyio.create_task_group() as group:
            group.start_soon(services.run, client, Service, woken.ring, "", f"metadata.name in ({','.join(names)})")
            group.start_soon(tasks.run, client, Task, woken.ring, "", f"spec.service.name in ({','.join(names)})")
            with anyio.move_on_after(timeout_s or None) as limit:
                while True:
                    await woken.wait(_TICK_S)
                    if services.synced and tasks.synced:
                        judge.look(services.objects.values(), list(tasks.objects.values()))
                        display.show(judge.lines())
                    if judge.is_over:
                        break
            group.cancel_scope.cancel()
    if limit.cancelled_caught:
        for name, found in judge.open():
            why = f": {found.cause}" if found.cause else ""
            click.echo(f"service/{name}: not converged after {timeout_s:g} s ({found.text}){why}", err=True)
        return TIMED_OUT
    return judge.exit_code()


class _Bell:
    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self, at_most_s: float) -> None:
        with anyio.move_on_after(at_most_s):
            await self._event.wait()
            await anyio.sleep(_GATHER_S)
        self._event = anyio.Event()


class _Judge:
    """The verdict on each service; one that has come to an end is not judged again."""

    def __init__(self, wanted: dict[str, str], *, is_scaling: bool) -> None:
        self._watches = {name: Watch(revision, is_scaling=is_scaling) for name, revision in wanted.items()}
        self._found = {name: Progress(Stage.GOING, "waiting") for name in wanted}

    def look(self, services: Iterable[dict[str, Any]], tasks: list[dict[str, Any]]) -> None:
        by_name = {service["metadata"]["name"]: service for service in services}
        for name, found in self._found.items():
            if found.stage is not Stage.GOING:
                continue
            service = by_name.get(name)
            if service is None:
                self._found[name] = Progress(Stage.FAILED, "gone", "the service was deleted")
                continue
            self._found[name] = self._watches[name].judge(service, tasks, anyio.current_time(), datetime.now(UTC))

    @property
    def is_over(self) -> bool:
        return all(found.stage is not Stage.GOING for found in self._found.values())

    def open(self) -> list[tuple[str, Progress]]:
        return [(name, found) for name, found in self._found.items() if found.stage is Stage.GOING]

    def lines(self) -> list[tuple[str, Progress]]:
        return list(self._found.items())

    def exit_code(self) -> int:
        stages = [found.stage for found in self._found.values()]
        if Stage.ROLLED_BACK in stages:
            return ROLLED_BACK
        failed = stages.count(Stage.FAILED)
        return OK if not failed else FAILED if failed == len(stages) else PARTIAL


def sentence(name: str, found: Progress) -> str:
    """Spell a verdict in one line."""
    head = {
        Stage.GOING: f"service/{name}: {found.text}",
        Stage.CONVERGED: f"service/{name} converged: {found.text}",
        Stage.FAILED: f"service/{name} does not converge: {found.text}",
        Stage.ROLLED_BACK: f"service/{name} was rolled back: {found.text}",
    }[found.stage]
    return f"{head}; {found.cause}" if found.cause else head


class _Lines:
    """Prints a line whenever one reads otherwise than before."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}

    def show(self, lines: Sequence[tuple[str, Progress]]) -> None:
        for name, found in lines:
            text = sentence(name, found)
            if self._shown.get(name) != text:
                self._shown[name] = text
                click.echo(text, err=found.stage in (Stage.FAILED, Stage.ROLLED_BACK))


class _Screen:
    """Redraws one line per service in place."""

    def __init__(self, live: Any) -> None:
        self._live = live
        self._shown: list[tuple[str, Progress]] = []

    def show(self, lines: Sequence[tuple[str, Progress]]) -> None:
        from rich.text import Text

        if self._shown == lines:
            return
        self._shown = list(lines)

        colours = {Stage.GOING: "yellow", Stage.CONVERGED: "green", Stage.FAILED: "red", Stage.ROLLED_BACK: "red"}
        text = Text()
        for index, (name, found) in enumerate(lines):
            full = _BAR if not found.desired else round(_BAR * min(1, found.running / found.desired))
            text.append("\n" if index else "")
            text.append("━" * full, style=colours[found.stage])
            text.append("━" * (_BAR - full), style="bright_black")
            text.append(" " + sentence(name, found) + (f" ({found.left})" if found.left else ""))
        self._live.update(text, refresh=True)


def _display() -> AbstractContextManager[Any]:
    if not sys.stdout.isatty():
        return nullcontext(_Lines())
    return _live()


def _live() -> AbstractContextManager[Any]:
    from contextlib import contextmanager

    from rich.live import Live

    @contextmanager
    def run() -> Any:
        with Live(auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
            yield _Screen(live)

    return run()
