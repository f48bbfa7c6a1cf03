"""What `shoal config inspect` shows."""

from __future__ import annotations

import base64

import pytest

from shoal.cli.files import readable


@pytest.mark.parametrize(
    ("data", "spec"),
    [
        pytest.param(b"listen 80\n", {"text": "listen 80\n"}, id="text"),
        pytest.param(b"\x00\xff", {"data": "AP8="}, id="bytes"),
        pytest.param(b"\x1b[31m", {"data": base64.b64encode(b"\x1b[31m").decode()}, id="control-characters"),
    ],
)
def test_a_config_is_shown_as_text_where_it_is_text(data: bytes, spec: dict[str, str]) -> None:
    obj = {"kind": "Config", "spec": {"data": base64.b64encode(data).decode()}}
    assert readable(obj) == {"kind": "Config", "spec": spec}


def test_a_secret_has_nothing_to_show() -> None:
    assert readable({"kind": "Secret", "spec": {}}) == {"kind": "Secret", "spec": {}}
