"""Published ports: which a service takes, and whom it would meet there. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.api.defaults import endpoint_mode
from shoal.api.states import EndpointMode, Protocol, PublishMode
from shoal.api.template import Port, TaskTemplate

PortKey = tuple[Protocol, int]


def needs_ingress(template: TaskTemplate) -> bool:
    """Say whether tasks of this template are attached to the ingress network."""
    return endpoint_mode(template) is EndpointMode.VIP and any(p.mode is PublishMode.INGRESS for p in template.ports)


def fixed(ports: Iterable[Port], mode: PublishMode) -> frozenset[PortKey]:
    """Return (protocol, published) of the ports of one mode that name a number."""
    return frozenset((p.protocol, p.published) for p in ports if p.mode is mode and p.published)


def clashes(mine: Iterable[Port], theirs: Iterable[Port]) -> frozenset[PortKey]:
    """Return what two services cannot both have: a number that either publishes on the mesh.

    Two host-mode ports may share a number: placement keeps their tasks on different nodes.
    """
    mine, theirs = tuple(mine), tuple(theirs)
    my_mesh, my_host = fixed(mine, PublishMode.INGRESS), fixed(mine, PublishMode.HOST)
    their_mesh, their_host = fixed(theirs, PublishMode.INGRESS), fixed(theirs, PublishMode.HOST)
    return (my_mesh & (their_mesh | their_host)) | (my_host & their_mesh)


def host_ports(template: TaskTemplate) -> frozenset[PortKey]:
    """Return what a task takes on its own node only."""
    return fixed(template.ports, PublishMode.HOST)
