"""Bytes of queries and answers: what is understood, what is said to the rest, and that nothing brings us down."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from dnslib import EDNS0, QTYPE, RCODE, DNSHeader, DNSQuestion, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.dns import wire
from nodeagent.dns.wire import MalformedError, Rotation

ID = b"\x12\x34"


def query(name: str = "web", kind: str = "A", edns: int | None = None, **header: Any) -> bytes:
    record = DNSRecord(DNSHeader(id=0x1234, rd=1, **header), q=DNSQuestion(name, getattr(QTYPE, kind)))
    if edns is not None:
        record.add_ar(EDNS0(udp_len=edns))
    return bytes(record.pack())


def read(answer: bytes | Rotation) -> Any:
    return DNSRecord.parse(ID + (answer if isinstance(answer, bytes) else answer.next()))


def test_a_query_is_read_whatever_the_case_of_its_letters() -> None:
    found = wire.parse(query("WeB.FronT"))
    assert (found.name, found.type, found.is_internet, found.udp_bytes) == ("web.front", wire.A, True, 512)


@pytest.mark.parametrize(("offered", "expected"), [(None, 512), (100, 512), (800, 800), (1232, 1232), (65000, 1232)])
def test_an_answer_over_udp_fits_what_the_asker_takes(offered: int | None, expected: int) -> None:
    assert wire.parse(query(edns=offered)).udp_bytes == expected


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        pytest.param(b"", None, id="nothing"),
        pytest.param(b"\x12\x34\x01", None, id="less than a header"),
        pytest.param(query(qr=1), None, id="an answer: nobody shall make us talk to ourselves"),
        pytest.param(query() + bytes(5000), None, id="too long"),
        pytest.param(query(opcode=2), RCODE.NOTIMP, id="another operation"),
        pytest.param(bytes(DNSRecord(DNSHeader(id=1)).pack()), RCODE.FORMERR, id="no question"),
        pytest.param(query()[:-3], RCODE.FORMERR, id="half a question"),
        pytest.param(
            struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", RCODE.FORMERR, id="a name that is itself"
        ),
        pytest.param(struct.pack("!HHHHHH", 1, 0, 2, 0, 0, 0) + query()[12:] * 2, RCODE.FORMERR, id="two questions"),
        pytest.param(
            query()[:12] + b"".join(bytes([63]) + b"a" * 63 for _ in range(5)) + b"\0\0\1\0\1",
            RCODE.FORMERR,
            id="a name longer than names are",
        ),
        pytest.param(query()[:10] + b"\0\1" + query()[12:], RCODE.FORMERR, id="more promised than sent"),
        pytest.param(
            struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 1) + query()[12:] + b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\1\2\3\4",
            RCODE.FORMERR,
            id="an address where only OPT may stand",
        ),
    ],
)
def test_what_is_no_query_is_told_so_or_dropped(data: bytes, rcode: int | None) -> None:
    with pytest.raises(MalformedError) as raised:
        wire.parse(data)
    answer = raised.value.answer
    assert (DNSRecord.parse(data[:2] + answer).header.rcode if answer else None) == rcode


def test_a_later_version_of_edns_is_refused_by_its_own_code() -> None:
    record = DNSRecord.parse(query())
    record.add_ar(EDNS0(version=1, udp_len=1232))
    with pytest.raises(MalformedError) as raised:
        wire.parse(bytes(record.pack()))
    answer = read(raised.value.answer)
    assert (answer.ar[0].edns_rcode, answer.header.rcode) == (1, 0)


def test_an_answer_repeats_the_question_as_it_was_asked() -> None:
    answer = read(wire.pack_addresses(wire.parse(query("WeB.x", edns=1232)), ["10.0.1.2"], 512))

    assert str(answer.q.qname) == "WeB.x."
    assert [(str(rr.rname), str(rr.rdata), rr.ttl) for rr in answer.rr] == [("WeB.x.", "10.0.1.2", wire.TTL_S)]
    header = answer.header
    assert (header.qr, header.aa, header.ra, header.rd, header.tc, header.rcode) == (1, 1, 1, 1, 0, 0)
    assert answer.ar[0].edns_len == wire.EDNS_BYTES


@pytest.mark.parametrize(
    ("edns", "addresses", "fit"),
    [
        pytest.param(None, 29, 29, id="the most that fits into 512 bytes"),
        pytest.param(None, 30, 29, id="one more"),
        pytest.param(1232, 73, 73, id="the most with EDNS"),
        pytest.param(1232, 200, 73, id="far more"),
    ],
)
def test_what_does_not_fit_is_marked_truncated(edns: int | None, addresses: int, fit: int) -> None:
    parsed = wire.parse(query("tasks.web-with-a-name", edns=edns))
    known = {f"10.0.1.{at}" for at in range(addresses)}

    packed = wire.pack_addresses(parsed, sorted(known), parsed.udp_bytes)
    assert isinstance(packed, Rotation)
    for _ in range(3):
        answer = read(packed)
        shown = [str(rr.rdata) for rr in answer.rr]
        assert len(answer.pack()) <= parsed.udp_bytes
        assert (len(shown), len(set(shown)), set(shown) <= known) == (fit, fit, True)
        assert answer.header.tc == (fit < addresses)
        assert len(answer.ar) == (edns is not None)


def test_every_address_comes_first_in_its_turn() -> None:
    packed = wire.pack_addresses(wire.parse(query()), [f"10.0.1.{at}" for at in range(7)], 512)
    first = [str(read(packed).rr[0].rdata) for _ in range(14)]
    assert sorted(first[:7]) == sorted(first[7:]) == [f"10.0.1.{at}" for at in range(7)]


def test_an_address_may_have_several_names() -> None:
    answer = read(wire.pack_pointers(wire.parse(query("2.1.0.10.in-addr.arpa", "PTR")), ["web.front", "www.front"]))
    assert [str(rr.rdata) for rr in answer.rr] == ["web.front.", "www.front."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web", True),
        ("web.1.x", True),
        ("", False),
        ("a..b", False),
        ("a" * 64, False),
        ("ä", False),
        ("x." * 130, False),
    ],
)
def test_what_can_be_asked_for(text: str, expected: bool) -> None:
    assert wire.is_name(text) is expected


def test_a_label_with_a_dot_in_it_is_not_taken_for_two() -> None:
    data = struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0) + b"\x09web.front\0" + b"\0\1\0\1"
    assert wire.parse(data).name != "web.front"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(query("wEb", qr=1), True, id="the same question in another case"),
        pytest.param(query("web"), False, id="a query"),
        pytest.param(query("other", qr=1), False, id="another question"),
        pytest.param(b"\0\0" + query("web", qr=1)[2:], False, id="another id"),
        pytest.param(b"\x12\x34\x80", False, id="less than a header"),
        pytest.param(
            bytes(DNSRecord(DNSHeader(id=0x1234, qr=1, rcode=2)).pack()), True, id="a failure without question"
        ),
        pytest.param(bytes(DNSRecord(DNSHeader(id=0x1234, qr=1)).pack()), False, id="success without question"),
    ],
)
def test_an_answer_from_elsewhere_has_to_fit_the_query(answer: bytes, expected: bool) -> None:
    assert wire.answers_to(query("web"), answer) is expected


_damaged = st.builds(
    lambda data, at, cut, noise: (data[: at % len(data)] + noise + data[at % len(data) + len(noise) :])[: cut or None],
    st.sampled_from([query(), query("a.b.c", "AAAA", 1232), query("2.1.0.10.in-addr.arpa", "PTR")]),
    st.integers(0, 100),
    st.integers(0, 60),
    st.binary(max_size=6),
)


@given(st.one_of(st.binary(max_size=600), _damaged, st.binary(max_size=80).map(lambda tail: query()[:12] + tail)))
def test_garbage_is_refused_and_never_more(data: bytes) -> None:
    try:
        parsed = wire.parse(data)
    except MalformedError:
        return
    packed = wire.pack_addresses(parsed, ["10.0.1.2", "10.0.1.3"], 512)
    assert isinstance(packed, Rotation)
    assert DNSRecord.parse(data[:2] + packed.next()).q.qname == parsed.record.q.qname
    DNSRecord.parse(data[:2] + wire.pack_empty(parsed.record, wire.NXDOMAIN))


def test_a_chain_of_pointers_is_no_way_to_bring_us_down() -> None:
    chain = b"".join(struct.pack("!H", 0xC000 | (12 + 2 * (at - 1))) for at in range(1, 2000))
    data = struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 1) + b"\0\0\1\0\1" + chain[:3900]
    with pytest.raises(MalformedError):
        wire.parse(data)
