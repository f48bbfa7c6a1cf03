"""The node's network with names: what the agent tells the name service, and when.

A pass over the network has an order: names that go are gone before the rules and addresses they led to, and names that
come are there after these. If we die in between, the next pass starts from what the name service then has.

The name service is a process of its own: while it is away nobody is misled, so the network does not wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import anyio
import msgspec
import structlog
from anyio.abc import SocketStream

from nodeagent.assignments import Assignments
from nodeagent.dns.facts import facts_of
from nodeagent.dns.feed import News, Taken, lines
from nodeagent.dns.zone import NOTHING, Facts
from nodeagent.ports import ContainerNetwork, NetworkPort
from shoal.api.objects import Object, Task

TAKEN_WITHIN_S: Final = 2.0
"""Seconds the name service has to take what it is told; the network goes on without it then."""

log = structlog.get_logger()


class Names(Protocol):
    """Whoever answers for names."""

    async def bring(self, facts: Mapping[str, Facts]) -> None:
        """See that names are answered by exactly these facts, by keys of objects; what has not changed is the same."""


class NamedNetwork:
    """A `NetworkPort` that has names beside what another one does."""

    def __init__(self, network: NetworkPort, link: Names, node_uid: str) -> None:
        self._network, self._link, self._node_uid = network, link, node_uid
        self._objects: Mapping[str, Object] = {}
        self._facts: dict[str, Facts] = {}
        """Of the newest assignments, by key."""
        self._in_force: dict[str, Facts] = {}
        self._servers: dict[str, str] = {}
        """Network uid → our address on it, where its containers ask."""

    async def prepare(self, task: Task) -> ContainerNetwork:
        """As the network, and with our name server first: on the first of its networks that has one."""
        wired = await self._network.prepare(task)
        known = (self._servers.get(address.network.uid) for address in task.spec.addresses)
        server = next((address for address in known if address is not None), None)
        if server is None:
            return wired
        return msgspec.structs.replace(wired, nameservers=(server, *wired.nameservers))

    async def program(self, assignments: Assignments) -> None:
        facts = self._facts = self._gather(assignments)
        self._servers = _servers(facts)
        self._in_force = {key: _kept(one, self._in_force.get(key, NOTHING)) for key, one in facts.items()}
        await self._link.bring(self._in_force)
        await self._network.program(assignments)
        self._in_force = facts
        await self._link.bring(facts)

    async def cleanup(self) -> None:
        await self._network.cleanup()

    def _gather(self, assignments: Assignments) -> dict[str, Facts]:
        """Return all facts; those of an unchanged object are the same ones as before."""
        before, self._objects = self._objects, assignments.objects
        if before is self._objects:
            return self._facts
        found = {
            key: self._facts.get(key, NOTHING) if obj is before.get(key) else facts_of(obj, self._node_uid)
            for key, obj in self._objects.items()
        }
        return {key: facts for key, facts in found.items() if facts != NOTHING}


class NamesLink:
    """The connection to the name service."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._stream: SocketStream | None = None
        self._told: dict[str, Facts] = {}
        """What the process at the other end of this connection has."""
        self._number = 0
        self._trouble = ""

    async def bring(self, facts: Mapping[str, Facts]) -> None:
        """As `Names`; without the name service go on, and begin anew next time."""
        try:
            with anyio.fail_after(TAKEN_WITHIN_S):
                await self._bring_anyhow(facts)
        except (OSError, TimeoutError, msgspec.MsgspecError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            await self._hang_up(str(error) or type(error).__name__)
        else:
            if self._trouble:
                log.info("names_fed", objects=len(facts))
            self._trouble = ""

    async def _bring_anyhow(self, facts: Mapping[str, Facts]) -> None:
        """Bring facts, to another process if the one we know has ended."""
        if self._stream is not None:
            try:
                return await self._bring(self._stream, facts)
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                await self.aclose()
        self._told = {}
        self._stream = await anyio.connect_unix(self._socket)
        return await self._bring(self._stream, facts, is_complete=True)

    async def _bring(self, stream: SocketStream, facts: Mapping[str, Facts], *, is_complete: bool = False) -> None:
        """Say what is new; also that nothing is: the answer shows that the other end lives and knows the rest."""
        self._number += 1
        put = {key: one for key, one in facts.items() if one is not self._told.get(key)}
        news = News(self._number, is_complete, put, tuple(key for key in self._told if key not in facts))
        await stream.send(msgspec.json.encode(news) + b"\n")
        async for line in lines(stream):
            if msgspec.json.decode(line, type=Taken).number == self._number:
                self._told = dict(facts)
                return
        raise anyio.EndOfStream

    async def _hang_up(self, why: str) -> None:
        if not self._trouble:
            log.warning("names_not_fed", reason=why)
        self._trouble = why
        await self.aclose()

    async def aclose(self) -> None:
        """End the connection; what was brought stays in force."""
        if self._stream is not None:
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()
            self._stream = None


def _kept(new: Facts, old: Facts) -> Facts:
    return new if new is old else new.kept_from(old)


def _servers(facts: Mapping[str, Facts]) -> dict[str, str]:
    named = {one.network.uid for one in facts.values() if one.network is not None and one.network.has_names}
    listeners = (one.listener for one in facts.values() if one.listener is not None)
    return {listener.network: listener.address for listener in listeners if listener.network in named}
