"""Questions put to agents: what is asked of them, and when whoever waits is told that nothing will come."""

from __future__ import annotations

import anyio
import pytest

from apiserver.logs import log_query
from apiserver.requests import Outbox, Requests
from shoal.api.errors import InvalidError


@pytest.mark.anyio
@pytest.mark.parametrize("newer", [Outbox(), None], ids=["a newer stream took over", "the stream ended"])
async def test_who_asked_over_a_stream_that_is_no_more_does_not_wait_for_ever(newer: Outbox | None) -> None:
    requests, outbox = Requests(), Outbox()
    requests.connect("n1", outbox)
    async with requests.ask("n1", "logs", {}) as lines:
        if newer is not None:
            requests.connect("n1", newer)
        requests.disconnect("n1", outbox)
        with anyio.fail_after(1), pytest.raises(anyio.EndOfStream):
            await lines.receive()
    assert requests.connected == ({"n1"} if newer else set())


@pytest.mark.parametrize("since", ["yesterday", "0001-01-01T00:00:00+10:00"])
def test_a_time_nobody_can_read_is_refused(since: str) -> None:
    with pytest.raises(InvalidError):
        log_query({"since": since})


@pytest.mark.parametrize(
    ("since", "asked"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00+00:00"),
        ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00+00:00"),
        ("2026-01-31T12:00:00", "2026-01-31T12:00:00+00:00"),
        ("0001-01-01", "0001-01-01T00:00:00+00:00"),
    ],
)
def test_agents_are_asked_in_utc(since: str, asked: str) -> None:
    assert log_query({"since": since}).since == asked
