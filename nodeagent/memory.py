"""The last assignments on disk, without secret data: names and rules for while managers are away."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import structlog

from nodeagent.assignments import Assignments
from nodeagent.reading import read_objects
from shoal.api import codec
from shoal.api.objects import Credential, Secret
from shoal.machinery.files import write_atomic

_FILE: Final = "assignments.json"

log = structlog.get_logger()


class _Document(msgspec.Struct):
    revision: int
    objects: tuple[msgspec.Raw, ...]


def save(folder: Path, assignments: Assignments) -> None:
    """Replace what is stored."""
    objects = [obj for obj in assignments.objects.values() if not isinstance(obj, (Secret, Credential))]
    document = {"revision": assignments.revision, "objects": objects}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(folder / _FILE, msgspec.json.encode(document, enc_hook=codec.enc_hook))


def load(folder: Path) -> Assignments:
    """Return what was stored, not synced; nothing if there is nothing (or nothing readable)."""
    try:
        document = msgspec.json.decode((folder / _FILE).read_bytes(), type=_Document)
        objects, _ = read_objects(document.objects)
        stored = Assignments().replaced(objects, document.revision)
    except FileNotFoundError:
        return Assignments()
    except (OSError, ValueError) as error:
        log.warning("stored_assignments_unreadable", folder=str(folder), reason=str(error))
        return Assignments()
    return msgspec.structs.replace(stored, synced=False)
