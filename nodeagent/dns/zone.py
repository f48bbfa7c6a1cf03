"""All names of the node's networks, and who may see which. Pure.

The zone is fed with facts, one set per object, so that a changed object costs work for its own names and no others.
An asker sees the names of its own networks: `web` in any of them, `web.front` in the network front only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Final, NamedTuple

from msgspec import Struct


class Rank(IntEnum):
    """Where several records share a name, the lowest rank that has an address answers, alone."""

    VIP = 0
    """A service by its name: its virtual IP."""
    SERVICE = 1
    """A service by its name: a task that is ready."""
    ALIAS_VIP = 2
    ALIAS = 3
    TASK = 4
    """One task or container by its own name."""
    SLOT = 5
    """The task that fills a slot, or has a hostname of its own, and is ready."""
    SLOT_UNREADY = 6
    KNOWN = 7
    """The name exists, and leads nowhere at present."""


_NAMES_AN_ADDRESS: Final = (Rank.VIP, Rank.TASK)
"""Records that answer a reverse look-up."""


class Record(Struct, frozen=True, gc=False, array_like=True):
    """A name on a network, in lower case, and one address it leads to; "" with KNOWN."""

    network: str
    name: str
    rank: Rank
    address: str = ""


class NetworkFact(Struct, frozen=True, array_like=True):
    uid: str
    name: str
    subnets: tuple[str, ...] = ()
    is_internal: bool = False
    has_names: bool = True
    """False: the ingress network, which has a way out but no names."""
    engine_name: str = ""
    """What Docker calls it: its own resolver answers reverse look-ups by that name."""


class Asker(Struct, frozen=True, array_like=True):
    """A container by its address, and its networks in order."""

    address: str
    networks: tuple[str, ...]
    has_resolvers: bool = False
    """It was given resolvers of its own, to go on with where ours knows no answer."""
    has_way_out: bool = False
    """It is on its engine's default bridge, too."""


class Listener(Struct, frozen=True, array_like=True):
    """This node's address on a network: where its containers ask."""

    network: str
    address: str


class Facts(Struct, frozen=True, omit_defaults=True):
    """What one object says about names."""

    records: tuple[Record, ...] = ()
    askers: tuple[Asker, ...] = ()
    network: NetworkFact | None = None
    listener: Listener | None = None

    def kept_from(self, old: Facts) -> Facts:
        """Return these facts without the records that `old` does not have: what goes is gone, what comes waits."""
        before = frozenset(old.records)
        return Facts(tuple(one for one in self.records if one in before), self.askers, self.network, self.listener)


NOTHING: Final = Facts()


class Scope(NamedTuple):
    """What an asker may see: its networks by uid, in order."""

    networks: tuple[str, ...]
    has_resolvers: bool = False
    has_way_out: bool = False


class Touched(NamedTuple):
    """What a change touched."""

    names: frozenset[tuple[str, str]] = frozenset()
    """(network uid, name or an address's reverse name)."""
    askers: frozenset[str] = frozenset()
    """Addresses whose scope may be another."""
    everything: bool = False
    """A network came, went or changed."""


class _Network:
    def __init__(self, fact: NetworkFact) -> None:
        self.fact = fact
        self.subnets = tuple(IPv4Network(subnet) for subnet in fact.subnets)
        self.suffixes = tuple(f".{name.lower()}" for name in (fact.name, fact.engine_name) if name)


class Zone:
    def __init__(self) -> None:
        self._facts: dict[str, Facts] = {}
        self._names: dict[str, dict[str, dict[str, list[Record]]]] = {}
        """Network uid → name, or an address's reverse name → key of the object → its records."""
        self._networks: dict[str, _Network] = {}
        self._askers: dict[str, dict[str, Asker]] = {}
        """Address → key of the object → who asks from there. Two only while one of them is on its way out."""

    def keys(self) -> Collection[str]:
        """The keys of all objects whose facts are in here."""
        return self._facts.keys()

    def listeners(self) -> frozenset[Listener]:
        """Return where to listen: on every network that has names."""
        known = (facts.listener for facts in self._facts.values())
        return frozenset(
            listener
            for listener in known
            if listener is not None
            and (network := self._networks.get(listener.network)) is not None
            and network.fact.has_names
        )

    def put(self, key: str, facts: Facts) -> Touched:
        """Replace what the object at `key` says; what it said before is forgotten."""
        old = self._facts.get(key, NOTHING)
        if facts == old:
            return Touched()
        if facts == NOTHING:
            del self._facts[key]
        else:
            self._facts[key] = facts
        self._replace_network(old.network, facts.network)
        self._replace_askers(key, old.askers, facts.askers)
        return Touched(
            names=self._replace_records(key, old.records, facts.records),
            askers=frozenset(asker.address for asker in {*old.askers} ^ {*facts.askers}),
            everything=old.network != facts.network,
        )

    def delete(self, key: str) -> Touched:
        return self.put(key, NOTHING)

    def scope_of(self, address: str, network: str) -> Scope | None:
        """Return what the asker at an address may see, who reached our address on `network`; None = nothing.

        A container of no task (somebody joined it by hand), other nodes, and this host's own loopback see the network
        they ask on. From its other addresses the engine masquerades what the host asks itself.
        """
        if known := self._askers.get(address):
            *_, newest = known.values()
            return Scope(newest.networks, newest.has_resolvers, newest.has_way_out)
        found, source = self._networks.get(network), IPv4Address(address)
        if found is not None and (source.is_loopback or any(source in subnet for subnet in found.subnets)):
            return Scope((network,))
        return None

    def find(self, scope: Scope, name: str) -> tuple[str, ...] | None:
        """Return the addresses a name (lower case, no final dot) leads to; () = it has none now, None = unknown."""
        best: tuple[Rank, tuple[str, ...]] | None = None
        for network in self._with_names(scope):
            for bare in _bare_names(network, name):
                found = self._resolve(network.fact.uid, bare)
                if found is not None and (best is None or found[0] < best[0]):
                    best = found
        return best[1] if best is not None else None

    def find_reverse(self, scope: Scope, address: IPv4Address) -> tuple[str, ...] | None:
        """Return an address's full names; () = it is on a network of the asker's and nameless, None = it is not."""
        is_ours = False
        for network in self._with_names(scope):
            is_ours = is_ours or any(address in subnet for subnet in network.subnets)
            records = self._names.get(network.fact.uid, {}).get(address.reverse_pointer, {}).values()
            names = sorted({f"{one.name}.{network.fact.name}" for own in records for one in own})
            if names:
                return tuple(names)
        return () if is_ours else None

    def asked_names(self, scope: Scope, name: str) -> frozenset[str]:
        """Return the names whose change may change the answer to `name`."""
        return frozenset(bare for network in self._with_names(scope) for bare in _bare_names(network, name))

    def may_leave(self, scope: Scope) -> bool:
        """Say whether foreign names are looked up for the asker: one on internal networks only has no way out."""
        known = (self._networks.get(uid) for uid in scope.networks)
        return scope.has_way_out or any(not one.fact.is_internal for one in known if one is not None)

    def _with_names(self, scope: Scope) -> Iterable[_Network]:
        known = (self._networks.get(uid) for uid in scope.networks)
        return (network for network in known if network is not None and network.fact.has_names)

    def _resolve(self, network: str, name: str) -> tuple[Rank, tuple[str, ...]] | None:
        by_key = self._names.get(network, {}).get(name)
        if not by_key:
            return None
        rank = min(record.rank for own in by_key.values() for record in own)
        found = {record.address for own in by_key.values() for record in own if record.rank == rank and record.address}
        return rank, tuple(sorted(found))

    def _replace_askers(self, key: str, old: Iterable[Asker], new: Iterable[Asker]) -> None:
        for asker in old:
            by_key = self._askers[asker.address]
            del by_key[key]
            if not by_key:
                del self._askers[asker.address]
        for asker in new:
            self._askers.setdefault(asker.address, {})[key] = asker

    def _replace_network(self, old: NetworkFact | None, new: NetworkFact | None) -> None:
        if old is not None and (new is None or new.uid != old.uid):
            self._networks.pop(old.uid, None)
        if new is not None and new != old:
            self._networks[new.uid] = _Network(new)

    def _replace_records(self, key: str, old: Iterable[Record], new: Iterable[Record]) -> frozenset[tuple[str, str]]:
        """Forget and note records, and return the (network, name or address) whose records are not what they were."""
        before, after = _by_place(old), _by_place(new)
        touched = frozenset(place for place in before.keys() | after.keys() if before.get(place) != after.get(place))
        for network, name in touched:
            by_name = self._names.setdefault(network, {})
            by_key = by_name.setdefault(name, {})
            if records := after.get((network, name)):
                by_key[key] = records
            else:
                by_key.pop(key, None)
            if not by_key:
                del by_name[name]
            if not by_name:
                del self._names[network]
        return touched


def _by_place(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        found.setdefault((record.network, record.name), []).append(record)
        if record.rank in _NAMES_AN_ADDRESS:
            found.setdefault((record.network, IPv4Address(record.address).reverse_pointer), []).append(record)
    return found


def _bare_names(network: _Network, name: str) -> list[str]:
    """A name as it stands, and what it is on this network if it ends with the network's name."""
    return [name, *(name.removesuffix(suffix) for suffix in network.suffixes if name.endswith(suffix))]
