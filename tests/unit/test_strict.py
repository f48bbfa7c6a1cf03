"""Strict decoding: unknown, missing and mistyped fields, all at once, each by its path."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.api.codec import to_builtins
from shoal.api.errors import InvalidError
from shoal.api.objects import Service, ServiceSpec, Update
from shoal.api.strict import decode
from shoal.api.template import Healthcheck, Mount, Port
from shoal.api.units import Duration


def faults_of(plain: Any, kind: Any = ServiceSpec) -> list[tuple[str, str]]:
    with pytest.raises(InvalidError) as caught:
        decode(kind, plain, "spec")
    return [(fault.path, fault.message) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("plain", "path", "message"),
    [
        pytest.param([], "spec", "expected a mapping, found a list", id="not-a-mapping"),
        pytest.param({}, "spec.image", "missing; expected text", id="missing"),
        pytest.param({"image": 1}, "spec.image", "expected text (put it in quotes), found the number 1", id="number"),
        pytest.param({"image": True}, "spec.image", "expected text, found the truth value true", id="truth-value"),
        pytest.param(
            {"image": "x", "read_only": True}, "spec.read_only", "unknown field; did you mean readOnly?", id="snake"
        ),
        pytest.param({"image": "x", "env": "A=b"}, "spec.env", "expected a list, found the text 'A=b'", id="list"),
        pytest.param(
            {"image": "x", "env": [1]}, "spec.env[0]", "expected text (put it in quotes), found the number 1", id="item"
        ),
        pytest.param(
            {"image": "x", "replicas": 2.5}, "spec.replicas", "expected a whole number, found the number 2.5", id="half"
        ),
        pytest.param(
            {"image": "x", "replicas": True},
            "spec.replicas",
            "expected a whole number, found the truth value true",
            id="bool-is-no-number",
        ),
        pytest.param(
            {"image": "x", "replicas": 1 << 70},
            "spec.replicas",
            f"expected a smaller number, found the number {1 << 70}",
            id="huge",
        ),
        pytest.param(
            {"image": "x", "containerLabels": {"a.b": 1}},
            'spec.containerLabels["a.b"]',
            "expected text (put it in quotes), found the number 1",
            id="path-of-odd-key",
        ),
        pytest.param(
            {"image": "x", "containerLabels": {1: "x"}},
            'spec.containerLabels["1"]',
            "expected a text as key, found the number 1",
            id="key",
        ),
        pytest.param(
            {"image": "x", "mode": "globl"},
            "spec.mode",
            "expected one of replicated, global, job, global-job, found the text 'globl'; did you mean global?",
            id="enum-hint",
        ),
        pytest.param(
            {"image": "x", "ports": [{"target": 1, "protcol": "tcp"}]},
            "spec.ports[0].protcol",
            "unknown field; did you mean protocol?",
            id="nested",
        ),
        pytest.param(
            {"image": "x", "healthcheck": {"zzz": 1}},
            "spec.healthcheck.zzz",
            "unknown field; known here are interval, retries, startInterval, startPeriod, test, timeout",
            id="lists-the-known",
        ),
        pytest.param(
            {"image": "x", "update": {"delay": "1 hour"}},
            "spec.update.delay",
            "expected a duration such as 5s, 1m30s or 500ms, found '1 hour'",
            id="unit",
        ),
        pytest.param(
            {"image": "x", "update": {"maxFailureRatio": "0.5"}},
            "spec.update.maxFailureRatio",
            "expected a number, found the text '0.5'",
            id="ratio",
        ),
        pytest.param(
            {"image": "x", "deploy": {}},
            "spec.deploy",
            "unknown field; what stands under deploy in a Compose file stands directly under spec here",
            id="compose-deploy",
        ),
    ],
)
def test_a_field_that_cannot_be_read_is_named_with_what_was_expected(plain: Any, path: str, message: str) -> None:
    assert (path, message) in faults_of(plain)


def test_all_faults_come_at_once() -> None:
    plain = {"imagee": "x", "ports": [{"published": 1}, {"target": "x"}], "replicas": "many"}
    assert {path for path, _ in faults_of(plain)} == {
        "spec.imagee",
        "spec.image",
        "spec.ports[0].target",
        "spec.ports[1].target",
        "spec.replicas",
    }


def test_null_is_a_field_that_was_not_given() -> None:
    found = decode(ServiceSpec, {"image": "x", "replicas": None, "healthcheck": {"interval": None}})
    assert found == ServiceSpec(image="x", healthcheck=Healthcheck())


SPECS = st.builds(
    ServiceSpec,
    image=st.just("nginx"),
    env=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    ports=st.lists(st.builds(Port, target=st.integers(1, 65535)), max_size=3).map(tuple),
    mounts=st.lists(st.builds(Mount, target=st.text(max_size=5)), max_size=2).map(tuple),
    sysctls=st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2),
    stop_grace_period=st.none() | st.integers(0, 1 << 60).map(Duration),
    update=st.none() | st.builds(Update, max_failure_ratio=st.floats(0, 1)),
)


@given(SPECS)
def test_every_spec_survives_being_shown_and_read_again(spec: ServiceSpec) -> None:
    assert decode(ServiceSpec, to_builtins(spec)) == spec


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["spec", "metadata", "image", "ports", "name", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_data_gives_an_object_or_faults_never_another_error(plain: Any) -> None:
    with suppress(InvalidError):
        decode(Service, plain)
