"""Sealing with the cluster key: opens with the same key and context only, and says nothing otherwise."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.machinery.sealing import KEY_BYTES, is_sealed, seal, unseal

KEY, OTHER_KEY = bytes(range(KEY_BYTES)), bytes(KEY_BYTES)
CONTEXT = "secret/db/0000000000000000000000001"


@given(st.binary(max_size=300), st.text(max_size=80))
def test_what_was_sealed_opens_with_the_same_key_and_context(plain: bytes, context: str) -> None:
    sealed = seal(KEY, plain, context)

    assert is_sealed(sealed)
    assert unseal(KEY, sealed, context) == plain


def test_sealed_text_shows_nothing_and_never_repeats() -> None:
    first, second = seal(KEY, b"canary", CONTEXT), seal(KEY, b"canary", CONTEXT)

    assert first != second
    assert "canary" not in first
    assert base64.b64encode(b"canary").decode() not in first


def _altered(sealed: str) -> str:
    return sealed[:-6] + ("AAAAAA" if not sealed.endswith("AAAAAA") else "BBBBBB")


@pytest.mark.parametrize(
    ("key", "change", "context"),
    [
        pytest.param(OTHER_KEY, str, CONTEXT, id="another-key"),
        pytest.param(KEY, str, "secret/db/0000000000000000000000002", id="another-object"),
        pytest.param(KEY, _altered, CONTEXT, id="altered"),
        pytest.param(KEY, lambda text: text[:20], CONTEXT, id="cut-short"),
        pytest.param(KEY, lambda text: "sealed1:", CONTEXT, id="empty"),
        pytest.param(KEY, lambda text: "sealed1:no base64!", CONTEXT, id="no-base64"),
        pytest.param(KEY, lambda text: "canary", CONTEXT, id="not-sealed"),
    ],
)
def test_anything_else_is_a_sentence_that_quotes_nothing(key: bytes, change: object, context: str) -> None:
    sealed = seal(KEY, b"canary", CONTEXT)
    assert callable(change)

    with pytest.raises(ValueError, match=context) as refused:
        unseal(key, change(sealed), context)

    assert "canary" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"{length} bytes, expected 32"):
        seal(bytes(length), b"x", CONTEXT)
