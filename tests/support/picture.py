"""A cache that one controller's plans are written into at once: a world without a runner, for tests of decisions."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

from shoal.api import codec
from shoal.api.keys import key_of
from shoal.api.objects import Object
from shoal.machinery.cache import Cache, Fold
from shoal.machinery.clock import VirtualClock
from shoal.machinery.controller import Controller, Create, Plan, Remove
from shoal.machinery.runner import reader
from shoal.machinery.writer import prepare

T = TypeVar("T", bound=Object)


class Picture:
    """`put` and `drop` are what others write; `step` looks at one key and writes what was decided."""

    def __init__(
        self, controller: Controller[Any], *objects: Object, folds: tuple[Fold[Any], ...] | None = None
    ) -> None:
        self.controller = controller
        self.cache = Cache(controller.indexes, controller.folds() if folds is None else folds)
        self.put(*objects)

    def put(self, *objects: Object) -> None:
        for obj in objects:
            self.cache.revision += 1
            self.cache.set(key_of(obj), codec.with_meta(obj, resource_version=self.cache.revision))

    def drop(self, *objects: Object) -> None:
        for obj in objects:
            self.cache.revision += 1
            self.cache.set(key_of(obj), None)

    def plan(self, key: str, now: datetime = VirtualClock.START) -> Plan:
        view = self.controller.observe(key, self.cache)
        return Plan() if view is None else self.controller.plan(view, now)

    def step(self, key: str, now: datetime = VirtualClock.START) -> Plan:
        """Decide about one key and write it, checking whose fields were touched."""
        plan = self.plan(key, now)
        for action in plan.actions:
            prepare(action, reader(self.cache), self.controller.name, now)
            self.cache.revision += 1
            for step in action.steps:
                obj = step.obj if isinstance(step, Create | Remove) else step.new
                new = None if isinstance(step, Remove) else codec.with_meta(obj, resource_version=self.cache.revision)
                self.cache.set(key_of(obj), new)
        return plan

    def settle(self, *keys: str, now: datetime = VirtualClock.START) -> None:
        """Step through keys until none of them has anything left to do."""
        for _ in range(50):
            if not any(self.step(key, now).actions for key in keys):
                return
        raise AssertionError(f"{keys} never came to rest")

    def all(self, kind: type[T]) -> list[T]:
        objects = self.cache.all(kind)
        return [objects[key] for key in sorted(objects)]

    def one(self, kind: type[T]) -> T:
        (obj,) = self.all(kind)
        return obj
