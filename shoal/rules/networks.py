"""What a task needs from networks. Pure."""

from __future__ import annotations

from typing import Final

from shoal.api.template import TaskTemplate
from shoal.rules.ports import needs_ingress

PREDEFINED: Final = frozenset({"host", "bridge", "none"})
"""Networks that every engine has; Shoal gives no addresses on them."""


def needs_address(template: TaskTemplate) -> bool:
    """Say whether a task has to wait for an address before it may be placed."""
    return needs_ingress(template) or any(use.name not in PREDEFINED for use in template.networks)
