"""The host daemon's command line: `shoal host`, or `python -m shoal.host`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
import click
import structlog

from shoal.api.errors import InvalidError, ShoalError
from shoal.api.names import node_name_problem
from shoal.host import preflight
from shoal.host.daemon import HostDaemon, Options
from shoal.host.lock import only_one
from shoal.host.paths import Paths
from shoal.host.server import serving
from shoal.machinery.logs import configure_logging


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--state-dir", type=click.Path(path_type=Path), default=Path("/var/lib/shoal"), show_default=True,
              help="Identity, certificates, etcd's data, logs.")  # fmt: skip
@click.option("--run-dir", type=click.Path(path_type=Path), default=Path("/run/shoal"), show_default=True,
              help="Sockets.")  # fmt: skip
@click.option("--docker", default="unix:///var/run/docker.sock", show_default=True, help="The Docker engine's socket.")
@click.option("--name", default=os.uname().nodename, show_default="the hostname", help="The node's name.")
@click.option("--etcd-port", type=click.IntRange(1, 65535), show_default="2379",
              help="Where a new cluster's etcd serves clients.")  # fmt: skip
@click.option("--etcd-peer-port", type=click.IntRange(1, 65535), show_default="2380",
              help="Where a new cluster's etcd serves other members.")  # fmt: skip
@click.option("--api-port", type=click.IntRange(1, 65535), show_default="2377",
              help="Where a new cluster's API server serves other hosts.")  # fmt: skip
def host(
    state_dir: Path,
    run_dir: Path,
    docker: str,
    name: str,
    etcd_port: int | None,
    etcd_peer_port: int | None,
    api_port: int | None,
) -> None:
    """Run the host daemon in the foreground.

    It runs what this host's role calls for, and on SIGTERM or Ctrl-C stops it in order; containers go on. Each
    process logs to <state-dir>/logs/<process>.log, and to the terminal too if there is one.
    """
    problem = node_name_problem(name)
    if problem:
        raise InvalidError(f"--name: {problem}")
    paths = Paths(state_dir.absolute(), run_dir.absolute())
    options = Options(paths, docker, name, etcd_port, etcd_peer_port, api_port, echoes=sys.stderr.isatty())
    preflight.need_folder(paths.state_dir, "state directory", "--state-dir", 0o700)
    preflight.need_folder(paths.run_dir, "run directory", "--run-dir")
    preflight.need_short_path(paths.status_socket("replication"))
    configure_logging("host")
    with only_one(paths.lock):
        anyio.run(_run, options)


async def _run(options: Options) -> None:
    daemon = HostDaemon(options)
    log = structlog.get_logger("shoal.host")
    for problem in await daemon.problems():
        log.error("host_unfit", problem=problem)
    async with serving(daemon), anyio.create_task_group() as group:
        await group.start(daemon.run)
        log.info("host_started", pid=os.getpid(), initialised=daemon.identity is not None)


def main() -> None:
    try:
        host.main(prog_name="shoal host", standalone_mode=False)
    except ShoalError as error:
        click.echo(f"shoal: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as wanted:
        sys.exit(wanted.exit_code)


if __name__ == "__main__":
    main()
