"""What tables show."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from shoal.api.objects import KINDS
from shoal.cli.columns import COLUMNS, at, head, ports, replicas, rollout, row, task_order, task_problem

NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
STAMP = "2026-01-01T00:00:00Z"


def service(**status: Any) -> dict[str, Any]:
    return {
        "kind": "Service",
        "metadata": {"name": "web", "uid": "u", "createdAt": STAMP},
        "spec": {"image": "x:1", "ports": [{"target": 80, "published": 0}]},
        "status": status,
    }


def task(state: str, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "web.1.t", "createdAt": STAMP},
        "spec": {"slot": "1", "service": {"name": "web"}, "desiredState": "running", "node": {"name": "n1"}},
        "status": {"state": state, "timestamp": STAMP, **status},
    }


def test_a_service_row_says_how_many_run_and_which_port_was_chosen() -> None:
    obj = service(
        replicas={"running": 2, "desired": 3},
        endpoint={"ports": [{"target": 80, "published": 30000, "protocol": "tcp", "mode": "ingress"}]},
    )
    assert row("Service", obj, NOW, False) == ["web", "replicated", "2/3", "x:1", "30000->80/tcp", "1m"]


def test_a_port_not_yet_chosen_and_a_host_port_are_told_apart() -> None:
    assert ports(service()) == "?->80/tcp"
    host = {"spec": {"ports": [{"target": 80, "published": 81, "mode": "host", "protocol": "udp"}]}}
    assert ports(host) == "81->80/udp (host)"
    assert ports({"spec": {}}) == "-"


def test_a_job_counts_what_is_completed() -> None:
    job = service(replicas={"running": 1, "completed": 2, "desired": 3})
    job["spec"]["mode"] = "job"
    assert replicas(job) == "2/3 completed"


def test_a_rollout_under_way_says_how_far_it_is() -> None:
    assert rollout(service(rollout={"state": "updating"}, replicas={"updated": 1, "desired": 3})) == "updating 1/3"
    assert rollout(service(rollout={"state": "completed"})) == "completed"
    assert rollout(service()) == "-"


@pytest.mark.parametrize(
    ("state", "status", "problem"),
    [
        ("pending", {"message": "no suitable node"}, "no suitable node"),
        ("running", {"message": "started"}, ""),
        ("failed", {"err": "exit code 3", "message": "ended"}, "exit code 3"),
    ],
)
def test_a_task_s_problem_is_its_error_or_why_it_waits(state: str, status: dict[str, str], problem: str) -> None:
    assert task_problem(task(state, **status)) == problem


def test_tasks_are_sorted_by_service_slot_as_number_and_newest_first() -> None:
    def made(service_name: str, slot: str, created: str) -> dict[str, Any]:
        return {
            "metadata": {"createdAt": created},
            "spec": {"service": {"name": service_name}, "slot": slot},
        }

    names = [("a", "2", "2"), ("a", "2", "1"), ("a", "10", "1"), ("b", "1", "1"), ("b", "n1", "1")]
    ordered = [made(*name) for name in names]
    mixed = [ordered[index] for index in (3, 0, 4, 2, 1)]
    assert sorted(mixed, key=task_order) == ordered


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("wide", [False, True])
def test_a_row_of_an_empty_object_fits_its_head(kind: str, wide: bool) -> None:
    cells = row(kind, {"kind": kind}, NOW, wide)
    assert len(cells) == len(head(kind, wide))
    assert all(isinstance(cell, str) for cell in cells)


def test_columns_are_for_kinds_that_exist() -> None:
    assert COLUMNS.keys() <= KINDS.keys()


def test_a_path_into_nothing_gives_the_default() -> None:
    assert at({"a": {"b": 1}}, "a.b") == 1
    assert at({"a": {"b": 1}}, "a.b.c", "x") == "x"
    assert at(None, "a") == ""
