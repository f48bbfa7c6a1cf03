"""A worker remembers where managers answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.client import ApiClient
from shoal.machinery import managers

A, B, C = "https://10.0.0.1:2377", "https://10.0.0.2:2377", "https://10.0.0.3:2377"


def test_what_was_told_last_is_what_is_known(tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    assert managers.load(folder) == ()
    managers.save(folder, ["10.0.0.1:2377", "10.0.0.2:2377"])
    managers.save(folder, ["10.0.0.3:2377"])
    assert managers.load(folder) == ("10.0.0.3:2377",)


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b'{"a": 1}'])
def test_a_damaged_list_is_none(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "managers.json").write_bytes(raw)
    assert managers.load(tmp_path) == ()


@pytest.mark.parametrize(
    ("begun_with", "failures", "told", "tried"),
    [
        pytest.param([A], 0, [A, B], (A, B), id="another one came"),
        pytest.param([A], 0, [B], (A, B), id="the present one is not told of: it answers, and it is the last resort"),
        pytest.param([A, B], 1, [B, C], (B, C, A), id="the present one stays the present one"),
        pytest.param([A], 0, [], (A,), id="nothing is told"),
    ],
)
def test_an_agent_goes_on_with_the_managers_it_was_told_of(
    begun_with: list[str], failures: int, told: list[str], tried: tuple[str, ...]
) -> None:
    client = ApiClient(begun_with, "n1")
    for _ in range(failures):
        client.next_server()
    client.learn(told)
    assert client.urls() == tried


def test_a_manager_that_is_told_of_no_more_is_forgotten_with_its_connection() -> None:
    client = ApiClient([A], "n1")
    client.learn([A, B])
    client.learn([A, C])
    assert client.urls() == (A, C)
