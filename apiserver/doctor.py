"""How the network is: every node's agent is asked to look, and what they found is put side by side.

Nothing is stored, and no node is trusted with more than before: it answers a question, about what it sees itself.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import anyio
import msgspec
from aiohttp import web

from apiserver import incoming, wire
from apiserver.logs import Logs
from apiserver.lookup import find
from apiserver.mirror import Mirror
from apiserver.objects import json_response
from shoal.api import keys
from shoal.api import objects as o
from shoal.api.errors import InvalidError, UnavailableError
from shoal.api.probes import NodeProbe, ProbedNode, ProbedNodes
from shoal.api.states import NodeState

LOOK_S: Final = 15.0
"""Seconds a node has to look: it takes four at most, unless it has no time for itself."""


class Doctor:
    def __init__(self, mirror: Mirror, logs: Logs) -> None:
        self._mirror, self._logs = mirror, logs

    async def network(self, request: web.Request) -> web.StreamResponse:
        """Answer what all nodes that are still members found, by name; `networks=front,back` looks at these alone."""
        incoming.only(request.query, "networks")
        cache = await self._mirror.fresh()
        names = [name for name in request.query.get("networks", "").split(",") if name]
        uids = [_overlay(find(cache, o.Network, name)).metadata.uid for name in names]
        nodes = present(cache.all(o.Node).values())
        cluster = cache.get(o.Cluster, keys.CLUSTER)
        found: list[ProbedNode] = []

        async def ask(node: o.Node) -> None:
            found.append(await self._probed(node, uids))

        async with anyio.create_task_group() as group:
            for node in nodes:
                group.start_soon(ask, node)
        port = (cluster.spec if cluster is not None else o.ClusterSpec()).data_path_port
        probed = ProbedNodes(port, tuple(sorted(found, key=lambda one: one.name)))
        return json_response(wire.encode(probed))

    async def _probed(self, node: o.Node, uids: list[str]) -> ProbedNode:
        probe, silence = None, "its answer ended before it said anything"
        try:
            async for line in self._logs.answer(node.metadata.uid, "network", {"networks": uids}, within_s=LOOK_S):
                if "warning" in line:
                    silence = str(line["warning"])
                else:
                    probe = msgspec.convert(line, NodeProbe)
        except UnavailableError as error:
            silence = str(error)
        except msgspec.ValidationError:
            silence = "its agent gave an answer that this manager does not understand"
        status = node.status
        return ProbedNode(
            name=node.metadata.name,
            state=status.state,
            message=status.message,
            address=status.data_path or status.address,
            probe=probe,
            silence=silence if probe is None else "",
        )


def present(nodes: Collection[o.Node]) -> list[o.Node]:
    """Return the nodes that should be there: those that have not left, nor come again under the same name."""
    up = {node.metadata.name for node in nodes if node.status.state is not NodeState.DOWN}
    return [
        node
        for node in nodes
        if node.status.left_at is None and (node.status.state is not NodeState.DOWN or node.metadata.name not in up)
    ]


def _overlay(network: o.Network) -> o.Network:
    if network.spec.predefined:
        raise InvalidError(f"network {network.metadata.name} is each host's own: nothing leads from host to host")
    return network
