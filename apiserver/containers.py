"""Plain containers on networks: an address for one that its own node, or an admin, asks to attach.

Only `attachable` networks take them. The Attachment, its address's claim and a Reference to the network are written in
one transaction, so nobody else has the address, and the network cannot be deleted meanwhile.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Final

import msgspec
from aiohttp import web
from msgspec import Struct

from apiserver import audit, incoming
from apiserver.admission import Admission, View, refuse
from apiserver.lookup import find
from apiserver.mirror import ADDRESS_CLAIMS, Mirror
from apiserver.objects import json_response
from apiserver.references import make_reference, still_there
from apiserver.writes import Writes
from shoal.api import keys
from shoal.api import objects as o
from shoal.api.errors import Fault, InvalidError, NotFoundError
from shoal.api.meta import Meta, Owner, derived_uid
from shoal.api.networks import is_alias
from shoal.machinery.controller import Create, Remove
from shoal.rules.addresses import free_addresses, mac_of, pools, with_mask
from shoal.rules.claims import make_claim

SHORT_ID: Final = 12
"""Digits of a container's id that people see."""


class AttachRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`names`: what the container is called on the network; `address` "" = any free one."""

    network: str
    names: tuple[str, ...] = ()
    address: str = ""


class Containers:
    def __init__(self, mirror: Mirror, writes: Writes) -> None:
        self._mirror, self._writes = mirror, writes

    async def attach(self, request: web.Request) -> web.StreamResponse:
        """Give a container an address on a network; the same request again is answered with the same one."""
        incoming.only(request.query)
        wanted = _decoded(await request.read())
        node_uid, container = request.match_info["node"], request.match_info["container"]

        def admit(view: View) -> Admission:
            network = find(view.cache, o.Network, wanted.network)
            node = find(view.cache, o.Node, node_uid)
            return admit_container(network, node, container, wanted, view)

        written = await self._writes.write(admit)
        audit.note(f"attachment/{written.obj.metadata.name}", written.admission.result)
        return json_response(self._mirror.bytes_of(written.key), 201 if written.revision else 200)

    async def detach(self, request: web.Request) -> web.StreamResponse:
        """Take a container off a network; its address is free at once."""
        query = incoming.only(request.query, "network")
        node_uid, container = request.match_info["node"], request.match_info["container"]

        def admit(view: View) -> Admission:
            network = find(view.cache, o.Network, query.get("network", ""))
            held = view.get(o.Attachment, keys.attachment(o.ref_of(network), container))
            if held is None or held.spec.node.uid != node_uid or not held.spec.container:
                raise NotFoundError(f"container {container} of this node is not on network {network.metadata.name}")
            uid = held.metadata.uid
            return Admission(held, tuple(map(Remove, (held, *view.claims_of(uid), *view.references_of(uid)))))

        written = await self._writes.write(admit)
        audit.note(f"attachment/{written.obj.metadata.name}", written.admission.result)
        return json_response(b"{}")


def admit_container(network: o.Network, node: o.Node, container: str, wanted: AttachRequest, view: View) -> Admission:
    """Decide what attaching a plain container means. Pure."""
    net, where = o.ref_of(network), o.ref_of(node)
    held = view.get(o.Attachment, keys.attachment(net, container))
    if held is not None and held.spec.node == where and wanted.address in ("", held.spec.address.partition("/")[0]):
        return Admission(held)
    name = f"{net.name}.{container[:SHORT_ID]}"
    spec = o.AttachmentSpec(network=net, node=where, container=container, names=wanted.names)
    uid = derived_uid("attachment", net.uid, where.uid, container)
    obj = o.Attachment(metadata=Meta(name=name, uid=uid, owner=Owner(o.Node.KIND, where.name, where.uid)), spec=spec)
    address, faults = _address(network, wanted, view)
    if held is not None:
        faults.append(Fault("container", f"{container} is on network {net.name} already, at {held.spec.address}"))
    faults += _faults(network, container, wanted)
    if faults:
        return refuse(obj, *faults)
    spec = msgspec.structs.replace(spec, address=with_mask(network, address), mac=mac_of(address))
    obj = msgspec.structs.replace(obj, spec=spec)
    owner = Owner(o.Attachment.KIND, name, uid)
    claim = make_claim(keys.address(net, address), owner)
    steps = (Create(obj), Create(claim), Create(make_reference(o.Network, net, owner)))
    return Admission(obj, steps, (still_there(o.Network, net.name, view),))


def _faults(network: o.Network, container: str, wanted: AttachRequest) -> list[Fault]:
    faults = []
    if not network.spec.attachable:
        faults.append(Fault("network", f"network {network.metadata.name} is not manually attachable"))
    if not container.isalnum() or len(container) > 64:
        faults.append(Fault("container", f"expected a container's id, found {container[:60]!r}"))
    faults += [Fault(f"names[{at}]", f"found {one!r}, which is no name") for at, one in enumerate(wanted.names)
               if not is_alias(one)]  # fmt: skip
    return faults


def _address(network: o.Network, wanted: AttachRequest, view: View) -> tuple[str, list[Fault]]:
    """Return a free address of a network: the one asked for, or the next one."""
    claims = view.cache.by(ADDRESS_CLAIMS, network.metadata.uid).values()
    taken = {claim.key.rpartition("/")[2]: claim for claim in claims}
    if not wanted.address:
        newest = max(claims, key=lambda claim: claim.metadata.resource_version, default=None)
        behind = newest.key.rpartition("/")[2] if newest is not None else ""
        found = next(free_addresses(network, taken, behind), None)
        if found is None and network.spec.attachable:
            return "", [Fault("network", f"network {network.metadata.name} has no free address")]
        return found or "", []
    holder = taken.get(wanted.address)
    if holder is not None and holder.metadata.owner is not None:
        owner = holder.metadata.owner
        return "", [Fault("address", f"{wanted.address} is {owner.kind.lower()} {owner.name}'s")]
    if not _is_given(network, wanted.address):
        return "", [
            Fault("address", f"found {wanted.address!r}, no address of network {network.metadata.name} to give")
        ]
    return wanted.address, []


def _is_given(network: o.Network, text: str) -> bool:
    """Whether an address is one for tasks and containers. One outside the range is, when asked for by name."""
    try:
        address = IPv4Address(text)
    except ValueError:
        return False
    for subnet in pools(network):
        net = IPv4Network(subnet.subnet)
        kept = {net.network_address, net.network_address + 1, net.broadcast_address, IPv4Address(subnet.gateway)}
        if address in net and address not in kept:
            return True
    return False


def _decoded(raw: bytes) -> AttachRequest:
    try:
        return msgspec.json.decode(raw, type=AttachRequest)
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"the request is not understood: {error}") from error
