"""The command's entry: help without imports, sentences instead of tracebacks, exit codes."""

from __future__ import annotations

import importlib
import subprocess
import sys

import click
import pytest

from shoal.cli.apply import difference
from shoal.cli.host_commands import untaken
from shoal.cli.main import COMMANDS, main
from shoal.cli.options import Span


def exit_code(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(args)
    code = caught.value.code
    assert isinstance(code, int)
    return code


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_of_the_table_exists_and_says_what_the_table_says(name: str) -> None:
    module, attribute = COMMANDS[name].where.split(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.help


def test_help_lists_every_command_and_imports_none_of_them() -> None:
    program = (
        "import sys; from shoal.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'aiohttp', 'rich', 'yaml', 'anyio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("args", "code", "sentence"),
    [
        pytest.param(["frobnicate"], 2, "No such command", id="unknown-command"),
        pytest.param(["statu"], 2, "No such command 'statu'; did you mean status?", id="mistyped-command"),
        pytest.param(["describe", "web"], 2, "a name needs its kind, as in service/web", id="name-without-kind"),
        pytest.param(["delete", "svc", "a", "node/b"], 2, "expected the name of a service", id="kinds-mixed"),
        pytest.param(["wait", "node/a", "--for", "redy"], 2, "nothing ever is 'redy'; did you mean ready?", id="state"),
        pytest.param(["up", "--name", "a b"], 2, "--name: expected a host's name", id="host-name"),
        pytest.param(["up", "--api-port", "99999"], 2, "99999 is not in the range", id="port"),
        pytest.param(["up", "etcd", "--name", "a"], 2, "give one of both", id="process-and-option"),
        pytest.param(["up", "etcd", "--run-dir", "/no/such"], 1, "start it with `shoal up`", id="no-daemon"),
        pytest.param(["get", "svc", "a", "-l", "b=c"], 2, "a name says which one", id="name-and-selector"),
        pytest.param(["get"], 2, "Missing argument", id="missing-argument"),
        pytest.param(["apply"], 2, "no manifest given", id="no-manifest"),
        pytest.param(["apply", "-f", "/does/not/exist"], 2, "/does/not/exist: does not exist", id="no-file"),
        pytest.param(["get", "pods"], 2, "there is no kind 'pods'", id="unknown-kind"),
        pytest.param(["scale", "hello"], 2, "expected SERVICE=N", id="scale-without-number"),
        pytest.param(["delete", "services"], 2, "expected names of services", id="delete-all-is-no-accident"),
        pytest.param(["delete", "svc", "x", "-f", "y"], 2, "not both", id="delete-names-and-files"),
        pytest.param(["--api", "ftp://x", "get", "svc"], 2, "expected unix:///path", id="strange-address"),
        pytest.param(["--api", "unix:///no/such.sock", "get", "svc"], 1, "start Shoal with `shoal up`", id="absent"),
        pytest.param(["logs", "x", "--tail", "few"], 2, "--tail: expected a number", id="tail"),
        pytest.param(["etcdctl", "--state-dir", "/no/such", "get"], 1, "shoal:", id="no-etcd-here"),
    ],
)
def test_a_mistake_is_a_sentence_and_an_exit_code(
    args: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*args) == code
    told = capsys.readouterr().err
    assert sentence in told
    assert "Traceback" not in told


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("completion", shell) == 0
    assert "_SHOAL_COMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "seconds"), [("5m", 300.0), ("1.5s", 1.5), ("30", 30.0), ("0", 0.0), (7, 7.0)])
def test_a_span_of_time_may_have_a_unit_or_be_seconds(text: object, seconds: float) -> None:
    assert Span().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["soon", "-5s", "5 minutes"])
def test_what_is_no_span_of_time_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError):
        Span().convert(text, None, None)


def test_a_difference_shows_what_people_write_and_nothing_else() -> None:
    def obj(replicas: int) -> dict[str, object]:
        return {
            "kind": "Service",
            "metadata": {"name": "web", "uid": "u", "generation": replicas},
            "spec": {"image": "x", "replicas": replicas},
        }

    result = {"kind": "Service", "name": "web", "result": "configured", "before": obj(1), "after": obj(2)}
    lines = list(difference(result))
    assert [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")] == [
        "-  replicas: 1",
        "+  replicas: 2",
    ]
    assert list(difference({**result, "result": "unchanged"})) == []
    created = list(difference({**result, "result": "created", "before": None}))
    assert created[0] == "--- /dev/null"


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        pytest.param({"name": None, "api_port": None}, [], id="none given"),
        pytest.param({"name": "box", "docker": "unix:///d", "api_port": 2377, "etcd_port": 2379}, [], id="as it is"),
        pytest.param({"name": "other", "etcd_peer_port": 1}, ["--name other", "--etcd-peer-port 1"], id="others"),
    ],
)
def test_options_that_a_running_daemon_does_not_go_by_are_told(options: dict[str, str | int], wrong: list[str]) -> None:
    identity = {"apiPort": 2377, "etcdPorts": {"client": 2379, "peer": 2380}}
    assert untaken({"name": "box", "docker": "unix:///d", "identity": identity}, options) == wrong
