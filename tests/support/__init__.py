"""What tests share: real processes on loopback, and waiting for conditions."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")


async def eventually(probe: Callable[[], Awaitable[T]], within: float = 10.0, every: float = 0.02) -> T:
    """Ask `probe` until it returns something true, and return that.

    An AssertionError of the probe counts as "not yet". In the end it says what it saw last.
    """
    deadline = time.monotonic() + within
    while True:
        try:
            last: object = await probe()
            if last:
                return last  # type: ignore[return-value]
        except AssertionError as error:
            last = error
        if time.monotonic() >= deadline:
            raise AssertionError(f"did not become true within {within} s; last seen: {last!r}")
        await anyio.sleep(every)
