"""Waiting for something outside to become true."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(found: Callable[[], T], within_s: float = 120.0, every_s: float = 0.02, what: str = "") -> T:
    """Ask until the answer is true of itself, and return it; AssertionError if it does not come."""
    deadline = time.monotonic() + within_s
    while not (answer := found()):
        assert time.monotonic() < deadline, f"waited {within_s:g} s in vain{' for ' if what else ''}{what}"
        time.sleep(every_s)
    return answer
