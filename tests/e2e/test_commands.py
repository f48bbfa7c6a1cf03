"""Every command of `shoal`, typed on a host with running containers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import pytest
import yaml

from tests.support.lab import Host, eventually
from tests.support.user import GENEROUS_S, SLEEP, apply, containers, running, says, service, shell, start, tasks

Following = Callable[..., "Lines"]


class Lines:
    """The lines of a command that goes on."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.seen: list[str] = []
        self._queue: Queue[str] = Queue()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def until(self, holds: Callable[[list[str]], object], within: float = GENEROUS_S) -> list[str]:
        """Read on until what was seen so far is enough."""
        deadline = time.monotonic() + within
        while not holds(self.seen):
            try:
                self.seen.append(self._queue.get(timeout=max(0.01, deadline - time.monotonic())))
            except Empty:
                raise AssertionError(f"not within {within:.0f} s; seen:\n" + "\n".join(self.seen)) from None
        return self.seen

    def end(self) -> None:
        self.process.kill()
        self._reader.join(10)
        self.process.communicate()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line.rstrip("\n"))


@pytest.fixture
def host(steady_host: Host) -> Host:
    return steady_host


@pytest.fixture
def following(host: Host) -> Iterator[Following]:
    """Start `shoal` commands that go on; they are ended with the test."""
    started: list[Lines] = []

    def start(*arguments: str) -> Lines:
        started.append(Lines(host.start(sys.executable, "-m", "shoal.cli.main", *arguments)))
        return started[-1]

    yield start
    for lines in started:
        lines.end()


def test_get_shows_tables_documents_names_and_selections(host: Host) -> None:
    start(host, service("web", {"tier": "front"}, replicas=2, ports=["8151:80"]))
    start(host, service("worker", {"tier": "back"}, **SLEEP))
    running(host, "web", 2)
    running(host, "worker", 1)

    table = host.shoal("get services").ok().out.splitlines()
    assert table[0].split() == ["NAME", "MODE", "REPLICAS", "IMAGE", "PORTS", "AGE"]
    assert table[1].split()[:5] == ["web", "replicated", "2/2", "shoal/hello:1", "8151->80/tcp"]
    assert host.shoal("get services -l tier=back -o name").ok().out == "service/worker\n"
    assert {"UID", "REVISION"} <= set(host.shoal("get svc -o wide").ok().out.splitlines()[0].split())
    shown = json.loads(host.shoal("get service web -o json").ok().out)
    assert {"desired": 2, "running": 2, "updated": 2}.items() <= shown["status"]["replicas"].items()
    again = yaml.safe_load(host.shoal("get service/web -o yaml").ok().out)
    assert apply(host, yaml.safe_dump(again), "-d").ok().out == "service/web unchanged\n"
    wide = host.shoal("get tasks -s web -o wide --no-headers").ok().out
    assert all(one[:12] in wide for one in containers(host, "web"))
    node = host.shoal("get nodes").ok().out.splitlines()[1].split()
    assert node[:5] == [host.name, "ready", "active", "manager", host.address]


def test_get_watch_prints_every_change(host: Host, following: Following) -> None:
    start(host, service("watched", **SLEEP))
    running(host, "watched", 1)
    services, ours = following("get", "services", "-w"), following("get", "tasks", "-s", "watched", "-w")
    services.until(lambda seen: any("1/1" in line for line in seen))
    ours.until(lambda seen: any(line.startswith("watched.1") for line in seen))

    host.shoal("scale watched=2 -d").ok()
    services.until(lambda seen: any("2/2" in line for line in seen))
    ours.until(lambda seen: any(line.startswith("watched.2") and " running " in line for line in seen))

    host.shoal("delete service watched").ok()
    services.until(lambda seen: seen[-1:] and seen[-1].endswith("deleted"))


def test_diff_tells_by_lines_and_exit_code(host: Host) -> None:
    new = host.shoal("diff -f manifests/05-placement.yaml")
    assert new.code == 1
    assert "+  image: shoal/hello:1" in new.out
    host.shoal("apply -d -f manifests/05-placement.yaml").ok()
    same = host.shoal("diff -f manifests/05-placement.yaml")
    assert (same.code, same.out) == (0, "")
    text = Path("manifests/05-placement.yaml").read_text().replace("replicas: 2", "replicas: 3")
    changed = host.shoal(["diff", "-f", "-"], stdin=text)
    assert changed.code == 1
    assert {"-  replicas: 2", "+  replicas: 3"} <= set(changed.out.splitlines())
    assert host.shoal("diff -f /no/such.yaml").code == 2


def test_a_directory_is_applied_and_deleted_as_a_whole(host: Host, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(service(f"of-{name}", **SLEEP))
    done = host.shoal(["apply", "-f", str(tmp_path)]).ok()
    assert done.out.splitlines()[:2] == ["service/of-a created", "service/of-b created"]
    assert {"service/of-a converged: 1/1 running", "service/of-b converged: 1/1 running"} <= set(done.out.splitlines())
    gone = host.shoal(["delete", "-f", str(tmp_path)]).ok()
    assert gone.out.splitlines() == ["service/of-a deleted", "service/of-b deleted"]
    assert containers(host, "of-a", "-a") == []
    assert host.shoal(["delete", "--ignore-not-found", "-f", str(tmp_path)]).code == 0


def test_logs_are_merged_cut_and_told_apart(host: Host) -> None:
    script = "echo one from $(hostname); echo two >&2; sleep 2; echo three; exec sleep 1000000"
    start(host, service("chatty", replicas=2, **shell(script)))
    ids = running(host, "chatty", 2)
    eventually(lambda: host.shoal("logs chatty").ok().out.count("three") == 2, within=GENEROUS_S)

    whole = host.shoal("logs chatty").ok()
    assert {f"one from {one[:12]}" for one in ids} == {line.partition(" | ")[2] for line in whole.out.splitlines()} - {
        "three"
    }
    heads = {line.partition(" | ")[0] for line in whole.out.splitlines()}
    assert heads == {
        f"chatty.{task['spec']['slot']}.{task['metadata']['uid'][:5]}@{host.name}" for task in tasks(host, "chatty")
    }
    assert [line.partition(" | ")[2] for line in whole.err.splitlines()] == ["two", "two"]
    assert host.shoal("logs chatty --tail 1 --no-prefix").ok().out.splitlines() == ["three", "three"]
    stamped = host.shoal("logs chatty --timestamps --no-prefix").ok().out.splitlines()
    assert stamped == sorted(stamped)
    told_at = next(line.partition(" ")[0] for line in stamped if line.endswith("three"))
    recent = host.shoal(["logs", "chatty", "--since", told_at, "--no-prefix"]).ok()
    assert "one" not in recent.out
    assert "three" in recent.out
    (task, _) = tasks(host, "chatty")
    alone = host.shoal(["logs", task["metadata"]["name"]]).ok()
    assert len(alone.out.splitlines()) == 2


def test_logs_follow_goes_on_with_the_task_that_comes_next(host: Host, following: Following) -> None:
    start(host, service("serial", restart={"delay": "500ms"}, **shell("echo i am $(hostname); exec sleep 1000000")))
    (first,) = running(host, "serial", 1)
    lines = following("logs", "-f", "serial")
    lines.until(lambda seen: any(f"i am {first[:12]}" in line for line in seen))

    host.docker(["rm", "-f", first]).ok()

    eventually(lambda: first not in containers(host, "serial"), within=GENEROUS_S)
    (second,) = running(host, "serial", 1)
    lines.until(lambda seen: any(f"i am {second[:12]}" in line for line in seen))


def test_events_tell_what_happened_to_one_or_all(host: Host, following: Following) -> None:
    watch = following("events", "-w")
    watch.until(lambda seen: len(seen) > 0)
    start(host, service("eventful", restart="none", **shell("exit 3")))
    watch.until(lambda seen: any("service/eventful" in line for line in seen))
    eventually(lambda: tasks(host, "eventful", "failed"), within=GENEROUS_S)
    assert "TaskCreated" in host.shoal("events service eventful").ok().out
    assert "service/eventful" in host.shoal("events").ok().out
    says(host, "service/eventful", "TaskCreated", "task: non-zero exit (3)")


def test_wait_and_rollout_status_end_when_it_is_so_or_time_is_up(host: Host) -> None:
    start(host, service("awaited", **SLEEP))
    assert "converged: 1/1 running" in host.shoal("wait service/awaited").ok().out
    assert "service/awaited converged: 1/1 running" in host.shoal("rollout status awaited").ok().out
    start(host, service("awaited", placement={"constraints": ["node.labels.no == where"]}, image="shoal/hello:2"))
    late = host.shoal("wait service/awaited --timeout 1s")
    assert late.code == 4
    assert "no suitable node (scheduling constraints not satisfied on 1 node)" in late.err
    assert host.shoal(f"wait node/{host.name} --for=ready").code == 0
    gone = host.start(sys.executable, "-m", "shoal.cli.main", "wait", "service/awaited", "--for=delete")
    host.shoal("delete service awaited").ok()
    assert gone.communicate(timeout=60)[0] == "service/awaited deleted\n"
    assert gone.returncode == 0


def test_top_shows_what_tasks_use(host: Host) -> None:
    limits = {"limits": {"memory": "64M"}}
    start(host, service("busy", resources=limits, **shell("while :; do :; done")))
    start(host, service("idle", **SLEEP))
    running(host, "busy", 1)
    running(host, "idle", 1)
    rows = host.shoal("top").ok().out.splitlines()
    assert rows[0].split() == ["TASK", "NODE", "CPU", "MEMORY", "LIMIT", "OF", "LIMIT"]
    assert rows[1].startswith("busy.1.")
    assert host.name in rows[1].split()
    assert "64.0M" in rows[1].split()
    assert len(host.shoal("top idle").ok().out.splitlines()) == 2


def test_completion_is_a_script_that_shells_understand_and_knows_live_names(host: Host) -> None:
    start(host, service("completed", **SLEEP))
    script = host.shoal("completion bash").ok().out
    assert host.run("bash", "-n", stdin=script).code == 0
    asked = {"_SHOAL_COMPLETE": "bash_complete", "COMP_WORDS": "shoal describe service ", "COMP_CWORD": "3"}
    found = host.run(sys.executable, "-m", "shoal.cli.main", **asked).out
    assert "completed" in found


def test_etcdctl_watch_shows_each_step_of_a_task_s_life_as_readable_json(host: Host, following: Following) -> None:
    watch = following("etcdctl", "watch", "--prefix", "/shoal/tasks/lively.")
    eventually(lambda: host.shoal("etcdctl get --prefix /shoal/cluster").ok().out, within=30)
    start(host, service("lively", ports=["8152:80"]))
    running(host, "lively", 1)
    host.shoal("delete service lively").ok()
    seen = watch.until(lambda seen: any(line == "DELETE" for line in seen))

    states: list[str] = []
    for line in seen:
        if line.startswith("{"):
            obj = json.loads(line)
            assert (obj["kind"], obj["apiVersion"]) == ("Task", "shoal/v1")
            states += [obj["status"]["state"]] if obj["status"]["state"] not in states[-1:] else []
    steps = ["new", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running"]
    assert states[0] == "new"
    assert states[-2:] == ["running", "shutdown"] or states[-2:] == ["running", "complete"]
    assert [state for state in steps if state in states] == states[:-1]


def test_status_and_help_tell_what_there_is(host: Host) -> None:
    shown = host.shoal("status").ok().out
    assert all(name in shown for name in ("etcd", "apiserver", "replication", "nodeagent", "ready"))
    help_text = host.shoal("--help").ok().out
    assert all(f"  {name} " in help_text for name in ("apply", "get", "describe", "logs", "etcdctl"))
