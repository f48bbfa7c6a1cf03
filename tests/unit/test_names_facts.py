"""What each kind of object says about names."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from nodeagent.dns.facts import facts_of
from nodeagent.dns.zone import NOTHING, Asker, Facts, Listener, NetworkFact, Rank, Record
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
    Task,
    TaskAddress,
)
from shoal.api.states import TaskState
from shoal.api.template import Dns, NetworkUse
from shoal.machinery.factories import make_cluster, make_service, make_task

FRONT, BACK = Ref("front", "uf"), Ref("back", "ub")
NODE, OTHER = Ref("alpha", "n1"), Ref("beta", "n2")
WEB = Ref("Web", "s1")


def names_of(obj: Object) -> set[tuple[str, str, str, str]]:
    found = facts_of(obj, NODE.uid)
    assert found == Facts(records=found.records)
    return {(one.network, one.name, one.rank.name, one.address) for one in found.records}


def test_a_network_says_its_name_its_subnet_and_whether_it_has_a_way_out() -> None:
    network = Network(
        metadata=Meta(name="front", uid="uf"),
        spec=NetworkSpec(internal=True),
        status=NetworkStatus(subnets=(Subnet("10.0.1.0/24"),)),
    )
    assert facts_of(network, "n1") == Facts(
        network=NetworkFact("uf", "front", ("10.0.1.0/24",), is_internal=True, engine_name="shoal-net-front.uf")
    )
    ingress = replace(network, spec=NetworkSpec(ingress=True))
    assert facts_of(ingress, "n1").network == NetworkFact(
        "uf", "front", ("10.0.1.0/24",), has_names=False, engine_name="shoal-ingress"
    )


@pytest.mark.parametrize(
    ("attachment", "expected"),
    [
        pytest.param(
            AttachmentSpec(FRONT, NODE, address="10.0.1.5/24"),
            Facts(listener=Listener("uf", "10.0.1.5")),
            id="our own: where to listen",
        ),
        pytest.param(AttachmentSpec(FRONT, OTHER, address="10.0.1.6/24"), NOTHING, id="another node's"),
        pytest.param(AttachmentSpec(FRONT, NODE), NOTHING, id="one without an address yet"),
        pytest.param(
            AttachmentSpec(FRONT, NODE, container="c1", names=("Tool", "bad..name"), address="10.0.1.9/24"),
            Facts((Record("uf", "tool", Rank.TASK, "10.0.1.9"),), (Asker("10.0.1.9", ("uf",)),)),
            id="a plain container of this node: its names, and what it sees",
        ),
        pytest.param(
            AttachmentSpec(FRONT, OTHER, container="c1", names=("tool",), address="10.0.1.9/24"),
            Facts((Record("uf", "tool", Rank.TASK, "10.0.1.9"),)),
            id="one of another node: its names",
        ),
    ],
)
def test_an_attachment(attachment: AttachmentSpec, expected: Facts) -> None:
    assert facts_of(Attachment(metadata=Meta(name="a"), spec=attachment), NODE.uid) == expected


def endpoint(*networks: EndpointNetwork, mode: str = "vip") -> ServiceEndpoint:
    return ServiceEndpoint(metadata=Meta(name="web"), spec=EndpointSpec(WEB, mode, networks=networks))


KNOWN = {("uf", f"{every}{name}", "KNOWN", "") for every in ("", "tasks.", "all.") for name in ("web", "www")}


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        pytest.param(
            EndpointNetwork(FRONT, "10.0.1.2/24", ("WWW",)),
            {("uf", "web", "VIP", "10.0.1.2"), ("uf", "www", "ALIAS_VIP", "10.0.1.2")},
            id="its VIP by name and alias",
        ),
        pytest.param(EndpointNetwork(FRONT, "10.0.1.2/24", ("www",), withdrawn=True), set(), id="a withdrawn VIP"),
        pytest.param(EndpointNetwork(FRONT, "", ("www",)), set(), id="no VIP"),
    ],
)
def test_an_endpoint_names_its_vip(on: EndpointNetwork, expected: set[tuple[str, str, str, str]]) -> None:
    assert names_of(endpoint(on)) == KNOWN | expected


def backend(*, ready: bool, container: str = "") -> Backend:
    return Backend(
        metadata=Meta(name="x"),
        spec=BackendSpec(
            WEB,
            Ref("Web.1.x", "x"),
            OTHER,
            (TaskAddress(FRONT, "10.0.1.7/24", "02:42:0a:00:01:07", ("www",)),),
            slot="1",
            hostname="Site-1",
        ),
        status=BackendStatus(ready=ready, container=container),
    )


def test_a_ready_backend_answers_for_its_service_its_aliases_its_slot_its_hostname_and_itself() -> None:
    assert names_of(backend(ready=True, container="0123456789ab")) == {
        ("uf", name, rank, "10.0.1.7")
        for name, rank in (
            ("web", "SERVICE"), ("www", "ALIAS"), ("tasks.web", "SERVICE"), ("tasks.www", "SERVICE"),
            ("all.web", "SERVICE"), ("all.www", "SERVICE"), ("web.1", "SLOT"), ("site-1", "SLOT"),
            ("web.1.x", "TASK"), ("0123456789ab", "TASK"),
        )
    }  # fmt: skip


def test_a_backend_that_is_not_ready_is_found_by_its_own_names_and_among_all() -> None:
    own = {
        ("all.web", "SERVICE"), ("all.www", "SERVICE"), ("web.1", "SLOT_UNREADY"), ("site-1", "SLOT_UNREADY"),
        ("web.1.x", "TASK"),
    }  # fmt: skip
    known = {("uf", name, "KNOWN", "") for name in ("web", "www", "tasks.web", "tasks.www")}
    assert names_of(backend(ready=False)) == known | {("uf", name, rank, "10.0.1.7") for name, rank in own}


def task(state: TaskState = TaskState.PREPARING, node: Ref = NODE, **template: object) -> Task:
    made = make_task(make_service(**template), 1, state=state, node=node)
    addresses = (TaskAddress(BACK, "10.0.2.7/24", "m"), TaskAddress(FRONT, "10.0.1.7/24", "m"))
    return replace(made, spec=replace(made.spec, addresses=addresses))


def asked_from(**how: bool) -> Facts:
    return Facts(askers=tuple(Asker(address, ("ub", "uf"), **how) for address in ("10.0.2.7", "10.0.1.7")))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(task(), asked_from(), id="from each of its addresses"),
        pytest.param(task(TaskState.RUNNING), asked_from(), id="while it runs"),
        pytest.param(task(TaskState.FAILED), NOTHING, id="not when it has ended"),
        pytest.param(task(node=OTHER), NOTHING, id="not on this node"),
        pytest.param(task(dns=Dns(nameservers=("192.0.2.1",))), asked_from(has_resolvers=True), id="its own resolvers"),
        pytest.param(task(dns=Dns(search=("corp",))), asked_from(), id="search domains are no resolvers"),
        pytest.param(task(networks=(NetworkUse("bridge"),)), asked_from(has_way_out=True), id="on the bridge, too"),
    ],
)
def test_a_task_asks(given: Task, expected: Facts) -> None:
    assert facts_of(given, NODE.uid) == expected


def test_other_kinds_say_nothing() -> None:
    assert facts_of(make_cluster(), "n1") == NOTHING
    assert facts_of(make_service(), "n1") == NOTHING


def test_what_cannot_be_asked_for_is_left_out() -> None:
    long = replace(backend(ready=True), spec=replace(backend(ready=True).spec, service=Ref("s" * 63 + ".x" * 90, "s1")))
    assert {name for _, name, rank, _ in names_of(long) if rank == "TASK"} == {"web.1.x"}
    assert not any(len(name) > 253 for _, name, _, _ in names_of(long))
