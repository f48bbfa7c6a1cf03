"""A cluster's first objects, written in one transaction: the cluster, its first node, its predefined networks."""

from __future__ import annotations

from datetime import datetime
from ipaddress import IPv4Network

from shoal.api import keys
from shoal.api import objects as o
from shoal.api.codec import decode, with_meta
from shoal.api.errors import AlreadyExistsError, ConflictError, InvalidError
from shoal.api.meta import Meta, derived_uid
from shoal.api.ownership import HOST
from shoal.api.states import NodeState, Role
from shoal.host.identity import Identity
from shoal.host.paths import Paths
from shoal.host.processes import etcd_url
from shoal.machinery.authority import Root, with_root
from shoal.machinery.controller import Action, Create
from shoal.machinery.store import Store, Txn
from shoal.machinery.writer import prepare
from shoal.rules.claims import make_claim
from shoal.rules.networks import DEFAULT_MTU
from shoal.rules.subnets import FIRST_VNI, first_free, with_gateway


def first_objects(identity: Identity, root: Root, now: datetime) -> tuple[o.Object, ...]:
    """Return everything a new cluster holds. The same identity gives the same uids."""
    cluster = identity.networking.of_cluster()
    subnet = _ingress_subnet(identity, cluster)
    ingress = o.Network(
        metadata=_meta("ingress", derived_uid(identity.cluster, "network", "ingress"), now),
        spec=o.NetworkSpec(driver="overlay", ingress=True),
        status=o.NetworkStatus(subnets=(subnet,), vni=FIRST_VNI, mtu=DEFAULT_MTU),
    )
    first = o.Node(
        metadata=_meta(identity.name, identity.node, now),
        spec=o.NodeSpec(role=Role.MANAGER, availability=identity.availability),
        status=o.NodeStatus(
            state=NodeState.UNKNOWN,
            address=identity.advertise_addr,
            data_path=identity.data_path_addr,
            api=f"{identity.advertise_addr}:{identity.api_port}",
        ),
    )
    return (
        o.Cluster(
            metadata=_meta("default", identity.cluster, now),
            spec=cluster,
            status=with_root(o.ClusterStatus(incarnation=identity.incarnation), root),
        ),
        first,
        *(_claim(first, key, now) for key in keys.node_claims(identity.name, identity.advertise_addr)),
        ingress,
        _claim(ingress, keys.auto_subnet_claim(subnet.subnet), now),
        _claim(ingress, keys.claim("vni", FIRST_VNI), now),
        _claim(ingress, keys.claim("network", "ingress"), now),
        *(_predefined(name, identity, now) for name in ("bridge", "host")),
    )


def _ingress_subnet(identity: Identity, cluster: o.ClusterSpec) -> o.Subnet:
    """Return the first subnet of the address pools that does not hold this host's own address."""
    own = {identity.advertise_addr, identity.data_path_addr or identity.advertise_addr}
    found = first_free(cluster.default_addr_pools, cluster.subnet_size, [IPv4Network(address) for address in own])
    if found is None:
        raise InvalidError("the address pools hold nothing but this host's own address: give others")
    return with_gateway(o.Subnet(str(found)))


async def bootstrap(store: Store, identity: Identity, root: Root, now: datetime) -> None:
    """Write the first objects, all or none; having done so before is fine.

    AlreadyExistsError if the store holds another cluster. UnavailableError: try again.
    """
    action = Action("ClusterInitialised", tuple(Create(obj) for obj in first_objects(identity, root, now)))
    prepared = prepare(action, lambda _: None, HOST, now)
    try:
        await store.commit(Txn(prepared.compares, prepared.writes))
    except ConflictError:
        held = await store.get(keys.CLUSTER)
        found = decode(o.Cluster, held.value).metadata.uid if held is not None else "none"
        if found != identity.cluster:
            raise AlreadyExistsError(f"this etcd holds cluster {found} already, not {identity.cluster}") from None


def open_store(identity: Identity, paths: Paths) -> Store:
    """Reach this host's own etcd."""
    from shoal.machinery.etcd import EtcdStore, Tls  # here: only a first start loads gRPC into the daemon

    pki = paths.etcd_pki
    return EtcdStore([etcd_url(identity)], Tls(pki / "ca.crt", pki / "client.crt", pki / "client.key"))


def _predefined(driver: str, identity: Identity, now: datetime) -> o.Network:
    """A network that every engine has; services may use it by name."""
    return o.Network(
        metadata=_meta(driver, derived_uid(identity.cluster, "network", driver), now),
        spec=o.NetworkSpec(driver=driver, predefined=True),
    )


def _claim(holder: o.Network | o.Node, key: str, now: datetime) -> o.Claim:
    claim: o.Claim = with_meta(make_claim(key, o.owner_of(holder)), created_at=now, updated_at=now)
    return claim


def _meta(name: str, uid: str, now: datetime) -> Meta:
    return Meta(name=name, uid=uid, generation=1, created_at=now, updated_at=now)
