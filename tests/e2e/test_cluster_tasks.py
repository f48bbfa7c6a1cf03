"""Three hosts: whom secrets reach, where jobs complete, what is given up, and what clocks do not change."""

from __future__ import annotations

import base64
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from secrets import token_hex

import pytest

from tests.support.cluster import Cluster
from tests.support.lab import Host, eventually
from tests.support.onlookers import EngineWatch, watching_engine
from tests.support.user import GENEROUS_S, SLEEP, apply, instant, service, shell, start

CANARY = f"canary-{token_hex(12)}-of-several-hosts"
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), Path("libfaketime.so.1"))


@pytest.fixture
def filed(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster with a secret and a config, which go after the test."""
    cluster.boss.shoal("secret create canary -", stdin=CANARY).ok()
    cluster.boss.shoal("config create site -", stdin="listen 80").ok()
    yield cluster
    cluster.boss.shoal("delete service/user --ignore-not-found").ok()
    cluster.boss.shoal("secret rm canary").ok()
    cluster.boss.shoal("config rm site").ok()


def sent(cluster: Cluster, host: Host) -> str:
    """All that a worker's certificate is sent of its assignments at once."""
    uid = cluster.node(host)["metadata"]["uid"]
    pki = "/var/lib/shoal/pki/node"
    said = host.run(
        "curl", "-sSN", "-m", "1", "--cacert", f"{pki}/ca.crt", "--cert", f"{pki}/node.pem",
        "--connect-to", f"swarm-manager:2377:{cluster.boss.address}:2377",
        f"https://swarm-manager:2377/shoal/v1/nodes/{uid}/assignments?watch=1",
    )  # fmt: skip
    assert '"type":"complete"' in said.out, said
    return said.out


def has_files(host: Host) -> bool:
    return bool(host.run("find", "/run/shoal/files", "-type", "f").out)


def test_secrets_and_configs_are_where_a_live_task_needs_them_and_nowhere_else(filed: Cluster) -> None:
    cluster, encoded = filed, base64.b64encode(CANARY.encode()).decode()
    boss, two, three = cluster.hosts
    cluster.update(three, "--label-add=needs=yes")
    where = {"constraints": ["node.labels.needs == yes"]}
    start(boss, service("user", secrets=["canary"], configs=["site"], placement=where, **SLEEP))
    cluster.settle("user", host33=1)

    assert encoded in sent(cluster, three)
    assert [has_files(host) for host in cluster.hosts] == [False, False, True]
    assert encoded not in sent(cluster, two)
    for host in (boss, two):
        assert host.run("grep", "-rlaF", "--", CANARY, "/var/lib/shoal", "/run/shoal").out == ""

    cluster.update(two, "--label-add=needs=yes")
    cluster.update(three, "--label-rm=needs")
    cluster.settle("user", host32=1)

    eventually(lambda: [has_files(host) for host in cluster.hosts] == [False, True, False])
    assert encoded not in sent(cluster, three)
    assert three.run("grep", "-rlaF", "--", CANARY, "/var/lib/shoal", "/run/shoal").out == ""


def test_a_job_completes_on_several_hosts_so_many_at_a_time(cluster: Cluster) -> None:
    with ExitStack() as stack:
        engines = [stack.enter_context(watching_engine(host)) for host in cluster.hosts]
        done = apply(cluster.boss, service("batch", mode="job", replicas=6, maxConcurrent=2, **shell("sleep 0.3"))).ok()
        assert done.out.splitlines()[-1] == "service/batch converged: 6/6 completed"
        moments = eventually(lambda: len(one := starts_and_ends(engines, "batch")) == 12 and one)
    assert isinstance(moments, list)
    assert max(accumulate(step for _, step in sorted(moments))) <= 2
    assert len({task["spec"]["node"]["name"] for task in cluster.tasks("batch")}) > 1


def starts_and_ends(engines: Sequence[EngineWatch], name: str) -> list[tuple[int, int]]:
    """When containers of a service began (1) and ended (-1)."""
    runs = [run for engine in engines for run in engine.runs() if run.slot.startswith(f"{name}.")]
    return [(run.began, 1) for run in runs] + [(run.ended, -1) for run in runs if run.ended is not None]


def test_a_global_job_completes_once_on_each_host_also_on_one_that_joins_later(cluster: Cluster) -> None:
    cluster.three.shoal("leave").ok()
    cluster.boss.shoal("node rm host33").ok()
    job = {"mode": "global-job", **shell("true")}
    apply(cluster.boss, service("everywhere", **job)).ok()
    assert completed(cluster) == {"host31": 1, "host32": 1}

    cluster.join(cluster.three).ok()
    eventually(lambda: completed(cluster) == {"host31": 1, "host32": 1, "host33": 1}, within=GENEROUS_S)

    apply(cluster.boss, service("everywhere", {"run": "again"}, **job)).ok()
    eventually(lambda: {task["spec"].get("jobIteration", 0) for task in cluster.tasks("everywhere")} == {1})
    assert completed(cluster) == {"host31": 1, "host32": 1, "host33": 1}


def completed(cluster: Cluster) -> Counter[str]:
    """Node name → completed tasks."""
    done = [task for task in cluster.tasks("everywhere") if task["status"]["state"] == "complete"]
    return Counter(task["spec"]["node"]["name"] for task in done)


def test_a_host_is_down_and_its_tasks_are_orphans_after_the_times_that_were_set(cluster: Cluster) -> None:
    cluster.configure(heartbeatPeriod="1h")
    start(cluster.boss, service("left", replicas=3, **SLEEP))
    cluster.settle("left", host31=1, host32=1, host33=1)
    (lost,) = (task for task in cluster.tasks("left") if task["spec"]["node"]["name"] == "host33")
    period = "heartbeatPeriod"
    eventually(lambda: [one["spec"][period] for one in cluster.objects("clusters")] == ["1h"])

    cluster.three.off()
    cluster.boss.run("sleep", "8")  # by the default of 5 s it would be down
    assert cluster.nodes()["host33"] == "ready"

    cluster.configure(orphanAfter="2s")

    eventually(lambda: cluster.nodes()["host33"] == "down", within=60)
    name = lost["metadata"]["name"]
    state = eventually(lambda: given_up(cluster, name), within=60)
    assert state["message"] == "node host33 has been down for 2s"
    down = cluster.node(cluster.three)["status"]
    assert (instant(state["timestamp"]) - instant(down["since"])).total_seconds() >= 2


def given_up(cluster: Cluster, name: str) -> dict[str, str] | None:
    found = [task["status"] for task in cluster.tasks("left") if task["metadata"]["name"] == name]
    return next((status for status in found if status["state"] == "orphaned"), None)


def test_attempts_within_the_window_are_counted_across_the_ends_of_the_controller(cluster: Cluster) -> None:
    policy = {"condition": "any", "delay": "1s", "maxAttempts": 3, "window": "1h"}
    start(cluster.boss, service("spent", restart=policy, **shell("exit 3")))
    for ended in (2, 4):
        eventually(lambda ended=ended: len(failed(cluster)) >= ended, within=GENEROUS_S)  # type: ignore[misc]
        pid = cluster.boss.kill("replication")
        eventually(lambda pid=pid: cluster.boss.pid("replication") not in (0, pid))  # type: ignore[misc]
    eventually(lambda: cluster.boss.status()["settled"], within=GENEROUS_S)
    given_up = cluster.boss.shoal("wait service/spent --timeout 60s")
    assert (given_up.code, "task: non-zero exit (3); not restarted" in given_up.err) == (1, True), given_up
    assert len(failed(cluster)) == len(cluster.tasks("spent")) == 4


def failed(cluster: Cluster) -> list[str]:
    return [task["metadata"]["name"] for task in cluster.tasks("spent") if task["status"]["state"] == "failed"]


@pytest.fixture
def askew(cluster: Cluster) -> Iterator[Cluster]:
    """The clocks of Shoal's processes on hosts 32 and 33 are twenty minutes late and early."""
    with running_askew(cluster.two, "-20m"), running_askew(cluster.three, "+20m"):
        yield cluster


@contextmanager
def running_askew(host: Host, skew: str) -> Iterator[None]:
    """Run a host's daemon, and all it starts, by a clock that differs."""
    host.shoal("down").ok()
    clock = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": skew, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    daemon = host.start("sh", "-c", f"exec {sys.executable} -m shoal.host >/dev/null 2>&1", **clock)
    try:
        eventually(lambda: host.status().get("settled"), within=GENEROUS_S)
        yield
    finally:
        if host.init_pid:
            host.shoal("down").ok()
            host.shoal("up").ok()
        daemon.communicate(timeout=30)


def test_clocks_that_differ_change_nothing(askew: Cluster) -> None:
    cluster = askew
    spec = {"replicas": 6, "restart": {"delay": "1s"}, **SLEEP}
    apply(cluster.boss, service("timeless", **spec)).ok()
    cluster.settle("timeless", host31=2, host32=2, host33=2)
    stamps = {task["spec"]["node"]["name"]: instant(task["status"]["timestamp"]) for task in cluster.tasks("timeless")}
    assert stamps["host33"] - stamps["host32"] > timedelta(minutes=30), "their clocks do differ"

    for host in cluster.hosts:
        (one, *_) = host.docker("ps -q").ok().out.split()
        host.docker(["rm", "-f", one]).ok()
    eventually(lambda: len(cluster.tasks("timeless")) == 9, within=GENEROUS_S)
    eventually(lambda: sum(cluster.running("timeless").values()) == 6, within=GENEROUS_S)
    restarted = [task for task in cluster.tasks("timeless") if "restartAfter" in task["spec"]]
    waited = [instant(task["spec"]["restartAfter"]) - instant(task["metadata"]["createdAt"]) for task in restarted]
    assert [wait <= timedelta(seconds=1) for wait in waited] == [True] * 3

    apply(cluster.boss, service("timeless", **spec, env=["ROUND=2"])).ok()
    assert sum(cluster.running("timeless").values()) == 6
    cluster.three.off()
    eventually(lambda: cluster.running_on("timeless", cluster.boss, cluster.two) == 6, within=60)
