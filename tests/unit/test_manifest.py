"""Manifests: every bad input is a sentence with file, line and field; good ones become objects."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.api.errors import Fault
from shoal.api.manifest import MAX_TEXT_BYTES, Reading, Text, read
from shoal.api.objects import Service

MANIFESTS = sorted((Path(__file__).parents[2] / "manifests").glob("*.yaml"))


def text(content: str | bytes, name: str = "web.yaml") -> Text:
    return Text(name, content if isinstance(content, bytes) else dedent(content).encode())


def web(more: str = "", name: str = "web") -> str:
    """A small valid service with more lines under spec; they begin in line 7."""
    head = f"apiVersion: shoal/v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  image: nginx:1.27\n"
    return head + "".join(f"  {line}\n" for line in dedent(more).strip("\n").splitlines())


def faults(content: str | bytes) -> list[Fault]:
    return list(read([text(content)]).faults)


def spec_of(reading: Reading) -> Any:
    assert not reading.faults, "\n".join(map(str, reading.faults))
    (document,) = reading.documents
    assert isinstance(document.obj, Service)
    return document.obj.spec


BAD = [
    pytest.param(web("imagee: x"), 7, "spec.imagee", "unknown field; did you mean image?", id="unknown-field"),
    pytest.param(web("environment: [A=b]"), 7, "spec.environment", "here it is env", id="compose-word"),
    pytest.param(
        web("replicas: three"), 7, "spec.replicas", "expected a whole number, found the text 'three'", id="type"
    ),
    pytest.param(web("tty: 'yes'"), 7, "spec.tty", "expected true or false", id="truth"),
    pytest.param(web().replace("nginx:1.27", "Nginx"), 6, "spec.image", "lower case", id="image-in-capitals"),
    pytest.param(web().replace("nginx:1.27", "a b"), 6, "spec.image", "found 'a b', expected an image", id="image"),
    pytest.param(web().replace("nginx:1.27", "1.27"), 6, "spec.image", "put it in quotes", id="image-a-number"),
    pytest.param(web("stopGracePeriod: 10"), 7, "spec.stopGracePeriod", "duration with a unit", id="duration-no-unit"),
    pytest.param(web("restart:\n  delay: 5 min"), 8, "spec.restart.delay", "found '5 min'", id="duration-bad-unit"),
    pytest.param(
        web("ports:\n- 80:80\n- 8080:80\n- 80:81"),
        8,
        "spec.ports[0].published",
        "80/tcp is given 2 times: spec.ports[0], spec.ports[2]",
        id="duplicate-port",
    ),
    pytest.param(web("ports: ['80-90:80']"), 7, "spec.ports[0]", "list each port", id="port-range"),
    pytest.param(web("mode: sometimes"), 7, "spec.mode", "expected one of replicated, global", id="enum"),
    pytest.param(web("ports: ['80:80/sctp']"), 7, "spec.ports[0]", "are not available yet", id="later-field"),
    pytest.param(web("networks: [a, a]"), 7, "spec.networks[0].name", "network a is given 2 times", id="same-network"),
    pytest.param(web("replicas: 1\nreplicas: 2"), 8, "spec.replicas", "is given twice, first in line 7", id="same-key"),
    pytest.param("apiVersion: shoal/v1\nkind: [Service\n", 3, "", "is not YAML", id="not-yaml"),
    pytest.param("kind: Service\n\tspec: x\n", 2, "", "indented with a tab", id="tab"),
    pytest.param("", 0, "", "is empty", id="empty-file"),
    pytest.param("# nothing but a comment\n---\n", 0, "", "is empty", id="comment-only"),
    pytest.param("just text", 1, "", "expected an object with apiVersion, kind", id="no-object"),
    pytest.param(b"a: \xff", 0, "", "is not UTF-8 text: byte 0xff in line 1", id="not-utf8"),
    pytest.param(b"\x7fELF\0\0", 0, "", "is not text", id="binary"),
    pytest.param(b"a: \x1b[31m", 0, "", "control character 0x1b in line 1", id="control-character"),
    pytest.param("a: &a [*a]", 1, "a[0]", "holds itself", id="alias-to-itself"),
    pytest.param("[" * 5000, 1, "", "is nested more than", id="too-deep"),
    pytest.param("a: !!python/object:os.system x", 1, "a", "tags are not understood", id="foreign-tag"),
    pytest.param("x" * (3 << 20), 0, "", "is 3.1 MB long; a manifest may have at most 2 MiB", id="three-megabytes"),
    pytest.param(web("env: {A: " + "x" * 600_000 + "}"), 1, "", "the object is 600 kB long", id="object-too-large"),
    pytest.param("version: '3'\nservices: {}", 2, "services", "stacks are not available yet", id="compose-file"),
    pytest.param("apiVersion: shoal/v1\nkind: Servce", 2, "kind", "did you mean Service?", id="unknown-kind"),
    pytest.param("apiVersion: v2\nkind: Node", 1, "apiVersion", "expected shoal/v1", id="unknown-version"),
]


@pytest.mark.parametrize(("content", "line", "path", "sentence"), BAD)
def test_bad_input_is_a_sentence_with_file_line_and_field(
    content: str | bytes, line: int, path: str, sentence: str
) -> None:
    reading = read([text(content)])
    fault = next((f for f in reading.faults if f.path == path), None)
    assert fault is not None, [str(f) for f in reading.faults]
    assert (fault.file, fault.line) == ("web.yaml", line)
    assert sentence in fault.message
    assert reading.documents == ()


def test_one_bad_document_among_good_ones_is_named_and_the_good_ones_are_read() -> None:
    reading = read([text("---\n".join([web(name="a"), web("replicas: -1", name="b"), web(name="c")]))])
    assert [d.label for d in reading.documents] == ["Service a", "Service c"]
    assert [str(f) for f in reading.faults] == ["web.yaml:14: Service b: spec.replicas: found -1, expected 0 to 100000"]


def test_faults_of_all_files_are_found_at_once() -> None:
    reading = read([text("a: [", "one.yaml"), text(web("replicas: -1"), "two.yaml"), text("", "three.yaml")])
    assert [f.file for f in reading.faults] == ["one.yaml", "two.yaml", "three.yaml"]


def test_an_object_described_twice_is_a_fault_that_names_the_first_place() -> None:
    reading = read([text(web(), "one.yaml"), text(web(), "two.yaml")])
    assert [str(f) for f in reading.faults] == [
        "two.yaml:4: Service web: metadata.name: Service web is described twice, first at one.yaml:4"
    ]


def test_a_fault_in_a_short_form_points_at_the_line_of_the_short_form() -> None:
    (fault,) = faults(web("ports:\n- 8080:80\n- 8081:99999"))
    assert (fault.path, fault.line) == ("spec.ports[1].target", 9)


def test_a_fault_the_api_server_finds_later_is_located_too() -> None:
    (document,) = read([text(web("ports:\n- 8080:80"))]).documents
    fault = document.positions.locate(Fault("spec.ports[0].published", "is taken"), document.label)
    assert str(fault) == "web.yaml:8: Service web: spec.ports[0].published: is taken"


@pytest.mark.parametrize(
    ("lines", "field", "value"),
    [
        pytest.param("hosts: []\nports: [22:22]", "ports", 22, id="22:22-is-no-sexagesimal-number"),
        pytest.param("env: {A: yes, B: 08}", "env", ("A=yes", "B=08"), id="yes-is-text"),
        pytest.param("env: {V: 1.10, W: 1e3}", "env", ("V=1.10", "W=1e3"), id="numbers-keep-their-spelling"),
        pytest.param("env: {A: 2026-01-01}", "env", ("A=2026-01-01",), id="a-date-is-text"),
        pytest.param("mounts: [{type: tmpfs, target: /t, fileMode: 01777}]", "mounts", 0o1777, id="octal"),
        pytest.param("containerLabels: {<<: {a: x, b: y}, b: z}", "container_labels", {"a": "x", "b": "z"}, id="merge"),
    ],
)
def test_scalars_are_read_as_people_mean_them(lines: str, field: str, value: Any) -> None:
    found = getattr(spec_of(read([text(web(lines))])), field)
    if field == "ports":
        found = found[0].published
    if field == "mounts":
        found = found[0].file_mode
    assert found == value


def test_aliases_are_followed() -> None:
    spec = spec_of(read([text(web("env: &vars [A=1]\nargs: *vars"))]))
    assert spec.args == ("A=1",)


def test_a_text_that_doubles_itself_is_stopped() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    (fault,) = faults("\n".join(lines))
    assert "has more than" in fault.message


def test_a_byte_order_mark_and_windows_line_ends_are_fine() -> None:
    assert read([text(b"\xef\xbb\xbf" + web().replace("\n", "\r\n").encode())]).faults == ()


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_input_whatever_makes_a_traceback(content: bytes) -> None:
    reading = read([Text("any", content)])
    assert reading.faults or reading.documents
    assert len(content) <= MAX_TEXT_BYTES


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_example_is_valid(path: Path) -> None:
    reading = read([Text(path.name, path.read_bytes())])
    assert [str(f) for f in reading.faults] == []
    assert reading.documents
