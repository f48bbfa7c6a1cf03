"""What etcd suffers goes unnoticed: compaction behind everyone's back, a freeze, a kill in the middle of a change."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from tests.support.lab import Host, eventually
from tests.support.onlookers import SETTLE_WITHIN_S, Bystander, revision, running, settled

FROZEN_S = 3.0


def compact(host: Host) -> None:
    host.etcdctl(["compact", str(revision(host))]).ok()


def freeze(host: Host) -> None:
    host.kill("etcd", signal.SIGSTOP)
    time.sleep(FROZEN_S)
    host.kill("etcd", signal.SIGCONT)


def kill(host: Host) -> None:
    host.kill("etcd")


def kill_and_compact(host: Host) -> None:
    """Watches are broken, and what they would resume from is gone."""
    kill(host)
    eventually(lambda: settled(host), within=SETTLE_WITHIN_S)
    compact(host)


@pytest.mark.parametrize("fault", [compact, freeze, kill, kill_and_compact])
def test_an_etcd_fault_goes_unnoticed(rough_host: Host, bystander: Bystander, fault: Callable[[Host], None]) -> None:
    host = rough_host
    manifest = """
{apiVersion: shoal/v1, kind: Service, metadata: {name: store-user},
 spec: {image: "shoal/hello:1", replicas: REPLICAS, stopGracePeriod: 1s}}"""
    host.shoal("apply -f -", stdin=manifest.replace("REPLICAS", "1")).ok()
    kept = running(host, "store-user")

    fault(host)

    change = manifest.replace("REPLICAS", "3")
    eventually(lambda: host.shoal("apply -d -f -", stdin=change).ok(), within=SETTLE_WITHIN_S, every=0.3)
    eventually(lambda: len(running(host, "store-user")) == 3, within=SETTLE_WITHIN_S)
    assert kept.items() <= running(host, "store-user").items()
    eventually(lambda: settled(host), within=SETTLE_WITHIN_S)
    bystander.assert_untouched()
