"""Arguments and options that several commands share, with completion of live names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from shoal.api.errors import ShoalError
from shoal.api.units import Duration
from shoal.cli.words import WORDS, kind_of

_SECONDS: Final = re.compile(r"\d+(?:\.\d+)?")

COMPLETE_WITHIN_S: Final = 2.0
"""Seconds a shell waits for names before it goes without."""


class Span(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in newer versions only
    """A duration in seconds: `30s`, `5m`, or a bare number of seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        if _SECONDS.fullmatch(value):
            return float(value)
        try:
            found = Duration.parse(value).seconds
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if found < 0:
            self.fail(f"expected 0s or longer, found {value}", param, ctx)
        return found


def api_of(ctx: click.Context) -> str:
    """Return where the API server answers, as given to the command or by the environment."""
    from shoal.cli.main import DEFAULT_API

    found = ctx.find_root().params.get("api")
    return found if isinstance(found, str) else DEFAULT_API


def timeout_option(default: str) -> Callable[[Any], Any]:
    return click.option(
        "--timeout", "timeout_s", type=Span(), default=default, show_default=True, help="Give up waiting; 0 = never."
    )


detach_option = click.option("--detach", "-d", is_flag=True, help="Do not wait until it is done.")
labels_option = click.option("--selector", "-l", "labels", default="", help="Labels, as tier=front,env!=dev.")
file_option = click.option(
    "--filename",
    "-f",
    "files",
    multiple=True,
    metavar="FILE|DIR|-",
    help="A manifest, a directory of them, or - for standard input; may be repeated.",
)


def complete_targets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete kinds first, then names of the kind, or names after `kind/`."""
    given = ctx.params.get(param.name or "") or ()
    if "/" in incomplete:
        word, _, start = incomplete.partition("/")
        return [CompletionItem(f"{word}/{name}") for name in _names(ctx, word, start)]
    if not given:
        words = sorted({kind.PLURAL for kind in WORDS.values()} | {"service", "task", "node"})
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]
    return [CompletionItem(name) for name in _names(ctx, given[0], incomplete) if name not in given]


def complete_services(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in _names(ctx, "services", incomplete)]


def complete_nodes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in _names(ctx, "nodes", incomplete)]


def complete_networks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in _names(ctx, "networks", incomplete)]


def complete_scale(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(f"{name}=") for name in _names(ctx, "services", incomplete)]


def _names(ctx: click.Context, word: str, start: str) -> list[str]:
    """Ask the API server for names; none where it does not answer."""
    import anyio

    from shoal.cli.client import Client, run

    async def ask(client: Client) -> list[str]:
        with anyio.fail_after(COMPLETE_WITHIN_S):
            items, _ = await client.list(kind_of(word).PLURAL)
        return sorted(item["metadata"]["name"] for item in items)

    try:
        return [name for name in run(api_of(ctx), ask) if name.startswith(start)]
    except (ShoalError, TimeoutError):
        return []
