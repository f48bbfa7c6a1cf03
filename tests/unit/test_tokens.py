"""Join tokens: their form, and what is wrong with one that is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.api.errors import InvalidError
from shoal.api.tokens import DIGEST_LENGTH, SECRET_LENGTH, Token, digest_of, parse_token

BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


@given(st.text(BASE36, min_size=DIGEST_LENGTH, max_size=DIGEST_LENGTH), st.text(BASE36, min_size=25, max_size=25))
def test_a_token_is_read_as_it_was_written(digest: str, secret: str) -> None:
    assert parse_token(f" {Token(digest, secret)}\n") == Token(digest, secret)


@given(st.binary(max_size=64))
def test_a_digest_always_has_its_length(certificate: bytes) -> None:
    digest = digest_of(certificate)
    assert len(digest) == DIGEST_LENGTH
    assert set(digest) <= set(BASE36)


def test_the_digest_is_the_sha_256_in_base_36() -> None:
    assert int(digest_of(b"abc"), 36) == 0xBA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD


D, S = "a" * DIGEST_LENGTH, "b" * SECRET_LENGTH


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "no join token", id="nothing"),
        pytest.param("hello", "no join token", id="a word"),
        pytest.param(f"SWMKEY-1-{D}-{S}", "no join token", id="an unlock key"),
        pytest.param(f"SWMTKN-1-{D}", "no join token", id="half a token"),
        pytest.param(f"SWMTKN-2-{D}-{S}", "version '2'", id="another version"),
        pytest.param(
            f"SWMTKN-1-{D[1:]}-{S}", "digest has 49 characters of 0-9 and a-z, expected 50", id="short digest"
        ),
        pytest.param(f"SWMTKN-1-{D}-{S}x", "secret has 26 characters of 0-9 and a-z, expected 25", id="long secret"),
        pytest.param(f"SWMTKN-1-{D}-{S[1:]}B", "secret may hold 0-9 and a-z only", id="capitals"),
    ],
)
def test_what_is_no_token_is_told_without_the_secret(text: str, said: str) -> None:
    with pytest.raises(InvalidError, match=said) as caught:
        parse_token(text)
    assert S[1:] not in str(caught.value)
