"""What each object of a node's assignments says about names. Pure.

Source: which names a service and its tasks have is Swarm's (moby, libnetwork's service discovery). Beyond it are
`all.<service>`, which leads to tasks that are not ready, too, so that they can find each other before they are; and
`<service>.<slot>`, which stays the same when the slot's task is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Interface

from nodeagent.dns.wire import is_name
from nodeagent.dns.zone import NOTHING, Asker, Facts, Listener, NetworkFact, Rank, Record
from nodeagent.network.docker_networks import docker_name
from shoal.api.objects import Attachment, Backend, EndpointNetwork, Network, Object, ServiceEndpoint, Task, TaskAddress
from shoal.rules.networks import is_on_bridge, local_uses


def facts_of(obj: Object, node_uid: str) -> Facts:
    """Return what an object says about names; most kinds say nothing."""
    match obj:
        case Network() if not obj.spec.is_local:
            return Facts(network=_network(obj))
        case Attachment():
            return _attachment(obj, node_uid)
        case ServiceEndpoint():
            found = (record for on in obj.spec.networks for record in _service(obj.spec.service.name, on))
            return Facts(tuple(found))
        case Backend():
            return Facts(tuple(record for one in obj.spec.addresses for record in _backend(obj, one)))
        case Task():
            return _task(obj, node_uid)
    return NOTHING


def _network(network: Network) -> NetworkFact:
    return NetworkFact(
        uid=network.metadata.uid,
        name=network.metadata.name,
        subnets=tuple(one.subnet for one in network.status.subnets if one.subnet),
        is_internal=network.spec.internal,
        has_names=not network.spec.ingress,
        engine_name=docker_name(network),
    )


def _attachment(attachment: Attachment, node_uid: str) -> Facts:
    """A node's own says where to listen, a plain container's what it is called and what it may see."""
    spec, is_here = attachment.spec, attachment.spec.node.uid == node_uid
    if not spec.address:
        return NOTHING
    address = _plain(spec.address)
    if not spec.container:
        return Facts(listener=Listener(spec.network.uid, address)) if is_here else NOTHING
    return Facts(
        records=tuple(_records(spec.network.uid, spec.names, Rank.TASK, address)),
        askers=(Asker(address, (spec.network.uid,)),) if is_here else (),
    )


def _task(task: Task, node_uid: str) -> Facts:
    """A task asks from its addresses until it has ended: then they may be given to another."""
    template, addresses = task.spec.template, task.spec.addresses
    if task.spec.node is None or task.spec.node.uid != node_uid or task.status.state.is_terminal:
        return NOTHING
    networks = tuple(one.network.uid for one in addresses)
    has_resolvers = template.dns is not None and bool(template.dns.nameservers)
    has_way_out = is_on_bridge(template) or bool(local_uses(task))
    return Facts(askers=tuple(Asker(_plain(one.address), networks, has_resolvers, has_way_out) for one in addresses))


def _service(name: str, on: EndpointNetwork) -> Iterable[Record]:
    """A service without a VIP there is known all the same; its backends say where it leads."""
    network, vip = on.network.uid, _plain(on.vip) if on.vip and not on.withdrawn else ""
    names = (name, *on.aliases)
    yield from _records(network, [f"{every}{one}" for one in names for every in ("", "tasks.", "all.")], Rank.KNOWN)
    if vip:
        yield from _records(network, [name], Rank.VIP, vip)
        yield from _records(network, on.aliases, Rank.ALIAS_VIP, vip)


def _backend(backend: Backend, at: TaskAddress) -> Iterable[Record]:
    """Only who is ready answers for its service; its own names and `all.` are there from the beginning."""
    spec, status = backend.spec, backend.status
    network, address, names = at.network.uid, _plain(at.address), (spec.service.name, *at.aliases)
    own = [spec.task.name, *([status.container] if status.container else [])]
    yield from _records(network, own, Rank.TASK, address)
    yield from _records(network, [f"all.{name}" for name in names], Rank.SERVICE, address)
    lasting = [f"{spec.service.name}.{spec.slot}"] if spec.slot else []
    rank = Rank.SLOT if status.ready else Rank.SLOT_UNREADY
    yield from _records(network, [*lasting, *([spec.hostname] if spec.hostname else [])], rank, address)
    if status.ready:
        yield from _records(network, [f"tasks.{name}" for name in names], Rank.SERVICE, address)
        yield from _records(network, [spec.service.name], Rank.SERVICE, address)
        yield from _records(network, at.aliases, Rank.ALIAS, address)
    else:
        yield from _records(network, [f"{every}{name}" for name in names for every in ("", "tasks.")], Rank.KNOWN)


def _records(network: str, names: Iterable[str], rank: Rank, address: str = "") -> Iterable[Record]:
    return (Record(network, name.lower(), rank, address) for name in names if is_name(name))


def _plain(address: str) -> str:
    """10.0.1.7/24 is 10.0.1.7."""
    return str(IPv4Interface(address).ip)
