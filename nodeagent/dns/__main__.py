"""Runs a node's name service as a process: `python -m nodeagent.dns --node UID --state-dir DIR --run-dir DIR`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import anyio
import click
from anyio import to_thread

from nodeagent import memory
from nodeagent.dns import feed
from nodeagent.dns.answers import Answers
from nodeagent.dns.facts import facts_of
from nodeagent.dns.feed import News
from nodeagent.dns.server import Server
from nodeagent.dns.upstream import HostResolvers, Upstream
from shoal.machinery.process import ProcessOptions, process_options, run_process
from shoal.machinery.status import Health

_FOLDER = click.Path(file_okay=False, path_type=Path)

READER_WAITS_S: Final = 0.0005
"""Seconds at most until the thread that answers has its turn, while the event loop works on news from the agent."""


@click.command()
@click.option("--node", "node_uid", required=True, help="This node's uid.")
@click.option("--state-dir", type=_FOLDER, default="/var/lib/shoal", show_default=True, help="The agent's.")
@click.option("--run-dir", type=_FOLDER, default="/run/shoal", show_default=True, help="Where the agent finds us.")
@process_options
def main(node_uid: str, state_dir: Path, run_dir: Path, process: ProcessOptions) -> None:
    """Answer containers' questions for names: each other's, and the world's."""
    sys.exit(run_process("dns", make_serve(node_uid, state_dir, run_dir), process))


def make_serve(node_uid: str, state_dir: Path, run_dir: Path) -> Callable[[Health], Awaitable[None]]:
    """Return what the process does: it begins with what the agent stored, and goes on with what the agent says."""

    async def serve(health: Health) -> None:
        answers = Answers()
        upstream = Upstream(HostResolvers().addresses, lambda: server.addresses())
        server = Server(answers, upstream)

        def take(news: News) -> None:
            gone = set(answers.zone.keys()) - news.put.keys() if news.is_complete else news.deleted
            answers.change(news.put, gone)
            server.refresh()

        stored = await to_thread.run_sync(memory.load, state_dir / "agent")
        answers.change({key: facts_of(obj, node_uid) for key, obj in stored.objects.items()}, ())
        health.not_ready = lambda: "; ".join(server.troubles())
        sys.setswitchinterval(READER_WAITS_S)
        async with anyio.create_task_group() as group:
            group.start_soon(server.run)
            group.start_soon(feed.serve, run_dir / feed.SOCKET, take)

    return serve


if __name__ == "__main__":
    main()
