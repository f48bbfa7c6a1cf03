"""What is said to etcd and heard from it, message by message: how much there is in one counts."""

from __future__ import annotations

from etcd3.etcdrpc import kv_pb2

from shoal.machinery.etcd import _batches, _request
from shoal.machinery.store import Batch, CreatedAt, Delete, Event, Exists, NoneUnder, Put, Txn, Unchanged


def heard(*found: tuple[str, bytes | None, int]) -> list[kv_pb2.Event]:
    return [
        kv_pb2.Event(
            type=kv_pb2.Event.DELETE if value is None else kv_pb2.Event.PUT,
            kv=kv_pb2.KeyValue(key=key.encode(), value=value or b"", mod_revision=revision),
        )
        for key, value, revision in found
    ]


def test_a_transaction_carries_its_compares_and_writes_and_nothing_else() -> None:
    compares = (Unchanged("/a", 7), Exists("/b"), NoneUnder("/c/"), CreatedAt("/d", 3))
    request = _request(Txn(compares, (Put("/a", b"1"), Delete("/e"))))
    assert (len(request.compare), len(request.success), len(request.failure)) == (4, 2, 0)


def test_a_transaction_of_many_writes_is_hardly_larger_than_what_it_writes() -> None:
    puts = tuple(Put(f"/shoal/tasks/web.{number}.{'a' * 25}", b"x" * 600) for number in range(99))
    request = _request(Txn(tuple(Unchanged(put.key, 1000) for put in puts), puts))
    assert request.ByteSize() < 1.25 * sum(len(put.key) + len(put.value) for put in puts)


def test_events_of_one_revision_are_one_batch() -> None:
    events = heard(("/a", b"1", 5), ("/b", None, 5), ("/a", b"2", 6))
    assert list(_batches(events)) == [
        Batch(5, (Event("/a", b"1", 5), Event("/b", None, 5))),
        Batch(6, (Event("/a", b"2", 6),)),
    ]


def test_a_response_without_events_is_no_batch() -> None:
    assert list(_batches([])) == []
