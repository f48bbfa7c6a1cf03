"""The command's entry: which commands there are, and how errors become sentences and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

import click

from shoal.api.errors import ShoalError
from shoal.api.names import hint

DEFAULT_API: Final = "unix:///run/shoal/api.sock"


INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as shells have it. Whatever was written stays."""


class Row(NamedTuple):
    section: str
    where: str
    """module:attribute of a click command, imported when it is run."""
    help: str


COMMANDS: Final[dict[str, Row]] = {
    "apply": Row("Services", "shoal.cli.apply:apply", "Create or change what manifests describe"),
    "diff": Row("Services", "shoal.cli.apply:diff", "Show what apply would change"),
    "scale": Row("Services", "shoal.cli.apply:scale", "Set how many tasks services have"),
    "rollout": Row("Services", "shoal.cli.rollout:rollout", "Follow a rollout, pause it, go on, or go back"),
    "delete": Row("Services", "shoal.cli.delete:delete", "Delete objects by name or by manifest"),
    "secret": Row("Services", "shoal.cli.files:secret", "Create, list, look at and remove secrets"),
    "config": Row("Services", "shoal.cli.files:config", "Create, list, look at and remove configs"),
    "get": Row("Look", "shoal.cli.get:get", "List objects, or show some"),
    "describe": Row("Look", "shoal.cli.describe:describe", "Tell all about one object, the cause of trouble first"),
    "logs": Row("Look", "shoal.cli.logs:logs", "Print what a service's or a task's containers wrote"),
    "events": Row("Look", "shoal.cli.events:events", "List what happened"),
    "top": Row("Look", "shoal.cli.top:top", "Show what running tasks use"),
    "doctor": Row("Look", "shoal.cli.doctor:doctor", "Tell what is wrong with the network between the hosts"),
    "wait": Row("Look", "shoal.cli.wait:wait", "Wait until something is so"),
    "node": Row("Swarm", "shoal.cli.node:node", "List and change the swarm's hosts"),
    "token": Row("Swarm", "shoal.cli.membership:token", "Print the command by which another host joins"),
    "init": Row("Host", "shoal.cli.host_commands:init", "Make this host the first of a new swarm"),
    "join": Row("Host", "shoal.cli.membership:join", "Make this host a member of a swarm"),
    "leave": Row("Host", "shoal.cli.membership:leave", "Make this host leave its swarm"),
    "up": Row("Host", "shoal.cli.host_commands:up", "Start Shoal on this host"),
    "status": Row("Host", "shoal.cli.host_commands:status", "Show what runs on this host"),
    "down": Row("Host", "shoal.cli.host_commands:down", "Stop Shoal on this host; containers go on"),
    "host": Row("Host", "shoal.cli.host_commands:host", "Run the host daemon in the foreground"),
    "etcdctl": Row("Host", "shoal.cli.etcdctl:etcdctl", "Run etcdctl on Shoal's etcd"),
    "completion": Row("Host", "shoal.cli.completion:completion", "Print a script that completes shoal in a shell"),
}


class LazyGroup(click.Group):
    """A group that knows its commands by table, so that `--help` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = COMMANDS.get(cmd_name)
        if row is None:
            return None
        module, attribute = row.where.split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}{hint(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in dict.fromkeys(row.section for row in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl([(name, row.help) for name, row in COMMANDS.items() if row.section == section])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--api",
    envvar="SHOAL_API",
    default=DEFAULT_API,
    show_default=True,
    show_envvar=True,
    help="Where the API server answers.",
)
@click.version_option(package_name="shoal", message="shoal %(version)s")
@click.pass_context
def cli(ctx: click.Context, api: str) -> None:
    """Shoal runs containers across Docker hosts.

    Describe services in a manifest, `shoal apply -f` it, and look with `shoal get` and `shoal describe`.
    """
    ctx.obj = api


def main(args: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code: 0 ok, 1 failed, 2 bad input, 3 partial, 4 timed out, 5 rolled back,
    6 conflict.
    """
    try:
        code = cli.main(args=args, prog_name="shoal", standalone_mode=False)
    except ShoalError as error:
        for line in str(error).splitlines() or [type(error).__name__]:
            click.echo(f"shoal: {line}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
