"""All names of a node's networks: who sees which, what a name leads to, and what a change touches."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.dns.zone import NOTHING, Asker, Facts, Listener, NetworkFact, Rank, Record, Scope, Zone

FRONT = NetworkFact("uf", "front", ("10.0.1.0/24",))
BACK = NetworkFact("ub", "back", ("10.0.2.0/24",), engine_name="shoal-net-back.ub")
INNER = NetworkFact("ui", "inner", ("10.0.3.0/24",), is_internal=True)
INGRESS = NetworkFact("ux", "ingress", ("10.0.0.0/24",), has_names=False)

BOTH = Scope(("uf", "ub"))


def zone_of(*records: Record, **facts: Facts) -> Zone:
    zone = Zone()
    for network in (FRONT, BACK, INNER, INGRESS):
        zone.put(network.uid, Facts(network=network))
    for at, record in enumerate(records):
        zone.put(f"record{at}", Facts(records=(record,)))
    for key, fact in facts.items():
        zone.put(key, fact)
    return zone


WEB = Record("uf", "web", Rank.VIP, "10.0.1.2")
DB = Record("ub", "db", Rank.VIP, "10.0.2.2")


@pytest.mark.parametrize(
    ("scope", "name", "expected"),
    [
        pytest.param(BOTH, "web", ("10.0.1.2",), id="a name of the first network"),
        pytest.param(BOTH, "db", ("10.0.2.2",), id="a name of the second network"),
        pytest.param(BOTH, "db.back", ("10.0.2.2",), id="with the network's name"),
        pytest.param(BOTH, "db.shoal-net-back.ub", ("10.0.2.2",), id="with the engine's name of the network"),
        pytest.param(BOTH, "db.front", None, id="with the name of a network it is not on"),
        pytest.param(Scope(("uf",)), "db", None, id="a name of another network"),
        pytest.param(Scope(("uf",)), "db.back", None, id="a name of another network, named"),
        pytest.param(Scope(("gone",)), "web", None, id="a network nobody knows"),
        pytest.param(BOTH, "front", None, id="a network alone"),
        pytest.param(BOTH, "", None, id="no name"),
    ],
)
def test_an_asker_sees_the_names_of_its_own_networks(scope: Scope, name: str, expected: tuple[str, ...] | None) -> None:
    assert zone_of(WEB, DB).find(scope, name) == expected


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        pytest.param([("web", Rank.VIP, "10.0.1.2"), ("web", Rank.SERVICE, "10.0.1.7")], ("10.0.1.2",), id="its VIP"),
        pytest.param(
            [("web", Rank.SERVICE, "10.0.1.8"), ("web", Rank.SERVICE, "10.0.1.7")],
            ("10.0.1.7", "10.0.1.8"),
            id="without a VIP all that are ready",
        ),
        pytest.param([("web", Rank.KNOWN, ""), ("web", Rank.KNOWN, "")], (), id="it is known, and nobody is ready"),
        pytest.param([("web", Rank.KNOWN, ""), ("web", Rank.SLOT, "10.0.1.7")], ("10.0.1.7",), id="any address first"),
        pytest.param(
            [("web", Rank.ALIAS_VIP, "10.0.1.3"), ("web", Rank.SERVICE, "10.0.1.7")],
            ("10.0.1.7",),
            id="a service's own name before another's alias",
        ),
        pytest.param(
            [("web", Rank.ALIAS_VIP, "10.0.1.3"), ("web", Rank.ALIAS_VIP, "10.0.1.4")],
            ("10.0.1.3", "10.0.1.4"),
            id="an alias of two services leads to both",
        ),
        pytest.param(
            [("web", Rank.SLOT_UNREADY, "10.0.1.3"), ("web", Rank.SLOT, "10.0.1.4")],
            ("10.0.1.4",),
            id="a slot's ready task before the one that goes or comes",
        ),
    ],
)
def test_the_best_rank_answers_alone(records: list[tuple[str, Rank, str]], expected: tuple[str, ...]) -> None:
    zone = zone_of(*(Record("uf", name, rank, address) for name, rank, address in records))
    assert zone.find(BOTH, "web") == expected


def test_a_better_rank_wins_over_a_network_that_comes_first() -> None:
    zone = zone_of(Record("uf", "db", Rank.TASK, "10.0.1.9"), DB)
    assert zone.find(BOTH, "db") == ("10.0.2.2",)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.1.2", ("web.front",)),
        ("10.0.1.7", ("web.1.x.front",)),
        ("10.0.1.99", ()),
        ("10.0.2.2", ("db.back",)),
        ("10.0.3.1", None),
        ("192.0.2.1", None),
    ],
)
def test_an_address_has_the_name_of_its_service_or_task(address: str, expected: tuple[str, ...] | None) -> None:
    zone = zone_of(
        WEB, DB, Record("uf", "web.1.x", Rank.TASK, "10.0.1.7"), Record("uf", "tasks.web", Rank.SERVICE, "10.0.1.7")
    )
    assert zone.find_reverse(BOTH, IPv4Address(address)) == expected


@pytest.mark.parametrize(
    ("asker", "network", "expected"),
    [
        pytest.param("10.0.1.10", "uf", BOTH, id="a task sees all its networks"),
        pytest.param("10.0.1.10", "ub", BOTH, id="whichever of our addresses it asks"),
        pytest.param("10.0.1.77", "uf", Scope(("uf",)), id="a stranger sees the network it is on"),
        pytest.param("10.0.1.77", "ub", None, id="and no other"),
        pytest.param("127.0.0.1", "uf", Scope(("uf",)), id="the host itself sees the network it asks on"),
        pytest.param("192.0.2.7", "uf", None, id="somebody from outside sees nothing"),
    ],
)
def test_who_asks_decides_what_is_seen(asker: str, network: str, expected: Scope | None) -> None:
    zone = zone_of(task=Facts(askers=(Asker("10.0.1.10", ("uf", "ub")), Asker("10.0.2.10", ("uf", "ub")))))
    assert zone.scope_of(asker, network) == expected


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        pytest.param(Scope(("uf",)), True, id="an ordinary network"),
        pytest.param(Scope(("ui",)), False, id="an internal network"),
        pytest.param(Scope(("ui", "uf")), True, id="an internal and an ordinary one"),
        pytest.param(Scope(("ux", "ui")), True, id="the ingress network is a way out"),
        pytest.param(Scope(("ui",), has_way_out=True), True, id="an internal one and the engine's bridge"),
        pytest.param(Scope(("gone",)), False, id="none that is known"),
    ],
)
def test_only_who_has_a_way_out_asks_for_foreign_names(scope: Scope, expected: bool) -> None:
    assert zone_of().may_leave(scope) is expected


def test_the_ingress_network_has_no_names_and_nobody_listens_there() -> None:
    zone = zone_of(
        Record("ux", "web", Rank.VIP, "10.0.0.9"),
        ingress=Facts(listener=Listener("ux", "10.0.0.2")),
        front=Facts(listener=Listener("uf", "10.0.1.5")),
        unknown=Facts(listener=Listener("gone", "10.0.9.5")),
    )
    assert zone.find(Scope(("ux",)), "web") is None
    assert zone.listeners() == {Listener("uf", "10.0.1.5")}


def test_a_new_task_takes_over_the_address_of_one_that_is_on_its_way_out() -> None:
    zone = zone_of(old=Facts(askers=(Asker("10.0.1.10", ("ub",)),)), new=Facts(askers=(Asker("10.0.1.10", ("uf",)),)))
    assert zone.scope_of("10.0.1.10", "uf") == Scope(("uf",))

    touched = zone.delete("old")

    assert touched.askers == {"10.0.1.10"}
    assert zone.scope_of("10.0.1.10", "uf") == Scope(("uf",))


def test_a_change_touches_its_own_names_only() -> None:
    zone = zone_of(Record("uf", "tasks.web", Rank.SERVICE, "10.0.1.8"))
    backend = Facts(
        records=(Record("uf", "web.1.x", Rank.TASK, "10.0.1.7"), Record("uf", "tasks.web", Rank.KNOWN)),
    )
    ready = Facts(
        records=(Record("uf", "web.1.x", Rank.TASK, "10.0.1.7"), Record("uf", "tasks.web", Rank.SERVICE, "10.0.1.7")),
    )

    assert zone.put("backend", backend).names == {
        ("uf", "web.1.x"), ("uf", "7.1.0.10.in-addr.arpa"), ("uf", "tasks.web"),
    }  # fmt: skip
    touched = zone.put("backend", ready)

    assert touched == (frozenset({("uf", "tasks.web")}), frozenset(), False)
    assert zone.find(BOTH, "tasks.web") == ("10.0.1.7", "10.0.1.8")


def test_a_network_made_again_under_its_name_is_another_one() -> None:
    zone = zone_of(front=Facts(network=NetworkFact("u1", "again", ("10.0.7.0/24",))))

    touched = zone.put("front", Facts(network=NetworkFact("u2", "again", ("10.0.8.0/24",))))

    assert touched.everything
    assert zone.scope_of("10.0.7.9", "u1") is None
    assert zone.scope_of("10.0.8.9", "u2") == Scope(("u2",))


def test_what_goes_is_gone_and_what_comes_waits() -> None:
    old = Facts(records=(WEB, DB))
    new = Facts(records=(WEB, Record("uf", "new", Rank.VIP, "10.0.1.3")), askers=(Asker("10.0.1.10", ("uf",)),))
    assert new.kept_from(old) == Facts(records=(WEB,), askers=new.askers)


_networks = st.sampled_from(["uf", "ub", "ui"])
_records = st.builds(
    Record,
    _networks,
    st.sampled_from(["a", "b", "tasks.a", "a.front"]),
    st.sampled_from(Rank),
    st.sampled_from(["10.0.1.2", "10.0.1.3", "10.0.2.4"]),
).map(lambda record: Record(record.network, record.name, record.rank, "") if record.rank is Rank.KNOWN else record)
_askers = st.builds(Asker, st.sampled_from(["10.0.1.8", "10.0.1.9"]), st.tuples(_networks), st.booleans())
_facts = st.one_of(
    st.just(NOTHING),
    st.builds(Facts, st.lists(_records, max_size=4).map(tuple), st.lists(_askers, max_size=1).map(tuple)),
)


@given(st.lists(st.tuples(st.sampled_from("klmnop"), _facts), max_size=30))
def test_any_way_to_the_same_facts_gives_the_same_answers(changes: list[tuple[str, Facts]]) -> None:
    changed, fresh = zone_of(), zone_of()
    for key, facts in changes:
        changed.put(key, facts)
    for key, facts in dict(changes).items():
        fresh.put(key, facts)

    for scope in (BOTH, Scope(("ui",)), Scope(("ub", "ui", "uf"))):
        for name in ("a", "b", "tasks.a", "a.front", "b.inner", "c"):
            assert changed.find(scope, name) == fresh.find(scope, name)
        for address in map(IPv4Address, ("10.0.1.2", "10.0.2.4", "10.0.1.200")):
            assert changed.find_reverse(scope, address) == fresh.find_reverse(scope, address)


@given(st.lists(st.tuples(st.sampled_from("klmnop"), _facts), max_size=30))
def test_nothing_is_left_when_all_is_deleted(changes: list[tuple[str, Facts]]) -> None:
    zone = zone_of()
    for key, facts in changes:
        zone.put(key, facts)
    for key in list(zone.keys()):
        zone.delete(key)
    assert vars(zone) == vars(Zone())
