"""Who changed what: one line per request that changes something, or tried to; never a body."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import structlog

from apiserver.identity import Identity
from shoal.api.errors import ShoalError

_changed: ContextVar[dict[str, str] | None] = ContextVar("changed", default=None)

log = structlog.get_logger()


def note(name: str, result: str) -> None:
    """Note what the request under way did to an object."""
    changed = _changed.get()
    if changed is not None:
        changed[name] = result


@contextmanager
def audited(identity: Identity, method: str, path: str) -> Iterator[None]:
    """Log what was noted inside, and how it ended."""
    changed: dict[str, str] = {}
    token = _changed.set(changed)
    result = "failed"
    try:
        yield
        result = "done"
    except ShoalError as error:
        result = error.reason
        raise
    finally:
        _changed.reset(token)
        log.info("request_audited", identity=str(identity), method=method, path=path, result=result, objects=changed)
