"""Finding the object a person names: by key, uid, name or a unique beginning of its uid. Pure."""

from __future__ import annotations

from typing import TypeVar

from apiserver.mirror import BY_UID
from shoal.api import objects as o
from shoal.api.errors import InvalidError, NotFoundError
from shoal.api.keys import prefix_of
from shoal.machinery.cache import Cache

T = TypeVar("T", bound=o.Object)


def find(cache: Cache, kind: type[T], name: str) -> T:
    """Return the one object meant; NotFoundError if none is, InvalidError listing them if several are.

    A task may be named by its service and slot, `web.1`: of several the one that is wanted alive.
    """
    direct = cache.get(kind, prefix_of(kind) + name)
    if direct is not None:
        return direct
    for candidates in (
        list(cache.by(BY_UID[kind], name).values()),
        [obj for obj in cache.all(kind).values() if obj.metadata.name == name],
        [obj for obj in cache.all(kind).values() if name and obj.metadata.uid.startswith(name)],
        _in_slot(cache, kind, name),
    ):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            found = ", ".join(sorted(f"{obj.metadata.name} ({obj.metadata.uid})" for obj in candidates)[:5])
            raise InvalidError(f"{kind.KIND.lower()} {name} is ambiguous ({len(candidates)} matches found): {found}")
    raise NotFoundError(f"{kind.KIND.lower()} {name} not found")


def _in_slot(cache: Cache, kind: type[T], name: str) -> list[T]:
    """Return the tasks of a slot, those that are wanted alive if there are any."""
    if kind is not o.Task or "." not in name:
        return []
    found = [task for task in cache.all(kind).values() if task.metadata.name.rpartition(".")[0] == name]
    return [task for task in found if isinstance(task, o.Task) and task.spec.desired_state.is_live] or found
