"""What a person types wrong: a sentence with place, found and expected, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.lab import Host
from tests.support.user import SLEEP, apply, revisions, service, start

HEAD = "apiVersion: shoal/v1\nkind: Service\nmetadata: {name: web}\nspec:\n  image: shoal/hello:1\n"
"""A valid service; what is added to it begins in line 6."""

GOOD = HEAD.replace("web", "good") + "---\n"

BAD = [
    pytest.param(HEAD + "  replicsa: 3\n", 6, "Service web: spec.replicsa: unknown field; did you mean replicas?",
                 id="unknown-field"),
    pytest.param(HEAD + "  replicas: many\n", 6, "spec.replicas: expected a whole number, found the text 'many'",
                 id="wrong-type"),
    pytest.param(HEAD.replace("shoal/hello:1", "Shoal/Hello:1"), 5, "spec.image: found 'Shoal/Hello:1', expected",
                 id="bad-image"),
    pytest.param(HEAD + "  restart:\n    delay: 5 minutes\n", 7,
                 "expected a duration such as 5s, 1m30s or 500ms, found '5 minutes'",
                 id="bad-duration"),
    pytest.param(HEAD + "  ports:\n    - 80:80\n    - 80:81\n", 7, "80/tcp is given 2 times", id="duplicate-port"),
    pytest.param(HEAD + "  ports: [70000:80]\n", 6, "spec.ports[0].published: found 70000, expected", id="bad-port"),
    pytest.param(HEAD + "  replicas: 1\n  replicas: 2\n", 7, "spec.replicas", id="duplicate-key"),
    pytest.param(HEAD + "  ports: ['80:80/sctp']\n", 6, "are not available yet", id="of-a-later-version"),
    pytest.param("kind: [Service\n", 2, "is not YAML", id="not-yaml"),
    pytest.param("kind: Service\n\tspec: x\n", 2, "indented with a tab", id="tab"),
    pytest.param("apiVersion: shoal/v1\nkind: Servise\nmetadata: {name: web}\n", 2,
                 "'Servise', which is no kind; known are Service,",
                 id="unknown-kind"),
    pytest.param("", 0, "is empty; expected at least one object", id="empty-file"),
    pytest.param(HEAD + f"  env: {{A: {'x' * 2_000_000}}}\n", 1, "Service web: the object is 2000 kB long",
                 id="two-megabytes"),
    pytest.param(HEAD + f"  env: {{A: {'x' * 3_000_000}}}\n", 0, "is 3.0 MB long; a manifest may have at most 2 MiB",
                 id="three-megabytes"),
    pytest.param(GOOD + HEAD + "  mode: sometimes\n", 12, "Service web: spec.mode: ", id="one-bad-among-good-ones"),
]  # fmt: skip


@pytest.fixture
def host(steady_host: Host) -> Host:
    return steady_host


@pytest.fixture(scope="module")
def untouched(lasting_host: Host) -> dict[str, int]:
    """What is stored before."""
    return revisions(lasting_host)


@pytest.mark.parametrize(("text", "line", "sentence"), BAD)
def test_a_bad_manifest_is_a_sentence_with_file_line_and_field(
    lasting_host: Host, untouched: dict[str, int], tmp_path: Path, text: str, line: int, sentence: str
) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(text)

    done = lasting_host.shoal(["apply", "-f", str(path)])

    assert done.code == 2
    assert done.err.startswith(f"shoal: {path}:{line}: " if line else f"shoal: {path}: ")
    assert sentence in done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert revisions(lasting_host) == untouched


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        pytest.param("apply", 2, "no manifest given", id="no-file"),
        pytest.param("apply -f /no/such.yaml", 2, "/no/such.yaml: does not exist", id="missing-file"),
        pytest.param("aply -f x", 2, "No such command 'aply'", id="unknown-command"),
        pytest.param("get sevices", 2, "there is no kind 'sevices'; did you mean services?", id="unknown-kind"),
        pytest.param("get service nothing", 1, "nothing", id="unknown-name"),
        pytest.param("describe service nothing", 1, "nothing", id="describe-unknown"),
        pytest.param("scale nothing=3", 1, "nothing", id="scale-unknown"),
        pytest.param("scale hello", 2, "expected SERVICE=N, such as hello=5, found 'hello'", id="scale-without-number"),
        pytest.param("scale hello=-1", 2, "expected SERVICE=N", id="scale-below-nothing"),
        pytest.param("delete service nothing", 1, "nothing", id="delete-unknown"),
        pytest.param("delete service", 2, "expected names of services", id="delete-without-name"),
        pytest.param("logs nothing", 1, "there is no service and no task nothing", id="logs-unknown"),
        pytest.param("logs nothing --tail few", 2, "--tail: expected a number of lines or all, found 'few'", id="tail"),
        pytest.param("wait service/nothing --timeout soon", 2, "soon", id="bad-timeout"),
        pytest.param("rollout status nothing", 1, "nothing", id="rollout-of-unknown"),
    ],
)
def test_a_wrong_command_is_a_sentence_too(
    lasting_host: Host, untouched: dict[str, int], command: str, code: int, sentence: str
) -> None:
    done = lasting_host.shoal(command)
    assert done.code == code, done
    assert sentence in done.err
    assert "Traceback" not in done.err
    assert revisions(lasting_host) == untouched


def test_an_api_server_that_does_not_run_is_named_and_what_to_do(lasting_host: Host) -> None:
    done = lasting_host.shoal("--api unix:///run/nobody.sock get services")
    assert done.code == 1
    assert "/run/nobody.sock" in done.err
    assert "shoal up" in done.err
    assert len(done.err.splitlines()) == 1


def test_a_service_cannot_be_renamed_to_one_there_is_nor_change_its_mode(host: Host) -> None:
    start(host, service("fixed", **SLEEP))
    done = apply(host, service("fixed", mode="global", **SLEEP))
    assert done.code == 2
    assert "spec.mode" in done.err
