"""`shoal describe network`: its addresses, and who has them on which node."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from shoal.api.objects import LOCAL_DRIVERS, Attachment, Backend, Service, ServiceEndpoint, Task
from shoal.api.states import TaskState
from shoal.cli.client import Client, Plain
from shoal.cli.columns import at, network_kind
from shoal.cli.text import age, pairs, plural, table


async def network_lines(client: Client, network: Plain, now: datetime) -> list[str]:
    """Return what is known of a network and of everything on it."""
    uid = at(network, "metadata.uid")
    if is_local(network):
        services, _ = await client.list(Service.PLURAL)
        tasks, _ = await client.list(Task.PLURAL)
        return [*_about(network, now), *told_local(uid, services, tasks)]
    attachments, _ = await client.list(Attachment.PLURAL, fields=f"spec.network.uid={uid}")
    endpoints, _ = await client.list(ServiceEndpoint.PLURAL)
    backends, _ = await client.list(Backend.PLURAL)
    return list(told(network, attachments, endpoints, backends, now))


def is_local(network: Plain) -> bool:
    """Nothing of it is Shoal's but who uses it."""
    return at(network, "spec.driver", "overlay") in LOCAL_DRIVERS and not at(network, "spec.predefined", False)


def told_local(uid: str, services: list[Plain], tasks: list[Plain]) -> Iterator[str]:
    """Tell who is on a node-local network: addresses there are known to each node's engine only."""
    users = [
        [at(service, "metadata.name"), ", ".join(use.get("aliases", [])) or "-"]
        for service in services
        for use in _uses(service, "spec.networks", uid)
    ]
    yield from _listed("service", ("SERVICE", "ALIASES"), users)
    there = [
        [at(task, "metadata.name"), at(task, "spec.node.name"), at(task, "status.state", "new")]
        for task in tasks
        if at(task, "spec.node.name") and _uses(task, "spec.template.networks", uid) and not _has_ended(task)
    ]
    yield from _listed("task", ("TASK", "NODE", "STATE"), there)


def _uses(obj: Plain, path: str, uid: str) -> list[Plain]:
    return [use for use in at(obj, path, []) if use.get("uid") == uid]


def _has_ended(task: Plain) -> bool:
    return TaskState(at(task, "status.state", TaskState.NEW.value)).is_terminal


def told(
    network: Plain, attachments: list[Plain], endpoints: list[Plain], backends: list[Plain], now: datetime
) -> Iterator[str]:
    """Tell of a network; endpoints and backends that are not on it are passed over."""
    uid = at(network, "metadata.uid")
    yield from _about(network, now)
    nodes = [
        [at(one, "spec.node.name"), at(one, "spec.address"), at(one, "spec.vtep") or "-"]
        for one in attachments
        if not at(one, "spec.container")
    ]
    yield from _listed("node", ("NODE", "ADDRESS", "TUNNEL END"), nodes)
    yield from _listed("service", ("SERVICE", "VIRTUAL IP", "ALIASES"), [*_services(endpoints, uid)])
    yield from _listed("task", ("TASK", "NODE", "ADDRESS", "READY"), [*_tasks(backends, uid)])
    containers = [
        [(at(one, "spec.names", None) or [at(one, "spec.container")[:12]])[0], at(one, "spec.node.name"),
         at(one, "spec.address")]
        for one in attachments
        if at(one, "spec.container")
    ]  # fmt: skip
    if containers:
        yield from _listed("container", ("CONTAINER", "NODE", "ADDRESS"), containers)


def _about(network: Plain, now: datetime) -> Iterator[str]:
    subnet = (at(network, "status.subnets", None) or [{}])[0]
    yield from pairs(
        ("Network", at(network, "metadata.name")),
        ("Driver", ", ".join([at(network, "spec.driver", "overlay"), *network_kind(network)])),
        ("Subnet", subnet.get("subnet")),
        ("Gateway", subnet.get("gateway")),
        ("Range", subnet.get("range")),
        ("Addresses", _addresses(network)),
        ("Config from", at(network, "spec.configFrom")),
        ("VXLAN number", at(network, "status.vni")),
        ("MTU", at(network, "status.mtu")),
        ("Options", [f"{key}={value}" for key, value in at(network, "spec.options", {}).items()]),
        ("Labels", [f"{key}={value}" for key, value in at(network, "metadata.labels", {}).items()]),
        ("Created", f"{age(at(network, 'metadata.createdAt'), now)} ago"),
        ("Uid", at(network, "metadata.uid")),
    )


def _addresses(network: Plain) -> str:
    counts = at(network, "status.addresses", {})
    return f"{counts['free']} of {counts['total']} free" if counts else ""


def _services(endpoints: list[Plain], uid: str) -> Iterator[list[str]]:
    for endpoint in endpoints:
        for entry in at(endpoint, "spec.networks", []):
            if at(entry, "network.uid") == uid:
                address = entry.get("vip") or f"none ({at(endpoint, 'spec.mode', 'vip')})"
                gone = " (leaving)" if entry.get("withdrawn") else ""
                yield [
                    at(endpoint, "spec.service.name"),
                    f"{address}{gone}",
                    ", ".join(entry.get("aliases", [])) or "-",
                ]


def _tasks(backends: list[Plain], uid: str) -> Iterator[list[str]]:
    for backend in backends:
        for one in at(backend, "spec.addresses", []):
            if at(one, "network.uid") == uid:
                ready = "yes" if at(backend, "status.ready", False) else "no"
                yield [at(backend, "spec.task.name"), at(backend, "spec.node.name"), one["address"], ready]


def _listed(word: str, titles: tuple[str, ...], rows: list[list[str]]) -> Iterator[str]:
    yield ""
    yield plural(len(rows), word).capitalize() if rows else f"No {word}s"
    if rows:
        yield from (f"  {line}" for line in table(titles, sorted(rows)))
