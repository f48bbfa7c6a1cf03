"""What every process's main has in common: options, logging, signals, the status socket, and how it ends.

A process is an async function that runs until it is cancelled. SIGTERM and SIGINT cancel it, so that it ends in
order; SIGKILL at any moment loses nothing, because nothing that matters is in memory.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import click
import structlog

from shoal.api.errors import InvalidError, ShoalError
from shoal.machinery.logs import LEVELS, configure_logging
from shoal.machinery.status import Health, answering_status

if TYPE_CHECKING:
    from shoal.machinery.etcd import EtcdStore

_log = structlog.get_logger()


@dataclass(frozen=True)
class EtcdAddress:
    """Where etcd answers, and the files that prove who we are."""

    urls: tuple[str, ...]
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def connect(self) -> EtcdStore:
        """Return a store; nothing is sent yet. InvalidError where a URL or a file is unusable."""
        from shoal.machinery.etcd import EtcdStore, Tls  # agents and name services never need gRPC's 8 MB

        return EtcdStore(self.urls, Tls(self.ca, self.cert, self.key) if self.ca is not None else None)


@dataclass(frozen=True)
class ProcessOptions:
    status_socket: Path | None = None
    log_level: str = "info"


def etcd_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where etcd is; it gets them as `etcd: EtcdAddress`."""

    @click.option(
        "--etcd",
        "urls",
        envvar="SHOAL_ETCD",
        default="http://127.0.0.1:2379",
        show_default=True,
        help="URL of etcd; several, of one cluster, separated by commas.",
    )
    @click.option("--etcd-ca", envvar="SHOAL_ETCD_CA", type=_FILE, help="CA certificate that etcd's is signed by.")
    @click.option("--etcd-cert", envvar="SHOAL_ETCD_CERT", type=_FILE, help="Our client certificate.")
    @click.option("--etcd-key", envvar="SHOAL_ETCD_KEY", type=_FILE, help="Our client certificate's key.")
    @wraps(command)
    def with_etcd(
        *args: Any, urls: str, etcd_ca: Path | None, etcd_cert: Path | None, etcd_key: Path | None, **options: Any
    ) -> Any:
        found = tuple(url.strip() for url in urls.split(",") if url.strip())
        if any(url.startswith("https://") for url in found) and etcd_ca is None:
            raise click.UsageError("an https:// URL of etcd needs --etcd-ca, the CA to trust")
        if (etcd_cert is None) != (etcd_key is None):
            raise click.UsageError("--etcd-cert and --etcd-key belong together; one is missing")
        return command(*args, etcd=EtcdAddress(found, etcd_ca, etcd_cert, etcd_key), **options)

    return with_etcd


def process_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of every process; it gets them as `process: ProcessOptions`."""

    @click.option(
        "--status-socket",
        envvar="SHOAL_STATUS_SOCKET",
        type=click.Path(path_type=Path),
        help="Unix socket to answer /healthz, /readyz and /metrics on.",
    )
    @click.option(
        "--log-level", envvar="SHOAL_LOG_LEVEL", type=click.Choice(list(LEVELS)), default="info", show_default=True
    )
    @wraps(command)
    def with_process(*args: Any, status_socket: Path | None, log_level: str, **options: Any) -> Any:
        return command(*args, process=ProcessOptions(status_socket, log_level), **options)

    return with_process


_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)


def run_process(name: str, serve: Callable[[Health], Awaitable[None]], options: ProcessOptions) -> int:
    """Run `serve` until it ends or a signal ends it; return the exit code.

    What we raise on purpose becomes a sentence; anything else is a bug, logged with its traceback.
    """
    configure_logging(name, options.log_level)
    spare_collector()
    try:
        anyio.run(_run, serve, options)
    except Exception as error:  # noqa: BLE001  a process's main: whatever it is ends here, as a line and a code
        known = _known(error)
        if known is None:
            _log.exception("process_failed", error=str(error))
            return 1
        if isinstance(known, InvalidError):
            click.echo(str(known), err=True)  # what a person typed
        else:
            _log.error("process_ended", error=str(known))
        return known.exit_code
    return 0


YOUNG: Final = 10_000
"""Containers made before the garbage collector looks for cycles; Python's own 700 is for small programs."""


def spare_collector() -> None:
    """Let the garbage collector pass over what was imported, and look less often: most of what lives here is data
    without cycles, of which it would look at all again and again while thousands of objects change."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)


def _known(error: BaseException) -> ShoalError | None:
    """Return what we raised on purpose, if nothing else is among the errors of several tasks."""
    if isinstance(error, BaseExceptionGroup):
        found = [_known(one) for one in error.exceptions]
        return found[0] if all(found) else None
    return error if isinstance(error, ShoalError) else None


async def _run(serve: Callable[[Health], Awaitable[None]], options: ProcessOptions) -> None:
    health = Health()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_on_signal, tasks.cancel_scope)
        async with answering_status(options.status_socket, health):
            await serve(health)
        tasks.cancel_scope.cancel()


async def _cancel_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            _log.info("process_stopped", signal=signal.Signals(number).name)
            scope.cancel()
            return


def candidate_name() -> str:
    """Return what tells people which process leads: host/pid."""
    return f"{socket.gethostname()}/{os.getpid()}"
