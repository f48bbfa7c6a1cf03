"""Bytes of a query and bytes of an answer. Pure. Only importer of dnslib.

A query of any other shape than one question (and at most an OPT record) gets an answer of twelve bytes, or none.
What is packed here leaves out the first two bytes, the query's id: that way it serves every query of the same bytes.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Final

from dnslib import EDNS0, PTR, QTYPE, RCODE, RR, DNSError, DNSHeader, DNSLabel, DNSQuestion, DNSRecord
from msgspec import Struct

TTL_S: Final = 1
"""A name may lead elsewhere at any moment: whoever remembers answers forgets them before a task is stopped (2 s)."""

PLAIN_BYTES: Final = 512
"""The largest answer over UDP to who does not say more."""

EDNS_BYTES: Final = 1232
"""The largest answer over UDP in any case: it fits into one packet everywhere. Source: DNS flag day 2020."""

TCP_BYTES: Final = 65535

MOST_QUERY_BYTES: Final = 4096
"""No query is longer; what is gets no answer."""

MOST_NAME_BYTES: Final = 253
"""Of a name as text. Source: RFC 1035, 2.3.4."""

A, PTR_TYPE, OPT, ANY, ZONE = QTYPE.A, QTYPE.PTR, QTYPE.OPT, QTYPE.ANY, QTYPE.AXFR
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = (
    RCODE.NOERROR, RCODE.FORMERR, RCODE.SERVFAIL, RCODE.NXDOMAIN, RCODE.NOTIMP, RCODE.REFUSED,
)  # fmt: skip
_BADVERS_HIGH: Final = 1
"""BADVERS is 16: the upper eight bits lie in the OPT record."""

_HEADER: Final = struct.Struct("!HHHHHH")
_RESPONSE, _OPCODES, _TRUNCATED, _RECURSION_DESIRED = 0x8000, 0x7800, 0x0200, 0x0100
_ADDRESS: Final = struct.Struct("!HHHIH4s")
_OF_THE_QUESTION: Final = 0xC00C
"""A name that points to the one in the question, at byte 12."""


class MalformedError(Exception):
    """`answer` is what to say to it (without the id), "" = nothing at all."""

    def __init__(self, answer: bytes = b"") -> None:
        super().__init__("malformed query")
        self.answer = answer


class Query(Struct, frozen=True):
    """`name` in lower case, without the final dot."""

    name: str
    type: int
    is_internet: bool
    udp_bytes: int
    """The most that whoever asks takes over UDP."""
    record: Any
    """As parsed: the question with its letters as they came, and OPT."""


@dataclass
class Rotation:
    """An answer with several addresses, each time from the next one on."""

    head: bytes
    ring: bytes
    """Twice all addresses, as records of `_ADDRESS.size` bytes."""
    window: int
    """Bytes of the ring in one answer."""
    tail: bytes
    at: int = 0

    def next(self) -> bytes:
        at = self.at
        self.at = (at + _ADDRESS.size) % (len(self.ring) // 2)
        return self.head + self.ring[at : at + self.window] + self.tail

    @property
    def size(self) -> int:
        return len(self.head) + len(self.ring) + len(self.tail)


def parse(data: bytes) -> Query:
    """Read a query; MalformedError for what is none, or none that is understood."""
    if not _HEADER.size <= len(data) <= MOST_QUERY_BYTES:
        raise MalformedError
    _, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _RESPONSE:
        raise MalformedError
    if flags & _OPCODES:
        raise MalformedError(_short(flags, NOTIMP))
    if (questions, answers, authorities) != (1, 0, 0) or additional > 1:
        raise MalformedError(_short(flags, FORMERR))
    try:
        record = DNSRecord.parse(data)
    except (DNSError, ValueError, RecursionError) as error:
        raise MalformedError(_short(flags, FORMERR)) from error
    extra = record.ar[0] if record.ar else None
    if extra is not None and (extra.rtype != OPT or extra.rname.label):
        raise MalformedError(_short(flags, FORMERR))
    if extra is not None and extra.edns_ver:
        raise MalformedError(pack_empty(record, NOERROR, _BADVERS_HIGH))
    question = record.questions[0]
    if len(question.qname) > MOST_NAME_BYTES:
        raise MalformedError(_short(flags, FORMERR))
    return Query(
        name=_text(question.qname),
        type=question.qtype,
        is_internet=question.qclass in (1, 255),
        udp_bytes=PLAIN_BYTES if extra is None else min(max(extra.edns_len, PLAIN_BYTES), EDNS_BYTES),
        record=record,
    )


def is_name(text: str) -> bool:
    """Say whether a text can be asked for."""
    return text.isascii() and len(text) <= MOST_NAME_BYTES and all(0 < len(label) <= 63 for label in text.split("."))


def pack_addresses(query: Query, addresses: Sequence[str], limit: int) -> bytes | Rotation:
    """Pack addresses in random order, as many as fit into `limit` bytes; the rest is told to be had over TCP."""
    blocks = [
        _ADDRESS.pack(_OF_THE_QUESTION, A, 1, TTL_S, 4, IPv4Address(address).packed)
        for address in random.sample(addresses, len(addresses))
    ]
    empty, question = pack_empty(query.record, NOERROR), _question_bytes(query.record)
    count = min(len(blocks), (limit - 2 - len(empty)) // _ADDRESS.size)
    head = _with_counts(empty[: _HEADER.size - 2 + question], count, is_whole=count == len(blocks))
    tail = empty[_HEADER.size - 2 + question :]
    if len(blocks) == 1:
        return head + blocks[0] + tail
    return Rotation(head, b"".join(blocks) * 2, count * _ADDRESS.size, tail)


def pack_pointers(query: Query, names: Iterable[str]) -> bytes:
    """Pack the names of an address."""
    reply = _reply(query.record, NOERROR)
    for name in names:
        label = DNSLabel([part.encode() for part in name.split(".")])
        reply.add_answer(RR(query.record.q.qname, PTR_TYPE, rdata=PTR(label), ttl=TTL_S))
    return _packed(reply)


def pack_empty(record: Any, rcode: int, extended: int = 0) -> bytes:
    """Pack an answer without records: NOERROR says that the name exists."""
    return _packed(_reply(record, rcode, extended))


def pack_question(name: str, kind: int = A) -> bytes:
    """Pack a query of our own, which takes as much over UDP as there ever is in an answer."""
    record = DNSRecord(DNSHeader(rd=1), q=DNSQuestion(name, kind))
    record.add_ar(EDNS0(udp_len=EDNS_BYTES))
    return bytes(record.pack())


def addresses_in(answer: bytes) -> tuple[str, ...]:
    """Return the IPv4 addresses in an answer; none if nobody can read it."""
    try:
        records = DNSRecord.parse(answer).rr
    except (DNSError, ValueError, RecursionError):
        return ()
    return tuple(str(record.rdata) for record in records if record.rtype == A)


def answers_to(query: bytes, answer: bytes) -> bool:
    """Say whether an answer from elsewhere is one to this query: same id, same question but for its letters' case."""
    if len(answer) < _HEADER.size or answer[:2] != query[:2] or not answer[2] & 0x80:
        return False
    end = question_end(query)
    if answer[4:6] == b"\0\0":
        return bool(rcode_of(answer) != NOERROR)
    return bool(answer[_HEADER.size : end].lower() == query[_HEADER.size : end].lower())


def question_end(data: bytes) -> int:
    """Return where the question of a parsed query ends."""
    at = _HEADER.size
    while at < len(data) and data[at]:
        at += data[at] + 1
    return at + 5


def rcode_of(answer: bytes) -> int:
    return answer[3] & 0x0F


def is_truncated(answer: bytes) -> bool:
    return bool(answer[2] & 0x02)


def _text(label: DNSLabel) -> str:
    """A label with a dot in it is nobody's, and must not be taken for two."""
    return ".".join(part.replace(b".", b"\\.").decode() for part in label.label).lower()


def _reply(record: Any, rcode: int, extended: int = 0) -> Any:
    header = DNSHeader(id=0, qr=1, aa=1, ra=1, rd=record.header.rd, rcode=rcode)
    reply = DNSRecord(header, questions=[DNSQuestion(one.qname, one.qtype, one.qclass) for one in record.questions])
    if record.ar:
        flags = "do" if record.ar[0].edns_do else ""
        reply.add_ar(EDNS0(ext_rcode=extended, flags=flags, udp_len=EDNS_BYTES))
    return reply


def _packed(reply: Any) -> bytes:
    return bytes(reply.pack()[2:])


def _question_bytes(record: Any) -> int:
    return sum(len(part) + 1 for part in record.questions[0].qname.label) + 1 + 4


def _with_counts(head: bytes, answers: int, *, is_whole: bool) -> bytes:
    flags = int.from_bytes(head[:2], "big") | (0 if is_whole else _TRUNCATED)
    return flags.to_bytes(2, "big") + head[2:4] + answers.to_bytes(2, "big") + head[6:]


def _short(flags: int, rcode: int) -> bytes:
    kept = flags & (_OPCODES | _RECURSION_DESIRED)
    return _HEADER.pack(0, _RESPONSE | kept | rcode, 0, 0, 0, 0)[2:]
