"""`shoal completion`: a script that makes a shell complete commands, kinds and live names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_HOW = {
    "bash": "source <(shoal completion bash)",
    "zsh": "source <(shoal completion zsh)",
    "fish": "shoal completion fish | source",
}


@click.command(epilog="\n".join(f"For {shell}: {line}" for shell, line in _HOW.items()))
@click.argument("shell", type=click.Choice(list(_HOW)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes shoal in a shell; read it in the shell's start file."""
    found = get_completion_class(shell)
    assert found is not None
    command = ctx.find_root().command
    click.echo(found(command, {}, "shoal", "_SHOAL_COMPLETE").source())
