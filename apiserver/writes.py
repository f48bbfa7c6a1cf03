"""From an admission to a written object: dry runs, retries after conflicts, and reading one's own writes."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from apiserver.admission import Admission, View
from apiserver.mirror import Mirror
from apiserver.vault import Vault
from shoal.api import objects as o
from shoal.api.errors import ConflictError, InvalidError
from shoal.api.keys import key_of
from shoal.api.meta import uid_from
from shoal.machinery.cache import Cache
from shoal.machinery.clock import Clock
from shoal.machinery.controller import Action
from shoal.machinery.writer import Writer

ATTEMPTS: Final = 5
"""Admissions of one request that may meet a conflict before it is answered."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Written:
    """What a request came to: `revision` 0 = nothing was written."""

    admission: Admission
    revision: int = 0

    @property
    def key(self) -> str:
        return key_of(self.admission.obj)

    @property
    def obj(self) -> o.Object:
        return self.admission.obj


def fresh_uid() -> str:
    """Return a new random uid: what only the edge of the system may do."""
    return uid_from(secrets.token_bytes(16))


class Writes:
    """Writes admissions through the server's writer and waits until the mirror shows them."""

    def __init__(self, mirror: Mirror, writer: Writer, vault: Vault, clock: Clock) -> None:
        self._mirror, self._writer, self._vault, self._clock = mirror, writer, vault, clock

    def view(self, cache: Cache) -> View:
        """Return what an admission looks at."""
        return View(cache, vault=self._vault, now=self._clock.now())

    async def write(self, admit: Callable[[View], Admission], *, dry_run: bool = False) -> Written:
        """Admit and write one object. After a conflict it is admitted again, from what is true by then.

        InvalidError with all faults; ConflictError if others are faster every time, or from `admit` itself.
        """
        for attempt in range(ATTEMPTS):
            cache = await self._mirror.fresh()
            seen = cache.revision
            admission = admit(self.view(cache))
            if admission.faults:
                raise InvalidError(admission.faults)
            if dry_run or not admission.steps:
                return Written(admission)
            try:
                return Written(admission, await self.commit(admission))
            except ConflictError as error:
                log.debug("write_conflicted", key=error.key, attempt=attempt)
                if attempt == ATTEMPTS - 1:
                    raise
                await self._mirror.catch_up(seen, error)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def commit(self, admission: Admission) -> int:
        """Write what was admitted and return once reads show it."""
        action = Action(admission.result.capitalize(), admission.steps, admission.compares)
        revision = await self._writer.commit(action, self._mirror.read)
        self._mirror.written = max(self._mirror.written, revision)
        await self._mirror.wait_for(revision)
        return revision

    async def change(self, action: Callable[[], Action]) -> int:
        """Write an action that is made anew, from what is true by then, after each conflict."""
        for attempt in range(ATTEMPTS):
            seen = (await self._mirror.fresh()).revision
            try:
                revision = await self._writer.commit(action(), self._mirror.read)
            except ConflictError as error:
                if attempt == ATTEMPTS - 1:
                    raise
                await self._mirror.catch_up(seen, error)
            else:
                self._mirror.written = max(self._mirror.written, revision)
                return revision
        raise AssertionError("unreachable: the last attempt returns or raises")
