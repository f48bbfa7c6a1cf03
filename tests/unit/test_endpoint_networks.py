"""Virtual IPs and nodes' Attachments: when they come, what keeps them, and in which order they go."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from apiserver.references import make_reference
from controllers.endpoint import CONTROLLER
from shoal.api import keys
from shoal.api.meta import Meta, Owner, Ref
from shoal.api.objects import (
    Attachment,
    AttachmentSpec,
    Backend,
    Claim,
    ContainerStatus,
    EndpointNetwork,
    Network,
    NetworkStatus,
    Presence,
    Reference,
    Service,
    ServiceEndpoint,
    Task,
    TaskStatus,
    ref_of,
)
from shoal.api.states import DesiredState, EndpointMode, TaskState
from shoal.api.template import Endpoint, NetworkUse
from shoal.machinery.clock import VirtualClock
from shoal.machinery.testkit import make_network, make_node, make_service, make_task
from shoal.rules.claims import make_claim
from tests.support.picture import Picture

NODE = make_node("n1", address="192.168.7.1")
FRONT = make_network("front", subnet="10.0.1.0/24", ingress=False)
BACK = make_network("back", subnet="10.0.2.0/24", ingress=False)
NOW = VirtualClock.START
DNSRR = Endpoint(EndpointMode.DNSRR)


def ref(network: Network) -> Ref:
    return Ref(network.metadata.name, network.metadata.uid)


def use(network: Network, *aliases: str) -> NetworkUse:
    return NetworkUse(network.metadata.name, aliases=aliases, uid=network.metadata.uid)


def holds(service: Service, *networks: Network) -> tuple[Reference, ...]:
    owner = Owner("Service", service.metadata.name, service.metadata.uid)
    return tuple(make_reference(Network, ref(network), owner) for network in networks)


WEB = make_service("web", networks=(use(FRONT, "site"),))


class World(Picture):
    """A picture with the service `web` on FRONT, settled; `all_follow` lets the node report what it has programmed."""

    def __init__(self, *objects: Any, service: Service = WEB) -> None:
        super().__init__(CONTROLLER, FRONT, BACK, NODE, service, *holds(service, FRONT), *objects)
        self.keys = ("numbers", "addresses", f"service/{service.metadata.uid}", "applied")
        self.keys += tuple(f"attachments/{network.metadata.uid}" for network in (FRONT, BACK))
        self.rest()

    def rest(self, now: Any = NOW) -> None:
        self.settle(*self.keys, now=now)

    def all_follow(self) -> None:
        presence = Presence(metadata=Meta(name="api", uid="api"), applied={NODE.metadata.uid: self.cache.revision})
        self.put(presence)
        self.rest()

    def entries(self) -> list[tuple[str, str, bool]]:
        spec = self.one(ServiceEndpoint).spec
        return [(entry.network.name, entry.vip, entry.withdrawn) for entry in spec.networks]

    def claims(self) -> list[str]:
        return [claim.key for claim in self.all(Claim) if claim.key.startswith("addresses/")]

    def update(self, **spec: Any) -> None:
        (service,) = self.all(Service)
        self.put(replace(service, spec=replace(service.spec, **spec)))


def test_a_service_has_a_virtual_ip_on_each_of_its_networks_with_its_aliases() -> None:
    both = make_service("web", networks=(use(FRONT, "site"), use(BACK)))
    world = World(*holds(both, BACK), service=both)
    assert world.one(ServiceEndpoint).spec.networks == (
        EndpointNetwork(ref(FRONT), "10.0.1.2/24", ("site",)),
        EndpointNetwork(ref(BACK), "10.0.2.2/24"),
    )
    assert {claim.metadata.owner.name for claim in world.all(Claim) if claim.metadata.owner} == {"web", "n1"}


def test_on_a_node_local_network_nothing_is_given_to_services_nodes_or_tasks() -> None:
    lan = replace(make_network("lan", ingress=False, driver="bridge"), status=NetworkStatus())
    only = make_service("web", networks=(use(lan),))
    task = make_task(only, state=TaskState.NEW, node=None)
    world = World(lan, task, *holds(only, lan), service=only)
    found = world.one(Task)
    assert (found.status.state, found.spec.addresses) == (TaskState.PENDING, ())
    assert {key.split(".")[0] for key in world.claims()} == {"addresses/front"}, "the service holds that, too"
    assert world.entries() == [("front", "10.0.1.2/24", False)]
    before = world.claims()
    world.put(replace(found, spec=replace(found.spec, node=ref_of(NODE)), status=TaskStatus(TaskState.RUNNING, NOW)))
    world.settle(*world.keys, f"attachments/{lan.metadata.uid}", f"task/{found.metadata.uid}", now=NOW)
    assert (world.all(Attachment), world.all(Backend), world.claims()) == ([], [], before)


@pytest.mark.parametrize(
    "change",
    [
        {"replicas": 9},
        {"image": "busybox:2"},
        {"networks": (use(FRONT, "other"),)},
        {"networks": (use(BACK), use(FRONT))},
    ],
    ids=["scaled", "updated", "another alias", "another network in front"],
)
def test_a_virtual_ip_stays(change: dict[str, Any]) -> None:
    world = World(*holds(WEB, BACK))
    world.update(**change)
    world.rest()
    assert ("front", "10.0.1.2/24", False) in world.entries()


def test_a_lost_endpoint_is_made_again_with_the_virtual_ip_it_had() -> None:
    world = World()
    world.drop(world.one(ServiceEndpoint))
    world.rest()
    assert world.entries() == [("front", "10.0.1.2/24", False)]


def test_a_network_that_an_update_leaves_keeps_its_virtual_ip_until_nothing_holds_it() -> None:
    world = World(*holds(WEB, BACK))
    world.update(networks=(use(BACK),))
    world.rest()
    assert world.entries() == [("back", "10.0.2.2/24", False), ("front", "10.0.1.2/24", False)]
    assert world.one(ServiceEndpoint).spec.networks[1].aliases == ("site",), "its tasks are still found there"
    world.drop(*holds(WEB, FRONT))
    world.rest()
    assert world.entries() == [("back", "10.0.2.2/24", False), ("front", "10.0.1.2/24", True)]


def test_a_virtual_ip_goes_name_first_then_rules_then_address() -> None:
    world = World()
    world.update(endpoint=DNSRR)
    world.rest()
    assert world.entries() == [("front", "10.0.1.2/24", True)], "the name no longer leads there, the rules stay"
    world.all_follow()
    assert world.entries() == [("front", "", False)]
    assert len(world.claims()) == 1, "some node may still have its rules"
    world.all_follow()
    assert world.claims() == []


def test_back_to_vip_before_the_name_was_gone_everywhere_keeps_the_virtual_ip() -> None:
    world = World()
    world.update(endpoint=DNSRR)
    world.rest()
    world.update(endpoint=None)
    world.rest()
    assert world.entries() == [("front", "10.0.1.2/24", False)]


def test_a_deleted_service_s_virtual_ip_goes_in_the_same_order() -> None:
    world = World()
    world.drop(*world.all(Service), *holds(WEB, FRONT))
    world.rest()
    assert world.entries() == [("front", "10.0.1.2/24", True)]
    world.all_follow()
    assert world.all(ServiceEndpoint) == []
    assert len(world.claims()) == 1
    world.all_follow()
    assert world.claims() == []


def test_what_endpoint_and_service_left_behind_is_given_back() -> None:
    world = World()
    world.drop(*world.all(Service), *world.all(ServiceEndpoint), *holds(WEB, FRONT))
    world.rest()
    assert world.claims() == []


def test_a_full_network_is_told_and_served_once_an_address_is_free() -> None:
    tiny = make_network("front", subnet="10.0.1.0/30", ingress=False)
    world = Picture(CONTROLLER, tiny, WEB, *holds(WEB, tiny), make_task(WEB, 1, state=TaskState.NEW))
    world.settle("addresses", f"service/{WEB.metadata.uid}")
    assert world.one(ServiceEndpoint).spec.message == "network front has no free address for the service's virtual IP"
    assert world.plan(f"service/{WEB.metadata.uid}").requeue_after is not None
    world.drop(world.one(Task))
    world.settle("addresses", f"service/{WEB.metadata.uid}")
    assert world.one(ServiceEndpoint).spec.networks[0].vip == "10.0.1.2/30"
    assert world.one(ServiceEndpoint).spec.message == ""


@pytest.mark.parametrize(
    ("nodes", "given"), [(1, 3), (2, 2), (9, 2)], ids=["one node", "as many nodes as tasks", "more nodes than tasks"]
)
def test_tasks_leave_addresses_for_the_nodes_they_will_run_on(nodes: int, given: int) -> None:
    """Five addresses: a virtual IP, tasks, and a node each, as long as there are nodes."""
    tiny = make_network("front", subnet="10.0.1.0/29", ingress=False)
    every = [make_node(f"n{number}", address=f"192.168.7.{number}") for number in range(1, nodes + 1)]
    tasks = [make_task(WEB, slot, state=TaskState.NEW) for slot in range(1, 5)]
    world = Picture(CONTROLLER, tiny, WEB, *holds(WEB, tiny), *every)
    world.settle("numbers", f"service/{WEB.metadata.uid}")
    world.put(*tasks)
    world.settle("addresses")
    waiting = [task for task in world.all(Task) if not task.spec.addresses]
    assert len(tasks) - len(waiting) == given
    assert {task.status.err for task in waiting} == {"network front has no free address"}

    placed = [task for task in world.all(Task) if task.spec.addresses]
    for task, node in zip(placed, every * given, strict=False):
        assigned = TaskStatus(TaskState.ASSIGNED)
        world.put(
            replace(task, spec=replace(task.spec, node=Ref(node.metadata.name, node.metadata.uid)), status=assigned)
        )
    world.settle(f"attachments/{tiny.metadata.uid}", "addresses")
    assert len(world.all(Attachment)) == min(nodes, given)


def test_a_task_takes_its_aliases_slot_and_container_into_its_backend() -> None:
    world = World(make_task(WEB, 3, state=TaskState.NEW))
    task = world.one(Task)
    assert [(one.network.name, one.address, one.aliases) for one in task.spec.addresses] == [
        ("front", "10.0.1.2/24", ("site",))
    ]
    running = TaskStatus(TaskState.RUNNING, container=ContainerStatus(id="0123456789abcdef"))
    world.put(replace(task, spec=replace(task.spec, node=Ref("n1", NODE.metadata.uid)), status=running))
    world.settle(f"task/{task.metadata.uid}")
    backend = world.one(Backend)
    assert (backend.spec.slot, backend.spec.addresses[0].aliases) == ("3", ("site",))
    assert backend.status.container == "0123456789ab"


class Sited(World):
    """A world with one task of `web` on n1."""

    def __init__(self) -> None:
        super().__init__(make_task(WEB, 1, state=TaskState.NEW))
        task = self.one(Task)
        self.put(replace(task, spec=replace(task.spec, node=Ref("n1", NODE.metadata.uid))))
        self.rest()

    def end(self, at: Any = NOW) -> None:
        task = self.one(Task)
        wanted = replace(task.spec, desired_state=DesiredState.SHUTDOWN)
        self.put(replace(task, spec=wanted, status=TaskStatus(TaskState.SHUTDOWN, at)))


def test_a_node_is_attached_with_the_first_task_there_and_to_no_other_network() -> None:
    assert World().all(Attachment) == []
    attachment = Sited().one(Attachment)
    assert (attachment.spec.network.name, attachment.spec.node.name, attachment.spec.number) == ("front", "n1", 1)
    assert (attachment.spec.vtep, attachment.spec.address) == ("192.168.7.1", "10.0.1.4/24")


def test_a_node_is_detached_ten_seconds_after_its_last_task_ended() -> None:
    world = Sited()
    world.end(NOW)
    key = f"attachments/{FRONT.metadata.uid}"
    plan = world.plan(key, NOW + timedelta(seconds=4))
    assert (plan.actions, plan.requeue_after) == ((), timedelta(seconds=6))
    world.rest(NOW + timedelta(seconds=10))
    assert world.all(Attachment) == []
    assert [key for key in world.claims() if "10.0.1.4" in key] == []


def test_a_node_whose_clock_is_ahead_is_detached_in_time_all_the_same() -> None:
    world = Sited()
    world.end(NOW + timedelta(hours=1))
    assert world.plan(f"attachments/{FRONT.metadata.uid}").requeue_after == timedelta(seconds=10)


def test_a_task_that_comes_in_time_keeps_the_attachment() -> None:
    world = Sited()
    before = world.one(Attachment)
    world.end(NOW)
    (ended,) = world.all(Task)
    world.put(make_task(WEB, 2, state=TaskState.NEW))
    world.rest()
    (fresh,) = (task for task in world.all(Task) if task.metadata.uid != ended.metadata.uid)
    world.put(replace(fresh, spec=replace(fresh.spec, node=Ref("n1", NODE.metadata.uid))))
    world.rest(NOW + timedelta(minutes=1))
    assert world.one(Attachment) == before


def test_a_task_that_is_forgotten_leaves_nothing_behind() -> None:
    world = Sited()
    world.drop(*world.all(Task))
    world.rest()
    assert world.all(Attachment) == []


def test_the_tunnel_ends_at_the_data_path_s_address_where_there_is_one() -> None:
    world = Sited()
    world.put(replace(NODE, status=replace(NODE.status, data_path="172.30.0.1")))
    world.rest()
    assert world.one(Attachment).spec.vtep == "172.30.0.1"


def test_a_plain_container_brings_its_node_and_takes_it_along_and_a_lost_node_s_is_taken_back() -> None:
    world = World()
    spec = AttachmentSpec(ref(FRONT), Ref("n1", NODE.metadata.uid), "c1", address="10.0.1.9/24")
    container = Attachment(metadata=Meta(name="front.c1", uid="c" * 25), spec=spec)
    owner = Owner("Attachment", "front.c1", "c" * 25)
    held = make_claim(keys.address(ref(FRONT), "10.0.1.9"), owner), make_reference(Network, ref(FRONT), owner)
    world.put(container, *held)
    world.rest()
    assert sorted(one.spec.container for one in world.all(Attachment)) == ["", "c1"]
    world.drop(container, *held)
    world.rest()
    assert world.all(Attachment) == []
    world.put(container, *held)
    world.rest()
    world.drop(NODE)
    world.rest()
    assert world.all(Attachment) == []
    assert world.claims() == [f"addresses/front.{FRONT.metadata.uid}/10.0.1.2"], "the service's own"
    assert [one.metadata.owner.kind for one in world.all(Reference) if one.metadata.owner] == ["Service"]


class Life:
    """One service that is changed at random, with a task or none, and a node that follows now and then."""

    def __init__(self) -> None:
        self.world = World(*holds(WEB, BACK))

    def do(self, step: str) -> None:
        world, live = self.world, self.world.all(Service)
        match step:
            case "front" | "back" | "both" if live:
                uses = {"front": (use(FRONT),), "back": (use(BACK),), "both": (use(FRONT), use(BACK))}[step]
                world.put(*(one for one in holds(WEB, FRONT, BACK) if self._is_new(one, uses)))
                world.update(networks=uses)
            case "dnsrr" | "vip" if live:
                world.update(endpoint=DNSRR if step == "dnsrr" else None)
            case "over" if live:  # the rollout lets go of what the spec does not use
                used = {one.uid for one in live[0].spec.networks}
                world.drop(*(one for one in world.all(Reference) if one.to.uid not in used))
            case "delete" if live:
                world.drop(*live, *world.all(Reference))
            case "task" if live and not world.all(Task):
                world.put(make_task(live[0], 1, state=TaskState.NEW))
            case "gone":
                world.drop(*world.all(Task))
            case "lost endpoint":
                world.drop(*world.all(ServiceEndpoint))
            case "follow":
                world.all_follow()
        world.rest()

    def _is_new(self, reference: Reference, uses: tuple[NetworkUse, ...]) -> bool:
        held = {one.to.uid for one in self.world.all(Reference)}
        return reference.to.uid in {one.uid for one in uses} - held

    def check(self) -> None:
        """Every address in use is claimed by whoever has it, and by nobody else."""
        owners = {claim.key: claim.metadata.owner.uid for claim in self.world.all(Claim) if claim.metadata.owner}
        found: list[tuple[str, str]] = []
        for endpoint in self.world.all(ServiceEndpoint):
            found += [(self._key(on.network, on.vip), WEB.metadata.uid) for on in endpoint.spec.networks if on.vip]
        for task in self.world.all(Task):
            found += [(self._key(one.network, one.address), task.metadata.uid) for one in task.spec.addresses]
        assert len({key for key, _ in found}) == len(found)
        for key, uid in found:
            assert owners[key] == uid

    def _key(self, network: Ref, address: str) -> str:
        return f"addresses/{network.name}.{network.uid}/{address.partition('/')[0]}"


STEPS = ("front", "back", "both", "dnsrr", "vip", "over", "delete", "task", "gone", "lost endpoint", "follow")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=14))
def test_whatever_happens_addresses_are_claimed_by_their_holders_and_nothing_is_left_in_the_end(
    steps: list[str],
) -> None:
    life = Life()
    for step in steps:
        life.do(step)
        life.check()
    for step in ("delete", "gone", "follow", "follow", "follow"):
        life.do(step)
    assert life.world.claims() == []
    assert life.world.all(ServiceEndpoint) == []
