"""What is told of a rollout under way, and what its end means for who waits for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shoal.cli.convergence import FAILED_UPDATE, STUCK_S, Stage, Watch
from shoal.cli.rolling import batch, time_to_go

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def watched(granted: float, settled: float | None = None) -> dict[str, str]:
    """A slot that was granted, and runs since, so many seconds ago."""
    found = {"grantedAt": (NOW - timedelta(seconds=granted)).isoformat()}
    return found if settled is None else {**found, "settledAt": (NOW - timedelta(seconds=settled)).isoformat()}


def service(state: str = "updating", current: str = "r2", **rollout: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "web", "uid": "s"},
        "spec": {"update": {"delay": "30s"}},
        "status": {
            "revision": current,
            "attempt": {"isRollback": True, "message": "because of task x"},
            "replicas": {"running": 5, "desired": 5, "updated": 2},
            "rollout": {
                "state": state, "target": current, "dirty": ["1", "2", "3", "4", "5"], "granted": [], **rollout,
            },
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("obj", "text", "left"),
    [
        pytest.param(service("completed"), "", "", id="over"),
        pytest.param(
            service(granted=["1", "2", "3"], watched={"2": watched(20), "3": watched(10)}),
            "updated 1/5, now slots 2, 3", "9m50s left to start", id="a batch starts",
        ),
        pytest.param(
            service(granted=["1", "2"], watched={"2": watched(20, settled=10)}),
            "updated 2/5", "next in 20s", id="the delay",
        ),
        pytest.param(
            service(dirty=["1"], granted=["1"], watched={"1": watched(50, settled=28)}),
            "updated 1/1", "monitored for 2s", id="the end is monitored",
        ),
        pytest.param(
            service(granted=["1", "2"], watched={"2": watched(20)}, failures={"1": "t"}),
            "updated 1/5, now slot 2, 1 failure", "9m40s left to start", id="one failed",
        ),
        pytest.param(
            service("rollback_started", granted=["1"], watched={"1": watched(0)}),
            "rolled back 0/5, now slot 1", "10m00s left to start", id="on the way back",
        ),
        pytest.param(
            service(granted=["1", "2", "3", "4", "5"], watched={str(n): watched(0) for n in range(1, 6)}),
            "updated 0/5, now slots 1, 2, 3, 4 and 1 more", "10m00s left to start", id="a large batch",
        ),
    ],
)  # fmt: skip
def test_how_far_it_is_and_what_time_is_left(obj: dict[str, Any], text: str, left: str) -> None:
    assert (batch(obj), time_to_go(obj, NOW)) == (text, left)


def test_a_rollout_under_way_is_waited_for_however_long_it_takes() -> None:
    watch, obj = Watch("r2"), service(granted=["1"], watched={"1": watched(20)})
    failed = {
        "metadata": {"name": "web.1.x"},
        "spec": {"service": {"uid": "s"}, "slot": "1", "desiredState": "shutdown", "revision": "r2"},
        "status": {"state": "failed", "timestamp": NOW.isoformat(), "err": "oops"},
    }
    for moment in (0.0, 100 * STUCK_S):
        assert watch.judge(obj, [failed], moment, NOW).stage is Stage.GOING


def test_a_pause_that_was_ended_just_now_is_no_failure() -> None:
    obj = service("paused", attempt=1)
    obj["status"]["attempt"] = {"number": 2}
    assert Watch("r2").judge(obj, [], 0.0, NOW).stage is Stage.GOING


@pytest.mark.parametrize(
    ("asked", "state", "stage"),
    [
        pytest.param("r3", "rollback_started", Stage.GOING, id="on its way back"),
        pytest.param("r3", "rollback_completed", Stage.ROLLED_BACK, id="rolled back"),
        pytest.param(FAILED_UPDATE, "rollback_completed", Stage.ROLLED_BACK, id="asked afterwards"),
        pytest.param("r3", "rollback_paused", Stage.FAILED, id="the way back failed too"),
        pytest.param("r2", "paused", Stage.FAILED, id="paused"),
    ],
)
def test_how_a_rollout_ends(asked: str, state: str, stage: Stage) -> None:
    obj = service(state, message="because of task x", granted=["1"])
    found = Watch(asked).judge(obj, [], 0.0, NOW)
    assert found.stage is stage
    assert stage is Stage.GOING or found.cause == "because of task x"
