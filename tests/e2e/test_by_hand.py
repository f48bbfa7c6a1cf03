"""Each controller also runs by hand, as docs/operations.md says, with its supervised twin stopped."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.support.lab import Host, eventually
from tests.support.onlookers import Bystander, objects, settled

PKI = "/var/lib/shoal/pki/etcd"

SERVICE = """
apiVersion: shoal/v1
kind: Service
metadata: {name: by-hand}
spec: {image: "shoal/hello:1", ports: ["8097:80"], stopGracePeriod: 1s}
"""


@contextmanager
def by_hand(host: Host, controller: str) -> Iterator[None]:
    """Run a controller in the foreground, as a person would, and end it as Ctrl-C does."""
    process = host.start(
        sys.executable, "-m", "controllers", controller, "--etcd", "https://127.0.0.1:2379",
        "--etcd-ca", f"{PKI}/ca.crt", "--etcd-cert", f"{PKI}/client.crt", "--etcd-key", f"{PKI}/client.key",
    )  # fmt: skip
    try:
        yield
    finally:
        for pid in host.run("pgrep", "-f", f"controllers {controller} --etcd https").out.split():
            host.run("kill", f"-{int(signal.SIGINT)}", pid)
        said, _ = process.communicate(timeout=30)
        print(said)


def has_task(host: Host) -> bool:
    return bool(objects(host, "tasks?fields=spec.service.name=by-hand"))


def has_rollout(host: Host) -> bool:
    return "rollout" in objects(host, "services/by-hand")[0].get("status", {})


def is_placed(host: Host) -> bool:
    return any("node" in task["spec"] for task in objects(host, "tasks?fields=spec.service.name=by-hand"))


def is_published(host: Host) -> bool:
    return "endpoint" in objects(host, "services/by-hand")[0].get("status", {})


WORK: dict[str, Callable[[Host], bool]] = {
    "replication": has_task,
    "rollout": has_rollout,
    "placement": is_placed,
    "endpoint": is_published,
}


@pytest.mark.parametrize("controller", WORK)
def test_a_controller_works_by_hand(rough_host: Host, bystander: Bystander, controller: str) -> None:
    host, works = rough_host, WORK[controller]
    eventually(lambda: settled(host), within=60)
    host.shoal(["down", controller]).ok()
    try:
        host.shoal("apply -d -f -", stdin=SERVICE).ok()
        missed = host.shoal("wait service/by-hand --timeout 2s")
        assert missed.code == 4
        assert not works(host)
        with by_hand(host, controller):
            eventually(lambda: works(host), within=60)
            host.shoal("wait service/by-hand --timeout 60s").ok()
    finally:
        host.shoal(["up", controller]).ok()
        host.shoal("delete service by-hand").ok()
    bystander.assert_untouched()


def test_a_node_s_state_is_the_nodes_controller_s_work(rough_host: Host) -> None:
    """Last in this module: a node that was down has its tasks replaced, the bystander's, too."""
    host = rough_host
    host.shoal("down nodes nodeagent").ok()
    try:
        assert state(host) == "ready"
        with by_hand(host, "nodes"):
            eventually(lambda: state(host) == "down", within=60)
            host.shoal("up nodeagent")
            eventually(lambda: state(host) == "ready", within=60)
    finally:
        host.shoal("up nodes nodeagent").ok()


def state(host: Host) -> str:
    return str(objects(host, "nodes")[0]["status"]["state"])
