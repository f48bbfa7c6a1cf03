"""The node's network with names: what the agent tells the name service, and when.

A pass over the network has an order: names that go are gone before the rules and addresses they led to, and names that
come are there after these. If we die in between, the next pass starts from what the name service then has.

The name service is a process of its own: while it is away nobody is misled, so the network does not wait for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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

    async def bring(self, put: Mapping[str, Facts], gone: Collection[str], everything: Mapping[str, Facts]) -> None:
        """See that names are answered by what is put and no more by what is gone, which makes `everything`."""


class NamedNetwork:
    """A `NetworkPort` that has names beside what another one does."""

    def __init__(self, network: NetworkPort, names: Names, node_uid: str) -> None:
        self._network, self._names, self._node_uid = network, names, node_uid
        self._objects: Mapping[str, Object] = {}
        self._facts: dict[str, Facts] = {}
        """Of the newest assignments, by key."""
        self._in_force: dict[str, Facts] = {}
        self._waiting: set[str] = set()
        """Keys of facts that are not in force, or not all of them."""

    async def prepare(self, task: Task) -> ContainerNetwork:
        """As the network, and with our name server first: on the first of its networks that has one."""
        wired = await self._network.prepare(task)
        servers = _servers(self._facts.values())
        known = (servers.get(address.network.uid) for address in task.spec.addresses)
        server = next((address for address in known if address is not None), None)
        if server is None:
            return wired
        return msgspec.structs.replace(wired, nameservers=(server, *wired.nameservers))

    async def complete(self, task: Task, pid: int) -> None:
        await self._network.complete(task, pid)

    def distrust(self) -> None:
        self._network.distrust()

    async def program(self, assignments: Assignments) -> None:
        changed, gone = self._take(assignments)
        self._waiting = (self._waiting | changed.keys()) - gone
        await self._bring({key: one.kept_from(self._in_force.get(key, NOTHING)) for key, one in changed.items()}, gone)
        await self._network.program(assignments)
        await self._bring({key: self._facts[key] for key in self._waiting}, ())
        self._waiting = set()

    async def cleanup(self) -> None:
        await self._network.cleanup()

    async def _bring(self, put: Mapping[str, Facts], gone: Collection[str]) -> None:
        for key in gone:
            self._in_force.pop(key, None)
        self._in_force |= put
        await self._names.bring(put, gone, self._in_force)

    def _take(self, assignments: Assignments) -> tuple[dict[str, Facts], set[str]]:
        """Return the facts that have changed, and the keys of those that are gone."""
        before, self._objects = self._objects, assignments.objects
        if before is self._objects:
            return {}, set()
        new = {key: facts_of(o, self._node_uid) for key, o in self._objects.items() if o is not before.get(key)}
        gone = {key for key in before.keys() - self._objects.keys() if key in self._facts}
        gone |= {key for key, facts in new.items() if facts == NOTHING and key in self._facts}
        changed = {key: facts for key, facts in new.items() if facts not in (NOTHING, self._facts.get(key))}
        for key in gone:
            del self._facts[key]
        self._facts |= changed
        return changed, gone


class NamesLink:
    """The connection to the name service."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._stream: SocketStream | None = None
        self._number = 0
        self._trouble = ""

    async def bring(self, put: Mapping[str, Facts], gone: Collection[str], everything: Mapping[str, Facts]) -> None:
        """As `Names`; without the name service go on, and begin anew next time.

        That there is no news is told, too: the answer shows that the other end lives and knows the rest.
        """
        try:
            with anyio.fail_after(TAKEN_WITHIN_S):
                await self._bring_anyhow(put, gone, everything)
        except (OSError, TimeoutError, msgspec.MsgspecError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            await self._hang_up(str(error) or type(error).__name__)
        else:
            if self._trouble:
                log.info("names_fed", objects=len(everything))
            self._trouble = ""

    async def _bring_anyhow(
        self, put: Mapping[str, Facts], gone: Collection[str], everything: Mapping[str, Facts]
    ) -> None:
        """Say what is new; or everything, to another process if the one we know has ended."""
        if self._stream is not None:
            try:
                return await self._say(self._stream, put, gone)
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                await self.aclose()
        self._stream = await anyio.connect_unix(self._socket)
        return await self._say(self._stream, everything, is_complete=True)

    async def _say(
        self, stream: SocketStream, put: Mapping[str, Facts], gone: Collection[str] = (), *, is_complete: bool = False
    ) -> None:
        self._number += 1
        news = News(self._number, is_complete, dict(put), tuple(gone))
        await stream.send(msgspec.json.encode(news) + b"\n")
        async for line in lines(stream):
            if msgspec.json.decode(line, type=Taken).number == self._number:
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


def _servers(facts: Collection[Facts]) -> dict[str, str]:
    """Network uid → our address on it, where its containers ask."""
    named = {one.network.uid for one in facts if one.network is not None and one.network.has_names}
    listeners = (one.listener for one in facts if one.listener is not None)
    return {listener.network: listener.address for listener in listeners if listener.network in named}
