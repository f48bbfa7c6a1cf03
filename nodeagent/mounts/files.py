"""The files of tasks' secrets and configs: written before a container is made, wiped when it has ended.

    <run-dir>/files/            a tmpfs (one is mounted where the run directory is on none), only root enters
    <run-dir>/files/<task uid>/0 1 2 …

Each is bind-mounted read-only into the container, so its path says nothing and survives our end: containers keep
their files while the agent is away. If we die between writing and making the container, the next agent writes the
same again; if we die before wiping, `sweep` finds what belongs to no task.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

import anyio
import structlog
from anyio import to_thread

from nodeagent.assignments import Assignments
from nodeagent.mounts.contents import Content, contents_of
from nodeagent.network.commands import run
from nodeagent.ports import BoundFile
from shoal.api.errors import DataplaneError
from shoal.api.objects import Task
from shoal.rules.expand import NodeFacts

_MOUNTS: Final = Path("/proc/self/mountinfo")
_IN_MEMORY: Final = ("tmpfs", "ramfs")

log = structlog.get_logger()


class TaskFiles:
    """A `FilesPort` below one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._assignments = Assignments()
        self._is_ready = False
        self._making = anyio.Lock()

    def offer(self, assignments: Assignments) -> None:
        """Take the secrets and configs that have come; those that went are forgotten."""
        self._assignments = assignments

    async def prepare(self, task: Task, node: NodeFacts) -> tuple[BoundFile, ...]:
        contents = contents_of(task, self._assignments, node)
        if not contents:
            return ()
        folder = self._root / task.metadata.uid
        try:
            await self._ensure_root()
            await to_thread.run_sync(_write, folder, contents)
        except OSError as error:
            raise DataplaneError(f"write {folder}", error.strerror or str(error)) from None
        return tuple(BoundFile(str(folder / str(at)), one.target) for at, one in enumerate(contents))

    async def wipe(self, task_uid: str) -> None:
        folder = self._root / task_uid
        if not task_uid or not folder.is_dir():
            return
        try:
            await to_thread.run_sync(_wipe, folder)
        except OSError as error:
            log.warning("files_not_wiped", folder=str(folder), reason=error.strerror or str(error))
        else:
            log.info("files_wiped", task=task_uid)

    async def sweep(self, keep: Collection[str]) -> None:
        try:
            found = {entry.name for entry in self._root.iterdir()} if self._root.is_dir() else set()
        except OSError as error:
            log.warning("files_not_wiped", folder=str(self._root), reason=error.strerror or str(error))
            return
        for uid in sorted(found - set(keep)):
            await self.wipe(uid)

    async def _ensure_root(self) -> None:
        """Make the directory, in memory only: a secret never touches a disk."""
        async with self._making:
            if self._is_ready:
                return
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            mounts = await to_thread.run_sync(_MOUNTS.read_text)
            if filesystem_of(self._root, mounts) not in _IN_MEMORY:
                await run(("mount", "-t", "tmpfs", "-o", "mode=0700,nosuid,nodev,noexec", "tmpfs", str(self._root)))
                log.info("tmpfs_mounted", folder=str(self._root))
            self._root.chmod(0o700)
            self._is_ready = True


def filesystem_of(path: Path, mountinfo: str) -> str:
    """Return the type of the filesystem a path is on, by the text of /proc/self/mountinfo. Pure but for links."""
    found, longest = "", -1
    resolved = path.resolve()
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point = Path(_unescaped(left.split()[4]))
        if resolved.is_relative_to(point) and len(point.parts) >= longest:
            found, longest = right.split()[0], len(point.parts)
    return found


def _unescaped(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def _write(folder: Path, contents: Iterable[Content]) -> None:
    """Write files anew, each unreadable to others until it has its owner and its mode."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for at, one in enumerate(contents):
        path = folder / str(at)
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(one.data)
            file.flush()
            os.fchown(descriptor, one.owner, one.group)
            os.fchmod(descriptor, one.mode)


def _wipe(folder: Path) -> None:
    """Overwrite and remove; gone already is fine."""
    for path in folder.iterdir():
        with path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            file.write(bytes(size))
            file.flush()
        path.unlink(missing_ok=True)
    folder.rmdir()
