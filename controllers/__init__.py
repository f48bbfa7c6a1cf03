"""The controllers, one folder each. Each runs as a process of its own: `python -m controllers replication`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from shoal.machinery.lean import import_leanly

import_leanly()

if TYPE_CHECKING:
    from shoal.machinery.controller import Controller

CONTROLLERS: Final = {
    "replication": "controllers.replication:CONTROLLER",
    "rollout": "controllers.rollout:CONTROLLER",
    "placement": "controllers.placement:CONTROLLER",
    "endpoint": "controllers.endpoint:CONTROLLER",
    "nodes": "controllers.nodes:CONTROLLER",
}
"""Name → where its declaration is."""


def load(name: str, monotonic: Callable[[], float] | None = None) -> Controller[Any]:
    """Return a controller's declaration; KeyError for a name that is none.

    `monotonic` replaces the clock of one that measures time itself.
    """
    path, _, attribute = CONTROLLERS[name].partition(":")
    module = import_module(path)
    make = getattr(module, "make_controller", None)
    controller: Controller[Any] = make(monotonic) if make and monotonic else getattr(module, attribute)
    return controller
