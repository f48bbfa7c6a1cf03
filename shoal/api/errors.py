"""Every error Shoal raises on purpose, with its HTTP status and the command line's exit code.

    ShoalError
    ├── InvalidError         422  2   what a person or client sent is wrong; carries every fault
    ├── NotFoundError        404  1
    ├── AlreadyExistsError   409  1
    ├── ConflictError        409  6   somebody else changed the object first: read again
    ├── ForbiddenError       403  1
    │   └── RemovedError     403  9   a node that asks is no longer part of the cluster
    ├── ExpiredError         410  1   a watch position is gone: list again
    ├── ThrottledError       429  1   too many failed attempts: slower
    ├── UnavailableError     503  1   nobody answered; a write's outcome is unknown
    ├── TerminalError        500  1   retrying cannot help; the runner gives up and reports the reason
    ├── EngineError          502  1   the Docker engine said no; `temporary` tells whether to retry
    ├── DataplaneError       500  1   nft or netlink said no; carries the command and its stderr
    └── InvariantError       500  1   a bug of ours

A class exists only where some caller treats it differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from msgspec import Struct


class Fault(Struct, frozen=True, omit_defaults=True):
    """One thing wrong with what somebody sent.

    `path` is the field in the manifest's own words (`spec.ports[1].published`); `file` and `line` (1-based) are
    filled by whoever still knows the text.
    """

    path: str
    message: str
    file: str = ""
    line: int = 0
    object: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.file and self.line else f"{self.file}: " if self.file else ""
        what = f"{self.object}: " if self.object else ""
        return f"{where}{what}{self.path + ': ' if self.path else ''}{self.message}"


class ShoalError(Exception):
    """Root of the tree; `str(error)` is a sentence for people."""

    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    reason: ClassVar[str] = "Error"


class InvalidError(ShoalError):
    """What was sent is wrong; `faults` holds all of it, never only the first."""

    status, exit_code, reason = 422, 2, "Invalid"

    def __init__(self, faults: Sequence[Fault] | str) -> None:
        self.faults: tuple[Fault, ...] = (Fault("", faults),) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class NotFoundError(ShoalError):
    status, reason = 404, "NotFound"


class AlreadyExistsError(ShoalError):
    status, reason = 409, "AlreadyExists"


class ConflictError(ShoalError):
    """A compare failed: `key` was at revision `found` (0 = absent), not at `expected`."""

    status, exit_code, reason = 409, 6, "Conflict"

    def __init__(self, key: str, expected: int | str = "", found: int | str = "", message: str = "") -> None:
        self.key, self.expected, self.found = key, expected, found
        super().__init__(message or f"{key} is at revision {found}, not at {expected}: somebody changed it first")


class ForbiddenError(ShoalError):
    status, reason = 403, "Forbidden"


class RemovedError(ForbiddenError):
    """The node that asks left, or was removed: it never comes back under this identity. The agent ends with it."""

    exit_code, reason = 9, "Removed"


class ThrottledError(ShoalError):
    status, reason = 429, "Throttled"


class ExpiredError(ShoalError):
    """The watch position was compacted, or belongs to another incarnation: list again, then watch."""

    status, reason = 410, "Expired"


class UnavailableError(ShoalError):
    """Nobody answered. The outcome of a write is unknown: read before you retry."""

    status, reason = 503, "Unavailable"


class TerminalError(ShoalError):
    reason = "Terminal"


class EngineError(ShoalError):
    """The Docker engine refused or did not answer; `temporary` is true where a retry may succeed."""

    status, reason = 502, "Engine"

    def __init__(self, message: str, *, temporary: bool = False) -> None:
        self.temporary = temporary
        super().__init__(message)


class DataplaneError(ShoalError):
    reason = "Dataplane"

    def __init__(self, command: str, stderr: str) -> None:
        self.command, self.stderr = command, stderr
        super().__init__(f"{command}: {stderr.strip() or 'failed without a message'}")


class InvariantError(ShoalError):
    reason = "Invariant"
