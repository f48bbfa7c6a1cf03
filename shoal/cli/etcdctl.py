"""`shoal etcdctl`: etcdctl on Shoal's own etcd, with its certificates."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import click
import msgspec

from shoal.api.errors import TerminalError

STATE_DIR: Final = Path("/var/lib/shoal")

_CERTIFICATES: Final = {"ETCDCTL_CACERT": "ca.crt", "ETCDCTL_CERT": "client.crt", "ETCDCTL_KEY": "client.key"}
"""etcdctl's variable → the file below <state-dir>/pki/etcd."""


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=STATE_DIR,
    show_default=True,
    envvar="SHOAL_STATE_DIR",
    help="Where this host keeps its certificates.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def etcdctl(state_dir: Path, arguments: tuple[str, ...]) -> None:
    """Run etcdctl on Shoal's etcd, as in: shoal etcdctl watch --prefix /shoal/"""
    program = shutil.which("etcdctl")
    if program is None:
        raise TerminalError("etcdctl is not installed: apt-get install etcd-client")
    environment = {**os.environ, **variables(state_dir)}
    os.execve(program, [program, *arguments], environment)  # noqa: S606 - etcdctl takes this process's place


def variables(state_dir: Path) -> dict[str, str]:
    """Return etcdctl's environment for a host's etcd; TerminalError says what is missing and what to do."""
    try:
        ports = msgspec.json.decode((state_dir / "host.json").read_bytes()).get("etcdPorts", {})
        paths = {name: state_dir / "pki" / "etcd" / file for name, file in _CERTIFICATES.items()}
        for path in paths.values():
            path.open("rb").close()
    except FileNotFoundError as error:
        raise TerminalError(
            f"{error.filename} does not exist: run this on a manager, after `shoal init` or `shoal up`, or name its"
            " state directory with --state-dir"
        ) from error
    except PermissionError as error:
        raise TerminalError(f"{error.filename} is for root only: run `sudo shoal etcdctl …`") from error
    except msgspec.DecodeError as error:
        raise TerminalError(f"{state_dir / 'host.json'} is damaged: {error}") from error
    endpoint = f"https://127.0.0.1:{ports.get('client', 2379)}"
    return {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": endpoint, **{name: str(path) for name, path in paths.items()}}
