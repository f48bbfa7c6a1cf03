"""endpoint: where everything can be reached.

Reconciles: tasks' and nodes' addresses, services' published ports, and the Backends that traffic is routed by.
Owns:       Endpoints, Backends, Attachments, and the Claims on addresses, dynamic ports and node numbers.
Watches:    Services, Tasks, Nodes, Networks, Claims, what it owns, and Presences (who has programmed what).
Writes:     what it owns, and a Task's addresses with `new` → `pending`.
Source:     swarm semantics 4.10; the order in which a Backend comes and goes is DESIGN 9.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controllers.endpoint.addresses import AddressView, AttachmentView, Taken
from controllers.endpoint.backends import AppliedView, BackendView, is_waiting
from controllers.endpoint.ledger import Pool, Waiting
from controllers.endpoint.plan import NodeView, View, plan
from controllers.endpoint.ports import DYNAMIC_LABEL, FIRST_DYNAMIC, LAST_DYNAMIC, ServiceView, is_dynamic
from shoal.api import keys
from shoal.api.objects import (
    Attachment,
    Backend,
    Claim,
    Network,
    Node,
    Presence,
    Service,
    ServiceEndpoint,
    Task,
)
from shoal.api.states import NodeState, Protocol
from shoal.machinery.cache import Cache, Fold, Index
from shoal.machinery.controller import Controller

AT_ONCE = 500
"""Tasks given addresses in one pass, so that others need not wait for thousands."""

_TASK_BY_UID = Index(Task, lambda task: (task.metadata.uid,))
_TASKS_BY_NODE = Index(Task, lambda task: (task.spec.node.uid,) if task.spec.node and task.spec.addresses else ())
_BACKEND_BY_TASK = Index(Backend, lambda backend: (backend.spec.task.uid,))
_BACKENDS_BY_NODE = Index(Backend, lambda backend: (backend.spec.node.uid,))
_BACKENDS_WAITING = Index(Backend, lambda backend: ("",) if is_waiting(backend) else ())
_SERVICE_BY_UID = Index(Service, lambda service: (service.metadata.uid,))
_ENDPOINT_BY_SERVICE = Index(ServiceEndpoint, lambda endpoint: (endpoint.spec.service.uid,))


def observe(key: str, cache: Cache) -> View | None:
    what, _, uid = key.partition("/")
    match what:
        case "addresses":
            return _observe_addresses(cache)
        case "attachments":
            return _observe_attachments(cache)
        case "service":
            return _observe_service(uid, cache)
        case "task":
            return _observe_backend(uid, cache)
        case "node":
            tasks = {task.metadata.uid for task in cache.by(_TASKS_BY_NODE, uid).values()}
            tasks |= {backend.spec.task.uid for backend in cache.by(_BACKENDS_BY_NODE, uid).values()}
            return NodeView(tuple(_observe_backend(task, cache) for task in sorted(tasks)))
        case "applied":
            return _observe_applied(cache)
    return None


def _observe_addresses(cache: Cache) -> AddressView | None:
    pool = cache.fold(Pool)
    waiting, over = cache.fold(Waiting).first(AT_ONCE), _claims_over(pool, cache)
    if not waiting and not over:
        return None
    networks = tuple(sorted(cache.all(Network).values(), key=lambda network: network.metadata.name))
    uids = (network.metadata.uid for network in networks)
    return AddressView(waiting, over, networks, {uid: pool.taken(uid) for uid in uids} if waiting else {})


def _claims_over(pool: Pool, cache: Cache) -> tuple[Claim, ...]:
    """Return the claims of tasks that are over and that nobody routes to; forget whom there is nothing to say about."""
    over: list[Claim] = []
    for uid in sorted(pool.unchecked):
        task = next(iter(cache.by(_TASK_BY_UID, uid).values()), None)
        held = pool.by_owner.get(uid)
        if held is None or (task is not None and not task.status.state.is_terminal):
            pool.unchecked.discard(uid)
        elif not cache.by(_BACKEND_BY_TASK, uid):
            over += held.values()
    return tuple(over)


def _observe_attachments(cache: Cache) -> AttachmentView:
    pool = cache.fold(Pool)
    nodes = {node.metadata.uid: node for node in cache.all(Node).values()}
    networks = {network.metadata.uid: network for network in cache.all(Network).values()}
    ingress = next((network for network in networks.values() if network.spec.ingress), None)
    stale, moved, attached = [], [], set()
    for key in sorted(cache.all(Attachment)):
        attachment = cache.all(Attachment)[key]
        spec = attachment.spec
        if spec.network.uid not in networks or spec.node.uid not in nodes:
            stale.append(attachment)
            continue
        address = nodes[spec.node.uid].status.address
        if spec.vtep != address:
            moved.append((attachment, address))
        if ingress is not None and spec.network.uid == ingress.metadata.uid and not spec.container:
            attached.add(spec.node.uid)
    bare = tuple(nodes[uid] for uid in sorted(set(nodes) - attached)) if ingress is not None else ()
    gone = tuple(sorted(set(pool.node_owners) - set(nodes)))
    asked = {*(node.metadata.uid for node in bare), *(one.spec.node.uid for one in stale), *gone}
    return AttachmentView(
        ingress=ingress,
        taken=pool.taken(ingress.metadata.uid) if ingress is not None and bare else Taken(),
        bare=bare,
        moved=tuple(moved),
        stale=tuple(stale),
        claims={uid: tuple(pool.by_owner.get(uid, {}).values()) for uid in asked},
        gone=gone,
        numbers=frozenset(pool.numbers) if bare else frozenset(),
    )


def _observe_service(uid: str, cache: Cache) -> ServiceView | None:
    pool = cache.fold(Pool)
    service = next(iter(cache.by(_SERVICE_BY_UID, uid).values()), None)
    endpoint = next(iter(cache.by(_ENDPOINT_BY_SERVICE, uid).values()), None)
    if service is None and endpoint is not None and cache.is_unreadable(keys.service(endpoint.spec.service.name)):
        return None
    held = pool.by_owner.get(uid, {})
    dynamic = tuple(held[key] for key in sorted(held) if DYNAMIC_LABEL in held[key].metadata.labels)
    return ServiceView(service, endpoint, dynamic, _free_ports(service, pool))


def _free_ports(service: Service | None, pool: Pool) -> Mapping[Protocol, tuple[int, ...]]:
    """Return as many free ports of each protocol as the service has dynamic ones."""
    free: dict[Protocol, tuple[int, ...]] = {}
    for protocol in sorted({port.protocol for port in service.spec.ports if is_dynamic(port)} if service else ()):
        wanted = (
            sum(1 for port in service.spec.ports if is_dynamic(port) and port.protocol is protocol) if service else 0
        )
        numbers = (n for n in range(FIRST_DYNAMIC, LAST_DYNAMIC + 1) if not pool.is_port_taken(protocol, n))
        free[protocol] = tuple(number for number, _ in zip(numbers, range(wanted), strict=False))
    return free


def _observe_backend(uid: str, cache: Cache) -> BackendView:
    task = next(iter(cache.by(_TASK_BY_UID, uid).values()), None)
    backend = next(iter(cache.by(_BACKEND_BY_TASK, uid).values()), None)
    where = task.spec.node if task is not None else None
    return BackendView(task, backend, cache.get(Node, keys.node(where.uid)) if where is not None else None)


def _observe_applied(cache: Cache) -> AppliedView | None:
    waiting = cache.by(_BACKENDS_WAITING, "")
    if not waiting:
        return None
    nodes = [uid.metadata.uid for uid in cache.all(Node).values() if uid.status.state is NodeState.READY]
    applied: dict[str, int] = {}
    for presence in cache.all(Presence).values():
        for uid, revision in presence.applied.items():
            applied[uid] = max(revision, applied.get(uid, 0))
    lowest = min((applied.get(uid, 0) for uid in nodes), default=cache.revision)
    return AppliedView(tuple(waiting[key] for key in sorted(waiting)), lowest)


def _task_keys(task: Task) -> Iterable[str]:
    if task.spec.addresses:
        return "addresses", f"task/{task.metadata.uid}"
    return ("addresses",) if task.status.state.value == "new" else ()


def _node_keys(node: Node) -> Iterable[str]:
    return "attachments", "applied", f"node/{node.metadata.uid}"


def _claim_keys(claim: Claim) -> Iterable[str]:
    owner = claim.metadata.owner
    kind, uid = (owner.kind, owner.uid) if owner is not None else ("", "")
    if kind == "Service":
        return (f"service/{uid}",)
    return ("attachments",) if kind == "Node" else ("addresses",)


def _backend_keys(backend: Backend) -> Iterable[str]:
    return "applied", "addresses", f"task/{backend.spec.task.uid}"


def make_folds() -> tuple[Fold[Claim], Fold[Task]]:
    pool = Pool()
    return pool, Waiting(pool)


CONTROLLER = Controller[View](
    name="endpoint",
    watches={
        Service: lambda service: (f"service/{service.metadata.uid}",),
        ServiceEndpoint: lambda endpoint: (f"service/{endpoint.spec.service.uid}",),
        Task: _task_keys,
        Backend: _backend_keys,
        Node: _node_keys,
        Network: lambda _: ("addresses", "attachments"),
        Attachment: lambda _: ("attachments",),
        Claim: _claim_keys,
        Presence: lambda _: ("applied",),
    },
    observe=observe,
    plan=plan,
    indexes=(
        _TASK_BY_UID, _TASKS_BY_NODE, _BACKEND_BY_TASK, _BACKENDS_BY_NODE, _BACKENDS_WAITING, _SERVICE_BY_UID,
        _ENDPOINT_BY_SERVICE,
    ),
    folds=make_folds,
    live=True,
    coalesce_s=0.01,
)  # fmt: skip
