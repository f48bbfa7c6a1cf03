"""One host, from nothing to running containers."""

from __future__ import annotations

import json
import re

from tests.support.lab import Host, eventually


def test_a_fresh_host_is_told_that_it_belongs_to_no_swarm(fresh_host: Host) -> None:
    up = fresh_host.shoal("up").ok()
    assert "belongs to no swarm yet: `shoal init`" in up.out

    fresh_host.shoal(["init", "--advertise-addr", "eth0"]).ok()

    assert fresh_host.status()["identity"]["advertiseAddr"] == fresh_host.address
    again = fresh_host.shoal("init")
    assert again.code == 1
    assert "already a manager of cluster" in again.err


def test_one_command_brings_up_engine_and_swarm_and_again_changes_nothing(fresh_host: Host) -> None:
    fresh_host.stop_engine()

    first = fresh_host.run("hack/up", within_s=300).ok()
    assert len(set(re.findall(r"^hello from (\w+), version 1$", first.out, re.MULTILINE))) > 1
    assert re.search(
        r"^hello from \w+, version 1, as the container of storefront was told at http://warehouse/",
        first.out,
        re.MULTILINE,
    )

    containers = fresh_host.docker("ps -q --no-trunc").ok().out
    revision = _revision(fresh_host)
    second = fresh_host.run("hack/up", within_s=300).ok()

    assert "unchanged" in second.out
    assert fresh_host.docker("ps -q --no-trunc").ok().out == containers
    assert _revision(fresh_host) == revision


def test_containers_survive_the_end_of_every_process(host: Host) -> None:
    host.shoal("apply -f manifests/01-hello.yaml").ok()
    containers = host.docker("ps -q --no-trunc").ok().out
    assert len(containers.split()) == 3

    host.shoal("down").ok()

    assert host.docker("ps -q --no-trunc").ok().out == containers
    host.shoal("up").ok()
    eventually(lambda: "hello from" in host.curl("http://127.0.0.1:8080/"))
    assert host.docker("ps -q --no-trunc").ok().out == containers


def _revision(host: Host) -> list[tuple[str, int]]:
    """Every key under /shoal/ with the revision it was last written at."""
    found = json.loads(host.etcdctl("get --prefix /shoal/ --keys-only -w json").ok().out)
    return [(item["key"], item["mod_revision"]) for item in found["kvs"]]
