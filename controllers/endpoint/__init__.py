"""endpoint: where everything can be reached.

Reconciles: tasks', nodes' and services' addresses, published ports, and the Backends that traffic is routed by.
Owns:       Endpoints, Backends, Attachments, and the Claims on addresses, dynamic ports and node numbers.
Watches:    Services, Tasks, Nodes, Networks, Claims, References, what it owns, and Presences (who programmed what).
Writes:     what it owns, and a Task's addresses with `new` → `pending`.
Source:     swarm semantics 4.10; the order in which a Backend comes and goes is DESIGN 9.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controllers.endpoint.attachments import NUMBER_PREFIX
from controllers.endpoint.ledger import Pool, Waiting
from controllers.endpoint.observe import INDEXES, holder_of_network, observe
from controllers.endpoint.plan import View, plan
from controllers.endpoint.sites import SiteAttachments, SiteNetworks, SiteNodes, Sites
from controllers.endpoint.vips import is_releasing, is_withdrawing
from shoal.api.objects import (
    Attachment,
    Backend,
    Claim,
    Network,
    Node,
    Presence,
    Reference,
    Service,
    ServiceEndpoint,
    Task,
)
from shoal.machinery.cache import Cache, Fold
from shoal.machinery.controller import Controller


def _task_keys(task: Task) -> Iterable[str]:
    if task.spec.addresses:
        networks = task.spec.addresses if task.spec.node is not None else ()
        on = (f"attachments/{one.network.uid}" for one in networks)
        return "addresses", f"task/{task.metadata.uid}", *on
    return ("addresses",) if task.status.state.value == "new" else ()


def _node_keys(node: Node) -> Iterable[str]:
    return "numbers", "applied", f"node/{node.metadata.uid}"


def _networks_of_node(node: Node, cache: Cache) -> Iterable[str]:
    return (f"attachments/{uid}" for uid in cache.fold(Sites).networks_of(node.metadata.uid))


def _networks_of_holder(claim: Claim, cache: Cache) -> Iterable[str]:
    """A node that has just got its number may be waiting for it."""
    owner = claim.metadata.owner
    if owner is None or owner.kind != "Node" or not claim.key.startswith(NUMBER_PREFIX):
        return ()
    return (f"attachments/{uid}" for uid in cache.fold(Sites).networks_of(owner.uid))


def _claim_keys(claim: Claim) -> Iterable[str]:
    owner = claim.metadata.owner
    kind, uid = (owner.kind, owner.uid) if owner is not None else ("", "")
    match kind:
        case "Service":
            return f"service/{uid}", *(("applied",) if is_releasing(claim) else ())
        case "Node":
            return ("numbers",)
        case "Task":
            return ("addresses",)
    return ()


def _endpoint_keys(endpoint: ServiceEndpoint) -> Iterable[str]:
    return f"service/{endpoint.spec.service.uid}", *(("applied",) if is_withdrawing(endpoint) else ())


def _reference_keys(reference: Reference) -> Iterable[str]:
    owner = reference.metadata.owner
    is_of_service = owner is not None and owner.kind == "Service"
    return (f"service/{uid}" for uid in holder_of_network(reference)) if is_of_service else ()


def _backend_keys(backend: Backend) -> Iterable[str]:
    return "applied", "addresses", f"task/{backend.spec.task.uid}"


def make_folds() -> tuple[Fold[Any], ...]:
    pool, sites = Pool(), Sites()
    return pool, Waiting(pool), sites, SiteNodes(sites), SiteAttachments(sites), SiteNetworks(sites)


CONTROLLER = Controller[View](
    name="endpoint",
    watches={
        Service: lambda service: (f"service/{service.metadata.uid}",),
        ServiceEndpoint: _endpoint_keys,
        Reference: _reference_keys,
        Task: _task_keys,
        Backend: _backend_keys,
        Node: _node_keys,
        Network: lambda network: ("addresses", f"attachments/{network.metadata.uid}"),
        Attachment: lambda attachment: (f"attachments/{attachment.spec.network.uid}", "addresses"),
        Claim: _claim_keys,
        Presence: lambda _: ("applied",),
    },
    reaches={Node: _networks_of_node, Claim: _networks_of_holder},
    observe=observe,
    plan=plan,
    indexes=INDEXES,
    folds=make_folds,
    live=True,
    coalesce_s=0.01,
)
