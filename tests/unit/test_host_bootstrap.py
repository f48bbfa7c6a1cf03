"""A cluster's first objects: all or none, and once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from shoal.api import keys
from shoal.api import objects as o
from shoal.api.codec import decode
from shoal.api.errors import AlreadyExistsError, TerminalError
from shoal.api.states import Availability, Role
from shoal.host.bootstrap import bootstrap, first_objects
from shoal.host.identity import EtcdPorts, Identity, Networking, load, make_first_identity, save
from shoal.machinery.authority import Root
from shoal.machinery.memory import MemoryStore

NOW = datetime(2026, 5, 1, tzinfo=UTC)
ROOT = Root("certificate", "sealed key", "sealed tokens")


@pytest.mark.anyio
async def test_a_new_cluster_has_its_node_its_ingress_network_and_what_they_claim() -> None:
    me, store = make_first_identity("alpha", "10.99.0.1", EtcdPorts()), MemoryStore()

    await bootstrap(store, me, ROOT, NOW)

    listing = await store.list(keys.ROOT)
    assert [item.key for item in listing.items] == [
        "/shoal/claims/network/ingress",
        "/shoal/claims/node-address/10.99.0.1",
        "/shoal/claims/node-name/alpha",
        "/shoal/claims/subnet/10.0.0.0/24/auto",
        "/shoal/claims/vni/4096",
        "/shoal/cluster",
        "/shoal/networks/bridge",
        "/shoal/networks/host",
        "/shoal/networks/ingress",
        f"/shoal/nodes/{me.node}",
    ]
    by_key = {item.key: item.value for item in listing.items}
    node = decode(o.Node, by_key[keys.node(me.node)])
    ingress = decode(o.Network, by_key["/shoal/networks/ingress"])
    claim = decode(o.Claim, by_key["/shoal/claims/vni/4096"])
    assert (node.metadata.name, node.spec.role, node.status.address) == ("alpha", Role.MANAGER, "10.99.0.1")
    assert ingress.spec.ingress
    assert (ingress.status.vni, ingress.status.subnets[0].gateway) == (4096, "10.0.0.1")
    assert claim.metadata.owner is not None
    assert claim.metadata.owner.uid == ingress.metadata.uid


@pytest.mark.anyio
async def test_the_cluster_holds_its_root_and_the_node_begins_as_asked_and_says_where_it_serves_others() -> None:
    me = make_first_identity("alpha", "10.99.0.1", EtcdPorts(), 12377, Availability.DRAIN)
    store = MemoryStore()

    await bootstrap(store, me, ROOT, NOW)

    by_key = {item.key: item.value for item in (await store.list(keys.ROOT)).items}
    status = decode(o.Cluster, by_key[keys.CLUSTER]).status
    node = decode(o.Node, by_key[keys.node(me.node)])
    assert (status.ca_certificate, status.sealed_ca_key, status.sealed_tokens) == (
        "certificate",
        "sealed key",
        "sealed tokens",
    )
    assert (node.spec.availability, node.status.api) == (Availability.DRAIN, "10.99.0.1:12377")


@pytest.mark.anyio
async def test_doing_it_again_after_a_crash_writes_nothing() -> None:
    me, store = make_first_identity("alpha", "10.99.0.1", EtcdPorts()), MemoryStore()
    await bootstrap(store, me, ROOT, NOW)
    before = await store.list(keys.ROOT)

    await bootstrap(store, me, ROOT, NOW)

    assert await store.list(keys.ROOT) == before


@pytest.mark.anyio
async def test_another_clusters_store_is_refused() -> None:
    store = MemoryStore()
    await bootstrap(store, make_first_identity("alpha", "10.99.0.1", EtcdPorts()), ROOT, NOW)

    with pytest.raises(AlreadyExistsError, match="holds cluster"):
        await bootstrap(store, make_first_identity("beta", "10.99.0.2", EtcdPorts()), ROOT, NOW)


def test_all_uids_differ() -> None:
    objects = first_objects(make_first_identity("alpha", "10.99.0.1", EtcdPorts()), ROOT, NOW)
    assert len({obj.metadata.uid for obj in objects}) == len(objects)


def test_an_identity_survives_the_disk(tmp_path: Path) -> None:
    me = make_first_identity("alpha", "10.99.0.1", EtcdPorts(1, 2))
    save(tmp_path / "host.json", me)
    assert load(tmp_path / "host.json") == me
    assert (tmp_path / "host.json").stat().st_mode & 0o777 == 0o600


def test_a_host_without_an_identity_has_none(tmp_path: Path) -> None:
    assert load(tmp_path / "host.json") is None


@pytest.mark.parametrize("raw", [b"", b"{", b"{}", b'{"phase": "dancing"}'])
def test_a_damaged_identity_is_told_in_a_sentence(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "host.json").write_bytes(raw)
    with pytest.raises(TerminalError, match=r"host\.json is damaged"):
        load(tmp_path / "host.json")


def networks_of(identity: Identity) -> tuple[o.Cluster, o.Network]:
    objects = first_objects(identity, ROOT, NOW)
    (cluster,) = (one for one in objects if isinstance(one, o.Cluster))
    (ingress,) = (one for one in objects if isinstance(one, o.Network) and one.spec.ingress)
    return cluster, ingress


def test_the_mesh_s_network_comes_from_the_pools_given_and_the_cluster_keeps_them() -> None:
    networking = Networking(("172.30.0.0/16", "10.9.0.0/16"), 26, 7789)
    me = make_first_identity("alpha", "10.99.0.1", EtcdPorts(), data_path_addr="10.98.0.1", networking=networking)
    cluster, ingress = networks_of(me)
    assert ingress.status.subnets == (o.Subnet("172.30.0.0/26", "172.30.0.1"),)
    assert (cluster.spec.default_addr_pools, cluster.spec.subnet_size) == (networking.default_addr_pools, 26)
    assert cluster.spec.data_path_port == 7789
    (node,) = (one for one in first_objects(me, ROOT, NOW) if isinstance(one, o.Node))
    assert (node.status.address, node.status.data_path) == ("10.99.0.1", "10.98.0.1")


def test_the_mesh_s_network_does_not_hold_the_host_s_own_address() -> None:
    _, ingress = networks_of(make_first_identity("alpha", "10.0.0.7", EtcdPorts()))
    assert ingress.status.subnets[0].subnet == "10.0.1.0/24"
