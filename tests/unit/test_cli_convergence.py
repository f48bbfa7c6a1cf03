"""When a service counts as converged, and what is said when it does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shoal.cli.convergence import STABLE_S, STUCK_S, Progress, Stage, Watch, progress

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def service(
    running: int = 0, desired: int = 3, updated: int | None = None, state: str = "completed", **more: Any
) -> dict[str, Any]:
    return {
        "metadata": {"name": "web", "uid": "s"},
        "spec": {"restart": {"condition": "on-failure"}},
        "status": {
            "revision": "r2",
            "replicas": {"running": running, "desired": desired, "updated": running if updated is None else updated},
            "rollout": {"state": state, "target": "r2", **more.pop("rollout", {})},
            **more,
        },
    }


def task(slot: int, state: str, desired: str = "running", revision: str = "r2", ago_s: float = 0, **status: Any) -> Any:
    return {
        "metadata": {"name": f"web.{slot}.{state}"},
        "spec": {
            "service": {"name": "web", "uid": "s"},
            "slot": str(slot),
            "desiredState": desired,
            "revision": revision,
            "node": {"name": "n1"},
        },
        "status": {"state": state, "timestamp": (NOW - timedelta(seconds=ago_s)).isoformat(), **status},
    }


RUNNING = [task(slot, "running") for slot in (1, 2, 3)]


@pytest.mark.parametrize(
    ("obj", "stage", "text"),
    [
        pytest.param(service(3), Stage.CONVERGED, "3/3 running", id="all-run"),
        pytest.param(service(2), Stage.GOING, "2/3 running", id="one-missing"),
        pytest.param(service(3, updated=1), Stage.GOING, "3/3 running, 2 of an older revision", id="old-ones-left"),
        pytest.param(service(3, state="updating"), Stage.GOING, "3/3 running", id="still-updating"),
        pytest.param(service(3, rollout={"target": "r1"}), Stage.GOING, "3/3 running", id="rollout-does-not-know-yet"),
        pytest.param(service(1, state="paused"), Stage.FAILED, "1/3 running", id="paused"),
        pytest.param(service(0, desired=0), Stage.CONVERGED, "0/0 running", id="none-wanted"),
    ],
)
def test_a_service_is_judged_by_its_status(obj: dict[str, Any], stage: Stage, text: str) -> None:
    found = progress(obj, [])
    assert (found.stage, found.text) == (stage, text)


@pytest.mark.parametrize(
    ("running", "stage", "cause"),
    [
        pytest.param(3, Stage.CONVERGED, "the rollout stays paused: update paused by hand", id="has-the-number"),
        pytest.param(2, Stage.GOING, "", id="has-not-yet"),
    ],
)
def test_scaling_is_done_although_a_rollout_stays_paused(running: int, stage: Stage, cause: str) -> None:
    paused = {"target": "r2", "message": "update paused by hand"}
    found = progress(service(running, updated=1, state="paused", rollout=paused), [], is_scaling=True)
    assert (found.stage, found.cause) == (stage, cause)


def test_a_rollback_shows_by_the_revision_that_was_asked_for() -> None:
    obj = service(3, state="rollback_completed", attempt={"message": "update rolled back"})
    found = progress(obj, [], revision="r3")
    assert (found.stage, found.cause) == (Stage.ROLLED_BACK, "update rolled back")
    assert progress(obj, [], revision="r2").stage is Stage.CONVERGED


def test_what_is_on_its_way_is_counted_by_state_the_farthest_first() -> None:
    tasks = [task(1, "running"), task(2, "pending"), task(3, "preparing"), task(4, "failed", "shutdown")]
    assert progress(service(1), tasks).text == "1/3 running, 1 preparing, 1 pending"


@pytest.mark.parametrize(
    ("obj", "tasks", "cause"),
    [
        pytest.param(
            service(pending={"no suitable node (2 nodes are full)": 2, "x": 1}),
            [],
            "2 tasks pending: no suitable node (2 nodes are full); 1 task pending: x",
            id="pending-the-most-frequent-first",
        ),
        pytest.param(service(endpoint={"message": "no free port"}), [], "no free port", id="nothing-allocated"),
        pytest.param(
            service(),
            [task(1, "failed", err="first", ago_s=9), task(2, "rejected", err="No such image: y")],
            "task web.2.rejected rejected on n1: No such image: y",
            id="the-last-failure",
        ),
        pytest.param(
            service(),
            [task(1, "failed", container={"exitCode": 3}, message="started")],
            "task web.1.failed failed on n1: exit code 3",
            id="the-exit-code",
        ),
        pytest.param(service(), [task(1, "failed", revision="r1", err="old")], "", id="not-of-an-older-revision"),
        pytest.param(
            service(2),
            [task(1, "failed", "shutdown", ago_s=60, err="no image"), task(1, "running"), task(3, "preparing")],
            "",
            id="not-of-a-slot-that-runs-again",
        ),
        pytest.param(
            service(3, updated=0),
            [task(1, "failed", "shutdown", err="no image"), task(1, "running", revision="r1")],
            "task web.1.failed failed on n1: no image",
            id="though-the-slot's-old-revision-runs",
        ),
    ],
)
def test_the_cause_is_named(obj: dict[str, Any], tasks: list[Any], cause: str) -> None:
    assert progress(obj, tasks).cause == cause


def test_what_runs_as_asked_has_no_cause_of_trouble_though_a_task_failed_earlier() -> None:
    found = progress(service(3), [*RUNNING, task(1, "failed", "shutdown", ago_s=60, err="no such image")])
    assert (found.stage, found.cause) == (Stage.CONVERGED, "")


def judged(watch: Watch, obj: dict[str, Any], tasks: list[Any], at_s: float) -> Progress:
    return watch.judge(obj, tasks, at_s, NOW + timedelta(seconds=at_s))


def test_running_counts_once_it_has_lasted() -> None:
    watch = Watch()
    assert judged(watch, service(3), RUNNING, 0).stage is Stage.GOING
    assert judged(watch, service(3), RUNNING, STABLE_S).stage is Stage.CONVERGED


def test_what_has_run_for_long_converges_at_once() -> None:
    tasks = [task(slot, "running", ago_s=60) for slot in (1, 2, 3)]
    assert judged(Watch(), service(3), tasks, 0).stage is Stage.CONVERGED


def test_a_task_that_has_ended_already_is_not_taken_for_one_that_lasts() -> None:
    tasks = [task(1, "failed", "shutdown"), task(1, "ready", "ready")]
    assert judged(Watch(), service(1, desired=1), tasks, 0).stage is Stage.GOING


def test_a_crash_loop_is_given_up_with_its_cause() -> None:
    watch, tasks = Watch(), [task(1, "failed", "shutdown", err="exit code 1"), task(1, "ready", "ready")]
    assert judged(watch, service(0), tasks, 0).stage is Stage.GOING
    found = judged(watch, service(0), tasks, STUCK_S)
    assert found.stage is Stage.FAILED
    assert "exit code 1" in found.cause


def test_a_slow_start_without_a_cause_is_waited_for() -> None:
    watch, tasks = Watch(), [task(1, "preparing")]
    assert judged(watch, service(0), tasks, 0).stage is Stage.GOING
    assert judged(watch, service(0), tasks, 100 * STUCK_S).stage is Stage.GOING


def test_one_more_task_running_starts_the_patience_anew() -> None:
    watch, tasks = Watch(), [task(3, "failed", err="x")]
    judged(watch, service(1), tasks, 0)
    judged(watch, service(2), tasks, STUCK_S - 1)
    assert judged(watch, service(2), tasks, STUCK_S + 1).stage is Stage.GOING
    assert judged(watch, service(2), tasks, 2 * STUCK_S).stage is Stage.FAILED


def test_tasks_that_completed_and_are_not_restarted_are_well() -> None:
    watch, tasks = Watch(), [task(slot, "complete", "shutdown") for slot in (1, 2, 3)]
    assert judged(watch, service(0), tasks, 0).stage is Stage.GOING
    found = judged(watch, service(0), tasks, 2)
    assert found.stage is Stage.CONVERGED
    assert "on-failure" in found.cause


def test_tasks_that_failed_and_are_not_restarted_are_not_well() -> None:
    watch, tasks = Watch(), [task(slot, "failed", "shutdown", err="exit code 3") for slot in (1, 2, 3)]
    judged(watch, service(0), tasks, 0)
    found = judged(watch, service(0), tasks, 2)
    assert found.stage is Stage.FAILED
    assert found.cause.endswith("exit code 3; not restarted (restart condition on-failure)")


def test_a_task_that_ended_and_awaits_its_restart_delay_is_no_end() -> None:
    watch, tasks = Watch(), [task(1, "rejected", "ready", err="no such image"), task(1, "rejected", "shutdown")]
    judged(watch, service(0, desired=1), tasks, 0)
    assert judged(watch, service(0, desired=1), tasks, 4).stage is Stage.GOING


def job(completed: int, desired: int = 2, **status: Any) -> dict[str, Any]:
    made = service(0, desired, **status)
    made["spec"]["mode"] = "job"
    made["status"]["replicas"]["completed"] = completed
    made["status"]["jobIteration"] = 1
    return made


def of_job(slot: int, state: str, iteration: int = 1, desired: str = "complete") -> Any:
    made = task(slot, state, desired, **({"err": "exit code 3"} if state == "failed" else {}))
    made["spec"]["jobIteration"] = iteration
    return made


@pytest.mark.parametrize(
    ("obj", "tasks", "stages", "text"),
    [
        pytest.param(job(2), [], [Stage.CONVERGED] * 2, "2/2 completed", id="completed-at-once"),
        pytest.param(job(0, 0), [], [Stage.CONVERGED] * 2, "0/0 completed", id="nothing-to-do"),
        pytest.param(
            job(1), [of_job(1, "complete"), of_job(2, "running")], [Stage.GOING] * 2, "1/2 completed, 1 running",
            id="a-long-one",
        ),
        pytest.param(
            job(0), [of_job(1, "failed", desired="shutdown"), of_job(1, "ready", desired="ready")], [Stage.GOING] * 2,
            "0/2 completed, 1 ready", id="tried-again",
        ),
        pytest.param(
            job(1), [of_job(1, "complete"), of_job(2, "failed", desired="shutdown")], [Stage.GOING, Stage.FAILED],
            "1/2 completed", id="failed-for-good",
        ),
        pytest.param(job(0), [of_job(1, "complete", 0)], [Stage.GOING] * 2, "0/2 completed", id="an-older-iteration"),
        pytest.param(
            job(0, pending={"no suitable node": 2}), [of_job(1, "pending")], [Stage.GOING, Stage.FAILED],
            "0/2 completed, 1 pending", id="no-node",
        ),
    ],
)  # fmt: skip
def test_a_job_is_done_when_all_have_completed_and_failed_when_nothing_is_to_come(
    obj: dict[str, Any], tasks: list[Any], stages: list[Stage], text: str
) -> None:
    watch = Watch("r2")
    found = [watch.judge(obj, tasks, moment, NOW) for moment in (0.0, STUCK_S + 1)]
    assert [one.stage for one in found] == stages
    assert found[-1].text == text
