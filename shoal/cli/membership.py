"""`shoal join|leave|token`: how hosts come into a swarm and out of it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from shoal.cli.client import Client, run
from shoal.cli.host_commands import (
    TIMED_OUT,
    availability_option,
    call_daemon,
    data_path_option,
    need_daemon,
    run_dir_option,
    show_up,
    wait_until_settled,
)
from shoal.cli.options import api_of


@click.command()
@click.argument("remote", metavar="HOST[:2377]")
@click.option("--token", required=True, help="The join token, as `shoal token` prints it.")
@click.option("--advertise-addr", default="", help="This host's address for others, or an interface of it.")
@data_path_option
@availability_option
@run_dir_option
def join(remote: str, token: str, advertise_addr: str, data_path_addr: str, availability: str, run_dir: Path) -> None:
    """Make this host a member of the swarm that a manager at HOST belongs to."""
    need_daemon(run_dir)
    wanted = {
        "token": token,
        "remote": remote,
        "advertiseAddr": advertise_addr,
        "dataPathAddr": data_path_addr,
        "availability": availability,
    }
    identity = call_daemon(run_dir, "POST", "/join", wanted)
    click.echo(
        f"This host joined the swarm as a {identity['role']}: "
        f"node {identity['name']} ({identity['node']}) at {identity['advertiseAddr']}."
    )
    report = wait_until_settled(run_dir)
    if report["problems"] or not report["settled"]:
        show_up(report)
        sys.exit(TIMED_OUT)


@click.command()
@click.option("--force", is_flag=True, help="Leave as the last manager: the swarm and its services are erased.")
@run_dir_option
def leave(force: bool, run_dir: Path) -> None:
    """Leave the swarm: this host's task containers are removed, and what it knows of the swarm is forgotten."""
    need_daemon(run_dir)
    warning = call_daemon(run_dir, "POST", "/leave", {"force": force})["warning"]
    for line in warning.splitlines():
        click.echo(f"shoal: {line}", err=True)
    click.echo("This host left the swarm.")


@click.command()
@click.argument("role", type=click.Choice(["worker", "manager"]))
@click.option("--rotate", is_flag=True, help="Make a new token; the old one stops working at once.")
@click.option("-q", "--quiet", is_flag=True, help="Print the token alone.")
@click.pass_context
def token(ctx: click.Context, role: str, rotate: bool, quiet: bool) -> None:
    """Print the command by which another host joins."""

    async def work(client: Client) -> None:
        if rotate:
            found = await client.call("POST", "tokens/rotate", {"role": role})
        else:
            found = await client.call("GET", "tokens")
        if quiet:
            click.echo(found[role])
            return
        where = next(iter(found["managers"]), "HOST:2377")
        if role == "manager":
            click.echo("shoal: joining as a manager is not available yet in this version", err=True)
        done = f"The {role} token is new; the old one works no longer.\n\n" if rotate else ""
        click.echo(f"{done}To add a {role}, run there:\n\n    shoal join --token {found[role]} {where}\n")

    run(api_of(ctx), work)
