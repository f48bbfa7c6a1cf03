"""The controllers, one folder each. Each runs as a process of its own: `python -m controllers replication`."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from shoal.machinery.controller import Controller

CONTROLLERS: Final = {
    "replication": "controllers.replication:CONTROLLER",
    "rollout": "controllers.rollout:CONTROLLER",
    "placement": "controllers.placement:CONTROLLER",
    "endpoint": "controllers.endpoint:CONTROLLER",
    "nodes": "controllers.nodes:CONTROLLER",
}
"""Name → where its declaration is."""


def load(name: str) -> Controller[Any]:
    """Return a controller's declaration. KeyError for a name that is none."""
    module, _, attribute = CONTROLLERS[name].partition(":")
    controller: Controller[Any] = getattr(import_module(module), attribute)
    return controller
