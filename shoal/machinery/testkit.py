"""What tests of controllers need: factories of objects, and a `World` that runs controllers with a scripted agent."""

from shoal.api.objects import owner_of, ref_of
from shoal.machinery.factories import (
    at_revision,
    changed,
    make_cluster,
    make_network,
    make_node,
    make_revision,
    make_rollout,
    make_service,
    make_slot,
    make_task,
    template_hash,
)
from shoal.machinery.world import Behaviour, Crash, FakeAgent, World
from shoal.rules.dirtiness import template_of

__all__ = [
    "Behaviour",
    "Crash",
    "FakeAgent",
    "World",
    "at_revision",
    "changed",
    "make_cluster",
    "make_network",
    "make_node",
    "make_revision",
    "make_rollout",
    "make_service",
    "make_slot",
    "make_task",
    "owner_of",
    "ref_of",
    "template_hash",
    "template_of",
]
