"""A change is looked at by itself: what is left out makes no difference, and what did not change is not looked at."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from hack.benchmarks import one_node
from nodeagent.assignments import Assignments
from nodeagent.network import rules
from nodeagent.network.docker_networks import wanted
from nodeagent.network.overlay import changes
from nodeagent.network.scene import Scene, parts, picture, tunnels
from nodeagent.network.told import Told
from shoal.api import keys
from shoal.api.meta import Meta, Ref
from shoal.api.objects import (
    Attachment,
    AttachmentSpec,
    Backend,
    BackendSpec,
    BackendStatus,
    EndpointNetwork,
    EndpointSpec,
    Network,
    NetworkSpec,
    NetworkStatus,
    Object,
    ServiceEndpoint,
    Subnet,
    TaskAddress,
)
from shoal.api.states import Protocol
from shoal.api.template import Port
from shoal.rules.addresses import mac_of

INGRESS, FRONT = Ref("ingress", "net0"), Ref("front", "net1")


def network(ref: Ref, third: int) -> Network:
    status = NetworkStatus(subnets=(Subnet(f"10.0.{third}.0/24"),), vni=4096 + third)
    return Network(
        metadata=Meta(name=ref.name, uid=ref.uid), spec=NetworkSpec(ingress=ref is INGRESS), status=status
    )  # fmt: skip


def attachment(ref: Ref, third: int, node: int) -> Attachment:
    address = f"10.0.{third}.{1 + node}/24"
    spec = AttachmentSpec(
        ref, Ref(f"n{node}", f"n{node}"), address=address, mac=mac_of(address), vtep=f"192.0.2.{node}", number=node
    )
    return Attachment(metadata=Meta(name=f"{ref.name}.n{node}"), spec=spec)


def backend(service: int, task: int, last: int, node: int, *, ready: bool) -> Backend:
    addresses = tuple(
        TaskAddress(ref, f"10.0.{third}.{last}/24", mac_of(f"10.0.{third}.{last}"))
        for third, ref in enumerate((INGRESS, FRONT))
    )
    spec = BackendSpec(
        Ref(f"s{service}", f"s{service}"), Ref(f"s{service}.{task}", f"t{task}"), Ref(f"n{node}", f"n{node}"), addresses
    )
    return Backend(metadata=Meta(name=f"t{task}"), spec=spec, status=BackendStatus(ready=ready))


def endpoint(service: int, last: int, port: int) -> ServiceEndpoint:
    spec = EndpointSpec(
        Ref(f"s{service}", f"s{service}"), ports=(Port(80, port, protocol=Protocol.UDP),),
        networks=(EndpointNetwork(FRONT, f"10.0.1.{last}/24"),),
    )  # fmt: skip
    return ServiceEndpoint(metadata=Meta(name=f"s{service}"), spec=spec)


SERVICES, LASTS, TASKS = st.integers(1, 4), st.integers(10, 14), st.integers(1, 6)
"""Few addresses, so that some are held twice, as they are while an order of things is on its way."""
BACKENDS = st.builds(backend, SERVICES, TASKS, LASTS, st.integers(1, 2), ready=st.booleans())
ENDPOINTS = st.builds(endpoint, SERVICES, LASTS, st.integers(8080, 8083))
FRAMES = st.sampled_from([(1, 2), (1, 2), (1, 2), (1, 2, 3)])
"""Which nodes are on the networks."""


@st.composite
def told_objects(draw: st.DrawFn) -> list[Object]:
    nodes = draw(FRAMES)
    return [
        network(INGRESS, 0), network(FRONT, 1),
        *(attachment(ref, third, node) for third, ref in enumerate((INGRESS, FRONT)) for node in nodes),
        *draw(st.lists(st.one_of(BACKENDS, ENDPOINTS), max_size=8)),
    ]  # fmt: skip


def scene(told: Told) -> Scene:
    return Scene(wanted(told.frame.networks, told.frame.attachments, "n1"), told)


def same(objects: Sequence[Object]) -> Scene:
    """As an agent sees it that starts anew."""
    return scene(Told().after(Assignments().replaced(objects, 1)))


@given(told_objects(), told_objects())
def test_what_is_left_out_makes_no_difference(before: list[Object], after: list[Object]) -> None:
    old = scene(Told().after(Assignments().replaced(before, 1)))
    new = scene(old.told.after(Assignments().replaced(after, 2)))
    assert picture(new, "n1") == picture(same(after), "n1")

    was, now = parts(old, new)
    whole = [tunnels(one, "n1") for one in (old, new)]
    assert changes(tunnels(was, "n1"), tunnels(now, "n1")) == changes(*whole)
    pictures = picture(old, "n1"), picture(new, "n1")
    of_parts = picture(was, "n1"), picture(now, "n1")
    assert rules.delta(*of_parts) == rules.delta(*pictures)
    for which in (rules.vanished, rules.appeared):
        assert which(*of_parts) == which(*pictures)


def test_one_changed_backend_of_a_thousand_services_with_ten_each_costs_what_it_changes() -> None:
    services, each = 1000, 10
    everything = one_node.objects(services, each, containers=1)
    assignments = Assignments().replaced(everything, 1)
    old = scene(Told().after(assignments))
    last = services * each - 1
    gone = next(one for one in everything if one.metadata.name == f"t{last}")
    come = one_node.backend(services - 1, last + 50, node=3)
    new = scene(old.told.after(assignments.changed([come], [keys.key_of(gone)], 2)))

    was, now = parts(old, new)
    assert list(was.told.shares) == list(now.told.shares) == [f"s{services - 1}"]
    assert len(changes(tunnels(was, "n1"), tunnels(now, "n1"))) == 2 * 3, "one gone, one come: far end, way, neighbour"
    script = rules.delta(picture(was, "n1"), picture(now, "n1"))
    chain = f"ip shoal shb-front00000-{one_node.FIRST_VIP + services - 1}"
    assert [line.partition(" dnat")[0] for line in script.splitlines()] == [f"flush chain {chain}", f"add rule {chain}"]


def test_what_comes_again_as_it_was_is_no_change() -> None:
    objects = one_node.objects(3, 2, containers=1)
    assignments = Assignments().replaced(objects, 1)
    told = Told().after(assignments)
    again = assignments.replaced(one_node.objects(3, 2, containers=1), 2)
    assert told.after(again) == told
    assert told.after(assignments.changed([one_node.backend(1, 2, 3, ready=False)], (), 3)) != told
