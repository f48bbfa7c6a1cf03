"""`shoal host|up|init|status|down`: all speak to the host daemon on its socket, and `up` starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import aiohttp
import anyio
import click

from shoal.api.errors import (
    AlreadyExistsError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    ShoalError,
    TerminalError,
    ThrottledError,
    UnavailableError,
)
from shoal.api.names import node_name_problem
from shoal.cli.text import age, table

STATE_DIR: Final = Path("/var/lib/shoal")
RUN_DIR: Final = Path("/run/shoal")
UNIT: Final = "shoal.service"

TIMED_OUT: Final = 4
"""Exit code."""

STOP_WITHIN_S: Final = 60.0
UP_WITHIN_S: Final = 60.0
LOOK_EVERY_S: Final = 0.2
ANSWER_WITHIN_S: Final = 120.0
"""init waits for etcd's first start."""

_ERRORS: Final[dict[str, type[ShoalError]]] = {
    error.reason: error
    for error in (
        AlreadyExistsError, ForbiddenError, InvalidError, NotFoundError, TerminalError, ThrottledError,
        UnavailableError,
    )
}  # fmt: skip

run_dir_option = click.option(
    "--run-dir", type=click.Path(path_type=Path), default=RUN_DIR, show_default=True, envvar="SHOAL_RUN_DIR",
    help="The host daemon's sockets.",
)  # fmt: skip

data_path_option = click.option(
    "--data-path-addr", default="", metavar="ADDRESS|INTERFACE",
    help="This host's address for traffic between containers.  [default: the advertised one]",
)  # fmt: skip

availability_option = click.option(
    "--availability", type=click.Choice(["active", "pause", "drain"]), default="active", show_default=True,
    help="Whether this node gets tasks at once.",
)  # fmt: skip


@click.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def host(arguments: tuple[str, ...]) -> None:
    """Run the host daemon in the foreground."""
    os.execv(sys.executable, _daemon_command(arguments))  # noqa: S606 - the daemon takes this process's place


@click.command()
@click.argument("processes", nargs=-1)
@click.option("--state-dir", type=click.Path(path_type=Path), default=STATE_DIR, show_default=True,
              help="Identity, certificates, etcd's data, logs.")  # fmt: skip
@run_dir_option
@click.option("--docker", help="The Docker engine's socket.  [default: unix:///var/run/docker.sock]")
@click.option("--name", help="The node's name.  [default: the hostname]")
@click.option(
    "--etcd-port", type=click.IntRange(1, 65535), help="Where a new cluster's etcd serves clients.  [default: 2379]"
)
@click.option(
    "--etcd-peer-port",
    type=click.IntRange(1, 65535),
    help="Where a new cluster's etcd serves other members.  [default: 2380]",
)
@click.option(
    "--api-port", type=click.IntRange(1, 65535), help="Where a new cluster's API server serves others.  [default: 2377]"
)
def up(processes: tuple[str, ...], state_dir: Path, run_dir: Path, **options: str | int | None) -> None:
    """Start Shoal on this host and wait until it is ready.

    With PROCESSES, start those that `shoal down PROCESS` stopped. Where systemd runs and knows shoal.service, that
    is started; elsewhere the daemon runs in the background.
    """
    if options["name"] is not None and (problem := node_name_problem(str(options["name"]))):
        raise InvalidError(f"--name: {problem}")
    if processes and any(value is not None for value in options.values()):
        raise InvalidError(
            "options are for the daemon's start, and PROCESSES belong to one that runs; give one of both"
        )
    if processes:
        need_daemon(run_dir)
        for name in processes:
            call_daemon(run_dir, "POST", f"/processes/{name}/start")
    elif status_of(run_dir) is None:
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
        _start(state_dir, run_dir, arguments)
    report = wait_until_settled(run_dir)
    show_up(report)
    if wrong := untaken(report, options):
        raise InvalidError(
            f"Shoal runs here with other settings, and {', '.join(wrong)} changed nothing: `shoal down`, then "
            "`shoal up` with them; a node keeps its name and ports while it belongs to a swarm"
        )
    if report["problems"]:
        sys.exit(1)
    if report["identity"] is not None and not report["settled"]:
        sys.exit(TIMED_OUT)


def untaken(report: dict[str, Any], options: Mapping[str, str | int | None]) -> list[str]:
    """Return the given options that the running daemon does not go by, as far as it tells. Pure."""
    identity = report["identity"] or {}
    ports = identity.get("etcdPorts", {})
    held = {
        "name": report["name"],
        "docker": report["docker"],
        "api_port": identity.get("apiPort"),
        "etcd_port": ports.get("client"),
        "etcd_peer_port": ports.get("peer"),
    }
    return [
        f"--{name.replace('_', '-')} {value}"
        for name, value in options.items()
        if value is not None and held[name] not in (None, value)
    ]


@click.command()
@click.option("--advertise-addr", default="", help="This host's address for others, or an interface of it.")
@data_path_option
@click.option("--data-path-port", type=int, help="UDP port of that traffic on all hosts.  [default: 4789]")
@click.option("--default-addr-pool", "pools", multiple=True, metavar="NETWORK",
              help="Where networks get their subnets from; may be repeated.  [default: 10.0.0.0/8]")  # fmt: skip
@click.option("--default-addr-pool-mask-length", "subnet_size", type=int,
              help="Bits of those subnets' masks.  [default: 24]")  # fmt: skip
@availability_option
@click.option("--ca-cert", type=click.File("r"), help="A root certificate of your own (PEM), to sign nodes' with.")
@click.option("--ca-key", type=click.File("r"), help="Its private key (PEM).")
@run_dir_option
def init(
    advertise_addr: str,
    data_path_addr: str,
    data_path_port: int | None,
    pools: tuple[str, ...],
    subnet_size: int | None,
    availability: str,
    ca_cert: IO[str] | None,
    ca_key: IO[str] | None,
    run_dir: Path,
) -> None:
    """Make this host the first of a new swarm."""
    if (ca_cert is None) != (ca_key is None):
        raise InvalidError("--ca-cert and --ca-key belong together; one is missing")
    need_daemon(run_dir)
    chosen = {"defaultAddrPools": pools or None, "subnetSize": subnet_size, "dataPathPort": data_path_port}
    wanted: dict[str, Any] = {
        "advertiseAddr": advertise_addr,
        "availability": availability,
        "dataPathAddr": data_path_addr,
        "networking": {key: value for key, value in chosen.items() if value is not None},
    }
    if ca_cert is not None and ca_key is not None:
        wanted |= {"caCertificate": ca_cert.read(), "caKey": ca_key.read()}
    identity = call_daemon(run_dir, "POST", "/init", wanted)
    report = wait_until_settled(run_dir)
    click.echo(
        f"Swarm initialised: node {identity['name']} ({identity['node']}) at {identity['advertiseAddr']} is a manager."
    )
    click.echo("`shoal token worker` prints the command by which another host joins.")
    if not report["settled"]:
        show_up(report)
        sys.exit(TIMED_OUT)


@click.command()
@run_dir_option
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def status(run_dir: Path, output: str) -> None:
    """Show what Shoal runs on this host."""
    report = status_of(run_dir)
    if report is None:
        raise UnavailableError(f"Shoal is not running on this host (nobody answers on {run_dir}/host.sock): `shoal up`")
    if output == "json":
        click.echo(json.dumps(report, indent=2))
    else:
        _show(report)
    if report["problems"] or (report["identity"] is not None and not report["settled"]):
        sys.exit(1)


@click.command()
@click.argument("processes", nargs=-1)
@run_dir_option
def down(processes: tuple[str, ...], run_dir: Path) -> None:
    """Stop Shoal on this host; containers go on.

    With PROCESSES, stop only those, until `shoal up PROCESS` or the daemon's next start.
    """
    if processes:
        need_daemon(run_dir)
    for name in processes:
        call_daemon(run_dir, "POST", f"/processes/{name}/stop")
    if processes:
        return
    if status_of(run_dir) is None:
        click.echo("Shoal is not running.")
        return
    pid = int(call_daemon(run_dir, "POST", "/stop")["pid"])
    deadline = time.monotonic() + STOP_WITHIN_S
    while _is_running(pid):
        if time.monotonic() > deadline:
            click.echo(
                f"shoal: the host daemon (process {pid}) is still stopping after {STOP_WITHIN_S:.0f} s", err=True
            )
            sys.exit(TIMED_OUT)
        time.sleep(LOOK_EVERY_S)
    click.echo("Shoal is stopped; containers go on.")


def _daemon_command(arguments: Iterable[str]) -> list[str]:
    return [sys.executable, "-P", "-m", "shoal.host", *arguments]


def _start(state_dir: Path, run_dir: Path, arguments: list[str]) -> None:
    """Start the daemon by systemd where that knows the unit, else in the background."""
    if not arguments and (state_dir, run_dir) == (STATE_DIR, RUN_DIR) and _has_unit():
        started = subprocess.run(["systemctl", "start", UNIT], capture_output=True, check=False, text=True)
        if started.returncode != 0:
            raise TerminalError(f"{started.stderr.strip()}; `journalctl -u {UNIT} -n 20` tells more")
        return
    command = _daemon_command([f"--state-dir={state_dir}", f"--run-dir={run_dir}", *arguments])
    log = state_dir / "logs" / "host.log"
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        log.parent.mkdir(exist_ok=True)
        output = log.open("ab")
    except OSError as error:
        raise TerminalError(
            f"the state directory {state_dir} is not writable ({error.strerror}): run as root, "
            "or choose another with --state-dir"
        ) from error
    with output:
        said_from = output.tell()
        daemon = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + UP_WITHIN_S
    while status_of(run_dir) is None:
        if daemon.poll() is not None:
            said = log.read_bytes()[said_from:].decode(errors="replace").strip()
            raise TerminalError(said.removeprefix("shoal: ") or f"the host daemon ended at once; see {log}")
        if time.monotonic() > deadline:
            raise UnavailableError(f"the host daemon does not answer on {run_dir}/host.sock; see {log}")
        time.sleep(LOOK_EVERY_S / 4)


def _has_unit() -> bool:
    """Is systemd running here, with our unit?"""
    if not Path("/run/systemd/system").is_dir():
        return False
    return subprocess.run(["systemctl", "cat", UNIT], capture_output=True, check=False).returncode == 0


def wait_until_settled(run_dir: Path) -> dict[str, Any]:
    """Wait until every process is up, or there is nothing to wait for; return the last report."""
    deadline = time.monotonic() + UP_WITHIN_S
    while True:
        report = status_of(run_dir)
        over = time.monotonic() > deadline
        if report is not None and (over or report["settled"] or report["identity"] is None or report["problems"]):
            return report
        if over:
            raise UnavailableError(f"the host daemon does not answer on {run_dir}/host.sock")
        time.sleep(LOOK_EVERY_S)


def show_up(report: dict[str, Any]) -> None:
    for problem in report["problems"]:
        click.echo(f"shoal: {problem}", err=True)
    if report["identity"] is None:
        click.echo(
            "Shoal is running. This host belongs to no swarm yet: `shoal init` begins one, `shoal join` joins one."
        )
    elif report["settled"]:
        click.echo(f"Shoal is running: node {report['name']}, {len(report['processes'])} processes.")
    else:
        for process in report["processes"]:
            if process["state"] not in ("ready", "stopped"):
                click.echo(f"shoal: {process['name']} is {_state(process)}; see {_log(report, process)}", err=True)


def _show(report: dict[str, Any]) -> None:
    identity = report["identity"]
    if identity is None:
        click.echo(f"Host {report['name']} belongs to no swarm: `shoal init` begins one, `shoal join` joins one.")
    else:
        click.echo(
            f"Node     {report['name']} ({identity['node']}), {identity['role']}, at {identity['advertiseAddr']}"
        )
        click.echo(f"State    {report['nodeState'] or 'unknown: no API server answers'}")
        click.echo(f"Cluster  {identity['cluster']}")
    click.echo(f"Daemon   process {report['pid']}, version {report['version']}, logs in {report['logs']}")
    for problem in report["problems"]:
        click.echo(f"Problem  {problem}")
    if report["processes"]:
        click.echo()
        for line in _process_table(report["processes"], datetime.now(UTC)):
            click.echo(line)


def _process_table(processes: list[dict[str, Any]], now: datetime) -> list[str]:
    rows = [
        (
            one["name"],
            _state(one),
            str(one["pid"] or "-"),
            age(one["startedAt"], now),
            str(one["restarts"]),
            one["lastEnd"],
        )
        for one in processes
    ]
    return table(("PROCESS", "STATE", "PID", "UP", "RESTARTS", "LAST END"), rows)


def _state(process: dict[str, Any]) -> str:
    if process["state"] == "ready" and not process["healthy"]:
        return "not ready"
    if process["waitsFor"]:
        return f"waiting for {', '.join(process['waitsFor'])}"
    return str(process["state"])


def _log(report: dict[str, Any], process: dict[str, Any]) -> str:
    return f"{report['logs']}/{process['name']}.log"


def _is_running(pid: int) -> bool:
    """Zombies do not count: their parent is slow, but they are gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def need_daemon(run_dir: Path) -> None:
    """UnavailableError, with what to do, if there is no daemon."""
    if status_of(run_dir) is None:
        raise UnavailableError(f"no host daemon answers on {run_dir}/host.sock: start it with `shoal up`")


def status_of(run_dir: Path) -> dict[str, Any] | None:
    """Return the daemon's report, None if there is no daemon."""
    try:
        return call_daemon(run_dir, "GET", "/status")
    except UnavailableError:
        return None


def call_daemon(run_dir: Path, method: str, path: str, body: object = None) -> dict[str, Any]:
    """Ask the host daemon. Its refusals come back as the errors they were; UnavailableError if nobody answers."""
    return anyio.run(_ask, run_dir / "host.sock", method, path, body)


async def _ask(socket: Path, method: str, path: str, body: object) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=timeout) as session,
            session.request(method, f"http://localhost{path}", json=body) as answer,
        ):
            found: dict[str, Any] = await answer.json()
            if answer.status >= 400:
                raise _ERRORS.get(found.get("reason", ""), TerminalError)(found.get("message", f"HTTP {answer.status}"))
            return found
    except PermissionError as error:
        raise TerminalError(f"{socket} is for root and the group docker: try with sudo") from error
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, PermissionError):
            raise TerminalError(f"{socket} is for root and the group docker: try with sudo") from error
        raise UnavailableError(f"the host daemon does not answer on {socket}: {error.strerror}") from error
    except (OSError, TimeoutError, aiohttp.ClientError) as error:
        raise UnavailableError(f"the host daemon does not answer on {socket}: {error or 'no answer'}") from error
