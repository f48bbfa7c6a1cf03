"""Who may write which kind, and which fields of a Task: DESIGN's tables as data. Pure.

The store's typed writer calls `check` on every write, so a controller that touches a foreign field is stopped by its
own process, in the first test that does it.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import astuple

from shoal.api import objects as o
from shoal.api.errors import InvariantError
from shoal.api.states import TaskState

API: Final = "apiserver"
HOST: Final = "host"

WRITERS: Final[dict[type[o.Object], frozenset[str]]] = {
    o.Service: frozenset({API, "rollout"}),
    o.Revision: frozenset({API, "rollout"}),
    o.Rollout: frozenset({"rollout", API}),
    o.Slot: frozenset({"replication"}),
    o.Task: frozenset({"replication", "endpoint", "placement", "nodes", API}),
    o.ServiceEndpoint: frozenset({"endpoint"}),
    o.Backend: frozenset({"endpoint"}),
    o.Network: frozenset({API, HOST}),
    o.Attachment: frozenset({"endpoint", API}),
    o.Claim: frozenset({API, "endpoint", HOST}),
    o.Reference: frozenset({API, "rollout", "endpoint"}),
    o.Secret: frozenset({API}),
    o.Config: frozenset({API}),
    o.Credential: frozenset({API}),
    o.Node: frozenset({API, "nodes", HOST}),
    o.Cluster: frozenset({API, HOST}),
    o.Presence: frozenset({API}),
}
"""Kind → processes that may create, replace or delete objects of it. Events are anyone's."""

CREATORS: Final[dict[type[o.Object], frozenset[str]]] = {o.Task: frozenset({"replication"})}
"""Kinds where creation and deletion belong to fewer than replacement does."""

_TASK_FIELDS: Final[dict[str, frozenset[str]]] = {
    "desired_state": frozenset({"replication"}),
    "restart_after": frozenset({"replication"}),
    "addresses": frozenset({"endpoint"}),
    "node": frozenset({"placement"}),
    "generic": frozenset({"placement"}),
    "evicted": frozenset({"placement"}),
}
"""Task.spec field → its writer; every other field of the spec is set at creation and never changes."""

_AGENT_STATES: Final = frozenset(
    {
        TaskState.ACCEPTED, TaskState.PREPARING, TaskState.READY, TaskState.STARTING, TaskState.RUNNING,
        TaskState.COMPLETE, TaskState.SHUTDOWN, TaskState.FAILED, TaskState.REJECTED,
    }
)  # fmt: skip

_STATE_WRITERS: Final[dict[str, frozenset[TaskState]]] = {
    "replication": frozenset(),
    "endpoint": frozenset({TaskState.PENDING, TaskState.NEW}),
    "placement": frozenset({TaskState.ASSIGNED, TaskState.PENDING}),
    "nodes": frozenset({TaskState.ORPHANED}),
    API: _AGENT_STATES,
}
"""Process → states it may write. Placement may also write `pending` again, with the reason nothing fits, and endpoint
`new`, with the reason there is no address."""


def check(actor: str, old: o.Object | None, new: o.Object | None) -> None:
    """Raise InvariantError if `actor` may not turn `old` into `new` (None = absent)."""
    obj = new if new is not None else old
    if obj is None or isinstance(obj, o.Event):
        return
    kind = type(obj)
    if actor not in WRITERS.get(kind, frozenset()):
        raise InvariantError(f"{actor} does not write {kind.__name__} objects")
    if (old is None or new is None) and actor not in CREATORS.get(kind, frozenset({actor})):
        raise InvariantError(f"{actor} neither creates nor deletes {kind.__name__} objects")
    if isinstance(old, o.Task) and isinstance(new, o.Task):
        _check_task(actor, old, new)


def _check_task(actor: str, old: o.Task, new: o.Task) -> None:
    name = old.metadata.name
    changed = _changed(old.spec, new.spec) if old.spec is not new.spec else []
    for field in changed:
        if actor not in _TASK_FIELDS.get(field, frozenset()):
            raise InvariantError(f"{actor} may not change {field} of task {name}")
    if "desired_state" in changed and new.spec.desired_state.rank < old.spec.desired_state.rank:
        raise InvariantError(
            f"task {name}: desired state goes back from {old.spec.desired_state} to {new.spec.desired_state}"
        )
    if old.status != new.status:
        if new.status.state.rank < old.status.state.rank:
            raise InvariantError(f"task {name}: state goes back from {old.status.state} to {new.status.state}")
        if new.status.state not in _STATE_WRITERS.get(actor, frozenset()):
            raise InvariantError(f"{actor} may not write state {new.status.state} of task {name}")


def _changed(old: msgspec.Struct, new: msgspec.Struct) -> list[str]:
    """Return the fields that differ; most are the very same value, which is quicker to see than that two are equal."""
    values = zip(old.__struct_fields__, astuple(old), astuple(new), strict=True)
    return [name for name, was, now in values if was is not now and was != now]
