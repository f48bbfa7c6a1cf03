"""One child process: started so that it dies with this one, read to its last line, stopped politely, then not."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping

import anyio
from anyio.abc import Process as Child

from shoal.host.logs import Lines

DRAIN_S = 1.0
"""A grandchild may hold the output open: after the child's end we read for so long at most."""

SPARING: Mapping[str, str] = {"MALLOC_ARENA_MAX": "2", "SSL_CERT_FILE": os.devnull}
"""Memory that no process needs: an allocator's arena for each thread, and the world's certificate authorities, which
libraries load when they are imported (1.6 MB). Between Shoal's processes only the cluster's own authorities count."""

_GUARD = ("setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", 'test "$PPID" = "$0" && exec "$@"')
"""The kernel kills the child with us. The shell sees to it that we have not died before the kernel knew."""


async def start(argv: tuple[str, ...], environment: Mapping[str, str]) -> Child:
    """Start a program in a session of its own, so that the terminal's Ctrl-C reaches only us. OSError if it cannot."""
    return await anyio.open_process(
        [*_GUARD, str(os.getpid()), *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=child_environment(os.environ, environment),
        start_new_session=True,
    )


def child_environment(ours: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Pure. Ours without what would override etcd's or Shoal's own options; gRPC's fork handlers stay off."""
    kept = {name: value for name, value in ours.items() if not name.startswith(("ETCD_", "ETCDCTL_", "SHOAL_ETCD"))}
    return {**kept, "GRPC_ENABLE_FORK_SUPPORT": "0", "PYTHONUNBUFFERED": "1", **SPARING, **extra}


async def run_to_end(child: Child, on_line: Callable[[bytes], None]) -> int:
    """Pass on what the child says until it ends; returns its exit code, negative for a signal."""
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_read, child, on_line)
            code = await child.wait()
            group.cancel_scope.deadline = anyio.current_time() + DRAIN_S
    except BaseException:
        _signal(child, signal.SIGKILL)
        raise
    finally:
        with anyio.CancelScope(shield=True):
            await child.aclose()
    return code


def ask_to_stop(child: Child) -> None:
    _signal(child, signal.SIGTERM)


def kill(child: Child) -> None:
    _signal(child, signal.SIGKILL)


def _signal(child: Child, number: signal.Signals) -> None:
    if child.returncode is None:
        try:
            child.send_signal(number)
        except ProcessLookupError:
            return


async def _read(child: Child, on_line: Callable[[bytes], None]) -> None:
    assert child.stdout is not None
    lines = Lines()
    async for chunk in child.stdout:
        for line in lines.feed(chunk):
            on_line(line)
    for line in lines.end():
        on_line(line)
