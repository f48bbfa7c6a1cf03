"""Hollow nodes: real agents on engines in memory, in one process: `python -m hack.benchmarks.hollow SOCKET DIR UID…`"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from nodeagent.agent import Agent
from nodeagent.client import ApiClient
from nodeagent.engine.fake import FakeEngine
from shoal.machinery.clock import SystemClock
from shoal.machinery.logs import configure_logging
from tests.support.agent import PlainNetwork

IMAGE = "hollow:1"


async def run(socket: str, directory: Path, uids: list[str]) -> None:
    async with anyio.create_task_group() as tasks:
        for uid in uids:
            tasks.start_soon(_node, socket, directory / uid, uid)


async def _node(socket: str, directory: Path, uid: str) -> None:
    async with ApiClient([f"unix://{socket}"], uid) as api:
        agent = Agent(
            node_uid=uid,
            engine=FakeEngine(images=(IMAGE,)),
            network=PlainNetwork(),
            api=api,
            clock=SystemClock(),
            state_dir=directory,
            run_dir=directory / "run",
            address="127.0.0.1",
        )
        await agent.run()


if __name__ == "__main__":
    configure_logging("hollow", "error")
    anyio.run(run, sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
