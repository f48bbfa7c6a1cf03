"""What a process's status socket answers to which request."""

from __future__ import annotations

import pytest

from shoal.machinery.status import Answer, Health, read, written


@pytest.mark.parametrize(
    ("head", "status", "body"),
    [
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200, b"ok\n", id="alive"),
        pytest.param(b"GET /readyz HTTP/1.0\r\n\r\n", 503, b"starting\n", id="not ready: the reason"),
        pytest.param(b"GET /healthz?verbose=1 HTTP/1.1\r\n\r\n", 200, b"ok\n", id="a query is ignored"),
        pytest.param(b"HEAD /healthz HTTP/1.1\r\n\r\n", 200, b"ok\n", id="head"),
        pytest.param(b"GET /other HTTP/1.1\r\n\r\n", 404, None, id="no such page"),
        pytest.param(b"POST /healthz HTTP/1.1\r\n\r\n", 405, None, id="not read-only"),
        pytest.param(b"GET /healthz\r\n\r\n", 400, None, id="no version"),
        pytest.param(b"\x16\x03\x01 \xff\r\n\r\n", 400, None, id="no http"),
    ],
)
def test_a_request_is_answered(head: bytes, status: int, body: bytes | None) -> None:
    _, answer = read(head, Health())
    assert answer.status == status
    assert body is None or answer.body == body


def test_a_ready_process_says_so() -> None:
    assert read(b"GET /readyz HTTP/1.1\r\n\r\n", Health(lambda: ""))[1] == Answer(200, b"ok\n")


def test_metrics_are_prometheus_text() -> None:
    answer = read(b"GET /metrics HTTP/1.1\r\n\r\n", Health())[1]
    assert answer.status == 200
    assert answer.content_type.startswith("text/plain; version=")
    assert b"process_cpu_seconds_total" in answer.body


def test_an_answer_to_head_says_how_long_the_body_would_be() -> None:
    text = written(Answer(200, b"ok\n"), with_body=False)
    assert b"Content-Length: 3\r\n" in text
    assert text.endswith(b"\r\n\r\n")
