"""`shoal rollout`: look at a service's rollouts, stop and go on, go back, replace all tasks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from shoal.api.errors import NotFoundError
from shoal.api.objects import Revision, Service
from shoal.cli.client import Client, Plain, one, run
from shoal.cli.columns import at
from shoal.cli.columns import rollout as rollout_text
from shoal.cli.convergence import FAILED_UPDATE, progress
from shoal.cli.options import api_of, complete_services, detach_option, timeout_option
from shoal.cli.progress import follow_services
from shoal.cli.text import age, as_yaml, table
from shoal.rules.attempts import BY_HAND

service_argument = click.argument("service", shell_complete=complete_services)


@click.group()
def rollout() -> None:
    """Follow a service's rollout, stop it, go on, or go back."""


@rollout.command()
@service_argument
@click.option("--no-wait", is_flag=True, help="Say how it is and return.")
@timeout_option("10m")
@click.pass_context
def status(ctx: click.Context, service: str, no_wait: bool, timeout_s: float) -> int:
    """Show how far a rollout is, until it is over: 0 completed, 1 failed or paused, 4 out of time, 5 rolled back."""
    name = service.removeprefix("service/")

    async def work(client: Client) -> int:
        obj = await client.get(Service.PLURAL, name)
        if no_wait:
            tasks, _ = await client.list("tasks", fields=f"spec.service.uid={at(obj, 'metadata.uid')}")
            message = at(obj, "status.rollout.message")
            told = f" ({message})" if message else ""
            click.echo(f"service/{name}: {rollout_text(obj)}; {progress(obj, tasks).text}{told}")
            return 0
        asked = FAILED_UPDATE if _went_back_by_itself(obj) else str(at(obj, "status.revision"))
        return await follow_services(client, {str(at(obj, "metadata.name")): asked}, timeout_s)

    return run(api_of(ctx), work)


def _went_back_by_itself(service: Plain) -> bool:
    attempt = at(service, "status.attempt", {})
    return bool(attempt.get("isRollback")) and attempt.get("message") != BY_HAND


@rollout.command()
@service_argument
@click.option("--revision", "number", type=click.IntRange(min=1), help="Show this one in full.")
@click.pass_context
def history(ctx: click.Context, service: str, number: int | None) -> int:
    """List the revisions a service has had, as far as they are kept: the last ten, and those in use."""
    name = service.removeprefix("service/")

    async def work(client: Client) -> int:
        obj = await client.get(Service.PLURAL, name)
        found, _ = await client.list(Revision.PLURAL)
        own = [one for one in found if at(one, "spec.service.uid") == at(obj, "metadata.uid")]
        own.sort(key=lambda one: -int(at(one, "spec.number", 0)))
        if number is None:
            click.echo("\n".join(_history(obj, own, datetime.now(UTC))))
            return 0
        wanted = next((one for one in own if at(one, "spec.number") == number), None)
        if wanted is None:
            kept = ", ".join(str(at(one, "spec.number")) for one in own)
            raise NotFoundError(f"service {name} has no revision {number}; kept are {kept}")
        click.echo(as_yaml([at(wanted, "spec.template")]))
        return 0

    return run(api_of(ctx), work)


def _history(service: Plain, revisions: list[Plain], now: datetime) -> list[str]:
    """Return the table of revisions, the newest first."""
    head = ("REVISION", "IMAGE", "AGE", "WHAT")
    return table(head, (_row(service, one, now) for one in revisions))


def _row(service: Plain, revision: Plain, now: datetime) -> tuple[str, ...]:
    digest = at(revision, "spec.hash")
    words = {
        "current": at(service, "status.revision"),
        "stable": at(service, "status.rollout.stable"),
        "previous": at(service, "status.previousRevision"),
    }
    what = ", ".join(word for word, known in words.items() if known == digest) or "-"
    image = str(at(revision, "spec.template.image"))
    return str(at(revision, "spec.number")), image, age(at(revision, "metadata.createdAt"), now), what


@rollout.command()
@service_argument
@click.option("--to-revision", "number", type=click.IntRange(min=1), help="Go back to this one, not the one before.")
@detach_option
@timeout_option("10m")
@click.pass_context
def undo(ctx: click.Context, service: str, number: int | None, detach: bool, timeout_s: float) -> int:
    """Go back to the revision before, by the service's rollback settings; replicas and settings stay.

    Undoing twice leads back to where it began.
    """
    asked = {"action": "undo", **({"revision": number} if number else {})}
    return _ask(ctx, service, asked, "goes back to revision {number}", detach, timeout_s)


@rollout.command()
@service_argument
@click.pass_context
def pause(ctx: click.Context, service: str) -> int:
    """Let no further slot be updated, until resumed or until the service is changed. What is under way is finished."""
    return _ask(ctx, service, {"action": "pause"}, "paused", True, 0)


@rollout.command()
@service_argument
@detach_option
@timeout_option("10m")
@click.pass_context
def resume(ctx: click.Context, service: str, detach: bool, timeout_s: float) -> int:
    """Go on with a paused rollout; failures so far are forgiven."""
    return _ask(ctx, service, {"action": "resume"}, "goes on with revision {number}", detach, timeout_s)


@rollout.command()
@service_argument
@detach_option
@timeout_option("10m")
@click.pass_context
def restart(ctx: click.Context, service: str, detach: bool, timeout_s: float) -> int:
    """Replace all tasks though nothing changed, by the service's update settings."""
    return _ask(ctx, service, {"action": "restart"}, "restarts as revision {number}", detach, timeout_s)


def _ask(ctx: click.Context, service: str, asked: dict[str, Any], sentence: str, detach: bool, timeout_s: float) -> int:
    name = service.removeprefix("service/")

    async def work(client: Client) -> int:
        obj = await client.call("POST", f"{one(Service.PLURAL, name)}/rollout", asked)
        found = str(at(obj, "metadata.name"))
        click.echo(f"service/{found} {sentence.format(number=at(obj, 'status.revisionNumber', '?'))}")
        if detach:
            return 0
        return await follow_services(client, {found: str(at(obj, "status.revision"))}, timeout_s)

    return run(api_of(ctx), work)
