"""The pure parts of the store's contract."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.api.errors import ConflictError
from shoal.machinery.store import (
    MAX_TRANSACTION_BYTES,
    Compare,
    CreatedAt,
    Delete,
    Exists,
    NoneUnder,
    Put,
    Seen,
    Txn,
    Unchanged,
    Write,
    check_txn,
    chunked,
    conflict_of,
    prefix_end,
)

TEXT = st.text(st.sampled_from("ab/-0é\ud7ff\ue000\U0010ffff"), max_size=4)


@given(prefix=TEXT, key=TEXT)
def test_a_prefix_is_a_range_of_keys_and_of_their_bytes(prefix: str, key: str) -> None:
    end = prefix_end(prefix)
    assert key.startswith(prefix) == (prefix <= key and (not end or key < end))
    is_in_bytes = prefix.encode() <= key.encode() and (not end or key.encode() < end.encode())
    assert key.startswith(prefix) == is_in_bytes


WRITES = st.lists(
    st.tuples(st.booleans(), st.integers(0, MAX_TRANSACTION_BYTES // 2)).map(
        lambda drawn: Delete("/k") if drawn[0] else Put("/k", bytes(drawn[1]))
    ),
    max_size=30,
)


@given(writes=WRITES, size=st.integers(1, 10))
def test_chunks_keep_order_lose_nothing_and_fit(writes: list[Write], size: int) -> None:
    chunks = chunked(writes, size)
    assert [write for chunk in chunks for write in chunk] == writes
    for chunk in chunks:
        assert 0 < len(chunk) <= size
        check_txn(Txn((), tuple(_renamed(write, number) for number, write in enumerate(chunk))))


def _renamed(write: Write, number: int) -> Write:
    """Keys in one transaction differ; these are as long as before."""
    key = f"{chr(97 + number)}k"
    return Put(key, write.value) if isinstance(write, Put) else Delete(key)


@pytest.mark.parametrize(
    ("compare", "seen", "conflict"),
    [
        pytest.param(Unchanged("/a", 5), Seen("/a", 3, 5), None, id="unchanged"),
        pytest.param(Unchanged("/a", 5), Seen("/a", 3, 7), ("/a", 5, 7), id="changed"),
        pytest.param(Unchanged("/a", 5), None, ("/a", 5, 0), id="deleted"),
        pytest.param(Unchanged("/a", 0), None, None, id="absent-as-expected"),
        pytest.param(Exists("/a"), Seen("/a", 3, 5), None, id="exists"),
        pytest.param(Exists("/a"), None, ("/a", "any", 0), id="does-not-exist"),
        pytest.param(NoneUnder("/a/"), None, None, id="none-under"),
        pytest.param(NoneUnder("/a/"), Seen("/a/1", 3, 5), ("/a/1", 0, 5), id="one-under"),
        pytest.param(CreatedAt("/a", 3), Seen("/a", 3, 5), None, id="still-mine"),
        pytest.param(CreatedAt("/a", 3), Seen("/a", 4, 5), ("/a", 3, 4), id="somebody-elses"),
        pytest.param(CreatedAt("/a", 3), None, ("/a", 3, 0), id="nobodys"),
        pytest.param(CreatedAt("/a", 0), None, ("/a", 0, 0), id="never-mine"),
    ],
)
def test_a_compare_names_what_disagreed(
    compare: Compare, seen: Seen | None, conflict: tuple[object, ...] | None
) -> None:
    found = conflict_of(compare, seen)
    assert (None if found is None else (found.key, found.expected, found.found)) == conflict
    assert found is None or (isinstance(found, ConflictError) and found.key in str(found))
