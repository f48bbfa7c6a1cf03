"""Secrets and configs as people write them, and how services use them: limits, targets, templates, nothing quoted."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from shoal.api.intake import examine
from shoal.api.objects import Config, Object, Secret
from shoal.api.payload import Sources, filled, problems


def file(kind: str = "Secret", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "shoal/v1", "kind": kind, "metadata": {"name": "db"}, "spec": spec}


def service(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "shoal/v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"image": "a:1", **spec}}


def faults(plain: Any) -> list[str]:
    return [str(fault) for fault in examine(plain).faults]


def obj(plain: Any) -> Object:
    found = examine(plain)
    assert found.obj is not None, found.faults
    return found.obj


@pytest.mark.parametrize(
    ("spec", "data"),
    [
        pytest.param({"text": "grün\n"}, "grün\n".encode(), id="text"),
        pytest.param({"data": "AP8K"}, b"\x00\xff\n", id="base64"),
        pytest.param({"data": "AP\n 8K\n"}, b"\x00\xff\n", id="base64-in-lines"),
        pytest.param({}, b"", id="nothing-for-a-label-update"),
    ],
)
@pytest.mark.parametrize("kind", [Secret, Config])
def test_data_is_given_as_text_or_base64(kind: type[Secret | Config], spec: dict[str, Any], data: bytes) -> None:
    found = obj(file(kind.KIND, **spec))
    assert isinstance(found, kind)
    assert base64.b64decode(found.spec.data) == data


@pytest.mark.parametrize(("kind", "limit"), [("Secret", 512_000), ("Config", 1_024_000)])
def test_data_is_shorter_than_swarm_s_limit(kind: str, limit: int) -> None:
    assert faults(file(kind, text="x" * (limit - 1))) == []
    (fault,) = faults(file(kind, text="x" * limit))
    assert f"{kind.lower()} data must be larger than 0 and less than {limit} bytes" in fault


CANARY = "hunter2-canary"


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"data": CANARY}, id="no-base64"),
        pytest.param({"data": [CANARY]}, id="a-list"),
        pytest.param({"text": {"a": CANARY}}, id="text-is-a-mapping"),
        pytest.param({"text": CANARY, "data": "AAAA"}, id="both"),
        pytest.param({"text": "{{ " + CANARY + " }}", "templating": "golang"}, id="bad-template"),
        pytest.param(CANARY, id="spec-is-text"),
    ],
)
def test_a_refusal_never_quotes_a_secret(spec: Any) -> None:
    found = faults({**file(), "spec": spec})
    assert found
    assert CANARY not in " ".join(found)


def test_external_drivers_are_refused_by_name() -> None:
    assert "external drivers are not supported" in faults(file(driver="vault", data="AAAA"))[0]


def test_labels_may_not_grow_without_bounds() -> None:
    plain = file(text="x")
    plain["metadata"]["labels"] = {"a": "x" * 70_000}
    assert "without its data; at most 64 kB" in faults(plain)[0]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        pytest.param(
            {"secrets": ["a", "a"]}, "secret references 'a' and 'a' have a conflicting target: 'a'", id="twice"
        ),
        pytest.param(
            {"secrets": ["a", {"source": "b", "target": "/run/secrets/a"}]},
            "secret references 'a' and 'b' have a conflicting target: '/run/secrets/a'",
            id="relative-and-absolute",
        ),
        pytest.param(
            {"configs": [{"source": "a", "target": "c"}, {"source": "b", "target": "//c"}]},
            "config references 'a' and 'b' have a conflicting target: '//c'",
            id="configs",
        ),
        pytest.param(
            {"secrets": [{"source": "a", "target": "/x"}], "configs": [{"source": "b", "target": "x"}]},
            "/x is also the target of secret a",
            id="secret-and-config",
        ),
        pytest.param(
            {"mounts": ["data:/x"], "configs": [{"source": "b", "target": "/x"}]},
            "/x is also the target of mount /x",
            id="config-and-mount",
        ),
        pytest.param({"secrets": [{"source": "a", "target": "../x"}]}, "expected a file's path without ..", id="dots"),
        pytest.param({"secrets": [{"source": "a", "owner": "root"}]}, "expected a number from 0", id="owner"),
        pytest.param({"secrets": [{"source": "a", "group": 1 << 33}]}, "expected a number from 0", id="group"),
        pytest.param({"secrets": [{"source": "a", "fileMode": 0o17777}]}, "expected permission bits", id="mode"),
    ],
)
def test_a_use_that_cannot_be_is_refused(spec: dict[str, Any], said: str) -> None:
    assert said in " ".join(faults(service(**spec)))


def test_one_object_may_be_used_twice_at_different_targets() -> None:
    uses = [{"source": "a", "target": "x"}, {"source": "a", "target": "y", "owner": 10, "fileMode": "0400"}]
    assert faults(service(secrets=uses, configs=uses[:1])) == []


def missing(_: str) -> str:
    raise ValueError("the task has no secret with the target that is named there")


SOURCES = Sources(
    values={".Service.Name": "web", ".Task.Slot": "2"},
    labels={"tier": "front", "a.b": "c"},
    env={"MODE": "prod"},
    secret={"db": "s3"}.__getitem__,
    config=missing,
)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        pytest.param("no braces", "no braces", id="plain"),
        pytest.param("{{.Service.Name}}-{{ .Task.Slot }}", "web-2", id="fields"),
        pytest.param("a {{- .Task.Slot -}} b", "a2b", id="trimmed"),
        pytest.param('{{secret "db"}}|{{secret `db`}}', "s3|s3", id="secret"),
        pytest.param('{{env "MODE"}}{{env "NONE"}}', "prod", id="env"),
        pytest.param('{{.Service.Labels.tier}}{{index .Service.Labels "a.b"}}', "frontc", id="labels"),
    ],
)
def test_templates_are_filled_in(text: str, result: str) -> None:
    assert filled(text, SOURCES) == result


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('one\n{{config "x"}}', id="foreign"),
        pytest.param("one\n{{if hunter2}}", id="unknown"),
        pytest.param('one\n{{secret "a" "b"}}', id="two-arguments"),
    ],
)
def test_what_cannot_be_filled_in_is_told_by_its_line_and_not_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"^line 2: ") as refused:
        filled(text, SOURCES)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        pytest.param(b'{{secret "x"}} {{config "y"}} {{.Node.Hostname}}', 0, id="good"),
        pytest.param(b"\xff{{", 1, id="no-text"),
        pytest.param(b"{{.Task.Name", 1, id="open"),
        pytest.param(b"{{.A}}\n{{.B}}", 2, id="all-faults"),
    ],
)
def test_templates_are_judged_before_any_task_uses_them(data: bytes, count: int) -> None:
    assert len(problems(data)) == count
