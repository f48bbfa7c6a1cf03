"""Updates and rollbacks on one host, as a person follows them: batches, failures, the way back, exit codes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.support.lab import Host, Output, eventually
from tests.support.user import SLEEP, answers, apply, containers, get, running, service, shell, slots, start, tasks

PROMPT = {"monitor": "1s"}
"""Settings of an update that is over soon."""


@pytest.fixture
def host(steady_host: Host) -> Host:
    return steady_host


def state(host: Host, name: str) -> str:
    return str(get(host, f"services/{name}")["status"]["rollout"]["state"])


def revision(host: Host, name: str) -> int:
    return int(get(host, f"services/{name}")["status"]["revisionNumber"])


def test_an_update_goes_in_batches_is_listed_and_can_be_undone(host: Host) -> None:
    spec: dict[str, Any] = {
        "replicas": 3, "ports": ["8121:80"], "update": {"parallelism": 2, "delay": "1s", **PROMPT},
        "rollback": {"parallelism": 0, **PROMPT},
    }  # fmt: skip
    start(host, service("rolled", **spec))
    before = running(host, "rolled", 3)

    done = apply(host, service("rolled", **spec | {"image": "shoal/hello:2"})).ok()

    told = done.out.splitlines()
    assert any("updated 0/3, now slots 1, 2" in line for line in told), told
    assert any("updated 2/3, now slot 3" in line for line in told), told
    assert told[-1] == "service/rolled converged: 3/3 running"
    assert not set(running(host, "rolled", 3)) & set(before)
    assert state(host, "rolled") == "completed"

    listed = host.shoal("rollout history rolled").ok().out.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [["2", "shoal/hello:2"], ["1", "shoal/hello:1"]]
    assert "current, stable" in listed[1]
    assert "image: shoal/hello:1" in host.shoal("rollout history rolled --revision 1").ok().out

    undone = host.shoal("rollout undo rolled").ok()
    assert undone.out.splitlines()[0] == "service/rolled goes back to revision 1"
    assert state(host, "rolled") == "rollback_completed"
    assert "version 1" in answers(host, "http://127.0.0.1:8121/")
    assert host.shoal("rollout undo rolled --to-revision 2 -d").ok()
    eventually(lambda: state(host, "rolled") == "rollback_completed" and revision(host, "rolled") == 2, within=60)


def test_an_image_that_does_not_exist_is_rolled_back_without_touching_a_container(host: Host) -> None:
    spec: dict[str, Any] = {"replicas": 2, "update": {"failureAction": "rollback", **PROMPT}, "rollback": PROMPT}
    start(host, service("mistyped", **spec, **SLEEP))
    before = running(host, "mistyped", 2)

    done = apply(host, service("mistyped", **spec | {"image": "shoal/hello:none"}, **SLEEP))

    assert done.code == 5, done
    assert "service/mistyped was rolled back" in done.err
    assert "update rolled back due to failure or early termination of task" in done.err
    assert "shoal/hello:none" in done.err, "the engine's own cause"
    assert running(host, "mistyped", 2) == before
    shown = get(host, "services/mistyped")
    assert shown["spec"]["image"] == "shoal/hello:1"
    assert "previousSpec" not in shown["status"]
    assert host.shoal("rollout status mistyped").code == 5
    refused = host.shoal("rollout undo mistyped")
    assert (refused.code, "there is no previous revision to go back to" in refused.err) == (2, True)


def test_a_failing_healthcheck_pauses_an_update_until_the_next_one(host: Host) -> None:
    check = {"interval": "300ms", "retries": 2, "timeout": "1s"}
    spec: dict[str, Any] = {"replicas": 2, "update": {"order": "start-first", **PROMPT}, **SLEEP}
    start(host, service("ill", healthcheck={"test": ["CMD", "true"], **check}, **spec))
    before = running(host, "ill", 2)

    done = apply(host, service("ill", healthcheck={"test": ["CMD", "false"], **check}, **spec))

    assert done.code == 1, done
    assert "update paused due to failure or early termination of task" in done.err
    assert "unhealthy container" in done.err
    assert set(before) <= set(containers(host, "ill"))
    assert state(host, "ill") == "paused"

    apply(host, service("ill", healthcheck={"test": ["CMD", "true"], **check}, env=["NEW=1"], **spec)).ok()
    assert not set(running(host, "ill", 2)) & set(before)


def test_a_rollout_is_paused_resumed_and_repeated_by_hand(host: Host) -> None:
    spec: dict[str, Any] = {"replicas": 3, "update": {"delay": "2s", **PROMPT}}
    start(host, service("held", **spec, **SLEEP))
    before = running(host, "held", 3)
    start(host, service("held", env=["NEW=1"], **spec, **SLEEP))
    eventually(lambda: tasks(host, "held", "running")[-1]["spec"].get("attempt") == 1, within=60)

    host.shoal("rollout pause held").ok()
    eventually(lambda: state(host, "held") == "paused", within=30)
    assert "paused by hand" in host.shoal("rollout status held --no-wait").ok().out
    assert (paused := host.shoal("rollout status held")).code == 1, paused
    halfway = slots(host, "held")
    assert 0 < len(set(halfway.values()) & set(before)) < 3

    resumed: Output = host.shoal("rollout resume held").ok()
    assert resumed.out.splitlines()[-1] == "service/held converged: 3/3 running"
    after = running(host, "held", 3)
    assert not set(after) & set(before)
    late = host.shoal("rollout restart held --timeout 1s")
    assert (late.code, "not converged after 1 s" in late.err) == (4, True)
    eventually(lambda: not set(running(host, "held", 3)) & set(after), within=90)


def test_a_command_that_crashes_pauses_with_its_exit_code(host: Host) -> None:
    start(host, service("crashing", **SLEEP))
    running(host, "crashing", 1)
    done = apply(host, service("crashing", **shell("sleep 0.5; exit 3")))
    assert done.code == 1, done
    assert "task: non-zero exit (3)" in done.err


def test_a_newer_update_takes_over_and_one_that_fails_everywhere_may_go_on(host: Host) -> None:
    spec: dict[str, Any] = {"replicas": 2, "restart": "none", "update": {"delay": "3s", **PROMPT}}
    start(host, service("hurried", env=["NUMBER=1"], **spec, **SLEEP))
    before = running(host, "hurried", 2)
    start(host, service("hurried", env=["NUMBER=2"], **spec, **SLEEP))
    eventually(lambda: len(set(before) & set(containers(host, "hurried"))) == 1, within=60)

    apply(host, service("hurried", env=["NUMBER=3"], **spec, **SLEEP)).ok()

    made = Counter(number for task in tasks(host, "hurried") for number in task["spec"]["template"]["env"])
    assert made == {"NUMBER=1": 2, "NUMBER=2": 1, "NUMBER=3": 2}, "the second slot never ran the one between"

    spec["update"] = {"failureAction": "continue", **PROMPT}
    failed = apply(host, service("hurried", **spec, **shell("exit 3")))
    assert (failed.code, "non-zero exit (3)" in failed.err) == (1, True)
    eventually(lambda: state(host, "hurried") == "completed", within=60)
    assert len(tasks(host, "hurried", "failed")) == 2
