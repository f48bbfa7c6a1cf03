"""A query comes in, a packed answer goes out, and is remembered for the same query of the same askers. Pure.

    bytes after the id ──► remembered for this asker's networks? ──► id + answer          (a dictionary look-up)
                                       │ no
                                       ▼
                      parse ──► find in the zone ──► pack ──► remember, under every name it depends on

A changed name forgets the answers that depend on it and no others. Foreign names are not answered here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from ipaddress import AddressValueError, IPv4Address
from typing import Final

from nodeagent.dns import wire
from nodeagent.dns.wire import MalformedError, Query, Rotation
from nodeagent.dns.zone import Facts, Scope, Zone

Packed = bytes | Rotation

REMEMBERED_BYTES: Final = 4 << 20
"""Answers remembered for one set of networks; beyond it all are forgotten. Names in random letter case fill it."""

MOST_ASKERS: Final = 10_000
"""Askers remembered per listener."""

_REVERSE: Final = ".in-addr.arpa"
_TRANSFERS: Final = (251, 252)
"""IXFR and AXFR: whole zones are nobody's."""


class Elsewhere(Enum):
    """The query is about a foreign name: to be asked of the host's resolvers."""

    FORWARD = "forward"


class Memory:
    """Answers for the askers of one scope, by the bytes of the query after its id. Over UDP only."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.answers: dict[bytes, Packed] = {}
        self._by_name: dict[str, set[bytes]] = {}
        self._bytes = 0

    def remember(self, query: bytes, answer: Packed, names: Collection[str]) -> None:
        size = len(query) + (len(answer) if isinstance(answer, bytes) else answer.size)
        if self._bytes + size > REMEMBERED_BYTES:
            self.clear()
        self._bytes += size
        self.answers[query] = answer
        for name in names:
            self._by_name.setdefault(name, set()).add(query)

    def forget(self, name: str) -> None:
        for query in self._by_name.pop(name, ()):
            self.answers.pop(query, None)

    def clear(self) -> None:
        self.answers.clear()
        self._by_name.clear()
        self._bytes = 0


class Door:
    """One network's listener: whose memory an asker's address stands for."""

    def __init__(self, network: str) -> None:
        self.network = network
        self.askers: dict[str, Memory | None] = {}


class Answers:
    def __init__(self) -> None:
        self.zone = Zone()
        self._memories: dict[Scope, Memory] = {}
        self._doors: dict[str, Door] = {}

    def door(self, network: str) -> Door:
        """Return the door of a network's listener; it stays the same one."""
        return self._doors.setdefault(network, Door(network))

    def change(self, put: Mapping[str, Facts], deleted: Collection[str]) -> None:
        """Take what changed in the world. Work is done for the names that changed."""
        touched = [self.zone.delete(key) for key in deleted]
        touched += [self.zone.put(key, facts) for key, facts in put.items()]
        if any(one.everything for one in touched):
            self._forget_everything()
        for address in {address for one in touched for address in one.askers}:
            for door in self._doors.values():
                door.askers.pop(address, None)
        for network, name in {place for one in touched for place in one.names}:
            for scope, memory in self._memories.items():
                if network in scope.networks:
                    memory.forget(name)

    @staticmethod
    def remembered(door: Door, asker: str, data: bytes) -> bytes | None:
        """Return the answer to a query over UDP if it is known already. Any thread may ask."""
        memory = door.askers.get(asker)
        answer = memory.answers.get(data[2:]) if memory is not None else None
        if isinstance(answer, bytes):
            return data[:2] + answer
        return data[:2] + answer.next() if answer is not None else None

    def answer(self, door: Door, asker: str, data: bytes) -> bytes | Elsewhere | None:
        """Answer a query that came over UDP, and remember that; None = with silence."""
        return _whole(data, self._find(self._memory_of(door, asker), data, 0))

    def answer_tcp(self, door: Door, asker: str, data: bytes) -> bytes | Elsewhere | None:
        """Answer a query that came over TCP, where there is room for all of it."""
        return _whole(data, self._find(self._memory_of(door, asker), data, wire.TCP_BYTES))

    def _memory_of(self, door: Door, asker: str) -> Memory | None:
        try:
            return door.askers[asker]
        except KeyError:
            pass
        scope = self.zone.scope_of(asker, door.network)
        memory = self._memories.setdefault(scope, Memory(scope)) if scope is not None else None
        if len(door.askers) >= MOST_ASKERS:
            door.askers.clear()
        door.askers[asker] = memory
        return memory

    def _find(self, memory: Memory | None, data: bytes, limit: int) -> Packed | Elsewhere | None:
        """`limit` in bytes; 0 = over UDP: what the query says, and the answer is remembered."""
        try:
            query = wire.parse(data)
        except MalformedError as malformed:
            return malformed.answer or None
        if memory is None or not query.is_internet or query.type in _TRANSFERS:
            return wire.pack_empty(query.record, wire.REFUSED)
        answer, names = self._decide(memory.scope, query, limit or query.udp_bytes)
        if isinstance(answer, Elsewhere):
            return self._leave(memory.scope, query)
        if not limit:
            memory.remember(data[2:], answer, names)
        return answer

    def _decide(self, scope: Scope, query: Query, limit: int) -> tuple[Packed | Elsewhere, Collection[str]]:
        """Return the answer, and the names it depends on."""
        address = _reversed_address(query.name)
        if address is not None:
            return self._decide_reverse(scope, query, address), (address.reverse_pointer,)
        found = self.zone.find(scope, query.name)
        if found is None:
            return Elsewhere.FORWARD, ()
        names = self.zone.asked_names(scope, query.name)
        if found and query.type in (wire.A, wire.ANY):
            return wire.pack_addresses(query, found, limit), names
        return wire.pack_empty(query.record, wire.NOERROR), names

    def _decide_reverse(self, scope: Scope, query: Query, address: IPv4Address) -> Packed | Elsewhere:
        found = self.zone.find_reverse(scope, address)
        if found is None:
            return Elsewhere.FORWARD
        if found and query.type in (wire.PTR_TYPE, wire.ANY):
            return wire.pack_pointers(query, found)
        return wire.pack_empty(query.record, wire.NOERROR if found else wire.NXDOMAIN)

    def _leave(self, scope: Scope, query: Query) -> bytes | Elsewhere:
        """What to do with a foreign name.

        Who has resolvers of its own is refused: the engine's resolver then asks these, from the container's own
        network. Nobody on internal networks only has a way out, and for it no other names exist.
        """
        if scope.has_resolvers:
            return wire.pack_empty(query.record, wire.REFUSED)
        if not self.zone.may_leave(scope):
            return wire.pack_empty(query.record, wire.NXDOMAIN)
        return Elsewhere.FORWARD

    def _forget_everything(self) -> None:
        self._memories.clear()
        for door in self._doors.values():
            door.askers.clear()


def failure(data: bytes) -> bytes | None:
    """Return the answer that says that nobody could be asked; None if there is nothing to answer to."""
    try:
        query = wire.parse(data)
    except MalformedError:
        return None
    return data[:2] + wire.pack_empty(query.record, wire.SERVFAIL)


def _whole(data: bytes, answer: Packed | Elsewhere | None) -> bytes | Elsewhere | None:
    if isinstance(answer, bytes):
        return data[:2] + answer
    return data[:2] + answer.next() if isinstance(answer, Rotation) else answer


def _reversed_address(name: str) -> IPv4Address | None:
    if not name.endswith(_REVERSE):
        return None
    try:
        return IPv4Address(".".join(reversed(name.removesuffix(_REVERSE).split("."))))
    except AddressValueError:
        return None
