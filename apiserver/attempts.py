"""How often one address may guess. Pure: the time is handed in."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MOST_PER_S: Final = 10
"""Failed attempts of one address within a second; a person who mistypes needs none of that."""

MOST_ADDRESSES: Final = 1000
"""Addresses remembered; the oldest are forgotten first."""


class Attempts:
    """Failed attempts of the last second, by address."""

    def __init__(self) -> None:
        self._failed: OrderedDict[str, list[float]] = OrderedDict()

    def may_try(self, address: str, now: float) -> bool:
        recent = [at for at in self._failed.get(address, ()) if now - at < 1.0]
        return len(recent) < MOST_PER_S

    def failed(self, address: str, now: float) -> None:
        recent = [at for at in self._failed.pop(address, ()) if now - at < 1.0]
        self._failed[address] = [*recent, now][-MOST_PER_S:]
        while len(self._failed) > MOST_ADDRESSES:
            self._failed.popitem(last=False)
