"""What a host that leaves lets go of, and what it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.clear import clear
from nodeagent.engine.fake import FakeEngine
from nodeagent.network.docker_networks import OURS
from nodeagent.tasks.container import NODE_LABEL

pytestmark = pytest.mark.anyio


async def test_the_nodes_containers_files_and_networks_go_and_all_others_stay(tmp_path: Path) -> None:
    engine = FakeEngine(images=("x:1",))
    for name, labels in (("mine", {NODE_LABEL: "n1"}), ("other", {NODE_LABEL: "n2"}), ("plain", {})):
        container = await engine.create(name, {"Image": "x:1", "Labels": labels})
        if name != "mine":
            await engine.start(container)
    await engine.create_network("shoal-ingress", {"Driver": "bridge", "Labels": OURS})
    await engine.create_network("theirs", {"Driver": "bridge", "Labels": {}})
    (tmp_path / "files" / "task").mkdir(parents=True)
    (tmp_path / "files" / "task" / "0").write_bytes(b"secret")

    for _ in range(2):  # the second time after a crash
        await clear(engine, "n1", tmp_path)

    assert [summary.name for summary in await engine.containers({})] == ["other", "plain"]
    assert [network.name for network in await engine.networks({})] == ["theirs"]
    assert list((tmp_path / "files").iterdir()) == []
