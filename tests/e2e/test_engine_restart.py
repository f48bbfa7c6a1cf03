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


def test_a_flushed_rule_table_comes_back(host: Host) -> None:
    host.run("nft", "flush", "table", "ip", "shoal").ok()
    eventually(lambda: answers(host), within=MENDED_WITHIN_S, every=0.5)


def test_a_deleted_firewall_rule_comes_back(host: Host) -> None:
    host.run("iptables", "-F", "DOCKER-USER").ok()
    eventually(lambda: "shoal-mesh" in host.run("iptables", "-S", "DOCKER-USER").out, within=MENDED_WITHIN_S, every=0.5)
