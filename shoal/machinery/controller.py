"""The contract of a controller: three functions and one declaration.

    def observe(key: str, cache: Cache) -> View | None    # cache only, synchronous
    def plan(view: View, now: datetime) -> Plan           # pure: no clock, no I/O, no log, no randomness
    CONTROLLER = Controller(name=…, watches={Task: lambda task: [task.spec.service.uid]}, observe=observe, plan=plan)

`apply` is generic and lives in `shoal.machinery.runner`. A key names what is reconciled (a service's uid, a node's
uid, or one fixed word where everything must be decided together); it is found from owned objects as well as from
owners, on the old and on the new state of a changed object, so that orphans are found. `observe` returns None where
there is nothing at all to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from msgspec import Struct

from shoal.api.errors import InvariantError
from shoal.api.keys import key_of
from shoal.api.objects import Object
from shoal.machinery.cache import Cache, Fold, Index
from shoal.machinery.store import Compare, Exists, Unchanged

V = TypeVar("V")


class Create(Struct, frozen=True):
    """Write an object whose key must not exist yet. `lease` objects die with the process's own lease."""

    obj: Object


class Replace(Struct, frozen=True):
    """Write the new state of an object that was read: `new.metadata.resource_version` must still be its revision."""

    new: Object


class Remove(Struct, frozen=True):
    """Delete an object that was read, if it is unchanged since."""

    obj: Object


Step = Create | Replace | Remove


class Action(Struct, frozen=True):
    """What is written together, in one transaction, and why.

    `reason` is a constant CamelCase word (TaskFailed, ScaledDown); `note` completes it for the event shown to users
    (no event where it is empty); `about` is the object the event is about.
    """

    reason: str
    steps: tuple[Step, ...]
    compares: tuple[Compare, ...] = ()
    note: str = ""
    about: Object | None = None
    warning: bool = False

    def keys(self) -> tuple[str, ...]:
        return tuple(key_of(step.new if isinstance(step, Replace) else step.obj) for step in self.steps)

    def all_compares(self) -> tuple[Compare, ...]:
        """The action's own compares and the ones its steps imply."""
        implied: list[Compare] = []
        for step in self.steps:
            obj = step.new if isinstance(step, Replace) else step.obj
            version = obj.metadata.resource_version
            if isinstance(step, Create):
                implied.append(Unchanged(key_of(obj), 0))
            elif version == 0:
                raise InvariantError(f"{key_of(obj)} was never read, so it cannot be replaced or removed")
            else:
                implied.append(Unchanged(key_of(obj), version))
        return (*self.compares, *implied)


class Plan(Struct, frozen=True):
    """What to do now. An empty plan is the usual one.

    Actions are carried out in order; neighbours may share a transaction. If one meets a conflict the rest is dropped
    and the key is observed anew. `requeue_after` asks for another look; `because` says why nothing could be done.
    `because` is logged and shown; store it in an object where users must see it after a restart.
    """

    actions: tuple[Action, ...] = ()
    requeue_after: timedelta | None = None
    because: str = ""
    independent: bool = False
    """Actions do not depend on each other: several transactions may be under way, and a conflict drops one only."""


def any_of(*waits: timedelta | None) -> timedelta | None:
    """Return the shortest wait, None if there is none."""
    return min((wait for wait in waits if wait is not None), default=None)


def still_exists(obj: Object) -> Exists:
    """Compare for what an action depends on but does not write: its owner is still there."""
    return Exists(key_of(obj))


def is_unchanged(obj: Object) -> Unchanged:
    """Compare for what an action was decided from: nobody has changed it."""
    return Unchanged(key_of(obj), obj.metadata.resource_version)


@dataclass(frozen=True)
class Controller(Generic[V]):
    """`watches` maps a kind to the keys to look at when one of it changes (called on the old and the new object)."""

    name: str
    watches: Mapping[type[Any], Callable[[Any], Iterable[str]]]
    observe: Callable[[str, Cache], V | None]
    plan: Callable[[V, datetime], Plan]
    indexes: tuple[Index[Any], ...] = ()
    folds: Callable[[], Iterable[Fold[Any]]] = tuple
    """Makes the controller's running sums, once per process: a relist reaches them as ordinary changes."""
    live: bool = False
    """Watch presences (/shoal-live/) too."""
    coalesce_s: float = 0.0
    """After a pass of a key, wait so long before the next of the same key while changes keep arriving."""
    reaches: Mapping[type[Any], Callable[[Any, Cache], Iterable[str]]] = field(default_factory=dict)
    """Like `watches`, for kinds whose keys only the cache knows, such as the services on a node that went down; asked
    for the old and the new object, once the cache holds the new one."""
    reads: tuple[type[Any], ...] = field(default=())
    """Kinds that `observe` reads though a change of them alone wakes no key."""
    ignores: Mapping[type[Any], Callable[[Any, Any, Cache], bool]] = field(default_factory=dict)
    """Asked for the old and the new state of a changed object before its keys are: true wakes none of them, because
    no plan can differ by this. With thousands of tasks in motion most of their steps are of that sort."""
