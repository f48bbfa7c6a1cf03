"""Jobs on a real engine: completed so many times, restarted on failure, run again by every change."""

from __future__ import annotations

from typing import Any

import yaml

from tests.support.lab import Host, Output, eventually
from tests.support.user import get, tasks


def apply(host: Host, name: str, script: str, *options: str, **spec: Any) -> Output:
    body = {"mode": "job", "image": "shoal/hello:1", "command": ["/bin/sh", "-c"], "args": [script], **spec}
    document = {"apiVersion": "shoal/v1", "kind": "Service", "metadata": {"name": name}, "spec": body}
    return host.shoal(["apply", "-f", "-", *options], stdin=yaml.safe_dump(document))


def states(host: Host, name: str) -> list[tuple[str, str]]:
    return sorted((task["spec"]["slot"], task["status"]["state"]) for task in tasks(host, name))


def status(host: Host, name: str) -> dict[str, Any]:
    return dict(get(host, f"services/{name}")["status"])


def test_a_job_completes_so_many_times_so_many_at_a_time(host: Host) -> None:
    meet = "touch /met/$(hostname); until [ $(ls /met | wc -l) -ge 2 ]; do sleep 0.1; done"
    done = apply(host, "batch", meet, replicas=4, maxConcurrent=2, mounts=["meeting-point:/met"]).ok()
    assert done.out.splitlines()[-1] == "service/batch converged: 4/4 completed"
    assert states(host, "batch") == [(slot, "complete") for slot in "1234"]
    events = host.docker(
        "events --since 5m --until 0s --filter type=container --filter event=start --filter event=die"
        " --filter label=com.docker.swarm.service.name=batch --format {{.Action}}"
    )
    under_way = most = 0
    for line in events.ok().out.split():
        under_way += 1 if line == "start" else -1
        most = max(most, under_way)
    assert most == 2
    assert not host.docker("ps -q --filter label=com.docker.swarm.service.name=batch").ok().out


def test_a_failed_task_is_tried_again_until_it_succeeds_or_may_not(host: Host) -> None:
    script = "test -e /data/seen || { touch /data/seen; exit 3; }"
    mounts = ["job-memory:/data"]
    done = apply(host, "stubborn", script, mounts=mounts, restart={"condition": "any", "delay": "0s"}).ok()
    assert "1/1 completed" in done.out
    assert states(host, "stubborn") == [("1", "complete"), ("1", "failed")]
    host.shoal("delete service stubborn").ok()
    eventually(lambda: host.docker("volume rm job-memory").code == 0)

    failed = apply(host, "hopeless", "exit 3", replicas=2, restart={"delay": "0s", "maxAttempts": 1})
    assert failed.code == 1
    assert "0/2 completed" in failed.err
    assert "not restarted" in failed.err
    assert states(host, "hopeless") == [("1", "failed")] * 2 + [("2", "failed")] * 2


def test_every_change_runs_a_job_once_more_and_no_change_does_not(host: Host) -> None:
    apply(host, "again", "true", replicas=2).ok()
    first = status(host, "again")
    assert "unchanged" in apply(host, "again", "true", replicas=2).ok().out
    assert status(host, "again")["lastExecution"] == first["lastExecution"]

    apply(host, "again", "true", replicas=3).ok()

    second = status(host, "again")
    assert second["jobIteration"] == first.get("jobIteration", 0) + 1
    assert second["lastExecution"] > first["lastExecution"]
    assert states(host, "again") == [(slot, "complete") for slot in "123"]
    eventually(lambda: {task["spec"].get("jobIteration", 0) for task in tasks(host, "again")} == {1})


def test_a_new_iteration_takes_the_place_of_one_that_still_runs(host: Host) -> None:
    apply(host, "long", "sleep 1000", "--detach", stopSignal="SIGKILL").ok()
    eventually(lambda: states(host, "long") == [("1", "running")])

    done = apply(host, "long", "sleep 0.2", stopSignal="SIGKILL").ok()

    assert "1/1 completed" in done.out
    eventually(lambda: states(host, "long") == [("1", "complete")])


def test_a_global_job_completes_once_on_each_node(host: Host) -> None:
    done = apply(host, "everywhere-once", "true", mode="global-job").ok()
    assert "1/1 completed" in done.out
    (task,) = tasks(host, "everywhere-once")
    assert (task["spec"]["node"]["name"], task["spec"]["desiredState"]) == (host.name, "complete")


def test_a_job_is_not_updated_task_by_task(host: Host) -> None:
    refused = apply(host, "rolling", "true", update={"parallelism": 1}, rollback={"parallelism": 1})
    assert refused.code == 2
    assert "spec.update" in refused.err
    assert "spec.rollback" in refused.err
