from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import pytest

from shoal.api.errors import ConflictError, UnavailableError
from shoal.machinery.clock import VirtualClock, quiet
from shoal.machinery.election import TTL_S, Election, Term
from shoal.machinery.memory import MemoryStore
from shoal.machinery.store import Put, Txn

pytestmark = pytest.mark.anyio


@dataclass
class Rivals:
    """Candidates for one election, each a task of its own that can be killed, and who leads when."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    leading: list[str] = field(default_factory=list)
    terms: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = MemoryStore(self.clock.monotonic)

    def candidate(self, name: str, store: MemoryStore | None = None) -> Election:
        return Election(store or self.store, "rollout", name, self.clock)

    async def campaign(self, election: Election, name: str) -> None:
        async def lead(term: Term) -> None:
            self.leading.append(name)
            self.terms.append(term.revision)
            try:
                await anyio.sleep_forever()
            finally:
                self.leading.remove(name)

        await election.run(lead)

    @asynccontextmanager
    async def campaigning(self, *names: str) -> AsyncIterator[dict[str, tuple[Election, anyio.CancelScope]]]:
        parts: dict[str, tuple[Election, anyio.CancelScope]] = {}

        async def run(name: str) -> None:
            with parts[name][1]:
                await self.campaign(parts[name][0], name)

        async with anyio.create_task_group() as tasks:
            for name in names:
                parts[name] = (self.candidate(name), anyio.CancelScope())
                tasks.start_soon(run, name)
                await quiet()
            yield parts
            tasks.cancel_scope.cancel()


@pytest.fixture
def rivals() -> Rivals:
    return Rivals()


async def test_one_of_several_leads_and_keeps_leading(rivals: Rivals) -> None:
    async with rivals.campaigning("a", "b", "c"):
        for _ in range(20):
            assert rivals.leading == ["a"]
            await rivals.clock.run_for(TTL_S)
    assert rivals.terms == [rivals.terms[0]]


async def test_who_ends_in_order_is_followed_at_once(rivals: Rivals) -> None:
    async with rivals.campaigning("a", "b") as parts:
        parts["a"][1].cancel()
        await quiet()
        assert rivals.leading == ["b"]


async def test_a_dead_leader_is_followed_within_its_lease(rivals: Rivals) -> None:
    lease = await rivals.store.lease_grant(TTL_S)
    await rivals.store.commit(Txn(writes=(Put("/shoal-leaders/rollout", b"dead", lease),)))
    async with rivals.campaigning("b"):
        assert rivals.leading == []
        await rivals.clock.run_for(TTL_S + 0.1)
        rivals.store.expire_leases()
        await quiet()
        assert rivals.leading == ["b"]


async def test_a_leader_that_cannot_renew_steps_down_within_its_lease_by_its_own_clock(rivals: Rivals) -> None:
    async with rivals.campaigning("a") as parts:
        await rivals.clock.run_for(1)
        rivals.store.is_down = True
        await rivals.clock.run_for(TTL_S + TTL_S / 3)
        assert rivals.leading == []
        with pytest.raises(UnavailableError):
            parts["a"][0].fence()
        rivals.store.is_down = False
        await rivals.clock.run_for(2 * TTL_S)
        assert rivals.leading == ["a"], "and campaigns again"


async def test_a_short_outage_costs_nobody_the_leadership(rivals: Rivals) -> None:
    async with rivals.campaigning("a"):
        for _ in range(5):
            rivals.store.is_down = True
            await rivals.clock.run_for(TTL_S / 3)
            rivals.store.is_down = False
            await rivals.clock.run_for(TTL_S)
        assert rivals.terms == [rivals.terms[0]]


async def test_a_lease_that_is_gone_ends_the_term(rivals: Rivals) -> None:
    async with rivals.campaigning("a"):
        await rivals.store.lease_revoke(1)
        await rivals.clock.run_for(TTL_S)
        assert len(rivals.terms) == 2


async def test_a_paused_leaders_writes_fail_once_another_leads(rivals: Rivals) -> None:
    async with rivals.campaigning("a") as parts:
        old = parts["a"][0].fence()
        assert old is not None
        parts["a"][1].cancel()
        await quiet()
        async with rivals.campaigning("b"):
            assert rivals.leading == ["b"]
            with pytest.raises(ConflictError):
                await rivals.store.commit(Txn((old,), (Put("/shoal/services/x", b"late"),)))


async def test_another_controllers_election_is_none_of_its_business(rivals: Rivals) -> None:
    rivals.store.put("/shoal-leaders/rollout2", b"another")
    async with rivals.campaigning("a"):
        assert rivals.leading == ["a"]


async def test_who_returns_gives_the_term_up(rivals: Rivals) -> None:
    terms: list[int] = []

    async def lead(term: Term) -> None:
        terms.append(term.revision)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rivals.candidate("a").run, lead)
        while len(terms) < 3:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert terms == sorted(set(terms))
