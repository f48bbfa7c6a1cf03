"""How many strangers may come in, and in which order they are served."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.entrance import Places, Turns


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc"))))
def test_places_are_never_more_than_there_are_for_an_address_and_in_all(moves: list[tuple[bool, str]]) -> None:
    places, inside = Places(each=2, total=4), list[str]()
    for comes, address in moves:
        if comes:
            has_place = inside.count(address) < 2 and len(inside) < 4
            assert places.enter(address) is has_place
            inside += [address] * has_place
        elif address in inside:
            inside.remove(address)
            places.leave(address)
    assert places.count == len(inside)


@pytest.mark.anyio
async def test_one_address_cannot_take_the_turns_of_another_and_each_is_served_in_order() -> None:
    turns, served, go = Turns(each=1, total=2), list[str](), anyio.Event()

    async def come(address: str, name: str) -> None:
        async with turns.turn(address):
            served.append(name)
            await go.wait()

    async with anyio.create_task_group() as group:
        for address, name in (("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1")):
            group.start_soon(come, address, name)
        await anyio.wait_all_tasks_blocked()
        assert served == ["a1", "b1"]
        go.set()
    assert served == ["a1", "b1", "a2", "a3"]
