"""Tasks that end, fail or fall ill on one host: what comes after them, and what people are told."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from tests.support.lab import Host, eventually
from tests.support.user import (
    GENEROUS_S,
    SLEEP,
    answers,
    apply,
    containers,
    described,
    get,
    instant,
    running,
    says,
    service,
    shell,
    slots,
    start,
    tasks,
)

BRIEF = "sleep 1; exit 3"
"""A script that fails after a second."""


@pytest.fixture
def host(steady_host: Host) -> Host:
    return steady_host


@pytest.mark.parametrize("blow", ["rm -f", "kill", "stop"])
def test_a_container_that_goes_is_replaced_once_after_the_delay(host: Host, blow: str) -> None:
    start(host, service("mortal", replicas=2, ports=["8111:80"], restart={"delay": "2s"}))
    running(host, "mortal", 2)
    before = slots(host, "mortal")

    struck_at = time.monotonic()
    host.docker(f"{blow} {before['1']}").ok()

    eventually(lambda: set(containers(host, "mortal")) - set(before.values()), within=GENEROUS_S)
    assert time.monotonic() - struck_at >= 2.0
    running(host, "mortal", 2)
    assert slots(host, "mortal")["2"] == before["2"]
    (old, new) = (task for task in tasks(host, "mortal") if task["spec"]["slot"] == "1")
    assert instant(new["spec"]["restartAfter"]) - instant(new["metadata"]["createdAt"]) >= timedelta(seconds=2)
    assert old["status"]["state"] in ("failed", "complete")
    answers(host, "http://127.0.0.1:8111/")


@pytest.mark.parametrize(
    ("restart", "code", "count"),
    [
        pytest.param("none", 0, 1, id="none-after-success"),
        pytest.param("none", 3, 1, id="none-after-failure"),
        pytest.param("on-failure", 0, 1, id="on-failure-after-success"),
        pytest.param({"condition": "any", "delay": "0s", "maxAttempts": 2}, 0, 3, id="any-after-success-twice"),
        pytest.param({"condition": "on-failure", "delay": "0s", "maxAttempts": 1}, 3, 2, id="on-failure-once"),
    ],
)
def test_the_restart_policy_says_how_many_tasks_follow(host: Host, restart: object, code: int, count: int) -> None:
    done = apply(host, service("short", restart=restart, **shell(f"sleep 0.2; exit {code}")))
    assert done.code == (1 if code else 0), done
    assert len(tasks(host, "short")) == count
    assert {task["status"]["container"].get("exitCode", 0) for task in tasks(host, "short")} == {code}
    assert containers(host, "short") == []
    if code:
        assert f"task: non-zero exit ({code})" in done.err
        assert f"task: non-zero exit ({code})" in described(host, "service/short")


def test_attempts_outside_the_window_are_forgiven_and_only_five_tasks_of_a_slot_are_kept(host: Host) -> None:
    policy = {"condition": "any", "delay": "0s", "maxAttempts": 1, "window": "100ms"}
    start(host, service("steady", restart=policy, **shell("sleep 0.3; exit 3")))
    first = eventually(lambda: tasks(host, "steady"), within=GENEROUS_S)[0]["metadata"]["uid"]
    eventually(lambda: first not in [task["metadata"]["uid"] for task in tasks(host, "steady")], within=GENEROUS_S)
    assert len(tasks(host, "steady", "failed")) <= 5


def test_nothing_of_an_exhausted_slot_is_forgotten_by_a_scale_up(host: Host) -> None:
    policy = {"condition": "on-failure", "delay": "0s", "maxAttempts": 1}
    apply(host, service("spent", restart=policy, **shell("exit 4")))
    assert len(tasks(host, "spent")) == 2
    assert host.shoal("scale spent=2").code == 1
    found = tasks(host, "spent")
    assert sorted(task["spec"]["slot"] for task in found) == ["1", "1", "2", "2"]


@pytest.mark.parametrize(
    ("spec", "state", "cause"),
    [
        pytest.param({"command": ["/no/such/program"]}, "failed", "/no/such/program", id="no-such-program"),
        pytest.param({"image": "10.99.0.254:5000/none:1"}, "rejected", "10.99.0.254:5000/none", id="no-such-image"),
        pytest.param({"image": "nowhere.invalid/none:1"}, "rejected", "nowhere.invalid", id="no-such-registry"),
        pytest.param(
            {"mounts": ["/no/such/folder:/data"]},
            "rejected",
            "bind source path does not exist: /no/such/folder",
            id="no-such-folder",
        ),
        pytest.param({"user": "nobody-here"}, "failed", "nobody-here", id="no-such-user"),
    ],
)
def test_what_cannot_start_tells_the_engine_s_own_cause(
    host: Host, spec: dict[str, object], state: str, cause: str
) -> None:
    done = apply(host, service("hopeless", **{"restart": "none", "stopSignal": "SIGKILL", **spec}))
    assert done.code == 1
    assert "service/hopeless does not converge: 0/1 running" in done.err
    assert cause in done.err
    (task,) = tasks(host, "hopeless")
    assert task["status"]["state"] == state
    assert cause in task["status"]["err"]
    assert cause in described(host, "service/hopeless")
    assert cause in described(host, f"task/{task['metadata']['name']}")


def test_apply_out_of_time_says_so_and_why(host: Host) -> None:
    done = apply(host, service("late", image="10.99.0.254:5000/none:1"), "--timeout", "3s")
    assert done.code == 4
    assert "service/late: not converged after 3 s (0/1 running" in done.err
    assert "10.99.0.254:5000/none" in done.err


def test_a_task_is_starting_and_serves_nobody_until_it_is_healthy(host: Host) -> None:
    check = {"test": "test -e /tmp/well", "interval": "500ms", "startPeriod": "1m", "timeout": "2s"}
    start(host, service("gated", ports=["8112:80"], healthcheck=check))
    (one,) = eventually(lambda: containers(host, "gated"), within=GENEROUS_S)
    eventually(lambda: tasks(host, "gated", "starting"), within=GENEROUS_S)
    eventually(lambda: "0/0" not in host.docker(["exec", one, "wget", "-qO-", "localhost"]).ok().out)
    assert host.run("curl", "-sS", "-m", "3", "http://127.0.0.1:8112/").code != 0

    host.docker(["exec", one, "touch", "/tmp/well"]).ok()

    assert running(host, "gated", 1) == [one]
    answers(host, "http://127.0.0.1:8112/")


def test_a_task_that_falls_ill_is_replaced(host: Host) -> None:
    check = {"test": "test ! -e /tmp/ill", "interval": "500ms", "retries": 2, "timeout": "2s"}
    start(host, service("fragile", healthcheck=check, restart={"delay": "500ms"}))
    (one,) = running(host, "fragile", 1)

    host.docker(["exec", one, "touch", "/tmp/ill"]).ok()

    eventually(lambda: one not in containers(host, "fragile"), within=GENEROUS_S)
    running(host, "fragile", 1)
    old, _ = tasks(host, "fragile")
    assert old["status"]["state"] == "failed"
    assert "unhealthy container" in old["status"]["err"]


def test_a_task_is_asked_to_stop_by_its_signal_and_killed_after_its_grace(host: Host) -> None:
    script = "trap 'echo asked' USR1; while :; do sleep 0.1; done"
    spec = {"command": ["/bin/sh", "-c"], "args": [script], "stopSignal": "SIGUSR1", "stopGracePeriod": "2s"}
    began = int(time.time())
    start(host, service("stubborn", **spec))
    (one,) = running(host, "stubborn", 1)

    host.shoal("delete service stubborn").ok()

    told = ["events", "--since", str(began), "--until", str(int(time.time()) + 1), "--filter", f"container={one}"]
    form = ["--filter", "event=kill", "--format", "{{.TimeNano}} {{.Actor.Attributes.signal}}"]
    first, second = (line.split() for line in host.docker([*told, *form]).ok().out.splitlines())
    assert (first[1], second[1]) == ("10", "9")
    assert int(second[0]) - int(first[0]) >= 2_000_000_000


def test_the_history_limit_is_the_cluster_s(host: Host) -> None:
    def limited(count: int) -> str:
        return (
            f"apiVersion: shoal/v1\nkind: Cluster\nmetadata: {{name: default}}\nspec: {{taskHistoryLimit: {count}}}\n"
        )

    name = get(host, "clusters")["items"][0]["metadata"]["name"]
    start(host, limited(2).replace("default", name))
    try:
        start(host, service("brief", restart={"delay": "0s"}, **shell("sleep 0.2")))
        eventually(lambda: len(tasks(host, "brief")) >= 2, within=GENEROUS_S)
        first = tasks(host, "brief")[0]["metadata"]["uid"]
        eventually(lambda: first not in [task["metadata"]["uid"] for task in tasks(host, "brief")], within=GENEROUS_S)
        assert len(tasks(host, "brief", "complete")) <= 2
    finally:
        start(host, limited(5).replace("default", name))


def test_a_failing_service_is_started_again_and_described_meanwhile(host: Host) -> None:
    start(host, service("crashing", restart={"delay": "500ms"}, **shell(BRIEF)))
    eventually(lambda: len(tasks(host, "crashing", "failed")) >= 2, within=GENEROUS_S)
    says(host, "service/crashing", "failed on host1: task: non-zero exit (3)", "Events (")
    start(host, service("crashing", **SLEEP))
    running(host, "crashing", 1)
    says(host, "service/crashing", "converged: 1/1 running")
