"""Looking at what runs: logs of all tasks merged, what they use, and etcd itself."""

from __future__ import annotations

import json
import sys

from tests.support.lab import Host


def test_what_runs_can_be_looked_at(host: Host) -> None:
    host.shoal("apply -f manifests/01-hello.yaml").ok()

    logs = host.shoal("logs hello").ok().out.splitlines()
    starts = [line for line in logs if "hello starts on" in line]
    assert {line[: len("hello.1")] for line in starts} == {"hello.1", "hello.2", "hello.3"}
    last = host.shoal("logs hello --tail 1 --no-prefix").ok()
    assert len((last.out + last.err).splitlines()) == 3
    task = host.shoal("get tasks -o name").ok().out.split()[0]
    assert "hello starts" in host.shoal(["logs", task, "--since", "10m", "-t"]).ok().out

    used = host.shoal("top hello").ok().out.splitlines()
    assert used[0].split()[:4] == ["TASK", "NODE", "CPU", "MEMORY"]
    assert len(used) == 4
    found = json.loads(host.shoal("etcdctl get /shoal/services/hello --print-value-only").ok().out)
    assert found["spec"]["replicas"] == 3


def test_logs_are_followed_over_a_replacement(host: Host) -> None:
    host.shoal("apply -f manifests/01-hello.yaml").ok()
    shoal = [sys.executable, "-u", "-m", "shoal.cli.main"]
    with host.start("timeout", "60", *shoal, "logs", "-f", "hello") as following:
        assert following.stdout is not None
        seen: list[str] = []
        removed = False
        for line in following.stdout:
            seen += [line] if "hello starts on" in line else []
            if len(seen) == 3 and not removed:
                removed = True
                host.docker(["rm", "-f", host.docker("ps -q").ok().out.split()[0]]).ok()
            if len(seen) == 4:
                break
        following.kill()
    assert len(seen) == 4, seen
