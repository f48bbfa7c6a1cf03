"""A query comes in, an answer goes out: right, remembered, and forgotten when it changes."""

from __future__ import annotations

from typing import Any

import pytest
from dnslib import QTYPE, RCODE, DNSHeader, DNSQuestion, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.dns import answers as module
from nodeagent.dns.answers import Answers, Elsewhere, failure
from nodeagent.dns.zone import Asker, Facts, NetworkFact, Rank, Record

TASK, INNER_TASK, OWN_RESOLVERS, STRANGER = "10.0.1.10", "10.0.3.10", "10.0.1.12", "10.0.1.77"


def query(name: str, kind: str = "A", number: int = 7, qclass: int = 1) -> bytes:
    return bytes(DNSRecord(DNSHeader(id=number, rd=1), q=DNSQuestion(name, QTYPE.reverse[kind], qclass)).pack())


def tasks_of_web(*last: int) -> Facts:
    return Facts(records=tuple(Record("uf", "tasks.web", Rank.SERVICE, f"10.0.1.{at}") for at in last))


@pytest.fixture
def answers() -> Answers:
    found = Answers()
    found.change(
        {
            "front": Facts(network=NetworkFact("uf", "front", ("10.0.1.0/24",))),
            "inner": Facts(network=NetworkFact("ui", "inner", ("10.0.3.0/24",), is_internal=True)),
            "task": Facts(askers=(Asker(TASK, ("uf",)),)),
            "inner task": Facts(askers=(Asker(INNER_TASK, ("ui",)),)),
            "own": Facts(askers=(Asker(OWN_RESOLVERS, ("uf",), has_resolvers=True),)),
            "web": Facts(records=(Record("uf", "web", Rank.VIP, "10.0.1.2"),)),
            "db": Facts(records=(Record("uf", "db", Rank.KNOWN),)),
            "tasks": tasks_of_web(20, 21),
        },
        (),
    )
    return found


def ask(answers: Answers, name: str, kind: str = "A", asker: str = TASK, network: str = "uf", qclass: int = 1) -> Any:
    """Return (rcode, data of the answer's records), or what else came back."""
    found = answers.answer(answers.door(network), asker, query(name, kind, qclass=qclass))
    if not isinstance(found, bytes):
        return found
    record = DNSRecord.parse(found)
    assert record.header.id == 7
    return RCODE.get(record.header.rcode), sorted(str(rr.rdata) for rr in record.rr)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        pytest.param("web", "A", ("NOERROR", ["10.0.1.2"]), id="an address"),
        pytest.param("WEB.Front", "A", ("NOERROR", ["10.0.1.2"]), id="in any case"),
        pytest.param("web", "ANY", ("NOERROR", ["10.0.1.2"]), id="whatever there is"),
        pytest.param("web", "AAAA", ("NOERROR", []), id="a name without such a record exists"),
        pytest.param("web", "MX", ("NOERROR", []), id="of whatever type"),
        pytest.param("db", "A", ("NOERROR", []), id="a service that nobody is ready for"),
        pytest.param("tasks.web", "A", ("NOERROR", ["10.0.1.20", "10.0.1.21"]), id="all addresses"),
        pytest.param("example.org", "A", Elsewhere.FORWARD, id="a foreign name"),
        pytest.param("nosuch", "A", Elsewhere.FORWARD, id="a plain name that nobody here knows"),
        pytest.param("2.1.0.10.in-addr.arpa", "PTR", ("NOERROR", ["web.front."]), id="an address's name"),
        pytest.param("2.1.0.10.in-addr.arpa", "A", ("NOERROR", []), id="an address's name has no address"),
        pytest.param("99.1.0.10.in-addr.arpa", "PTR", ("NXDOMAIN", []), id="a nameless address on its network"),
        pytest.param("2.3.0.10.in-addr.arpa", "PTR", Elsewhere.FORWARD, id="an address elsewhere"),
        pytest.param("x.1.0.10.in-addr.arpa", "PTR", Elsewhere.FORWARD, id="what only looks like one"),
        pytest.param("web", "AXFR", ("REFUSED", []), id="a zone transfer"),
    ],
)
def test_what_is_answered(answers: Answers, name: str, kind: str, expected: Any) -> None:
    assert ask(answers, name, kind) == expected
    assert ask(answers, name, kind) == expected


@pytest.mark.parametrize(
    ("asker", "network", "name", "expected"),
    [
        pytest.param(INNER_TASK, "ui", "example.org", ("NXDOMAIN", []), id="no foreign names on internal networks"),
        pytest.param(INNER_TASK, "ui", "web", ("NXDOMAIN", []), id="nor those of other networks"),
        pytest.param(OWN_RESOLVERS, "uf", "web", ("NOERROR", ["10.0.1.2"]), id="our names before its own resolvers"),
        pytest.param(OWN_RESOLVERS, "uf", "example.org", ("REFUSED", []), id="its own resolvers for the rest"),
        pytest.param(STRANGER, "uf", "web", ("NOERROR", ["10.0.1.2"]), id="who joined by hand sees its network"),
        pytest.param("192.0.2.1", "uf", "web", ("REFUSED", []), id="nothing for the outside"),
        pytest.param("192.0.2.1", "uf", "example.org", ("REFUSED", []), id="we are nobody's open resolver"),
    ],
)
def test_who_asks_decides(answers: Answers, asker: str, network: str, name: str, expected: Any) -> None:
    assert ask(answers, name, asker=asker, network=network) == expected


def test_another_class_than_the_internet_s_is_refused(answers: Answers) -> None:
    assert ask(answers, "version.bind", "TXT", qclass=3) == ("REFUSED", [])


def test_a_remembered_answer_is_given_under_each_query_s_own_id(answers: Answers) -> None:
    door = answers.door("uf")
    first, second = (answers.answer(door, TASK, query("web", number=number)) for number in (1, 0xFFFE))
    assert isinstance(first, bytes)
    assert isinstance(second, bytes)
    assert (first[:2], second[:2], first[2:] == second[2:]) == (b"\0\1", b"\xff\xfe", True)


def test_a_change_is_answered_at_once_and_forgets_nothing_else(answers: Answers) -> None:
    for name in ("web", "tasks.web", "tasks.web.front"):
        ask(answers, name)
    memory = answers.door("uf").askers[TASK]
    assert memory is not None

    answers.change({"tasks": tasks_of_web(21, 22)}, ())

    assert list(memory.answers) == [query("web")[2:]]
    assert ask(answers, "tasks.web") == ask(answers, "tasks.web.front") == ("NOERROR", ["10.0.1.21", "10.0.1.22"])
    answers.change({}, ["tasks"])
    assert ask(answers, "tasks.web") is Elsewhere.FORWARD


def test_a_name_that_comes_takes_the_place_of_a_foreign_one(answers: Answers) -> None:
    assert ask(answers, "new", asker=INNER_TASK, network="ui") == ("NXDOMAIN", [])
    answers.change({"new": Facts(records=(Record("ui", "new", Rank.VIP, "10.0.3.2"),))}, ())
    assert ask(answers, "new", asker=INNER_TASK, network="ui") == ("NOERROR", ["10.0.3.2"])


def test_an_address_given_to_another_task_sees_what_that_one_sees(answers: Answers) -> None:
    assert ask(answers, "example.org") is Elsewhere.FORWARD
    answers.change({"task": Facts(askers=(Asker(TASK, ("ui",)),))}, ())
    assert ask(answers, "example.org") == ("NXDOMAIN", [])


def test_a_network_that_becomes_internal_forgets_what_was_known(answers: Answers) -> None:
    ask(answers, "web")
    answers.change({"front": Facts(network=NetworkFact("uf", "later", ("10.0.1.0/24",), is_internal=True))}, ())
    assert ask(answers, "web.later") == ("NOERROR", ["10.0.1.2"])
    assert ask(answers, "web.front") == ("NXDOMAIN", [])


def test_letters_in_random_case_do_not_fill_the_memory(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED_BYTES", 1000)
    for at in range(200):
        name = "".join(letter.upper() if at >> bit & 1 else letter for bit, letter in enumerate("tasks.web"))
        assert ask(answers, name) == ("NOERROR", ["10.0.1.20", "10.0.1.21"])
    memory = answers.door("uf").askers[TASK]
    assert memory is not None
    assert 0 < len(memory.answers) < 20


def test_there_is_room_for_all_over_tcp(answers: Answers) -> None:
    answers.change({"tasks": tasks_of_web(*range(20, 220))}, ())
    over_udp = answers.answer(answers.door("uf"), TASK, query("tasks.web"))
    over_tcp = answers.answer_tcp(answers.door("uf"), TASK, query("tasks.web"))
    assert isinstance(over_udp, bytes)
    assert isinstance(over_tcp, bytes)
    assert (DNSRecord.parse(over_udp).header.tc, DNSRecord.parse(over_tcp).header.tc) == (1, 0)
    assert len(DNSRecord.parse(over_tcp).rr) == 200


def test_a_failure_repeats_the_question() -> None:
    answer = failure(query("example.org"))
    assert answer is not None
    read = DNSRecord.parse(answer)
    assert (RCODE.get(read.header.rcode), str(read.q.qname), read.header.id) == ("SERVFAIL", "example.org.", 7)
    assert failure(b"garbage") is None


_names = st.sampled_from(["web", "tasks.web", "web.front", "db", "2.1.0.10.in-addr.arpa", "other"])
_changes = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), _names),
        st.tuples(st.sampled_from(["web", "db", "tasks"]), st.sampled_from([(), (2,), (3,), (2, 3)])),
    ),
    max_size=30,
)


@given(_changes)
def test_what_is_remembered_is_what_would_be_found(changes: list[tuple[str, Any]]) -> None:
    world = {
        "front": Facts(network=NetworkFact("uf", "front", ("10.0.1.0/24",))),
        "task": Facts(askers=(Asker(TASK, ("uf",)),)),
    }
    remembering = Answers()
    remembering.change(world, ())
    for what, how in changes:
        if what == "ask":
            fresh = Answers()
            fresh.change(world, ())
            assert ask(remembering, how, "ANY") == ask(fresh, how, "ANY")
        else:
            name = "tasks.web" if what == "tasks" else what
            rank = Rank.SERVICE if what == "tasks" else Rank.VIP
            world[what] = Facts(records=tuple(Record("uf", name, rank, f"10.0.1.{at}") for at in how))
            remembering.change({what: world[what]}, ())


@given(st.binary(max_size=300))
def test_whatever_comes_in_is_answered_or_dropped(data: bytes) -> None:
    answers = Answers()
    answers.change({"task": Facts(askers=(Asker(TASK, ("uf",)),))}, ())
    for asker in (TASK, STRANGER):
        found = answers.answer(answers.door("uf"), asker, data)
        assert found is None or found is Elsewhere.FORWARD or found[:2] == data[:2]
