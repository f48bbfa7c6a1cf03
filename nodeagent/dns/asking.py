"""Asks this host's name service on a network's address, from loopback: it answers as to a container there."""

from __future__ import annotations

from typing import Final

import anyio

from nodeagent.dns import wire
from nodeagent.dns.upstream import PORT, exchange

LOOPBACK: Final = "127.0.0.1"

ANSWER_WITHIN_S: Final = 1.0
"""Seconds; it answers from memory."""


async def addresses_of(name: str, server: str) -> tuple[str, ...] | None:
    """Return the addresses that a name leads to, sorted; None if nothing was answered."""
    answer = await _answer(wire.pack_question(name), server)
    return tuple(sorted(wire.addresses_in(answer))) if answer is not None else None


async def is_there(server: str) -> bool:
    """Does it answer at all? A whole zone is asked for, which it refuses at once."""
    return await _answer(wire.pack_question("", wire.ZONE), server) is not None


async def _answer(query: bytes, server: str) -> bytes | None:
    with anyio.move_on_after(ANSWER_WITHIN_S):
        try:
            return await exchange(query, server, PORT, over_tcp=False, source=LOOPBACK)
        except (OSError, EOFError):
            return None
    return None
