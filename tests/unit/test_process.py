from __future__ import annotations

import json
from collections.abc import Iterator

import anyio
import click
import pytest
import structlog
from click.testing import CliRunner

from shoal.api.errors import ForbiddenError, InvalidError
from shoal.machinery.process import (
    EtcdAddress,
    ProcessOptions,
    configure_logging,
    etcd_options,
    process_options,
    run_process,
)
from shoal.machinery.status import Health


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    yield
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


@click.command()
@etcd_options
@process_options
def command(etcd: EtcdAddress, process: ProcessOptions) -> None:
    click.echo(f"{etcd.urls} {etcd.ca} {process.log_level}")


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ([], {}, "('http://127.0.0.1:2379',) None info"),
        (["--etcd", "http://a:1, http://b:2"], {}, "('http://a:1', 'http://b:2') None info"),
        ([], {"SHOAL_ETCD": "http://c:3", "SHOAL_LOG_LEVEL": "debug"}, "('http://c:3',) None debug"),
    ],
    ids=["defaults", "several members", "from the environment"],
)
def test_where_etcd_is_comes_from_options_or_the_environment(
    arguments: list[str], environment: dict[str, str], expected: str
) -> None:
    assert CliRunner().invoke(command, arguments, env=environment).output.strip() == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--etcd", "https://a:1"], "needs --etcd-ca"),
        (["--etcd-cert", "/dev/null"], "belong together"),
        (["--etcd-ca", "/no/such/file"], "does not exist"),
        (["--log-level", "loud"], "'loud' is not one of"),
    ],
    ids=["TLS without a CA", "half a pair", "missing file", "unknown level"],
)
def test_bad_options_are_answered_with_a_sentence(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert words in result.output


def ending_with(error: Exception | None) -> int:
    async def serve(_: Health) -> None:
        async with anyio.create_task_group():
            if error is not None:
                raise error

    return run_process("test", serve, ProcessOptions())


def test_what_a_person_typed_wrong_ends_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending_with(InvalidError("expected a URL, found 7")) == 2
    assert capsys.readouterr().err == "expected a URL, found 7\n"


def test_what_we_raise_on_purpose_ends_with_a_line_and_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending_with(ForbiddenError("no")) == 1
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["process"], line["error"]) == ("process_ended", "test", "no")


def test_a_bug_is_logged_with_its_traceback_and_without_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    async def serve(_: Health) -> None:
        password = "hunter" + "2"
        raise ZeroDivisionError(f"oh, {len(password)}")

    assert run_process("test", serve, ProcessOptions()) == 1
    said = capsys.readouterr().err
    assert json.loads(said)["event"] == "process_failed"
    assert "ZeroDivisionError" in said
    assert "hunter2" not in said


def test_an_end_of_its_own_is_a_success() -> None:
    assert ending_with(None) == 0


def test_below_its_level_nothing_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("test", "warning")
    structlog.get_logger().info("thing_happened")
    structlog.get_logger().warning("thing_failed")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["thing_failed"]
