"""Addresses: given once, in order, given back when nobody routes there any more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from controllers.endpoint import CONTROLLER
from shoal.api.meta import derived_uid
from shoal.api.objects import Attachment, Claim, Subnet, Task, TaskStatus
from shoal.api.states import DesiredState, TaskState
from shoal.api.template import NetworkUse, Port
from shoal.machinery.testkit import make_network, make_node, make_service, make_task
from shoal.rules.addresses import free_addresses, mac_of, with_mask
from tests.support.picture import Picture

WEB = make_service("web", replicas=3, ports=(Port(80, 8080),))
NODE = make_node("n1", address="192.168.7.1")
INGRESS = make_network()
ATTACHMENTS = ("numbers", f"attachments/{INGRESS.metadata.uid}")
UNDER = f"addresses/ingress.{INGRESS.metadata.uid}/"


def fresh(slot: int) -> Task:
    return make_task(WEB, slot, state=TaskState.NEW)


def claimed(picture: Picture, network: str = "ingress") -> list[str]:
    prefix = f"addresses/{network}.{derived_uid('network', network)}/"
    return [claim.key[len(prefix) :] for claim in picture.all(Claim) if claim.key.startswith(prefix)]


def test_a_waiting_task_gets_address_mac_and_claim_and_becomes_pending() -> None:
    picture = Picture(CONTROLLER, INGRESS, WEB, fresh(1))
    plan = picture.step("addresses")
    task = picture.one(Task)
    assert task.status.state is TaskState.PENDING
    assert [(a.network.name, a.address, a.mac) for a in task.spec.addresses] == [
        ("ingress", "10.0.0.2/24", "02:42:0a:00:00:02")
    ]
    claim = picture.one(Claim)
    assert (claim.key, claim.metadata.owner.uid) == (f"{UNDER}10.0.0.2", task.metadata.uid)
    assert [len(action.steps) for action in plan.actions] == [2], "task and claim are one transaction"


def test_a_node_gets_address_number_and_tunnel_end() -> None:
    picture = Picture(CONTROLLER, INGRESS, NODE)
    picture.settle(*ATTACHMENTS)
    spec = picture.one(Attachment).spec
    assert (spec.address, spec.mac, spec.vtep, spec.number) == ("10.0.0.2/24", "02:42:0a:00:00:02", "192.168.7.1", 1)
    assert [claim.key for claim in picture.all(Claim)] == [f"{UNDER}10.0.0.2", "claims/node-number/1"]


def test_tasks_and_nodes_never_share_an_address() -> None:
    picture = Picture(CONTROLLER, INGRESS, NODE, make_node("n2"), *(fresh(slot) for slot in range(1, 6)))
    picture.settle("addresses", *ATTACHMENTS)
    assert len(claimed(picture)) == len(set(claimed(picture))) == 7
    assert "10.0.0.1" not in claimed(picture)


def test_a_node_that_was_removed_gives_everything_back() -> None:
    picture = Picture(CONTROLLER, INGRESS, NODE, make_node("n2"))
    picture.settle(*ATTACHMENTS)
    picture.drop(NODE)
    picture.settle(*ATTACHMENTS)
    assert [one.spec.node.name for one in picture.all(Attachment)] == ["n2"]
    assert len(picture.all(Claim)) == 2


def test_a_node_keeps_its_number_when_the_network_is_made_anew() -> None:
    picture = Picture(CONTROLLER, INGRESS, NODE, make_node("n2"))
    picture.settle(*ATTACHMENTS)
    before = {one.spec.node.name: one.spec.number for one in picture.all(Attachment)}
    picture.drop(INGRESS)
    picture.settle(*ATTACHMENTS)
    assert picture.all(Attachment) == []
    assert claimed(picture) == []
    again = make_network()
    picture.put(replace(again, metadata=replace(again.metadata, uid="b" * 25)))
    picture.settle("attachments/" + "b" * 25)
    assert {one.spec.node.name: one.spec.number for one in picture.all(Attachment)} == before


def test_the_tunnel_end_follows_the_node_and_nothing_else_is_written() -> None:
    picture = Picture(CONTROLLER, INGRESS, NODE)
    picture.settle(*ATTACHMENTS)
    picture.put(replace(NODE, status=replace(NODE.status, address="192.168.7.9")))
    assert len(picture.step(ATTACHMENTS[1]).actions) == 1
    assert picture.one(Attachment).spec.vtep == "192.168.7.9"


def test_an_address_is_kept_while_somebody_may_route_to_it_and_freed_after() -> None:
    picture = Picture(CONTROLLER, INGRESS, NODE, fresh(1))
    picture.settle("addresses")
    task = picture.one(Task)
    uid = task.metadata.uid
    running = replace(
        task, spec=replace(task.spec, node=replace(task.spec.service, name="n1", uid=NODE.metadata.uid)),
        status=TaskStatus(TaskState.RUNNING),
    )  # fmt: skip
    picture.put(running)
    picture.settle(f"task/{uid}", "addresses")
    ended = replace(running, status=TaskStatus(TaskState.FAILED))
    picture.put(ended)
    picture.settle(f"task/{uid}", "addresses")
    assert claimed(picture) == ["10.0.0.2"], "no node said yet that it routes elsewhere"
    picture.drop(ended)
    picture.settle(f"task/{uid}", "addresses")
    assert claimed(picture) == []


def test_a_freed_address_is_not_given_to_the_next_task() -> None:
    picture = Picture(CONTROLLER, INGRESS, fresh(1))
    picture.settle("addresses")
    picture.drop(picture.one(Task))
    picture.settle("addresses")
    picture.put(fresh(2))
    picture.settle("addresses")
    assert claimed(picture) == ["10.0.0.3"]


def test_a_full_network_says_so_once_and_serves_when_there_is_room() -> None:
    small = make_network(subnet="10.0.0.0/29")
    tasks = [fresh(slot) for slot in range(1, 8)]
    picture = Picture(CONTROLLER, small, *tasks)
    picture.settle("addresses")
    assert len(claimed(picture)) == 5, "eight addresses less number, broadcast and gateway"
    waiting = [task for task in picture.all(Task) if task.status.state is TaskState.NEW]
    assert {task.status.err for task in waiting} == {"network ingress has no free address"}
    assert picture.step("addresses").actions == (), "the same text is not written again"
    picture.drop(next(task for task in picture.all(Task) if task.spec.addresses))
    picture.settle("addresses")
    assert sum(task.status.state is TaskState.NEW for task in picture.all(Task)) == 1


def test_a_full_network_does_not_hold_up_the_others() -> None:
    small, other = make_network("small", subnet="10.0.1.0/30"), make_network("other", subnet="10.0.2.0/24")
    crowd = make_service("crowd", networks=(NetworkUse("small"),))
    lucky = make_service("lucky", networks=(NetworkUse("other"),))
    tasks = [make_task(crowd, slot, state=TaskState.NEW) for slot in range(1, 700)]
    picture = Picture(CONTROLLER, small, other, *tasks)
    picture.settle("addresses")
    assert len(claimed(picture, "small")) == 1
    picture.put(make_task(lucky, 1, state=TaskState.NEW))
    picture.settle("addresses")
    assert claimed(picture, "other") == ["10.0.2.2"]


def test_subnets_of_another_family_are_passed_over() -> None:
    network = make_network()
    subnets = (Subnet("fd00::/64"), *network.status.subnets)
    network = replace(network, status=replace(network.status, subnets=subnets))
    assert next(free_addresses(network, set())) == "10.0.0.2"


def test_a_task_without_its_network_waits_and_says_why() -> None:
    picture = Picture(CONTROLLER, fresh(1))
    picture.step("addresses")
    assert picture.one(Task).status.err == "network ingress does not exist"
    picture.put(INGRESS)
    picture.step("addresses")
    assert (picture.one(Task).status.state, picture.one(Task).status.err) == (TaskState.PENDING, "")


def test_a_task_told_to_stop_gets_no_address() -> None:
    picture = Picture(CONTROLLER, INGRESS, make_task(WEB, 1, state=TaskState.NEW, desired=DesiredState.SHUTDOWN))
    assert picture.step("addresses").actions == ()


def test_the_cost_of_one_task_does_not_depend_on_the_others() -> None:
    wide = make_network(subnet="10.0.0.0/16")
    picture = Picture(CONTROLLER, wide, *(fresh(slot) for slot in range(1, 1200)))
    picture.settle("addresses")
    picture.put(fresh(5000))
    assert len(picture.step("addresses").actions) == 1


@pytest.mark.parametrize(
    ("subnet", "newest", "expected"),
    [
        pytest.param("10.0.0.0/29", "", ["10.0.0.2", "10.0.0.3"], id="begins behind the gateway"),
        pytest.param("10.0.0.0/29", "10.0.0.4", ["10.0.0.5", "10.0.0.6"], id="goes on behind the newest"),
        pytest.param("10.0.0.0/29", "10.0.0.6", ["10.0.0.2", "10.0.0.3"], id="starts over at the end"),
        pytest.param("10.0.0.0/29", "10.9.9.9", ["10.0.0.2", "10.0.0.3"], id="ignores an address from elsewhere"),
        pytest.param("10.0.1.0/30", "", ["10.0.1.2"], id="never the broadcast address"),
    ],
)
def test_next_addresses(subnet: str, newest: str, expected: list[str]) -> None:
    found = list(free_addresses(make_network(subnet=subnet), set(), newest))
    assert found[:2] == expected


def test_a_range_and_several_subnets_are_honoured() -> None:
    network = make_network()
    subnets = (Subnet("10.0.0.0/24", "10.0.0.1", "10.0.0.252/30"), Subnet("10.0.1.0/30", "10.0.1.1"))
    network = replace(network, status=replace(network.status, subnets=subnets))
    assert list(free_addresses(network, set())) == ["10.0.0.252", "10.0.0.253", "10.0.0.254", "10.0.1.2"]
    assert with_mask(network, "10.0.1.2") == "10.0.1.2/30"


@given(taken=st.sets(st.integers(2, 14)), newest=st.integers(0, 15))
def test_every_free_address_is_offered_once(taken: set[int], newest: int) -> None:
    names = {f"10.0.0.{number}" for number in taken}
    offered = list(free_addresses(make_network(subnet="10.0.0.0/28"), names, f"10.0.0.{newest}"))
    assert sorted(offered) == sorted({f"10.0.0.{number}" for number in range(2, 15)} - names)


def test_mac_is_made_from_the_address() -> None:
    assert mac_of("10.0.1.255/24") == "02:42:0a:00:01:ff"
