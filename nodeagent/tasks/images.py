"""See that an image is here: always try to pull, fall back to what is local.

One pull at a time per image, shared by all who wait for it. A registry that cannot be reached is left alone for a
while as far as local images go, so that a host without a network starts tasks at once.
"""

from __future__ import annotations

import re
from typing import Final

import anyio
import structlog

from nodeagent.engine.contract import Engine
from shoal.api.errors import EngineError

UNREACHABLE_S: Final = 30.0
"""How long a registry that did not answer is not asked again for an image that is here already."""

_NO_ANSWER: Final = ("dial tcp", "no such host", "timeout", "unreachable", "server misbehaving", "connection reset")
_IMAGE_ID: Final = re.compile(r"(sha256:)?[0-9a-f]{64}")

log = structlog.get_logger()


class Images:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._locks: dict[str, anyio.Lock] = {}
        self._pulls: dict[str, int] = {}
        self._unreachable: dict[str, float] = {}

    async def ensure(self, image: str, auth: str = "") -> None:
        """Return once a container can be made from the image; EngineError with the registry's own cause if not."""
        if is_fixed(image) and await self._engine.has_image(image):
            return
        seen = self._pulls.get(image, 0)
        async with self._locks.setdefault(image, anyio.Lock()):
            if self._pulls.get(image, 0) > seen:
                return
            await self._pull(image, auth)
            self._pulls[image] = self._pulls.get(image, 0) + 1

    async def _pull(self, image: str, auth: str) -> None:
        host = registry_of(image)
        if anyio.current_time() < self._unreachable.get(host, 0) and await self._engine.has_image(image):
            return
        try:
            await self._engine.pull(image, auth)
        except EngineError as error:
            if any(word in str(error) for word in _NO_ANSWER):
                self._unreachable[host] = anyio.current_time() + UNREACHABLE_S
            if not await self._engine.has_image(image):
                raise EngineError(f"cannot pull {image}: {error}", temporary=error.temporary) from error
            log.info("image_reused", image=image, cause=str(error))


def is_fixed(image: str) -> bool:
    """Does the reference name one image for ever, so that a local one is as good as any?"""
    return "@sha256:" in image or _IMAGE_ID.fullmatch(image) is not None


def registry_of(image: str) -> str:
    """Return the registry's host: "r:5000/a/b" → "r:5000", "nginx" → "docker.io"."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"
