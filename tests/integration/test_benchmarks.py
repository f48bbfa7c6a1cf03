"""The benchmark of placements runs, and what it counts stays small; it is operations that are held, never time."""

from __future__ import annotations

import pytest

from hack.benchmarks.placements import CONTROLLERS, measure

pytestmark = pytest.mark.anyio

TASKS = 200


async def test_tasks_are_made_bound_and_run_in_few_transactions(one_loop: None) -> None:
    found = await measure(TASKS, services=2, nodes=3)

    assert found.revisions < 2 * TASKS, "five states, an assignment and a slot each, and still less than two a task"
    assert found.task_bytes < 1500
    assert set(found.cpu_s) == {"apiserver", *CONTROLLERS, "agents", "etcd"}
    assert found.bound_per_s > 0
    assert found.raw_per_s > 0
