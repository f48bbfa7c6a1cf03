"""Published ports: what a service takes, and whom it would meet."""

from __future__ import annotations

import pytest

from shoal.api.shortforms import expand
from shoal.api.states import EndpointMode, Protocol
from shoal.api.strict import decode
from shoal.api.template import Endpoint, Port, TaskTemplate
from shoal.rules.ports import clashes, host_ports, needs_ingress


def ports(*short: object) -> tuple[Port, ...]:
    full, _ = expand({"kind": "Service", "spec": {"image": "x", "ports": list(short)}})
    return decode(TaskTemplate, full["spec"]).ports


def host(published: int) -> dict[str, object]:
    return {"published": published, "target": 80, "mode": "host"}


@pytest.mark.parametrize(
    ("mine", "theirs", "met"),
    [
        pytest.param(["80:80"], ["80:81"], 80, id="mesh-meets-mesh"),
        pytest.param(["80:80"], [host(80)], 80, id="mesh-meets-host"),
        pytest.param([host(80)], ["80:80"], 80, id="host-meets-mesh"),
        pytest.param([host(80)], [host(80)], 0, id="hosts-are-kept-apart-by-placement"),
        pytest.param(["80:80"], ["80:80/udp"], 0, id="another-protocol"),
        pytest.param([80], [80], 0, id="ports-of-shoals-choice"),
    ],
)
def test_two_services_meet_on_a_published_port(mine: list[object], theirs: list[object], met: int) -> None:
    assert clashes(ports(*mine), ports(*theirs)) == ({(Protocol.TCP, met)} if met else frozenset())


def test_only_mesh_ports_behind_a_virtual_ip_need_the_ingress_network() -> None:
    assert needs_ingress(TaskTemplate(image="x", ports=ports("80:80")))
    assert not needs_ingress(TaskTemplate(image="x", ports=ports(host(80))))
    assert not needs_ingress(TaskTemplate(image="x", ports=ports("80:80"), endpoint=Endpoint(mode=EndpointMode.DNSRR)))
    assert host_ports(TaskTemplate(image="x", ports=ports(host(80), "81:80"))) == {(Protocol.TCP, 80)}
