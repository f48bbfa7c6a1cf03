"""`shoal describe`: all about one object, the cause of trouble first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import click

from shoal.api.errors import InvalidError
from shoal.api.objects import Event, Network, Node, Object, Service, Task
from shoal.api.units import Bytes, Cpus
from shoal.cli.client import Client, Plain, run
from shoal.cli.columns import RANK, at, head, port, row, sort_key, task_order, task_problem
from shoal.cli.convergence import Stage, cause_of, progress
from shoal.cli.describe_network import network_lines
from shoal.cli.options import api_of, complete_targets
from shoal.cli.text import age, as_yaml, pairs, plural, size, table
from shoal.cli.words import targets

EVENTS: Final = 20
"""Events shown, the newest ones."""

PAST_TASKS: Final = 10
"""Ended tasks shown, the newest ones."""


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="KIND NAME… | KIND/NAME…", shell_complete=complete_targets)
@click.pass_context
def describe(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Tell all about one object, the cause of trouble first."""
    found = targets(words)
    if any(not name for _, name in found):
        raise InvalidError(f"expected a name, such as `shoal describe {found[0][0].KIND.lower()} hello`")

    async def work(client: Client) -> None:
        for index, (kind, name) in enumerate(found):
            if index:
                click.echo("\n" + "─" * 60 + "\n")
            for line in await lines_of(client, kind, name):
                click.echo(line)

    run(api_of(ctx), work)


async def lines_of(client: Client, kind: type[Object], name: str) -> list[str]:
    """Return all about one object."""
    obj = await client.get(kind.PLURAL, name)
    uid, now = at(obj, "metadata.uid"), datetime.now(UTC)
    events = await _events(client, uid)
    if kind is Service:
        tasks, _ = await client.list(Task.PLURAL, fields=f"spec.service.uid={uid}")
        lines = list(service_lines(obj, tasks, now))
    elif kind is Task:
        lines = list(task_lines(obj, now))
    elif kind is Node:
        tasks, _ = await client.list(Task.PLURAL, fields=f"spec.node.uid={uid}")
        lines = list(node_lines(obj, tasks, now))
    elif kind is Network:
        lines = await network_lines(client, obj, now)
    else:
        lines = as_yaml([obj]).splitlines()
    return [*lines, *event_lines(events, now)]


async def _events(client: Client, uid: str) -> list[Plain]:
    items, _ = await client.list(Event.PLURAL, fields=f"about.uid={uid}")
    return sorted(items, key=sort_key(Event.KIND))[-EVENTS:]


def service_lines(service: Plain, tasks: list[Plain], now: datetime) -> Iterator[str]:
    """Tell of a service: what is wrong, how it should be, its tasks."""
    found = progress(service, tasks)
    spec = service["spec"]
    yield from pairs(
        ("Service", at(service, "metadata.name")),
        ("State", f"{'converged' if found.stage is Stage.CONVERGED else 'not converged'}: {found.text}"),
        ("Cause", cause_of(service, tasks) if found.stage is not Stage.CONVERGED else ""),
        ("Problem", at(service, "status.endpoint.message")),
        ("Pending", [f"{count} × {reason}" for reason, count in at(service, "status.pending", {}).items()]),
        ("Rollout", _rollout(service, now)),
    )
    yield ""
    yield from pairs(
        (
            "Mode",
            f"{spec.get('mode', 'replicated')}"
            + (f", {at(service, 'status.replicas.desired')} wanted" if found.desired else ""),
        ),
        ("Image", spec.get("image")),
        ("Command", " ".join([*spec.get("command", []), *spec.get("args", [])])),
        ("Ports", [port(one) for one in at(service, "status.endpoint.ports", None) or spec.get("ports", [])]),
        ("Endpoint", at(service, "spec.endpoint.mode")),
        ("Networks", [_network(one) for one in at(service, "spec.networks", [])]),
        (
            "Virtual IPs",
            [
                f"{n['vip']} on {at(n, 'network.name')}"
                for n in at(service, "status.endpoint.networks", [])
                if n.get("vip")
            ],
        ),
        ("Environment", [entry.partition("=")[0] for entry in spec.get("env", [])]),
        ("Mounts", [_mount(one) for one in spec.get("mounts", [])]),
        ("Resources", _flat(spec.get("resources", {}))),
        ("Restart", _flat(spec.get("restart", {}))),
        ("Constraints", at(service, "spec.placement.constraints", [])),
        ("Healthcheck", " ".join(at(service, "spec.healthcheck.test", []))),
        ("Labels", [f"{key}={value}" for key, value in at(service, "metadata.labels", {}).items()]),
        ("Revision", at(service, "status.revisionNumber")),
        ("Created", f"{age(at(service, 'metadata.createdAt'), now)} ago"),
        ("Uid", at(service, "metadata.uid")),
    )
    yield from _tasks(tasks, now)


def task_lines(task: Plain, now: datetime) -> Iterator[str]:
    """Tell of a task: its state and why, where it is, what it is made from."""
    container = at(task, "status.container", {})
    yield from pairs(
        ("Task", at(task, "metadata.name")),
        ("State", f"{at(task, 'status.state')} for {age(at(task, 'status.timestamp'), now)}"),
        ("Cause", task_problem(task) or at(task, "status.message")),
        ("Desired", at(task, "spec.desiredState")),
        ("Evicted", at(task, "spec.evicted")),
        ("Exit code", container.get("exitCode")),
    )
    yield ""
    yield from pairs(
        ("Service", at(task, "spec.service.name")),
        ("Slot", at(task, "spec.slot")),
        ("Node", at(task, "spec.node.name")),
        ("Image", at(task, "spec.template.image")),
        ("Addresses", [f"{a['address']} on {at(a, 'network.name')}" for a in at(task, "spec.addresses", [])]),
        ("Generic", [_generic(one) for one in at(task, "spec.generic", [])]),
        ("Host ports", [port(one) for one in at(task, "status.ports", [])]),
        ("Container", container.get("id", "")[:12]),
        ("Process", container.get("pid")),
        ("Replaces", at(task, "spec.replaces")),
        ("Created", f"{age(at(task, 'metadata.createdAt'), now)} ago"),
        ("Uid", at(task, "metadata.uid")),
    )


def node_lines(node: Plain, tasks: list[Plain], now: datetime) -> Iterator[str]:
    """Tell of a node: whether it takes tasks, what it has, what runs there."""
    description = at(node, "status.description", {})
    yield from pairs(
        ("Node", at(node, "metadata.name")),
        ("State", f"{at(node, 'status.state')} for {age(at(node, 'status.since'), now)}"),
        ("Cause", at(node, "status.message")),
        ("Availability", at(node, "spec.availability")),
        ("Role", at(node, "spec.role")),
    )
    yield ""
    yield from pairs(
        ("Address", at(node, "status.address")),
        ("System", f"{description.get('os', '?')}/{description.get('architecture', '?')}"),
        ("Engine", description.get("engineVersion")),
        ("CPUs", description.get("cpus")),
        ("Memory", size(Bytes.parse(description.get("memory", 0)))),
        ("Generic", [_generic(one) for one in description.get("generic", [])]),
        ("Reserved", _reserved(tasks)),
        ("Labels", [f"{key}={value}" for key, value in at(node, "metadata.labels", {}).items()]),
        ("Engine labels", [f"{key}={value}" for key, value in description.get("engineLabels", {}).items()]),
        ("Uid", at(node, "metadata.uid")),
    )
    yield from _tasks(tasks, now)


def event_lines(events: list[Plain], now: datetime) -> Iterator[str]:
    yield ""
    yield f"Events ({len(events)})" if events else "Events: none"
    if events:
        keep = [index for index, title in enumerate(head("Event", False)) if title != "ABOUT"]
        rows = [row("Event", event, now, False) for event in events]
        titles = [head("Event", False)[index] for index in keep]
        yield from (f"  {line}" for line in table(titles, [[cells[index] for index in keep] for cells in rows]))


def _tasks(tasks: list[Plain], now: datetime) -> Iterator[str]:
    """List live tasks, and the newest of those that are over."""
    ordered = sorted(tasks, key=task_order)
    live = [task for task in ordered if RANK.get(at(task, "status.state"), 0) <= RANK["running"]]
    over = sorted(
        (task for task in ordered if task not in live), key=lambda task: str(at(task, "status.timestamp")), reverse=True
    )
    yield ""
    yield f"Tasks ({plural(len(live), 'live one')}, {len(over)} ended)"
    shown = [*live, *over[:PAST_TASKS]]
    if shown:
        rows = [row("Task", task, now, False) for task in shown]
        yield from (f"  {line}" for line in table(head("Task", False), rows))
    if len(over) > PAST_TASKS:
        yield f"  … and {len(over) - PAST_TASKS} more that have ended"


def _rollout(service: Plain, now: datetime) -> str:
    status = at(service, "status.rollout", {})
    if not status:
        return ""
    since = status.get("completedAt") or status.get("startedAt")
    message = f": {status['message']}" if status.get("message") else ""
    return f"{status.get('state')}{f' {age(since, now)} ago' if since else ''}{message}"


def _network(use: Plain) -> str:
    aliases = f" as {', '.join(use['aliases'])}" if use.get("aliases") else ""
    return f"{use['name']}{aliases}"


def _mount(mount: Plain) -> str:
    source = mount.get("source") or ("memory" if mount["type"] == "tmpfs" else "a new volume")
    return f"{source} at {mount['target']} ({mount['type']}{', read-only' if mount.get('readOnly') else ''})"


def _flat(value: Any, prefix: str = "") -> str:
    """Spell nested settings in one line: limits.cpus 0.2, limits.memory 64M."""
    if isinstance(value, list):
        return ", ".join(f"{prefix} {_generic(one) if isinstance(one, dict) else one}" for one in value)
    if not isinstance(value, dict):
        return f"{prefix} {value}"
    return ", ".join(_flat(item, f"{prefix}.{key}" if prefix else key) for key, item in value.items())


def _generic(one: Plain) -> str:
    """Spell a generic resource as Docker's options do: GPU=uuid1, ssd=3."""
    return f"{one['kind']}={one.get('value', one.get('count'))}"


def _reserved(tasks: list[Plain]) -> str:
    """Sum what live tasks reserve."""
    cpus = memory = 0
    generic: Counter[str] = Counter()
    for task in tasks:
        if RANK.get(at(task, "status.state"), 0) <= RANK["running"]:
            wanted = at(task, "spec.template.resources.reservations", {})
            cpus += Cpus.parse(wanted.get("cpus", 0))
            memory += Bytes.parse(wanted.get("memory", 0))
            generic.update({one["kind"]: one["count"] for one in wanted.get("generic", [])})
    parts = [f"{Cpus(cpus)} CPUs", f"{Bytes(memory)} memory"] if cpus or memory else []
    return ", ".join([*parts, *(f"{count} {kind}" for kind, count in sorted(generic.items()))])
