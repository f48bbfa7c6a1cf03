"""What a task needs from networks. Pure."""

from __future__ import annotations

from typing import Final

from shoal.api.objects import Task
from shoal.api.template import NetworkUse, TaskTemplate
from shoal.rules.ports import needs_ingress

PREDEFINED: Final = frozenset({"host", "bridge", "none"})
"""Networks that every engine has; Shoal gives no addresses on them."""

DEFAULT_MTU: Final = 1450
"""Bytes of an overlay's packets: Ethernet's 1500 less VXLAN's 50."""

INGRESS_LABEL: Final = "shoal.ingress"
"""On a Reference: a service holds the ingress network because it publishes ports there."""


def needs_address(template: TaskTemplate) -> bool:
    """Say whether a task has to wait for an address before it may be placed.

    On a node-local network it gets none of Shoal's; that is known once its networks were looked at.
    """
    return needs_ingress(template) or any(use.name not in PREDEFINED for use in template.networks)


def is_on_host(template: TaskTemplate) -> bool:
    """Say whether a task shares its host's own network; it is then on no other."""
    return any(use.name == "host" for use in template.networks)


def is_on_bridge(template: TaskTemplate) -> bool:
    """Say whether a task is on its engine's default bridge, beside the networks it has addresses on."""
    return any(use.name == "bridge" for use in template.networks)


def local_uses(task: Task) -> tuple[NetworkUse, ...]:
    """Return how a placed task uses node-local networks: those on which it has no address of Shoal's."""
    addressed = {one.network.uid for one in task.spec.addresses}
    uses = task.spec.template.networks
    return tuple(use for use in uses if use.uid and use.name not in PREDEFINED and use.uid not in addressed)


def networks_used(task: Task) -> frozenset[str]:
    """Return the uids of the networks a task is on, or will be."""
    return frozenset((*(one.network.uid for one in task.spec.addresses), *(use.uid for use in local_uses(task))))
