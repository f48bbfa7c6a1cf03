"""What a table shows of each kind: one row per object. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, NamedTuple

from shoal.api.states import TASK_RANK, Mode, TaskState
from shoal.api.units import Bytes
from shoal.cli.text import age, size

Plain = dict[str, Any]


RANK: Final[dict[str, int]] = {state.value: rank for state, rank in TASK_RANK.items()}
"""A task state's word → its place in the order of states."""


class Column(NamedTuple):
    head: str
    cell: Callable[[Plain, datetime], str]
    wide: bool = False
    """Shown with -o wide only."""


def at(obj: Any, path: str, default: Any = "") -> Any:
    """Return what lies at a dotted path, `default` where something is missing."""
    for part in path.split("."):
        obj = obj.get(part) if isinstance(obj, dict) else None
        if obj is None:
            return default
    return obj


def _field(path: str, default: str = "-") -> Callable[[Plain, datetime], str]:
    return lambda obj, now: str(at(obj, path) or default)


def _size(path: str) -> Callable[[Plain, datetime], str]:
    return lambda obj, now: size(Bytes.parse(at(obj, path, 0)))


def _age(path: str = "metadata.createdAt") -> Callable[[Plain, datetime], str]:
    return lambda obj, now: age(at(obj, path), now)


_NAME: Final = Column("NAME", _field("metadata.name"))
_UID: Final = Column("UID", _field("metadata.uid"), wide=True)
_AGE: Final = Column("AGE", _age())


def replicas(service: Plain) -> str:
    """Spell running of desired: 2/3; a job's as done of wanted: 2/3 completed."""
    counts = at(service, "status.replicas", {})
    desired = counts.get("desired", 0)
    if is_job(service):
        return f"{counts.get('completed', 0)}/{desired} completed"
    return f"{counts.get('running', 0)}/{desired}"


def is_job(service: Plain) -> bool:
    return at(service, "spec.mode") in (Mode.JOB, Mode.GLOBAL_JOB)


def ports(service: Plain) -> str:
    """Spell published ports as `8080->80/tcp`; chosen ones as they were chosen."""
    found = at(service, "status.endpoint.ports", None) or at(service, "spec.ports", [])
    return ", ".join(port(one) for one in found) or "-"


def port(one: Plain) -> str:
    published = one.get("published") or "?"
    mode = "" if one.get("mode", "ingress") == "ingress" else f" ({one['mode']})"
    return f"{published}->{one['target']}/{one.get('protocol', 'tcp')}{mode}"


def rollout(service: Plain) -> str:
    """Spell a rollout's state and how far it is."""
    state = str(at(service, "status.rollout.state"))
    if state in ("", "completed"):
        return state or "-"
    return f"{state} {at(service, 'status.replicas.updated', 0)}/{at(service, 'status.replicas.desired', 0)}"


def task_state(task: Plain, now: datetime) -> str:
    """Spell a task's state and since when: running 3m."""
    stamp = at(task, "status.timestamp")
    return str(at(task, "status.state")) + (f" {age(stamp, now)}" if stamp else "")


def task_problem(task: Plain) -> str:
    """Return what went wrong with a task, or why it waits."""
    state = str(at(task, "status.state"))
    err = str(at(task, "status.err"))
    if err or RANK.get(state, 0) >= RANK[TaskState.ASSIGNED]:
        return err
    return str(at(task, "status.message"))


def task_order(task: Plain) -> tuple[Any, ...]:
    """Sort by service and slot, newest first within a slot."""
    slot = str(at(task, "spec.slot"))
    created = at(task, "metadata.createdAt")
    numbers = [-ord(char) for char in created]
    return at(task, "spec.service.name"), (0, int(slot), "") if slot.isdigit() else (1, 0, slot), numbers


def network_kind(network: Plain) -> list[str]:
    """Return what is special about a network."""
    return [word for word in ("ingress", "internal", "attachable", "predefined") if at(network, f"spec.{word}", False)]


def _cut(text: str, width: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _addresses(task: Plain) -> str:
    return ", ".join(one["address"] for one in at(task, "spec.addresses", [])) or "-"


_TASK: Final = (
    _NAME,
    Column("NODE", _field("spec.node.name")),
    Column("DESIRED", _field("spec.desiredState")),
    Column("STATE", task_state),
    Column("ERROR", lambda task, now: _cut(task_problem(task)) or "-"),
    Column("IMAGE", _field("spec.template.image"), wide=True),
    Column("CONTAINER", lambda task, now: str(at(task, "status.container.id"))[:12] or "-", wide=True),
    Column("ADDRESSES", lambda task, now: _addresses(task), wide=True),
    _AGE,
)

COLUMNS: Final[dict[str, tuple[Column, ...]]] = {
    "Service": (
        _NAME,
        Column("MODE", _field("spec.mode", "replicated")),
        Column("REPLICAS", lambda obj, now: replicas(obj)),
        Column("IMAGE", _field("spec.image")),
        Column("PORTS", lambda obj, now: ports(obj)),
        Column("ROLLOUT", lambda obj, now: rollout(obj), wide=True),
        Column("REVISION", _field("status.revisionNumber"), wide=True),
        _UID,
        _AGE,
    ),
    "Task": _TASK,
    "Node": (
        _NAME,
        Column("STATUS", _field("status.state")),
        Column("AVAILABILITY", _field("spec.availability")),
        Column("ROLE", _field("spec.role")),
        Column("ADDRESS", _field("status.address")),
        Column("ENGINE", _field("status.description.engineVersion")),
        Column("CPUS", _field("status.description.cpus"), wide=True),
        Column("MEMORY", _size("status.description.memory"), wide=True),
        _UID,
        _AGE,
    ),
    "Network": (
        _NAME,
        Column("DRIVER", _field("spec.driver", "overlay")),
        Column("SUBNET", lambda obj, now: ", ".join(s["subnet"] for s in at(obj, "status.subnets", [])) or "-"),
        Column("FREE", lambda obj, now: str(at(obj, "status.addresses.free", "-"))),
        Column("KIND", lambda obj, now: ",".join(network_kind(obj)) or "-"),
        Column("VNI", _field("status.vni"), wide=True),
        Column("MTU", _field("status.mtu"), wide=True),
        _UID,
        _AGE,
    ),
    **{
        kind: (
            _NAME,
            Column("TEMPLATING", _field("spec.templating")),
            Column(
                "LABELS",
                lambda obj, now: ",".join(f"{k}={v}" for k, v in at(obj, "metadata.labels", {}).items()) or "-",
            ),
            _UID,
            _AGE,
        )
        for kind in ("Secret", "Config")
    },
    "Rollout": (
        Column("SERVICE", _field("status.service.name")),
        Column("STATE", _field("status.state")),
        Column("TARGET", lambda obj, now: at(obj, "status.target")[:12] or "-"),
        Column("STABLE", lambda obj, now: at(obj, "status.stable")[:12] or "-"),
        Column("GRANTED", lambda obj, now: str(len(at(obj, "status.granted", [])))),
        Column("MESSAGE", _field("status.message")),
    ),
    "Revision": (
        Column("SERVICE", _field("spec.service.name")),
        Column("NUMBER", _field("spec.number")),
        Column("HASH", lambda obj, now: at(obj, "spec.hash")[:12]),
        Column("IMAGE", _field("spec.template.image")),
        _AGE,
    ),
    "Slot": (
        Column("SERVICE", _field("spec.service.name")),
        Column("SLOT", _field("spec.slot")),
        Column("TASK", _field("spec.task")),
    ),
    "Endpoint": (
        Column("SERVICE", _field("spec.service.name")),
        Column("MODE", _field("spec.mode", "vip")),
        Column("PORTS", lambda obj, now: ", ".join(map(port, at(obj, "spec.ports", []))) or "-"),
        Column(
            "VIPS", lambda obj, now: ", ".join(n["vip"] for n in at(obj, "spec.networks", []) if n.get("vip")) or "-"
        ),
        Column("MESSAGE", _field("spec.message")),
    ),
    "Backend": (
        Column("TASK", _field("spec.task.name")),
        Column("NODE", _field("spec.node.name")),
        Column("READY", lambda obj, now: str(at(obj, "status.ready", False)).lower()),
        Column("ADDRESSES", lambda obj, now: _addresses(obj)),
        Column("SERVING", _age("status.servingAt")),
        Column("DRAINED", _age("status.drainedAt")),
    ),
    "Attachment": (
        Column("NETWORK", _field("spec.network.name")),
        Column("NODE", _field("spec.node.name")),
        Column("CONTAINER", lambda obj, now: str(at(obj, "spec.container"))[:12] or "-"),
        Column("ADDRESS", _field("spec.address")),
        Column("NUMBER", _field("spec.number")),
    ),
    "Claim": (
        Column("KEY", _field("key")),
        Column("OWNER", lambda obj, now: f"{at(obj, 'metadata.owner.kind')}/{at(obj, 'metadata.owner.name')}"),
    ),
    "Event": (
        Column("LAST", _age("lastAt")),
        Column("COUNT", _field("count", "1")),
        Column("TYPE", _field("type")),
        Column("ABOUT", lambda obj, now: f"{at(obj, 'about.kind').lower()}/{at(obj, 'about.name')}"),
        Column("REASON", _field("reason")),
        Column("MESSAGE", lambda obj, now: " ".join(str(at(obj, "message")).split()) or "-"),
    ),
}
"""Kind → its columns; a kind without a row here shows name, uid and age."""

_OTHERS: Final = (_NAME, Column("UID", _field("metadata.uid")), _AGE)


def head(kind: str, wide: bool) -> list[str]:
    return [column.head for column in _shown(kind, wide)]


def row(kind: str, obj: Plain, now: datetime, wide: bool) -> list[str]:
    return [column.cell(obj, now) for column in _shown(kind, wide)]


def sort_key(kind: str) -> Callable[[Plain], Any]:
    """Return what objects of a kind are sorted by."""
    if kind == "Task":
        return task_order
    if kind == "Event":
        return lambda obj: at(obj, "lastAt")
    return lambda obj: (at(obj, "metadata.name"), at(obj, "metadata.createdAt"))


def _shown(kind: str, wide: bool) -> list[Column]:
    return [column for column in COLUMNS.get(kind, _OTHERS) if wide or not column.wide]
