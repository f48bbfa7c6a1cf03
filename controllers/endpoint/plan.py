"""What the endpoint controller decides: one view and one plan for each of its keys. Pure.

addresses            tasks' addresses, given and taken back (one key: they come from one pool)
numbers              nodes' numbers, and what removed nodes hold
attachments/<uid>    nodes' own addresses on a network
service/<uid>        a service's ports as published, its networks and virtual IPs
task/<uid>           a task's Backend
node/<uid>           the Backends of a node's tasks, when the node is lost or comes back
applied              Backends and virtual IPs that wait for all nodes to follow
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from controllers.endpoint.addresses import AddressView, plan_addresses
from controllers.endpoint.attachments import AttachmentView, NumberView, plan_attachments, plan_numbers
from controllers.endpoint.backends import AppliedView, BackendView, plan_applied, plan_backend
from controllers.endpoint.ports import ServiceView, plan_ports
from shoal.machinery.controller import Plan


@dataclass(frozen=True)
class NodeView:
    """Every task of one node."""

    backends: tuple[BackendView, ...]


View = AddressView | NumberView | AttachmentView | ServiceView | BackendView | NodeView | AppliedView


def plan(view: View, now: datetime) -> Plan:
    match view:
        case AddressView():
            return plan_addresses(view, now)
        case NumberView():
            return plan_numbers(view)
        case AttachmentView():
            return plan_attachments(view, now)
        case ServiceView():
            return plan_ports(view)
        case BackendView():
            return plan_backend(view, now)
        case NodeView():
            actions = [action for each in view.backends for action in plan_backend(each, now).actions]
            return Plan(tuple(actions), independent=True)
        case AppliedView():
            return plan_applied(view, now)
