"""The states of tasks, nodes and rollouts, and which state may follow which. Pure.

Source: the numeric order of task states is SwarmKit's (api/types.proto); an observed state only grows.
"""

from __future__ import annotations

from enum import StrEnum


class TaskState(StrEnum):
    """What a task was last seen doing. `TaskState.rank` is the order; states only grow."""

    NEW = "new"
    PENDING = "pending"
    ASSIGNED = "assigned"
    ACCEPTED = "accepted"
    PREPARING = "preparing"
    READY = "ready"
    STARTING = "starting"
    RUNNING = "running"
    COMPLETE = "complete"
    SHUTDOWN = "shutdown"
    FAILED = "failed"
    REJECTED = "rejected"
    REMOVE = "remove"
    ORPHANED = "orphaned"

    rank: int
    is_terminal: bool
    """The task will never run again."""
    is_assigned: bool
    """The task has a node and is not over."""


TASK_RANK: dict[TaskState, int] = {
    TaskState.NEW: 0, TaskState.PENDING: 64, TaskState.ASSIGNED: 192, TaskState.ACCEPTED: 256,
    TaskState.PREPARING: 320, TaskState.READY: 384, TaskState.STARTING: 448, TaskState.RUNNING: 512,
    TaskState.COMPLETE: 576, TaskState.SHUTDOWN: 640, TaskState.FAILED: 704, TaskState.REJECTED: 768,
    TaskState.REMOVE: 800, TaskState.ORPHANED: 832,
}  # fmt: skip

# Facts of a state are attributes, told once: to look a member up in its class takes Python 3.11 as long as to read a
# small object's JSON, and every process asks for these thousands of times.
for _state, _rank in TASK_RANK.items():
    _state.rank = _rank
    _state.is_terminal = _rank > TASK_RANK[TaskState.RUNNING]
    _state.is_assigned = TASK_RANK[TaskState.ASSIGNED] <= _rank <= TASK_RANK[TaskState.RUNNING]


class DesiredState(StrEnum):
    """What a manager wants of a task; it only grows, too. `ready` waits, prepared but not started."""

    READY = "ready"
    RUNNING = "running"
    COMPLETE = "complete"
    SHUTDOWN = "shutdown"
    REMOVE = "remove"

    rank: int
    is_live: bool
    """Wanted alive: ready, running, or (a job's) complete."""


for _desired in DesiredState:
    _desired.rank = TASK_RANK[TaskState(_desired.value)]
    _desired.is_live = _desired in (DesiredState.READY, DesiredState.RUNNING, DesiredState.COMPLETE)


class Mode(StrEnum):
    REPLICATED = "replicated"
    GLOBAL = "global"
    JOB = "job"
    GLOBAL_JOB = "global-job"

    @property
    def is_job(self) -> bool:
        return self in (Mode.JOB, Mode.GLOBAL_JOB)

    @property
    def is_global(self) -> bool:
        return self in (Mode.GLOBAL, Mode.GLOBAL_JOB)


class NodeState(StrEnum):
    UNKNOWN = "unknown"
    READY = "ready"
    DOWN = "down"
    DISCONNECTED = "disconnected"


class Availability(StrEnum):
    ACTIVE = "active"
    PAUSE = "pause"
    DRAIN = "drain"


class Role(StrEnum):
    WORKER = "worker"
    MANAGER = "manager"


class RolloutState(StrEnum):
    """Docker's UpdateStatus states. COMPLETED is also how a rollout begins: nothing to do."""

    UPDATING = "updating"
    PAUSED = "paused"
    COMPLETED = "completed"
    ROLLBACK_STARTED = "rollback_started"
    ROLLBACK_PAUSED = "rollback_paused"
    ROLLBACK_COMPLETED = "rollback_completed"


class RestartCondition(StrEnum):
    ANY = "any"
    ON_FAILURE = "on-failure"
    NONE = "none"


class UpdateOrder(StrEnum):
    STOP_FIRST = "stop-first"
    START_FIRST = "start-first"


class FailureAction(StrEnum):
    PAUSE = "pause"
    CONTINUE = "continue"
    ROLLBACK = "rollback"


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


class PublishMode(StrEnum):
    INGRESS = "ingress"
    HOST = "host"


class EndpointMode(StrEnum):
    VIP = "vip"
    DNSRR = "dnsrr"


class MountType(StrEnum):
    VOLUME = "volume"
    BIND = "bind"
    TMPFS = "tmpfs"
    CLUSTER = "cluster"
    NPIPE = "npipe"
