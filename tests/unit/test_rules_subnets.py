"""Which subnet and number a network gets, and which networks overlap."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.machinery.testkit import make_network
from shoal.rules.subnets import FIRST_VNI, LAST_VNI, are_apart, conflicts, first_free, next_vni


def nets(*texts: str) -> list[IPv4Network]:
    return [IPv4Network(text) for text in texts]


@pytest.mark.parametrize(
    ("pools", "size", "taken", "expected"),
    [
        (["10.0.0.0/8"], 24, [], "10.0.0.0/24"),
        (["10.0.0.0/8"], 24, ["10.0.0.0/24", "10.0.1.0/24"], "10.0.2.0/24"),
        (["10.0.0.0/8"], 24, ["10.0.0.0/24", "10.0.2.0/24"], "10.0.1.0/24"),
        (["10.0.0.0/8"], 24, ["10.0.0.128/25", "10.0.1.7/32"], "10.0.2.0/24"),
        (["10.0.0.0/8"], 24, ["10.0.0.0/16", "10.0.3.0/24"], "10.1.0.0/24"),
        (["10.0.0.0/23"], 24, ["10.0.0.0/24", "10.0.1.0/24"], None),
        (["10.0.0.0/24", "10.9.0.0/16"], 24, ["10.0.0.0/24"], "10.9.0.0/24"),
        (["10.0.0.0/25", "10.9.0.0/16"], 24, [], "10.9.0.0/24"),
        (["172.16.0.0/12"], 29, ["172.16.0.0/29"], "172.16.0.8/29"),
    ],
    ids=[
        "the first", "in order", "a gap is filled", "what is partly taken is passed over", "a large one is jumped over",
        "used up", "the next pool", "a pool that is too small", "small ones",
    ],
)  # fmt: skip
def test_the_lowest_free_subnet(pools: list[str], size: int, taken: list[str], expected: str | None) -> None:
    found = first_free(pools, size, nets(*taken))
    assert (str(found) if found is not None else None) == expected


SUBNETS = st.builds(
    lambda number, size: IPv4Network((number << 3 & ~((1 << (32 - size)) - 1), size)),
    st.integers(0, 511),
    st.integers(20, 32),
)


@given(st.lists(SUBNETS, max_size=12), st.integers(24, 29))
def test_a_subnet_overlaps_nothing_taken_and_none_is_missed(taken: list[IPv4Network], size: int) -> None:
    pool = IPv4Network("0.0.0.0/20")
    free = [net for net in pool.subnets(new_prefix=size) if not any(net.overlaps(other) for other in taken)]
    assert first_free([str(pool)], size, taken) == (free[0] if free else None)


@given(st.lists(SUBNETS, max_size=8))
def test_conflicts_are_all_pairs_that_are_not_apart(subnets: list[IPv4Network]) -> None:
    networks = [make_network(f"n{at}", subnet=str(net)) for at, net in enumerate(subnets)]
    found = conflicts(networks)
    for one in networks:
        foes = {other.metadata.uid for other in networks if other is not one and not are_apart(one, other)}
        assert found.get(one.metadata.uid, frozenset()) == foes


@pytest.mark.parametrize(
    ("taken", "newest", "expected"),
    [
        ({}, FIRST_VNI - 1, 4096),
        ({4096, 4097}, 4097, 4098),
        ({4096}, 4099, 4100),
        ({4098}, 4097, 4099),
        ({4096}, LAST_VNI, 4097),
    ],
    ids=["the first", "the next", "one that was freed rests", "one that was chosen is passed over", "around"],
)
def test_vxlan_numbers_go_up(taken: set[int], newest: int, expected: int) -> None:
    assert next_vni(taken, newest) == expected
