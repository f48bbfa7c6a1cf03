"""What the endpoint controller looks at for each of its keys, out of the cache and its running sums."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from typing import Any, Final

from controllers.endpoint.addresses import AddressView, Kept, Taken
from controllers.endpoint.attachments import AttachmentView, NumberView, Site, address_key, number_in
from controllers.endpoint.backends import AppliedView, BackendView
from controllers.endpoint.ledger import Pool, Waiting
from controllers.endpoint.plan import NodeView, View
from controllers.endpoint.ports import (
    DYNAMIC_LABEL,
    FIRST_DYNAMIC,
    LAST_DYNAMIC,
    ServiceView,
    explicit_claim,
    is_dynamic,
)
from controllers.endpoint.sites import Sites, tunnel_end
from controllers.endpoint.vips import Wanted, Withdrawal, is_releasing, is_withdrawing
from shoal.api import keys
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
from shoal.api.states import NodeState, Protocol, PublishMode
from shoal.api.template import Port
from shoal.machinery.cache import Cache, Index
from shoal.rules.addresses import capacity
from shoal.rules.following import is_waiting
from shoal.rules.networks import INGRESS_LABEL

AT_ONCE: Final = 500
"""Tasks given addresses in one pass, so that others need not wait for thousands."""

TASK_BY_UID = Index(Task, lambda task: (task.metadata.uid,))
TASKS_BY_NODE = Index(Task, lambda task: (task.spec.node.uid,) if task.spec.node and task.spec.addresses else ())
BACKEND_BY_TASK = Index(Backend, lambda backend: (backend.spec.task.uid,))
BACKENDS_BY_NODE = Index(Backend, lambda backend: (backend.spec.node.uid,))
BACKENDS_WAITING = Index(Backend, lambda backend: ("",) if is_waiting(backend) else ())
SERVICE_BY_UID = Index(Service, lambda service: (service.metadata.uid,))
ENDPOINT_BY_SERVICE = Index(ServiceEndpoint, lambda endpoint: (endpoint.spec.service.uid,))
ENDPOINTS_WITHDRAWING = Index(ServiceEndpoint, lambda endpoint: ("",) if is_withdrawing(endpoint) else ())
NETWORK_BY_UID = Index(Network, lambda network: (network.metadata.uid,))
ATTACHMENTS_BY_NODE = Index(Attachment, lambda attachment: (attachment.spec.node.uid,))


def holder_of_network(reference: Reference) -> tuple[str, ...]:
    """Return who holds a network by a Reference, except for the mesh's."""
    owner = reference.metadata.owner
    is_network = reference.to.kind == Network.KIND and INGRESS_LABEL not in reference.metadata.labels
    return (owner.uid,) if owner is not None and is_network else ()


REFERENCES = Index(Reference, holder_of_network)


def observe(key: str, cache: Cache) -> View | None:
    what, _, uid = key.partition("/")
    match what:
        case "addresses":
            return _observe_addresses(cache)
        case "numbers":
            return _observe_numbers(cache)
        case "attachments":
            return _observe_attachments(uid, cache)
        case "service":
            return _observe_service(uid, cache)
        case "task":
            return _observe_backend(uid, cache)
        case "node":
            tasks = {task.metadata.uid for task in cache.by(TASKS_BY_NODE, uid).values()}
            tasks |= {backend.spec.task.uid for backend in cache.by(BACKENDS_BY_NODE, uid).values()}
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
    if not waiting:
        return AddressView(waiting, over, networks, {})
    taken = {network.metadata.uid: pool.taken(network.metadata.uid) for network in networks}
    return AddressView(waiting, over, networks, taken, _kept_for_nodes(networks, taken, waiting, cache))


def _kept_for_nodes(
    networks: Iterable[Network], taken: Mapping[str, Taken], waiting: Collection[Task], cache: Cache
) -> dict[str, Kept]:
    """Look for whom addresses are to be kept, in networks that these tasks might fill."""
    sites, kept = cache.fold(Sites), {}
    wanted = {use.uid for task in waiting for use in task.spec.template.networks}
    for network in networks:
        uid = network.metadata.uid
        if network.spec.is_local:
            continue
        free = capacity(network) - len(taken[uid].addresses)
        if uid in wanted and free < len(sites.nodes) + len(waiting):
            apart = {node for node in sites.nodes if uid not in sites.attached.get(node, ())}
            homeless = sum(_is_homeless(task, uid, apart) for task in cache.all(Task).values())
            kept[uid] = Kept(len(apart), homeless)
    return kept


def _is_homeless(task: Task, network: str, apart: Set[str]) -> bool:
    if task.status.state.is_terminal or not any(one.network.uid == network for one in task.spec.addresses):
        return False
    return task.spec.node is None or task.spec.node.uid in apart


def _claims_over(pool: Pool, cache: Cache) -> tuple[Claim, ...]:
    """Return the claims of tasks that are over and that nobody routes to; forget whom there is nothing to say about."""
    over: list[Claim] = []
    for uid in sorted(pool.unchecked):
        task = next(iter(cache.by(TASK_BY_UID, uid).values()), None)
        held = pool.by_owner.get(uid)
        if held is None or (task is not None and not task.status.state.is_terminal):
            pool.unchecked.discard(uid)
        elif not cache.by(BACKEND_BY_TASK, uid):
            over += held.values()
    return tuple(over)


def _observe_numbers(cache: Cache) -> NumberView | None:
    pool = cache.fold(Pool)
    nodes = {node.metadata.uid: node for node in cache.all(Node).values()}
    bare = tuple(nodes[uid] for uid in sorted(nodes) if not number_in(pool.by_owner.get(uid, {})))
    gone = {uid: _unbound(uid, pool, cache) for uid in sorted(pool.node_owners.keys() - nodes)}
    gone = {uid: claims for uid, claims in gone.items() if claims and not cache.is_unreadable(keys.node(uid))}
    return NumberView(bare, frozenset(pool.numbers), gone) if bare or gone else None


def _unbound(node: str, pool: Pool, cache: Cache) -> tuple[Claim, ...]:
    """Return what a removed node holds, except what goes with its Attachments."""
    bound = {address_key(attachment) for attachment in cache.by(ATTACHMENTS_BY_NODE, node).values()}
    return tuple(claim for key, claim in sorted(pool.by_owner[node].items()) if key not in bound)


def _observe_attachments(uid: str, cache: Cache) -> AttachmentView | None:
    sites, pool = cache.fold(Sites), cache.fold(Pool)
    network = next(iter(cache.by(NETWORK_BY_UID, uid).values()), None)
    found = []
    for node in sorted(sites.unchecked.get(uid, ())):
        site = _observe_site(uid, node, cache)
        if _is_in_order(site, network):
            sites.unchecked[uid].discard(node)
        else:
            found.append(site)
    if not sites.unchecked.get(uid):
        sites.unchecked.pop(uid, None)
    return AttachmentView(network, tuple(found), pool.taken(uid)) if found else None


def _observe_site(network: str, uid: str, cache: Cache) -> Site:
    sites, pool = cache.fold(Sites), cache.fold(Pool)
    node = cache.get(Node, keys.node(uid))
    there = [one for one in cache.sorted_by(ATTACHMENTS_BY_NODE, uid) if one.spec.network.uid == network]
    own = next((one for one in there if not one.spec.container), None)
    held = pool.by_owner.get(uid, {})
    claim = held.get(address_key(own)) if own is not None else None
    is_lost = node is None and not cache.is_unreadable(keys.node(uid))
    return Site(
        node=node,
        attachment=own if node is not None or is_lost else None,
        is_used=sites.is_used((network, uid)),
        ended_at=sites.ended_at((network, uid)),
        number=number_in(held),
        claims=(claim,) if claim is not None else (),
        containers=tuple((one, _held(one, cache)) for one in there if is_lost and one.spec.container),
    )


def _held(container: Attachment, cache: Cache) -> tuple[Claim | Reference, ...]:
    """Return what a plain container's Attachment holds: its address, and the network."""
    uid = container.metadata.uid
    claims = cache.fold(Pool).by_owner.get(uid, {})
    return (*(claims[key] for key in sorted(claims)), *cache.sorted_by(REFERENCES, uid))


def _is_in_order(site: Site, network: Network | None) -> bool:
    own = site.attachment
    if own is None:
        return not site.containers and (network is None or site.node is None or not site.is_used)
    if network is None or site.node is None or not site.is_used:
        return False
    return (own.spec.vtep, own.spec.number) == (tunnel_end(site.node), site.number or own.spec.number)


def _observe_service(uid: str, cache: Cache) -> ServiceView | None:
    pool = cache.fold(Pool)
    service = next(iter(cache.by(SERVICE_BY_UID, uid).values()), None)
    endpoint = next(iter(cache.by(ENDPOINT_BY_SERVICE, uid).values()), None)
    if service is None and endpoint is not None and cache.is_unreadable(keys.service(endpoint.spec.service.name)):
        return None
    held = pool.by_owner.get(uid, {})
    dynamic = tuple(held[key] for key in sorted(held) if DYNAMIC_LABEL in held[key].metadata.labels)
    if service is None and endpoint is None:
        dynamic += tuple(_vips(held).values())
    networks = tuple(_wanted_networks(service, held, pool, cache)) if service is not None else ()
    ports = [claim for _, claim in sorted(held.items()) if claim.key.startswith("claims/port/")]
    explicit = tuple(claim for claim in ports if DYNAMIC_LABEL not in claim.metadata.labels)
    taken = frozenset(
        port
        for port in (service.spec.ports if service is not None else ())
        if port.published and explicit_claim(port, uid) not in held and _is_taken(port, pool, cache)
    )
    return ServiceView(service, endpoint, dynamic, _free_ports(service, pool), networks, explicit, taken)


def _is_taken(port: Port, pool: Pool, cache: Cache) -> bool:
    if port.mode is PublishMode.HOST:
        return cache.get(Claim, keys.ingress_port_claim(port.protocol, port.published)) is not None
    return pool.is_port_taken(port.protocol, port.published)


def _wanted_networks(service: Service, held: Mapping[str, Claim], pool: Pool, cache: Cache) -> Iterator[Wanted]:
    """Yield the networks of a service's spec in their order, then those it still holds."""
    uses = {use.uid: use.aliases for use in service.spec.networks}
    kept = (reference.to.uid for reference in cache.sorted_by(REFERENCES, service.metadata.uid))
    for uid in dict.fromkeys((*uses, *kept)):
        network = next(iter(cache.by(NETWORK_BY_UID, uid).values()), None)
        if network is not None and not (network.spec.predefined or network.spec.is_local):
            yield Wanted(network, pool.taken(uid), _vips(held).get(uid), uses.get(uid))


def _vips(held: Mapping[str, Claim]) -> dict[str, Claim]:
    """Return the VIPs among what a service holds, by network uid; not those that are being given back."""
    found = {}
    for key in sorted(held):
        parts = held[key].key.split("/")
        if parts[0] == "addresses" and not is_releasing(held[key]):
            found[parts[1].rpartition(".")[2]] = held[key]
    return found


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
    task = next(iter(cache.by(TASK_BY_UID, uid).values()), None)
    backend = next(iter(cache.by(BACKEND_BY_TASK, uid).values()), None)
    where = task.spec.node if task is not None else None
    return BackendView(task, backend, cache.get(Node, keys.node(where.uid)) if where is not None else None)


def _observe_applied(cache: Cache) -> AppliedView | None:
    pool = cache.fold(Pool)
    waiting, withdrawing = cache.by(BACKENDS_WAITING, ""), cache.sorted_by(ENDPOINTS_WITHDRAWING, "")
    if not (waiting or withdrawing or pool.releasing):
        return None
    nodes = [uid.metadata.uid for uid in cache.all(Node).values() if uid.status.state is NodeState.READY]
    applied: dict[str, int] = {}
    for presence in cache.all(Presence).values():
        for uid, revision in presence.applied.items():
            applied[uid] = max(revision, applied.get(uid, 0))
    lowest = min((applied.get(uid, 0) for uid in nodes), default=cache.revision)
    return AppliedView(
        waiting=tuple(waiting[key] for key in sorted(waiting)),
        lowest=lowest,
        withdrawals=tuple(_withdrawal(endpoint, pool, cache) for endpoint in withdrawing),
        releasing=tuple(pool.releasing[key] for key in sorted(pool.releasing)),
    )


def _withdrawal(endpoint: ServiceEndpoint, pool: Pool, cache: Cache) -> Withdrawal:
    ref = endpoint.spec.service
    service = next(iter(cache.by(SERVICE_BY_UID, ref.uid).values()), None)
    held = pool.by_owner.get(ref.uid, {})
    wanted = _wanted_networks(service, held, pool, cache) if service is not None else ()
    is_orphan = service is None and not cache.is_unreadable(keys.service(ref.name))
    return Withdrawal(endpoint, is_orphan, frozenset(one.network.metadata.uid for one in wanted), _vips(held))


INDEXES: Final[tuple[Index[Any], ...]] = (
    TASK_BY_UID, TASKS_BY_NODE, BACKEND_BY_TASK, BACKENDS_BY_NODE, BACKENDS_WAITING, SERVICE_BY_UID,
    ENDPOINT_BY_SERVICE, ENDPOINTS_WITHDRAWING, NETWORK_BY_UID, ATTACHMENTS_BY_NODE, REFERENCES,
)  # fmt: skip
