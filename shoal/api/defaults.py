"""What a field means that was not given. Pure.

Objects are stored as they were written; these functions are applied when a field is read (decision 0002).
Source: SwarmKit's api/defaults/service.go, except where a constant says otherwise.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from shoal.api.objects import ServiceSpec, Update
from shoal.api.states import EndpointMode, Mode, RestartCondition
from shoal.api.template import Healthcheck, TaskTemplate
from shoal.api.units import Duration

REPLICAS: Final = 1
STOP_GRACE_PERIOD: Final = Duration.of(10)
RESTART_DELAY: Final = Duration.of(5)
UPDATE: Final = Update()
"""One at a time, no delay, pause at the first failure, monitored for 5 s, stop-first; a rollback likewise."""

DYNAMIC_PORTS: Final = range(30000, 32768)
"""Published ports chosen for `published: 0` on the mesh. Source: SwarmKit's portallocator."""

TASK_HISTORY_LIMIT: Final = 5
"""Tasks kept per slot, the running one included. Source: SwarmKit's manager."""


class RestartPolicy(Struct, frozen=True):
    """A restart policy with nothing left open; `max_attempts` 0 = without limit, `window` 0 = ever."""

    condition: RestartCondition = RestartCondition.ANY
    delay: Duration = RESTART_DELAY
    max_attempts: int = 0
    window: Duration = Duration(0)


class HealthPolicy(Struct, frozen=True):
    """Source: Docker's HEALTHCHECK; 0 and unset both mean these."""

    interval: Duration = Duration.of(30)
    timeout: Duration = Duration.of(30)
    retries: int = 3
    start_period: Duration = Duration(0)
    start_interval: Duration = Duration.of(5)


def effective_restart(template: TaskTemplate) -> RestartPolicy:
    """Return the restart policy in force."""
    given, default = template.restart, RestartPolicy()
    if given is None:
        return default
    return RestartPolicy(
        condition=default.condition if given.condition is None else given.condition,
        delay=default.delay if given.delay is None else given.delay,
        max_attempts=default.max_attempts if given.max_attempts is None else given.max_attempts,
        window=default.window if given.window is None else given.window,
    )


def effective_update(spec: ServiceSpec) -> Update:
    return spec.update or UPDATE


def effective_rollback(spec: ServiceSpec) -> Update:
    return spec.rollback or UPDATE


def effective_health(check: Healthcheck) -> HealthPolicy:
    """Return a healthcheck's timing in force."""
    default = HealthPolicy()
    return HealthPolicy(
        interval=check.interval or default.interval,
        timeout=check.timeout or default.timeout,
        retries=check.retries or default.retries,
        start_period=check.start_period or default.start_period,
        start_interval=check.start_interval or default.start_interval,
    )


def stop_grace_period(template: TaskTemplate) -> Duration:
    """Return how long a container may take to stop before it is killed."""
    return STOP_GRACE_PERIOD if template.stop_grace_period is None else template.stop_grace_period


def endpoint_mode(template: TaskTemplate) -> EndpointMode:
    return EndpointMode.VIP if template.endpoint is None else template.endpoint.mode


def desired_count(spec: ServiceSpec, eligible_nodes: int) -> int:
    """Return how many tasks (of a job: completions) are wanted; a global service has one per eligible node."""
    if spec.mode.is_global:
        return eligible_nodes
    return REPLICAS if spec.replicas is None else spec.replicas


def max_concurrent(spec: ServiceSpec) -> int:
    """Return how many tasks of a job may run at once: all of them, unless told otherwise.

    Source: the docker command line. The Docker API means 1 by leaving it out, and is translated so.
    """
    if spec.mode is not Mode.JOB:
        return 0
    return desired_count(spec, 0) if spec.max_concurrent is None else spec.max_concurrent


def history_limit(template: TaskTemplate, cluster_limit: int) -> int:
    """Return how many tasks to keep per slot; negative = all.

    A restart policy that counts attempts needs their tasks to be counted. Worked: maxAttempts 8 keeps 9, whatever
    the cluster's limit.
    """
    attempts = effective_restart(template).max_attempts
    return attempts + 1 if attempts > 0 else cluster_limit
