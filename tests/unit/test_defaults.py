"""What unset means."""

from __future__ import annotations

import pytest

from shoal.api import defaults as d
from shoal.api.objects import ServiceSpec
from shoal.api.states import EndpointMode, FailureAction, Mode, RestartCondition, UpdateOrder
from shoal.api.template import Healthcheck, Restart
from shoal.api.units import Duration

BARE = ServiceSpec(image="x")


def test_a_bare_service_has_swarms_defaults() -> None:
    assert d.effective_restart(BARE) == d.RestartPolicy(RestartCondition.ANY, Duration.of(5), 0, Duration(0))
    update = d.effective_update(BARE)
    assert (update.parallelism, update.delay, update.monitor.seconds, update.max_failure_ratio) == (1, 0, 5, 0)
    assert (update.failure_action, update.order) == (FailureAction.PAUSE, UpdateOrder.STOP_FIRST)
    assert d.effective_rollback(BARE) == update
    assert d.stop_grace_period(BARE).seconds == 10
    assert d.endpoint_mode(BARE) is EndpointMode.VIP
    assert (d.DYNAMIC_PORTS[0], d.DYNAMIC_PORTS[-1]) == (30000, 32767)


def test_what_is_given_counts_even_where_it_is_zero() -> None:
    spec = ServiceSpec(image="x", stop_grace_period=Duration(0), restart=Restart(delay=Duration(0)), replicas=0)
    assert d.stop_grace_period(spec) == 0
    assert d.effective_restart(spec).delay == 0
    assert d.effective_restart(spec).condition is RestartCondition.ANY
    assert d.desired_count(spec, 3) == 0


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        (BARE, 1),
        (ServiceSpec(image="x", replicas=7), 7),
        (ServiceSpec(image="x", mode=Mode.GLOBAL), 3),
        (ServiceSpec(image="x", mode=Mode.JOB, replicas=4), 4),
    ],
)
def test_how_many_tasks_are_wanted_of_three_eligible_nodes(spec: ServiceSpec, count: int) -> None:
    assert d.desired_count(spec, 3) == count


def test_a_job_runs_one_task_at_once_unless_told_otherwise() -> None:
    assert d.max_concurrent(ServiceSpec(image="x", mode=Mode.JOB)) == 1
    assert d.max_concurrent(ServiceSpec(image="x", mode=Mode.JOB, replicas=5)) == 5
    assert d.max_concurrent(ServiceSpec(image="x", mode=Mode.JOB, max_concurrent=3)) == 3
    assert d.max_concurrent(BARE) == 0


@pytest.mark.parametrize(("attempts", "limit"), [(None, 5), (0, 5), (8, 9), (1, 2)])
def test_history_keeps_what_counting_attempts_needs(attempts: int | None, limit: int) -> None:
    spec = ServiceSpec(image="x", restart=Restart(max_attempts=attempts))
    assert d.history_limit(spec, 5) == limit


def test_a_healthcheck_s_zeros_mean_dockers_defaults() -> None:
    policy = d.effective_health(Healthcheck(interval=Duration.of(2), timeout=Duration(0)))
    assert (policy.interval.seconds, policy.timeout.seconds, policy.retries) == (2, 30, 3)
    assert (policy.start_period, policy.start_interval.seconds) == (0, 5)
