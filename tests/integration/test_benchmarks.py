"""The benchmarks without engines run, and what they count stays small; it is operations that are held, never time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from hack.benchmarks import hollow
from hack.benchmarks.placements import measure
from hack.hollows.swarm import CONTROLLERS

TASKS = 200
NODES = 20


@pytest.fixture
def apart() -> Iterator[Callable[..., Any]]:
    """Calls in a process of their own: what a benchmark's event loop leaves to grpc must not reach later tests."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield lambda work, *args, **options: process.submit(work, *args, **options).result()


def test_tasks_are_made_bound_delivered_and_run_in_few_transactions(apart: Callable[..., Any]) -> None:
    found = apart(measure, TASKS, services=2, nodes=3)

    assert found.revisions < 2 * TASKS, "five states, an assignment and a slot each, and still less than two a task"
    assert found.task_bytes < 1500
    assert set(found.cpu_s) == {"apiserver", *CONTROLLERS, "agents", "etcd"}
    assert min(found.bound_per_s, found.delivered_per_s, found.raw_per_s) > 0


def test_hollow_nodes_join_work_and_come_back_and_a_changed_task_is_told_to_its_node_alone(
    apart: Callable[..., Any],
) -> None:
    found = apart(hollow.measure, NODES, sizes=(TASKS // 2, TASKS), rest_s=2)

    assert found.told_by_one_change == 1, "its own node"
    assert 0 < found.told_bytes_by_one_change < 2000
    assert found.idle_revisions == 0, "beats are kept in memory"
    assert found.told_bytes < TASKS / NODES * 20_000, "a task's few states, and what the node is told of itself"
    assert found.down == 0
