"""What `shoal get networks` and `shoal describe network` show."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from shoal.cli.columns import head, row
from shoal.cli.describe_network import is_local, told, told_local

NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
STAMP = "2026-01-01T00:00:00Z"

FRONT: dict[str, Any] = {
    "kind": "Network",
    "metadata": {"name": "front", "uid": "f1", "createdAt": STAMP, "labels": {"tier": "web"}},
    "spec": {"attachable": True, "options": {"encrypted": "false"}},
    "status": {
        "subnets": [{"subnet": "10.0.1.0/24", "gateway": "10.0.1.1"}],
        "vni": 4097,
        "mtu": 1450,
        "addresses": {"total": 253, "used": 4, "free": 249},
    },
}
REF = {"name": "front", "uid": "f1"}
OTHER = {"name": "back", "uid": "b1"}


def on(entry: dict[str, Any], service: str, **spec: str) -> dict[str, Any]:
    return {"spec": {"service": {"name": service}, "networks": [entry], **spec}}


def test_a_row_shows_subnet_and_free_addresses() -> None:
    assert head("Network", False) == ["NAME", "DRIVER", "SUBNET", "FREE", "KIND", "AGE"]
    assert row("Network", FRONT, NOW, False) == ["front", "overlay", "10.0.1.0/24", "249", "attachable", "1m"]
    host = {"metadata": {"name": "host"}, "spec": {"driver": "host", "predefined": True}, "status": {}}
    assert row("Network", host, NOW, False)[:5] == ["host", "host", "-", "-", "predefined"]


def test_a_network_is_told_with_nodes_services_tasks_and_containers_on_it() -> None:
    attachments = [
        {"spec": {"network": REF, "node": {"name": "n1"}, "address": "10.0.1.4/24", "vtep": "192.168.7.1"}},
        {"spec": {"network": REF, "node": {"name": "n1"}, "address": "10.0.1.5/24", "container": "0123456789abcdef",
                  "names": ["shell"]}},
    ]  # fmt: skip
    endpoints = [
        {
            "spec": {
                "service": {"name": "web"},
                "networks": [{"network": REF, "vip": "10.0.1.2/24", "aliases": ["site"]}],
            }
        },
        {"spec": {"service": {"name": "old"}, "networks": [{"network": REF, "vip": "10.0.1.9/24", "withdrawn": True}]}},
        {"spec": {"service": {"name": "rr"}, "mode": "dnsrr", "networks": [{"network": REF}]}},
        {"spec": {"service": {"name": "far"}, "networks": [{"network": OTHER, "vip": "10.0.2.2/24"}]}},
    ]
    backends = [
        {"spec": {"task": {"name": "web.1.x"}, "node": {"name": "n1"},
                  "addresses": [{"network": REF, "address": "10.0.1.3/24"}]}, "status": {"ready": True}},
        {"spec": {"task": {"name": "far.1.x"}, "addresses": [{"network": OTHER, "address": "10.0.2.3/24"}]}},
    ]  # fmt: skip
    lines = [" ".join(line.split()) for line in told(FRONT, attachments, endpoints, backends, NOW)]
    for line in (
        "Driver: overlay, attachable",
        "Addresses: 249 of 253 free",
        "VXLAN number: 4097",
        "1 node",
        "n1 10.0.1.4/24 192.168.7.1",
        "3 services",
        "old 10.0.1.9/24 (leaving) -",
        "rr none (dnsrr) -",
        "web 10.0.1.2/24 site",
        "1 task",
        "web.1.x n1 10.0.1.3/24 yes",
        "1 container",
        "shell n1 10.0.1.5/24",
    ):
        assert line in lines
    assert "far" not in " ".join(lines)


def test_an_unused_network_says_so() -> None:
    lines = list(told(FRONT, [], [], [], NOW))
    assert [line for line in lines if line.startswith("No ")] == ["No nodes", "No services", "No tasks"]


def test_of_a_node_local_network_services_and_live_tasks_are_told() -> None:
    def template(uid: str) -> dict[str, Any]:
        return {"networks": [{"name": "lan", "uid": uid, "aliases": ["db"]}]}

    def task(name: str, state: str, uid: str = "l1") -> dict[str, Any]:
        spec = {"node": {"name": "n1"}, "template": template(uid)}
        return {"metadata": {"name": name}, "spec": spec, "status": {"state": state}}

    services = [{"metadata": {"name": name}, "spec": template(uid)} for name, uid in (("web", "l1"), ("far", "l2"))]
    tasks = [task("web.1.x", "running"), task("web.1.w", "failed"), task("far.1.x", "running", "l2")]
    lines = list(told_local("l1", services, tasks))
    assert [line.split() for line in lines if line] == [
        ["1", "service"], ["SERVICE", "ALIASES"], ["web", "db"],
        ["1", "task"], ["TASK", "NODE", "STATE"], ["web.1.x", "n1", "running"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "expected"),
    [({}, False), ({"driver": "macvlan"}, True), ({"driver": "bridge", "predefined": True}, False)],
    ids=["overlay", "macvlan", "the engine's own bridge"],
)
def test_which_networks_are_node_local(spec: dict[str, Any], expected: bool) -> None:
    assert is_local({"spec": spec}) is expected
