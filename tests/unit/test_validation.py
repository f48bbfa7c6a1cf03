"""Values that cannot be done are refused by field, with what was found and what was expected."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal.api.intake import examine
from shoal.api.meta import Meta
from shoal.api.objects import Config, FileSpec, Network, Service, ServiceSpec
from shoal.api.validation import MAX_OBJECT_BYTES, NOT_YET, all_of, validate


def faults_of(spec: dict[str, Any], name: str = "web") -> dict[str, str]:
    """Path → sentence of everything wrong with a service that has these fields besides an image."""
    plain = {"apiVersion": "shoal/v1", "kind": "Service", "metadata": {"name": name}, "spec": {"image": "x", **spec}}
    return {fault.path: fault.message for fault in examine(plain).faults}


WRONG = [
    ({"image": ""}, "spec.image", "empty; expected an image"),
    ({"image": "a/B:1"}, "spec.image", "lower case"),
    ({"replicas": -1}, "spec.replicas", "found -1, expected 0 to 100000"),
    ({"replicas": 100_001}, "spec.replicas", "found 100001"),
    ({"mode": "global", "replicas": 2}, "spec.replicas", "a global service has one task per node"),
    ({"maxConcurrent": 2}, "spec.maxConcurrent", "only a job has it"),
    ({"env": ["=x"]}, "spec.env[0]", "expected NAME=value"),
    ({"env": ["A B=x"]}, "spec.env[0]", "found the name 'A B'"),
    ({"args": ["a\0b"]}, "spec.args[0]", "NUL"),
    ({"hostname": "-x"}, "spec.hostname", "found '-x'"),
    ({"hostname": "x" * 64}, "spec.hostname", "at most 63"),
    ({"workingDir": "tmp"}, "spec.workingDir", "expected an absolute path"),
    ({"stopSignal": "term"}, "spec.stopSignal", "SIGTERM or 15"),
    ({"stopGracePeriod": "-1s"}, "spec.stopGracePeriod", "found -1s"),
    ({"oomScoreAdj": 1001}, "spec.oomScoreAdj", "-1000 to 1000"),
    ({"isolation": "hyperv"}, "spec.isolation", "Linux knows only default"),
    ({"containerLabels": {" a": "x"}}, 'spec.containerLabels[" a"]', "without blanks"),
    ({"sysctls": {"somaxconn": "1"}}, "spec.sysctls.somaxconn", "expected one such as"),
    ({"capAdd": ["NET ADMIN"]}, "spec.capAdd[0]", "NET_ADMIN"),
    ({"hosts": ["db:10.0.0.1"]}, "spec.hosts[0]", "expected an address and names"),
    ({"hosts": ["10.0.0.1"]}, "spec.hosts[0]", "expected an address and names"),
    ({"dns": ["one.one"]}, "spec.dns.nameservers[0]", "expected an IP address"),
    ({"ulimits": {"nofile": "9:1"}}, "spec.ulimits[0]", "soft 9 above hard 1"),
    ({"resources": {"limits": {"cpus": 0.0001}}}, "spec.resources.limits.cpus", "at least 0.001"),
    ({"resources": {"reservations": {"memory": "1M"}}}, "spec.resources.reservations.memory", "at least 4M"),
    (
        {"resources": {"limits": {"cpus": 1}, "reservations": {"cpus": 2}}},
        "spec.resources.reservations.cpus",
        "found 2, more than the limit of 1",
    ),
    ({"resources": {"reservations": {"generic": "gpu=0"}}}, "spec.resources.reservations.generic[0].count", "found 0"),
    ({"resources": {"reservations": {"generic": {"": 1}}}}, "spec.resources.reservations.generic[0].kind", "a name of"),
    (
        {"resources": {"reservations": {"generic": [{"kind": "gpu", "value": "uuid1"}]}}},
        "spec.resources.reservations.generic[0].value",
        "a service asks for a count",
    ),
    (
        {"resources": {"reservations": {"generic": [{"kind": "gpu"}]}}},
        "spec.resources.reservations.generic[0].count",
        "missing",
    ),
    (
        {"resources": {"reservations": {"generic": ["gpu=1", "gpu=2"]}}},
        "spec.resources.reservations.generic[1].kind",
        "gpu is asked for twice",
    ),
    ({"resources": {"swappiness": 101}}, "spec.resources.swappiness", "0 to 100"),
    ({"restart": {"delay": "-5s"}}, "spec.restart.delay", "0s or longer"),
    ({"restart": {"maxAttempts": -1}}, "spec.restart.maxAttempts", "0 (no limit)"),
    ({"update": {"parallelism": -1}}, "spec.update.parallelism", ""),
    ({"update": {"maxFailureRatio": 1.5}}, "spec.update.maxFailureRatio", ""),
    ({"placement": {"constraints": ["node.role = x"]}}, "spec.placement.constraints[0]", "one operator from ==, !="),
    ({"placement": {"constraints": "node.rôle == x"}}, "spec.placement.constraints[0]", "found the key"),
    ({"placement": {"constraints": "node.size == x"}}, "spec.placement.constraints[0]", "which no node has"),
    ({"placement": {"preferences": ["zone"]}}, "spec.placement.preferences[0].spread", "node.labels.zone"),
    ({"placement": {"maxReplicasPerNode": -1}}, "spec.placement.maxReplicasPerNode", "0 or more"),
    (
        {"mounts": [{"type": "bind", "target": "/a", "source": "b"}]},
        "spec.mounts[0].source",
        "absolute path on the host",
    ),
    ({"mounts": [{"type": "volume", "target": "a"}]}, "spec.mounts[0].target", "absolute path below /"),
    ({"mounts": [{"type": "volume", "target": "/"}]}, "spec.mounts[0].target", "absolute path below /"),
    ({"mounts": ["a1:/x", "b1:/x/"]}, "spec.mounts[1].target", "is mounted 2 times"),
    ({"mounts": [{"type": "tmpfs", "target": "/t", "source": "s"}]}, "spec.mounts[0].source", "has no source"),
    ({"mounts": [{"type": "volume", "target": "/t", "source": "s/s"}]}, "spec.mounts[0].source", "a volume's name"),
    ({"mounts": [{"type": "bind", "source": "/a", "target": "/b", "size": 1}]}, "spec.mounts[0].size", "only a tmpfs"),
    ({"mounts": [{"type": "tmpfs", "target": "/b", "noCopy": True}]}, "spec.mounts[0].noCopy", "only a volume"),
    (
        {"mounts": [{"type": "bind", "source": "/a", "target": "/b", "propagation": "x"}]},
        "spec.mounts[0].propagation",
        "",
    ),
    ({"ports": [0]}, "spec.ports[0].target", "1 to 65535"),
    ({"ports": ["70000:80"]}, "spec.ports[0].published", "found 70000"),
    ({"ports": ["80:80", "80:81"]}, "spec.ports[1].published", "80/tcp is given 2 times"),
    ({"ports": [80, 80]}, "spec.ports[0].target", "80/tcp is given 2 times"),
    ({"ports": [{"target": 80, "address": "eth0"}]}, "spec.ports[0].address", "expected an IP address of the host"),
    ({"healthcheck": {"test": ["wget"]}}, "spec.healthcheck.test", "begins with 'wget'"),
    ({"healthcheck": {"test": ["CMD"]}}, "spec.healthcheck.test", "found 0 items after CMD"),
    ({"healthcheck": {"test": ["CMD-SHELL", "a", "b"]}}, "spec.healthcheck.test", "exactly one line"),
    ({"healthcheck": {"interval": "10us"}}, "spec.healthcheck.interval", "at least 1ms"),
    ({"healthcheck": {"retries": -1}}, "spec.healthcheck.retries", "0 or more"),
    ({"env": ["A={{.Task.Slto}}"]}, "spec.env[0]", "did you mean .Task.Slot?"),
    ({"env": ["A={{.Service.Label.tier}}"]}, "spec.env[0]", "known are"),
    ({"hostname": "h-{{ index }}"}, "spec.hostname", "found the placeholder 'index'"),
    ({"mounts": ["data-{{.X}}:/data"]}, "spec.mounts[0].source", "found the placeholder '.X'"),
    ({"mounts": [{"type": "volume", "target": "/a", "labels": {"x": "{{.Y}}"}}]}, "spec.mounts[0].labels.x", "'.Y'"),
    ({"privileges": {"seccomp": {"mode": "unconfine"}}}, "spec.privileges.seccomp.mode", "did you mean unconfined?"),
    ({"privileges": {"seccomp": {"mode": "custom"}}}, "spec.privileges.seccomp.profile", "go together"),
]


@pytest.mark.parametrize(("spec", "path", "sentence"), WRONG, ids=[f"{p}-{i}" for i, (_, p, _) in enumerate(WRONG)])
def test_a_value_that_cannot_be_done_is_refused_by_its_field(spec: dict[str, Any], path: str, sentence: str) -> None:
    found = faults_of(spec)
    assert path in found, found
    assert sentence in found[path]


RIGHT = [
    {"env": ["A=b", "EMPTY=", "UNSET"]},
    {"ports": ["80:80/tcp", "80:80/udp", 8080, {"target": 80, "published": 81, "mode": "host", "protocol": "sctp"}]},
    {"ports": ["127.0.0.1:80:80", "0.0.0.0:81:80", "[2001:db8::1]:82:80"]},
    {"mode": "global"},
    {"networks": [{"name": "front", "driverOpts": {"a": "b"}}]},
    {"replicas": 0},
    {"resources": {"limits": {"cpus": 0, "memory": 0, "pids": 0}}},
    {"resources": {"reservations": {"generic": {"gpu": 2, "ssd": 1}}}},
    {"healthcheck": {"test": ["NONE"]}},
    {"healthcheck": {"test": "wget x", "interval": "0s", "timeout": "1ms"}},
    {"update": {"order": "start-first"}, "rollback": {"order": "stop-first", "parallelism": 0}},
    {"update": {"parallelism": 2, "delay": "1s", "failureAction": "rollback", "monitor": "1s", "maxFailureRatio": 0.5}},
    {"rollback": {"delay": "1s", "failureAction": "continue", "deadline": "0s"}},
    {"placement": {"constraints": ["node.labels.a != b", "NODE.ROLE==worker"], "platforms": ["linux/amd64"]}},
    {"mounts": ["/scratch", "data:/data:ro", "/srv:/srv:ro,rslave"]},
    {"image": "localhost:5000/a/b:1@sha256:" + "0" * 64},
    {"stopSignal": "SIGRTMIN+3"},
    {"env": ["A={{.Service.Labels.tier}}", 'B={{index .Service.Labels "a.b"}}', "C={{.Service.Labels}}"]},
    {"env": ["A={{.Task.Slot}} {{- .Node.Hostname -}}"], "hostname": "{{.Service.Name}}-{{.Task.Slot}}"},
    {"mounts": ["data-{{.Task.Slot}}:/data"]},
    {"user": 1000, "groups": [1000, 44]},
]


@pytest.mark.parametrize("spec", RIGHT, ids=[next(iter(spec)) + f"-{i}" for i, spec in enumerate(RIGHT)])
def test_what_can_be_done_is_accepted(spec: dict[str, Any]) -> None:
    assert faults_of(spec) == {}


LATER = [
    ({"ports": ["80:80/sctp"]}, "spec.ports[0]"),
    ({"mounts": [{"type": "cluster", "target": "/a"}]}, "spec.mounts[0].type"),
]


@pytest.mark.parametrize(("spec", "path"), LATER, ids=[path for _, path in LATER])
def test_what_comes_later_is_refused_by_its_field_name(spec: dict[str, Any], path: str) -> None:
    found = faults_of(spec)
    assert set(found) == {path}
    assert "not available yet in this version" in found[path]


def test_every_row_of_the_table_names_a_field_that_exists() -> None:
    names = {field.encode_name for field in msgspec.structs.fields(ServiceSpec)}
    assert {row.path.removeprefix("spec.").split(".")[0].removesuffix("[]") for row in NOT_YET} <= names


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        pytest.param("", "missing", id="none"),
        pytest.param("a.b", "DNS label", id="dot"),
        pytest.param("-a", "DNS label", id="leading-dash"),
        pytest.param("a" * 64, "64 characters", id="too-long"),
        pytest.param("a/b", "DNS label", id="slash"),
    ],
)
def test_a_service_name_is_a_dns_label(name: str, sentence: str) -> None:
    assert sentence in faults_of({}, name)["metadata.name"]


def test_stack_style_names_with_underscores_are_fine() -> None:
    assert faults_of({}, "shop_web-1") == {}


def test_networks_and_configs_have_names_too() -> None:
    assert [f.path for f in validate(Network(metadata=Meta(name="a b")))] == ["metadata.name"]
    assert validate(Config(metadata=Meta(name="nginx.conf"), spec=FileSpec(data="eA=="))) == []


def test_an_object_beyond_512_kb_is_refused_with_its_size() -> None:
    spec = ServiceSpec(image="x", env=("A=" + "y" * MAX_OBJECT_BYTES,))
    (fault,) = validate(Service(metadata=Meta(name="big"), spec=spec))
    assert "at most 512 kB" in fault.message


def test_several_objects_are_judged_together_and_none_may_come_twice() -> None:
    service = Service(metadata=Meta(name="web"), spec=ServiceSpec(image="Bad"))
    assert [(f.object, f.path) for f in all_of([service, service])] == [
        ("Service web", "spec.image"),
        ("Service web", "spec.image"),
        ("Service web", "metadata.name"),
    ]
