from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint

from shoal.api import codec, keys
from shoal.api.errors import ConflictError, InvariantError, UnavailableError
from shoal.api.meta import Meta
from shoal.api.objects import Claim, Object, Service, Task
from shoal.api.states import DesiredState, TaskState
from shoal.machinery.clock import VirtualClock
from shoal.machinery.controller import Action, Create, Remove, Replace, still_exists
from shoal.machinery.factories import at_revision, make_service, make_slot, make_task
from shoal.machinery.memory import MemoryStore
from shoal.machinery.store import MAX_OPERATIONS, CreatedAt, Txn
from shoal.machinery.writer import Pack, Prepared, Writer, is_same, prepare

pytestmark = pytest.mark.anyio
NOW = VirtualClock.START + timedelta(hours=1)
Reader = Callable[[str], Object | None]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def holding(*objects: Object) -> Reader:
    found = {keys.key_of(obj): obj for obj in objects}
    return found.get


def stored(store: MemoryStore, obj: Object) -> Object:
    """Put an object into the store, and return it as it is read."""
    return at_revision(obj, store.put(keys.key_of(obj), codec.encode(obj)))


def read(store: MemoryStore, obj: Object) -> Object | None:
    item = store.peek(keys.key_of(obj))
    return codec.decode_at(item.key, item.value, item.revision) if item is not None else None


def claim(number: int) -> Claim:
    return Claim(metadata=Meta(name=f"claims/vni/{number}"), key=f"claims/vni/{number}")


def creates(numbers: Iterable[int]) -> list[Action]:
    return [Action("Claimed", (Create(claim(number)),)) for number in numbers]


def commits(store: MemoryStore) -> list[Txn]:
    """Record every transaction that reaches the store."""
    seen: list[Txn] = []
    store.before_commit = seen.append
    return seen


def api_writer(store: MemoryStore) -> Writer:
    return Writer(store, "apiserver", VirtualClock())


# What is written.


def test_a_created_object_gets_its_times_and_its_first_generation() -> None:
    prepared = prepare(Action("Made", (Create(make_service()),)), holding(), "apiserver", NOW)
    assert isinstance(prepared, Prepared)
    obj = codec.decode(Service, prepared.writes[0].value)  # type: ignore[union-attr]
    assert (obj.metadata.generation, obj.metadata.updated_at) == (1, NOW)


@pytest.mark.parametrize(("replicas", "generation"), [(5, 2), (None, 1)], ids=["spec moved", "only labels moved"])
def test_the_generation_moves_with_the_spec(replicas: int | None, generation: int) -> None:
    old = at_revision(make_service(), 7)
    new = codec.with_meta(old, labels={"changed": "yes"})
    new = msgspec.structs.replace(new, spec=msgspec.structs.replace(new.spec, replicas=replicas))
    prepared = prepare(Action("Changed", (Replace(new),)), holding(old), "apiserver", NOW)
    obj = codec.decode(Service, prepared.writes[0].value)  # type: ignore[union-attr]
    assert obj.metadata.generation == generation
    assert obj.metadata.created_at == old.metadata.created_at


def test_an_object_equal_to_what_was_read_is_not_written() -> None:
    old = at_revision(make_service(), 7)
    again = codec.with_meta(old, updated_at=NOW, generation=9)
    assert is_same(old, again)
    assert prepare(Action("Same", (Replace(again),)), holding(old), "apiserver", NOW).writes == ()


def test_a_foreign_field_is_refused_before_anything_is_sent() -> None:
    task = at_revision(make_task(state=TaskState.PENDING), 7)
    stopped = msgspec.structs.replace(task, spec=msgspec.structs.replace(task.spec, desired_state=DesiredState.REMOVE))
    with pytest.raises(InvariantError, match="placement may not change desired_state"):
        prepare(Action("Meddled", (Replace(stopped),)), holding(task), "placement", NOW)


def test_what_was_read_at_another_revision_is_a_conflict() -> None:
    with pytest.raises(ConflictError):
        prepare(Action("Late", (Remove(at_revision(claim(1), 7)),)), holding(at_revision(claim(1), 8)), "endpoint", NOW)


# How it is packed.


def test_a_pack_holds_no_action_that_touches_what_another_writes() -> None:
    task = make_task()
    pack = Pack()
    pack.add(prepare(Action("Made", (Create(task), Create(make_slot(task)))), holding(), "replication", NOW))
    needs_task = Action("Claimed", (Create(claim(1)),), compares=(still_exists(task),))
    assert not pack.takes(prepare(needs_task, holding(), "endpoint", NOW))
    assert pack.takes(prepare(creates([1])[0], holding(), "endpoint", NOW))


async def test_neighbours_share_a_transaction_within_the_limits(store: MemoryStore) -> None:
    seen = commits(store)
    outcome = await api_writer(store).apply(creates(range(250)), holding())
    assert len(outcome.written) == 250
    assert all(len(txn.writes) < MAX_OPERATIONS for txn in seen)
    assert len(seen) == 3


async def test_independent_actions_share_transactions_too(store: MemoryStore) -> None:
    seen = commits(store)
    outcome = await api_writer(store).apply(creates(range(250)), holding(), independent=True)
    assert len(outcome.written) == 250
    assert len(seen) == 3
    assert outcome.revision == store.revision


async def test_concurrent_callers_share_transactions(store: MemoryStore) -> None:
    seen, writer = commits(store), api_writer(store)

    async def call(action: Action) -> None:
        assert await writer.commit(action, holding()) > 0

    async with anyio.create_task_group() as tasks:
        for action in creates(range(60)):
            tasks.start_soon(call, action)
    assert len(store.history) == 60
    assert len(seen) < 10


async def test_callers_that_come_a_turn_after_each_other_share_one_transaction(store: MemoryStore) -> None:
    seen, writer = commits(store), api_writer(store)

    async def call(turns: int, action: Action) -> None:
        for _ in range(turns):
            await checkpoint()
        await writer.commit(action, holding())

    async with anyio.create_task_group() as tasks:
        for number, action in enumerate(creates(range(8))):
            tasks.start_soon(call, 2 * number, action)
    assert len(seen) == 1


async def test_what_a_caller_asked_who_went_away_in_time_is_not_written_later(store: MemoryStore) -> None:
    writer = api_writer(store)
    first, second = creates(range(2))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await writer.commit(first, holding())
    await writer.commit(second, holding())
    assert [key for _, key, _ in store.history] == ["/shoal/claims/vni/1"]


async def test_a_caller_that_goes_away_harms_nobody_who_shares_its_transaction(store: MemoryStore) -> None:
    writer = api_writer(store)
    done: list[int] = []

    async def call(action: Action) -> None:
        done.append(await writer.commit(action, holding()))

    async def impatient(action: Action) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await writer.commit(action, holding())

    async with anyio.create_task_group() as tasks:
        first, *others = creates(range(20))
        tasks.start_soon(impatient, first)
        for action in others:
            tasks.start_soon(call, action)
    assert len(done) == 19


# Conflicts.


async def test_a_conflict_drops_the_rest_of_ordered_actions(store: MemoryStore) -> None:
    store.put("/shoal/claims/vni/2", b"{}")
    outcome = await api_writer(store).apply(creates(range(5)), holding())
    assert len(outcome.written) == 2
    assert [conflict.key for conflict in outcome.conflicts] == ["/shoal/claims/vni/2"]


async def test_a_conflict_drops_only_itself_of_independent_actions(store: MemoryStore) -> None:
    for number in (2, 50, 120, 121, 122, 123, 124):
        store.put(f"/shoal/claims/vni/{number}", b"{}")
    outcome = await api_writer(store).apply(creates(range(130)), holding(), independent=True)
    assert len(outcome.written) == 123
    assert len(outcome.conflicts) == 7


async def test_every_write_carries_the_fence_and_fails_when_another_leads(store: MemoryStore) -> None:
    revision = store.put("/shoal-leaders/endpoint", b"me")
    writer = Writer(store, "endpoint", VirtualClock(), lambda: CreatedAt("/shoal-leaders/endpoint", revision))
    assert (await writer.apply(creates([1]), holding())).written
    store.remove("/shoal-leaders/endpoint")
    store.put("/shoal-leaders/endpoint", b"another")
    outcome = await writer.apply(creates([2, 3]), holding(), independent=True)
    assert not outcome.written
    assert {conflict.key for conflict in outcome.conflicts} == {"/shoal-leaders/endpoint"}


async def test_who_does_not_lead_writes_nothing(store: MemoryStore) -> None:
    def fence() -> CreatedAt:
        raise UnavailableError("not the leader")

    writer = Writer(store, "endpoint", VirtualClock(), fence)
    with pytest.raises(UnavailableError):
        await writer.apply(creates([1]), holding())
    assert not store.history


# Lost answers.


@pytest.mark.parametrize("applied", [True, False], ids=["it was written", "it was not written"])
async def test_a_lost_answer_is_found_out(store: MemoryStore, applied: bool) -> None:
    store.fail_commits(applied=applied)
    revision = await api_writer(store).commit(creates([1])[0], holding())
    assert revision == store.revision
    assert len(store.history) == 1


async def test_the_lost_answer_to_a_deletion_is_found_out(store: MemoryStore) -> None:
    old = stored(store, claim(1))
    store.fail_commits(applied=True)
    assert await api_writer(store).commit(Action("Freed", (Remove(old),)), holding(old)) == store.revision
    assert read(store, old) is None


async def test_an_unreachable_store_is_said_to_be_and_leaves_nobody_waiting(store: MemoryStore) -> None:
    store.is_down = True
    with pytest.raises(UnavailableError):
        await api_writer(store).apply(creates(range(150)), holding(), independent=True)


def test_factories_make_tasks_that_lie_at_their_keys() -> None:
    task = make_task(make_service("web"), 3)
    assert keys.key_of(task).startswith("/shoal/tasks/web.3.")
    assert isinstance(task, Task)
