"""`shoal node` and `shoal token`, as people type them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shoal.api.errors import InvalidError
from shoal.api.states import NodeState
from shoal.api.tokens import parse_token
from shoal.cli.node import patch_of
from shoal.machinery.factories import make_node
from tests.support.door import open_door
from tests.support.swarm import Swarm, running_swarm

pytestmark = pytest.mark.anyio

N1, N2 = make_node("node-1", address="10.0.0.1"), make_node("node-2", address="10.0.0.2")
GONE = make_node("node-3", state=NodeState.DOWN, address="10.0.0.3")


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[Swarm]:
    async with running_swarm(tmp_path, N1, N2, GONE) as found:
        yield found


async def test_nodes_are_listed_inspected_changed_and_removed(swarm: Swarm) -> None:
    listed = await swarm.shoal("node", "ls")
    assert [line.split()[:3] for line in listed.lines[1:]] == [
        ["node-1", "ready", "active"],
        ["node-2", "ready", "active"],
        ["node-3", "down", "active"],
    ]
    quiet = await swarm.shoal("node", "ls", "-q")
    assert quiet.lines == [node.metadata.uid for node in (N1, N2, GONE)]

    changed = await swarm.shoal(
        "node", "update", "node-1", "--availability", "pause", "--label-add", "zone=a", "--label-add", "ssd"
    )
    assert (changed.code, changed.out) == (0, "node-1\n")
    (found,) = json.loads((await swarm.shoal("node", "inspect", "node-1")).out)
    assert (found["spec"]["availability"], found["metadata"]["labels"]) == ("pause", {"zone": "a", "ssd": ""})
    assert (await swarm.shoal("node", "update", "node-1", "--label-rm", "ssd")).code == 0
    again = await swarm.shoal("node", "update", "node-1", "--label-rm", "ssd", "--label-rm", "zone")
    assert (again.code, again.err) == (2, "shoal: node node-1 has no label ssd\n")
    assert (await swarm.shoal("node", "ls", "-l", "zone=a", "-q")).lines == [N1.metadata.uid]
    assert (await swarm.shoal("node", "inspect", "--pretty", "node-1")).said("Availability:  pause", "zone=a")

    assert (await swarm.shoal("node", "rm", "node-1")).said("node node-1 is not down and cannot be removed")
    both = await swarm.shoal("node", "rm", "node-3", "node-9")
    assert (both.code, both.out, both.said("node-9")) == (3, "node-3\n", True)
    assert (await swarm.shoal("node", "rm", "--force", "node-1")).code == 0
    assert (await swarm.shoal("node", "ls", "-q")).lines == [N2.metadata.uid]


async def test_a_nodes_tasks_are_listed(swarm: Swarm, tmp_path: Path) -> None:
    manifest = tmp_path / "web.yaml"
    manifest.write_text("apiVersion: shoal/v1\nkind: Service\nmetadata: {name: web}\nspec: {image: x, replicas: 2}\n")
    assert (await swarm.shoal("apply", "-f", str(manifest))).code == 0
    one, all_of_them = await swarm.shoal("node", "ps", "node-1"), await swarm.shoal("node", "ps")
    assert (len(one.lines), len(all_of_them.lines)) == (2, 3)
    assert one.said("web.", "node-1", "running")


async def test_becoming_a_manager_is_refused_until_there_can_be_several(swarm: Swarm) -> None:
    refused = await swarm.shoal("node", "update", "node-1", "--role", "manager")
    assert (refused.code, refused.said("several managers are not available yet")) == (2, True)


async def test_a_token_is_printed_with_the_command_that_uses_it(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        swarm = Swarm(door.api)
        told = await swarm.shoal("token", "worker")
        token = (await swarm.shoal("token", "worker", "-q")).out.strip()
        assert parse_token(token)
        assert f"shoal join --token {token} {door.remote}" in told.out

        rotated = await swarm.shoal("token", "worker", "--rotate")
        assert rotated.said("The worker token is new")
        assert token not in rotated.out
        assert (await swarm.shoal("token", "worker")).out.strip() in rotated.out
        assert (await swarm.shoal("token", "manager", "-q")).out.strip() != token


async def test_what_a_node_update_sends() -> None:
    assert patch_of("drain", ("a=1", "b"), ("c",), None) == {
        "spec": {"availability": "drain"},
        "metadata": {"labels": {"a": "1", "b": "", "c": None}},
    }
    with pytest.raises(InvalidError, match="nothing to change"):
        patch_of(None, (), (), None)
