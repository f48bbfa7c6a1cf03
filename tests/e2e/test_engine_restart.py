"""The engine or its rules go away under Shoal: containers are adopted or replaced, and the ports answer again."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from tests.support.lab import Host, eventually
from tests.support.onlookers import BYSTANDER, SETTLE_WITHIN_S, clear, running

MENDED_WITHIN_S = 45.0
"""Rules deleted by hand are back within 30 s; the rest is for a loaded machine."""

LIVE_RESTORE = '{"live-restore": true}'

OFFERS = '{"node-generic-resources": ["GPU=uuid1", "GPU=uuid2", "ssd=3"], "labels": ["rack=r7"]}'

WANTS_GPUS = """
apiVersion: shoal/v1
kind: Service
metadata: {name: trainer}
spec:
  image: shoal/hello:1
  replicas: 3
  stopGracePeriod: 1s
  placement: {constraints: [engine.labels.rack == r7]}
  resources: {reservations: {generic: {GPU: 1, ssd: 1}}}
"""


@pytest.fixture
def host(rough_host: Host) -> Iterator[Host]:
    rough_host.shoal("apply -f -", stdin=BYSTANDER).ok()
    yield rough_host
    rough_host.start_engine()
    clear(rough_host)


def answers(host: Host) -> bool:
    urls = "http://127.0.0.1:8099/", f"http://{host.address}:8099/"
    return all("hello from" in host.curl(url) for url in urls)


def end_in_order(host: Host) -> None:
    host.stop_engine()
    host.start_engine()


def kill(host: Host) -> None:
    host.kill("dockerd", signal.SIGKILL)


@pytest.mark.parametrize("end", [end_in_order, kill])
def test_containers_are_replaced_or_adopted_after_the_engine_s_end(host: Host, end: Callable[[Host], None]) -> None:
    end(host)

    eventually(lambda: len(running(host, "bystander")) == 2 and answers(host), within=SETTLE_WITHIN_S)
    host.shoal("wait service/bystander --timeout 60s").ok()


def test_containers_live_through_an_engine_restart_with_live_restore(host: Host) -> None:
    host.run("tee", "/etc/docker/daemon.json", stdin=LIVE_RESTORE).ok()
    try:
        end_in_order(host)  # takes the setting up
        eventually(lambda: len(running(host, "bystander")) == 2 and answers(host), within=SETTLE_WITHIN_S)
        host.shoal("wait service/bystander --timeout 60s").ok()
        before = running(host, "bystander")

        end_in_order(host)

        eventually(lambda: answers(host), within=SETTLE_WITHIN_S)
        host.shoal("wait service/bystander --timeout 60s").ok()
        assert running(host, "bystander") == before
    finally:
        host.run("rm", "/etc/docker/daemon.json").ok()
        end_in_order(host)


@pytest.fixture
def offering_host(host: Host) -> Iterator[Host]:
    """A host whose engine offers generic resources, as Docker's own option has it."""
    host.run("tee", "/etc/docker/daemon.json", stdin=OFFERS).ok()
    end_in_order(host)
    yield host
    host.shoal("delete service trainer --ignore-not-found").ok()
    host.run("rm", "-f", "/etc/docker/daemon.json").ok()
    end_in_order(host)


def test_generic_resources_of_the_engine_are_given_out_shown_and_freed(offering_host: Host) -> None:
    host = offering_host

    def given() -> list[str]:
        """What running containers of the service hold, by slot's container."""
        found = [host.docker(["exec", one, "env"]).ok().out.splitlines() for one in running(host, "trainer")]
        return sorted(" ".join(sorted(line for line in lines if "DOCKER_RESOURCE" in line)) for lines in found)

    host.shoal("apply -d -f -", stdin=WANTS_GPUS).ok()
    eventually(lambda: len(running(host, "trainer")) == 2, within=SETTLE_WITHIN_S)
    assert given() == [f"DOCKER_RESOURCE_GPU={one} DOCKER_RESOURCE_SSD=1" for one in ("uuid1", "uuid2")]
    said = " ".join(host.shoal(f"describe node {host.name}").ok().out.split())
    assert "Generic: GPU=uuid1 GPU=uuid2 ssd=3 Reserved: 2 GPU, 2 ssd" in said
    assert "Engine labels: rack=r7" in said
    said = host.shoal("describe service trainer").ok().out
    assert "1 × no suitable node (insufficient resources on 1 node)" in said

    host.docker(["rm", "-f", next(iter(running(host, "trainer")))]).ok()
    eventually(lambda: [one[:25] for one in given()] == ["DOCKER_RESOURCE_GPU=uuid1", "DOCKER_RESOURCE_GPU=uuid2"],
               within=SETTLE_WITHIN_S)  # fmt: skip
    host.shoal("scale trainer=1").ok()
    host.shoal("wait service/trainer --timeout 60s").ok()
    assert len(running(host, "trainer")) == 1


def test_a_flushed_rule_table_comes_back(host: Host) -> None:
    host.run("nft", "flush", "table", "ip", "shoal").ok()
    eventually(lambda: answers(host), within=MENDED_WITHIN_S, every=0.5)


def test_a_deleted_firewall_rule_comes_back(host: Host) -> None:
    host.run("iptables", "-F", "DOCKER-USER").ok()
    eventually(lambda: "shoal-mesh" in host.run("iptables", "-S", "DOCKER-USER").out, within=MENDED_WITHIN_S, every=0.5)
