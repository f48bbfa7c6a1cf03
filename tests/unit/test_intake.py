"""What people send becomes a checked object, or a list of everything wrong with it."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.api.codec import to_builtins
from shoal.api.errors import InvalidError
from shoal.api.intake import examine, read_object
from shoal.api.objects import Node, Service
from shoal.api.states import Mode, Protocol


def service(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "shoal/v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"image": "nginx:1.27", **spec},
    }


def test_a_service_with_short_forms_is_stored_in_full() -> None:
    obj = read_object(service(ports=["8080:80", 53], env={"MODE": "prod"}, restart="on-failure"))
    assert isinstance(obj, Service)
    assert [(p.published, p.target, p.protocol) for p in obj.spec.ports] == [
        (8080, 80, Protocol.TCP),
        (0, 53, Protocol.TCP),
    ]
    assert obj.spec.env == ("MODE=prod",)


def test_what_get_shows_can_be_applied_again() -> None:
    obj = read_object(service(mode="global", ports=["80:80"], update={"order": "start-first"}))
    shown = to_builtins(obj)
    shown["metadata"] |= {
        "uid": "u" * 25,
        "createdAt": "2026-01-01T00:00:00Z",
        "generation": 3,
        "owner": None,
        "resourceVersion": "17",
    }
    shown["status"] = {"replicas": {"running": 3}, "whatever": True}
    again = read_object(shown)
    assert isinstance(again, Service)
    assert isinstance(obj, Service)
    assert again.spec == obj.spec
    assert again.metadata.uid == ""
    assert again.metadata.resource_version == 17
    assert again.spec.mode is Mode.GLOBAL


def test_a_node_keeps_its_uid_because_names_need_not_be_unique() -> None:
    obj = read_object(
        {
            "apiVersion": "shoal/v1",
            "kind": "Node",
            "metadata": {"name": "n1", "uid": "x" * 25, "labels": {"zone": "a"}},
            "spec": {"role": "manager", "availability": "drain"},
            "status": {"state": "ready"},
        }
    )
    assert isinstance(obj, Node)
    assert obj.metadata.uid == "x" * 25


@pytest.mark.parametrize(
    ("plain", "paths"),
    [
        pytest.param([1], [""], id="no-object"),
        pytest.param({}, ["apiVersion", "kind"], id="no-kind"),
        pytest.param({"apiVersion": "v1", "kind": "Service"}, ["apiVersion", "metadata", "spec"], id="foreign-version"),
        pytest.param({"apiVersion": "shoal/v1", "kind": "Servcie"}, ["kind"], id="misspelt-kind"),
        pytest.param({"apiVersion": "shoal/v1", "kind": "Task"}, ["kind"], id="not-for-people"),
    ],
)
def test_what_is_no_known_object_is_refused_by_name(plain: Any, paths: list[str]) -> None:
    assert [fault.path for fault in examine(plain).faults] == paths


def test_all_faults_of_all_stages_come_at_once() -> None:
    plain = service(replicas=-1, ports=["8080-8090:80", {"published": 80}], imagee="x", stopGracePeriod="ten")
    with pytest.raises(InvalidError) as caught:
        read_object(plain)
    assert {fault.path for fault in caught.value.faults} == {
        "spec.replicas",
        "spec.ports[0]",
        "spec.ports[1].target",
        "spec.imagee",
        "spec.stopGracePeriod",
    }
