"""A process's picture of the store: frozen objects by kind and key, with indexes and running sums.

Written by the informer alone, read by everybody in the process, synchronously. An object's `metadata.resource_version`
is the revision it was written at; `Cache.revision` is the revision the whole picture is true at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from shoal.api.keys import kind_at
from shoal.api.objects import Object

T = TypeVar("T", bound=Object)
_NOTHING: dict[str, Any] = {}


class Index(Generic[T]):
    """Groups a kind's objects by values of theirs: `Index(Task, lambda task: (task.spec.service.uid,))`."""

    def __init__(self, kind: type[T], values_of: Callable[[T], Iterable[str]]) -> None:
        self.kind, self.values_of = kind, values_of


class Fold(Generic[T]):
    """A running sum over one kind, kept by `change(old, new)`; `old` or `new` is None on creation or deletion.

    For what is too large to recount at every pass (reservations per node). Subclass it, keep state in attributes,
    and find it again with `Cache.fold(kind_of_fold)`.
    """

    kind: type[T]

    def change(self, old: T | None, new: T | None) -> None:
        raise NotImplementedError


F = TypeVar("F", bound=Fold[Any])
P = TypeVar("P", Index[Any], Fold[Any])


class Change(NamedTuple):
    """One object that changed; None = did not exist before, or does not any more."""

    key: str
    old: Object | None
    new: Object | None

    @property
    def kind(self) -> type[Object]:
        obj = self.new if self.new is not None else self.old
        assert obj is not None
        return type(obj)


class Cache:
    def __init__(self, indexes: Iterable[Index[Any]] = (), folds: Iterable[Fold[Any]] = ()) -> None:
        self.revision = 0
        self.unreadable: dict[str, str] = {}
        """Keys whose bytes are no object → the uid they seem to hold, "" if none. That uid's work is left alone."""
        self._objects: dict[type[Object], dict[str, Any]] = {}
        self._indexes: dict[Index[Any], dict[str, dict[str, Any]]] = {index: {} for index in indexes}
        self._folds = {type(fold): fold for fold in folds}
        self._indexes_of = _by_kind(self._indexes)
        self._folds_of = _by_kind(self._folds.values())

    def get(self, kind: type[T], key: str) -> T | None:
        return self._objects.get(kind, _NOTHING).get(key)

    def is_unreadable(self, key: str) -> bool:
        """Something lies at a key that is no object: its owner is not known to be gone, so leave its things alone."""
        return key in self.unreadable

    def all(self, kind: type[T]) -> Mapping[str, T]:
        """Every object of a kind, by key. A live view: do not keep it over an await."""
        found: Mapping[str, T] = self._objects.get(kind, _NOTHING)
        return found

    def by(self, index: Index[T], value: str) -> Mapping[str, T]:
        """The objects an index files under a value, by key. A live view."""
        found: Mapping[str, T] = self._indexes[index].get(value, _NOTHING)
        return found

    def sorted_by(self, index: Index[T], value: str) -> list[T]:
        """The objects an index files under a value, in order of their keys, as plans must see them."""
        found = self.by(index, value)
        return [found[key] for key in sorted(found)]

    def fold(self, which: type[F]) -> F:
        return self._folds[which]  # type: ignore[return-value]

    def keys(self) -> set[str]:
        return {key for objects in self._objects.values() for key in objects}

    def set(self, key: str, new: Object | None) -> Change | None:
        """Put (or, with None, remove) one object; returns what changed, None if nothing did. Informer only."""
        kind = type(new) if new is not None else self._kind_of(key)
        if kind is None:
            return None
        objects = self._objects.setdefault(kind, {})
        old = objects.get(key)
        if new is None and old is None:
            return None
        if new is not None and old is not None and old.metadata.resource_version >= new.metadata.resource_version:
            return None
        if new is None:
            del objects[key]
        else:
            objects[key] = new
        for index in self._indexes_of.get(kind, ()):
            _file(index, self._indexes[index], key, old, new)
        for fold in self._folds_of.get(kind, ()):
            fold.change(old, new)
        return Change(key, old, new)

    def _kind_of(self, key: str) -> type[Object] | None:
        kind = kind_at(key)
        return kind if kind in self._objects else None


def _by_kind(parts: Iterable[P]) -> dict[type[Any], list[P]]:
    found: dict[type[Any], list[P]] = {}
    for part in parts:
        found.setdefault(part.kind, []).append(part)
    return found


def _file(index: Index[Any], groups: dict[str, dict[str, Any]], key: str, old: Any, new: Any) -> None:
    before = tuple(index.values_of(old)) if old is not None else ()
    after = tuple(index.values_of(new)) if new is not None else ()
    if before == after:
        for value in after:
            groups[value][key] = new
        return
    for value in before:
        if value in after:
            continue
        groups[value].pop(key, None)
        if not groups[value]:
            del groups[value]
    for value in after:
        groups.setdefault(value, {})[key] = new
