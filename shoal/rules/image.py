"""What an image's name tells: what to pull, and whether its content can change. Pure."""

from __future__ import annotations

from functools import lru_cache

from shoal.api.grammar import DEFAULT_TAG, Image, parse_image

parse = lru_cache(maxsize=1024)(parse_image)
"""Text to Image; ValueError says what was expected."""


def with_tag(text: str) -> str:
    """Return the reference with the tag Docker assumes: `nginx` → `nginx:latest`."""
    image = parse(text)
    return text if image.is_id or image.tag or image.digest else f"{text}:{DEFAULT_TAG}"


def is_pinned(text: str) -> bool:
    """Say whether the name fixes the content (a digest or an image id), so that a local copy needs no pull."""
    image = parse(text)
    return image.is_id or bool(image.digest)


def repository_and_version(text: str) -> tuple[str, str]:
    """Split for the engine's pull call: ("host:5000/app", "2"), or a digest in the tag's place."""
    image: Image = parse(text)
    if image.is_id:
        return text, ""
    head = text.partition("@")[0]
    if image.tag:
        head = head[: -len(image.tag) - 1]
    return head, image.digest or image.tag or DEFAULT_TAG
