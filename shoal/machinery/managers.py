"""Where managers answer other hosts, as a worker was last told: `<state-dir>/agent/managers.json`, ["10.0.0.1:2377"].

Its agent writes what the assignments stream says; the agent and the host daemon read it, since the list from joining
grows old when managers move, or others come.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from shoal.machinery.files import write_atomic

_FILE: Final = "managers.json"

log = structlog.get_logger()


def save(folder: Path, managers: Iterable[str]) -> None:
    """Replace what is stored."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(folder / _FILE, msgspec.json.encode(tuple(managers)))


def load(folder: Path) -> tuple[str, ...]:
    """Return what was stored, nothing if there is nothing (or nothing readable)."""
    try:
        return msgspec.json.decode((folder / _FILE).read_bytes(), type=tuple[str, ...])
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.DecodeError) as error:
        log.warning("stored_managers_unreadable", folder=str(folder), reason=str(error))
        return ()
