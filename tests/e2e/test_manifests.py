"""Every example in manifests/ does on a real engine what its first line says."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import Host, eventually
from tests.support.user import keys, running, service, start

FOLDER = Path(__file__).parents[2] / "manifests"


def containers(host: Host, service: str) -> list[dict[str, Any]]:
    """Inspect a service's running containers."""
    found = host.docker(f"ps -q --filter label=com.docker.swarm.service.name={service}").ok().out.split()
    return list(json.loads(host.docker(["inspect", *found]).ok().out)) if found else []


def hello(host: Host) -> None:
    answers = {host.curl("http://127.0.0.1:8080/") for _ in range(20)}
    assert len(answers) == 3
    assert all(answer.startswith("hello from ") for answer in answers)


def everywhere(host: Host) -> None:
    assert len(containers(host, "everywhere")) == 1
    assert "hello from" in host.curl("http://127.0.0.1:8082/")


def frugal(host: Host) -> None:
    limits = [one["HostConfig"] for one in containers(host, "frugal")]
    assert [(one["NanoCpus"], one["Memory"], one["PidsLimit"]) for one in limits] == [(200_000_000, 64 << 20, 50)] * 2
    assert limits[0]["Ulimits"] == [{"Name": "nofile", "Hard": 2048, "Soft": 1024}]
    assert "0.1 CPUs, 32M memory" in host.shoal(["describe", "node", host.name]).ok().out


def fickle(host: Host) -> None:
    states = host.shoal("get tasks -s fickle -o json").ok().out
    tasks = json.loads(states)["items"]
    assert [task["status"]["container"]["exitCode"] for task in tasks] == [3] * 4


def placed(host: Host) -> None:
    assert len(containers(host, "placed")) == 2


def keeper(host: Host) -> None:
    def starts() -> int:
        return len(host.docker("run --rm -v keeper-data:/data shoal/hello:1 cat /data/starts").ok().out.splitlines())

    assert starts() == 1
    (one,) = containers(host, "keeper")
    modes = {mount["Destination"]: (mount["Type"], mount["RW"]) for mount in one["Mounts"]}
    assert modes == {"/data": ("volume", True), "/host-etc": ("bind", False), "/scratch": ("tmpfs", True)}
    host.docker(["rm", "-f", one["Id"]]).ok()
    eventually(lambda: starts() == 2, within=30)


def careful(host: Host) -> None:
    (one,) = containers(host, "careful")
    assert one["State"]["Health"]["Status"] == "healthy"


def particular(host: Host) -> None:
    eventually(lambda: "hello from particular as 1000" in host.shoal("logs particular").ok().out)
    (one,) = containers(host, "particular")
    assert one["HostConfig"]["ReadonlyRootfs"]
    assert one["HostConfig"]["ExtraHosts"] == ["database:10.1.2.3", "database.local:10.1.2.3"]
    assert one["Config"]["Labels"]["purpose"] == "example"
    assert one["Config"]["Env"][:2] == ["GREETING=hello", "RELEASE=1.10"]


def two_services(host: Host) -> None:
    assert "hello from" in host.curl("http://127.0.0.1:8089/")
    back = json.loads(host.shoal("get service back -o json").ok().out)
    chosen = back["status"]["endpoint"]["ports"][0]["published"]
    assert 30000 <= chosen <= 32767
    assert "hello from" in host.curl(f"http://127.0.0.1:{chosen}/")


def reader(host: Host) -> None:
    said = host.shoal("logs reader").ok().out
    assert all(f"reader number {slot} on {host.name}" in said for slot in (1, 2))
    found = containers(host, "reader")
    mounts = {mount["Destination"]: (mount["Type"], mount["RW"]) for mount in found[0]["Mounts"]}
    assert mounts == {"/run/secrets/password": ("bind", False), "/etc/greeting": ("bind", False)}
    assert "only an example" not in host.docker(["inspect", *(one["Id"] for one in found)]).ok().out


def numbers(host: Host) -> None:
    said = host.shoal("logs numbers").ok().out
    assert {f"number {slot} done" for slot in range(1, 6)} <= {
        line.split(" | ")[-1].strip() for line in said.split("\n")
    }
    assert "5/5 completed" in host.shoal("get service numbers").ok().out


def networks(host: Host) -> None:
    assert "hello from" in host.curl("http://127.0.0.1:8091/")
    (front,) = containers(host, "storefront")
    vips = json.loads(host.shoal("get endpoints -o json").ok().out)["items"]
    (stock,) = (one["spec"]["networks"] for one in vips if one["spec"]["service"]["name"] == "stock")
    address = stock[0]["vip"].partition("/")[0]
    assert address.startswith("10.231.7.")
    asked = (host.docker(["exec", front["Id"], "wget", "-qO-", "http://warehouse/"]).ok().out for _ in range(8))
    assert len(set(asked)) == 2, "both tasks of the back answer"
    shown = host.shoal("get networks").ok().out
    assert re.search(r"example-back +overlay +10\.231\.7\.0/24 +121 +internal", shown), shown
    assert "in use by service" in host.shoal("delete network example-back").err


def gradual(host: Host) -> None:
    """What the walkthrough tells, command by command; the first one was applied before."""
    text = (FOLDER.parent / "docs" / "walkthrough.md").read_text()
    commands = [
        line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ shoal") or "| shoal" in line
    ]
    assert commands[0] == "shoal apply -f manifests/13-rollout.yaml"
    shell = f'shoal() {{ {sys.executable} -m shoal.cli.main "$@"; }}; '
    codes = [host.run("sh", "-c", shell + command, within_s=120).code for command in commands[1:]]
    assert codes == [0, 5, 0, 0]
    assert "version 1" in host.curl("http://127.0.0.1:8083/")


CHECKS: dict[str, tuple[int, Callable[[Host], None]]] = {
    "01-hello.yaml": (0, hello),
    "02-global.yaml": (0, everywhere),
    "03-resources.yaml": (0, frugal),
    "04-restart.yaml": (1, fickle),
    "05-placement.yaml": (0, placed),
    "06-mounts.yaml": (0, keeper),
    "07-health.yaml": (0, careful),
    "08-container.yaml": (0, particular),
    "09-two-services.yaml": (0, two_services),
    "10-files.yaml": (0, reader),
    "11-job.yaml": (0, numbers),
    "12-networks.yaml": (0, networks),
    "13-rollout.yaml": (0, gradual),
}
"""Manifest → apply's exit code, and what must then be true."""


@pytest.fixture(scope="module")
def lasting_keys(lasting_host: Host) -> set[str]:
    """What stays in the store once a published service was here: the ingress network, the node's address on it."""
    start(lasting_host, service("warm-up", ports=["8099:80"]))
    running(lasting_host, "warm-up", 1)
    lasting_host.shoal("delete service warm-up").ok()
    return keys(lasting_host)


def test_every_example_is_checked_here() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.yaml")) == sorted(CHECKS)


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_an_example_does_what_it_says_and_leaves_nothing(steady_host: Host, lasting_keys: set[str], name: str) -> None:
    host = steady_host
    code, check = CHECKS[name]
    applied = host.shoal(["apply", "-f", f"manifests/{name}"])
    assert applied.code == code, applied
    check(host)
    again = host.shoal(["apply", "--detach", "-f", f"manifests/{name}"]).ok()
    assert all(line.endswith("unchanged") for line in again.out.splitlines())
    host.shoal(["delete", "-f", f"manifests/{name}"]).ok()
    assert host.docker("ps -aq").ok().out == ""
    eventually(lambda: keys(host) == lasting_keys, within=30)
