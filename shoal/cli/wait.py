"""`shoal wait`: until something is so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio
import click

from shoal.api.errors import InvalidError, NotFoundError
from shoal.api.names import hint
from shoal.api.objects import Object, Service
from shoal.api.states import NodeState, RolloutState, TaskState
from shoal.cli.client import Client, Plain, run
from shoal.cli.columns import at
from shoal.cli.options import api_of, complete_targets, timeout_option
from shoal.cli.progress import TIMED_OUT, follow_services
from shoal.cli.watched import follow
from shoal.cli.words import targets

STATES: Final = tuple(dict.fromkeys(state.value for states in (TaskState, NodeState, RolloutState) for state in states))
"""What tasks, nodes and rollouts become."""


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="KIND/NAME…", shell_complete=complete_targets)
@click.option(
    "--for",
    "condition",
    default="converged",
    show_default=True,
    metavar="converged|delete|STATE|FIELD=VALUE",
    help="converged (services), delete, a state such as running or ready, or the value of a field.",
)
@timeout_option("5m")
@click.pass_context
def wait(ctx: click.Context, words: tuple[str, ...], condition: str, timeout_s: float) -> int:
    """Wait until something is so; exit code 4 if it is not in time."""
    found = targets(words)
    if any(not name for _, name in found):
        raise InvalidError("expected KIND/NAME, such as service/hello")

    async def work(client: Client) -> int:
        if condition == "converged":
            if any(kind is not Service for kind, _ in found):
                raise InvalidError("only services converge; use --for=STATE, as --for=ready for a node")
            services = [await client.get(Service.PLURAL, name) for _, name in found]
            return await follow_services(client, {str(at(one, "metadata.name")): "" for one in services}, timeout_s)
        holds = condition_of(condition)
        late: list[str] = []
        with anyio.move_on_after(timeout_s or None) as limit:
            for kind, name in found:
                late = [f"{kind.KIND.lower()}/{name}"]
                await _until(client, kind, name, holds, is_deletion=condition == "delete")
                click.echo(f"{late[0]} {'deleted' if condition == 'delete' else condition}")
        if limit.cancelled_caught:
            click.echo(f"shoal: {late[0]} {unmet(condition)} after {timeout_s:g} s", err=True)
            return TIMED_OUT
        return 0

    return run(api_of(ctx), work)


def unmet(condition: str) -> str:
    """Say that what was waited for has not come about. Pure."""
    return "is not deleted" if condition == "delete" else f"is not {condition}"


async def _until(
    client: Client, kind: type[Object], name: str, holds: Callable[[Plain], bool], *, is_deletion: bool
) -> None:
    """Watch one object; waiting for its deletion, one that is not there is there no more."""
    try:
        obj = await client.get(kind.PLURAL, name)
    except NotFoundError:
        if is_deletion:
            return
        raise
    async for changes in follow(client, kind, fields=f"metadata.uid={at(obj, 'metadata.uid')}"):
        is_gone = not changes or changes[-1].new is None
        if is_gone and not is_deletion:
            raise NotFoundError(f"{kind.KIND.lower()} {name} was deleted meanwhile")
        if is_gone or holds(changes[-1].new or {}):
            return


def condition_of(text: str) -> Callable[[Plain], bool]:
    """Read what to wait for; InvalidError for what nothing ever becomes. Pure."""
    if text == "delete":
        return lambda obj: False
    field, equals, value = text.rpartition("=")
    if equals:
        path = field.strip().lstrip(".")
        return lambda obj: str(at(obj, path)).lower() == value.lower()
    if text.lower() not in STATES:
        raise InvalidError(
            f"--for: nothing ever is {text!r}{hint(text, (*STATES, 'delete', 'converged'))}; "
            f"known are converged, delete, FIELD=VALUE and the states {', '.join(STATES)}"
        )
    return lambda obj: text.lower() in (at(obj, "status.state"), at(obj, "status.rollout.state"))
