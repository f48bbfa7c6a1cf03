"""Nodes by what is heard of them, in virtual time: who is ready, who is down, and when nobody may be judged."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from controllers.nodes import KEY, make_controller
from controllers.nodes.hearing import Hearing
from shoal.api.meta import Meta
from shoal.api.objects import Node, Presence, Task
from shoal.api.states import NodeState, TaskState
from shoal.api.units import Duration
from shoal.machinery.clock import VirtualClock
from shoal.machinery.testkit import make_cluster, make_node, make_service, make_task
from tests.support.picture import Picture


class Hosts:
    """API servers that write once a second, the nodes each of them hears, and the controller's view of it all."""

    PERIOD = 5.0

    def __init__(self, count: int = 3, state: NodeState = NodeState.READY, **cluster: Any) -> None:
        self.clock = VirtualClock()
        self.nodes = [make_node(f"n{number}", state=state) for number in range(count)]
        self.uids = [node.metadata.uid for node in self.nodes]
        self.controller = make_controller(self.clock.monotonic)
        self.picture = Picture(self.controller, make_cluster(**cluster), *self.nodes)
        self.beats: dict[str, dict[str, float]] = {"api": {}}
        self.stopped: set[str] = set()
        self.homes: dict[str, str] = {}
        """API server → the node it runs on."""
        self.arriving = 0
        """Connections that wait at the API servers' doors."""
        self.sequence = 0
        self.gone_down: dict[str, float] = {}

    def run(self, seconds: float, beating: Iterable[int] = (), server: str = "api") -> None:
        """Let time pass second by second; `beating` nodes are heard by `server`."""
        for _ in range(round(seconds)):
            self.clock.advance(1)
            now = self.clock.monotonic()
            for number in beating:
                self.beats.setdefault(server, {})[self.uids[number]] = now
            for name in self.beats.keys() - self.stopped:
                self.write(name)
            self.look()

    def write(self, name: str) -> None:
        now = self.clock.monotonic()
        beats = self.beats[name]
        heard = tuple(sorted(uid for uid, at in beats.items() if now - at < self.PERIOD))
        silent = tuple(sorted(set(beats) - set(heard)))
        self.sequence += 1
        meta, home = Meta(name=name, uid=name), self.homes.get(name, "")
        self.picture.put(
            Presence(
                metadata=meta, heard=heard, silent=silent, sequence=self.sequence, node=home, arriving=self.arriving
            )
        )

    def look(self) -> None:
        self.picture.settle(KEY, now=self.clock.now())
        for node in self.picture.all(Node):
            if node.status.state is NodeState.DOWN:
                self.gone_down.setdefault(node.metadata.name, self.clock.monotonic())

    def states(self) -> list[str]:
        nodes = {node.metadata.name: node.status.state.value for node in self.picture.all(Node)}
        return [nodes[node.metadata.name] for node in self.nodes]

    def why(self) -> str:
        return self.picture.plan(KEY, self.clock.now()).because


def test_a_new_node_is_ready_once_it_is_heard() -> None:
    hosts = Hosts(2, NodeState.UNKNOWN)
    hosts.run(3, beating=[0])
    assert hosts.states() == ["ready", "unknown"]


@pytest.mark.parametrize("state", [NodeState.UNKNOWN, NodeState.DISCONNECTED])
def test_a_node_that_is_never_heard_is_down_after_an_interval(state: NodeState) -> None:
    hosts = Hosts(1, state)
    hosts.run(14)
    assert hosts.states() == [state.value]
    hosts.run(3)
    assert hosts.states() == ["down"]


def test_a_manager_may_start_its_agent_ten_seconds_after_all_else() -> None:
    hosts = Hosts(1)
    hosts.run(10)
    hosts.run(10, beating=[0])
    assert hosts.gone_down == {}


def test_a_silent_node_is_down_a_period_and_a_second_after_its_last_beat() -> None:
    hosts = Hosts()
    hosts.run(20, beating=[0, 1, 2])
    hosts.run(12, beating=[0, 1])
    assert hosts.states() == ["ready", "ready", "down"]
    assert 20 + 6 <= hosts.gone_down["n2"] <= 20 + 8
    node = next(node for node in hosts.picture.all(Node) if node.metadata.name == "n2")
    assert node.status.message == "heartbeat failure"
    assert node.status.since == VirtualClock.START + timedelta(seconds=hosts.gone_down["n2"])


def test_a_node_that_comes_back_is_ready_again() -> None:
    hosts = Hosts()
    hosts.run(10, beating=[0, 1, 2])
    hosts.run(12, beating=[0, 1])
    hosts.run(2, beating=[0, 1, 2])
    assert hosts.states() == ["ready"] * 3


def test_a_short_silence_is_no_failure() -> None:
    hosts = Hosts()
    hosts.run(10, beating=[0, 1, 2])
    hosts.run(4, beating=[0, 1])
    hosts.run(10, beating=[0, 1, 2])
    assert hosts.gone_down == {}


def test_while_no_api_server_writes_nobody_is_judged_and_counting_starts_anew() -> None:
    hosts = Hosts()
    hosts.run(10, beating=[0, 1, 2])
    hosts.stopped.add("api")
    hosts.run(60)
    assert hosts.gone_down == {}
    assert hosts.why() == "no API server is fresh"
    hosts.stopped.clear()
    hosts.run(5)
    assert hosts.gone_down == {}, "they have had no whole period to be heard in"
    hosts.run(6)
    assert set(hosts.gone_down) == {"n0", "n1", "n2"}


def test_a_presence_that_stands_still_proves_nothing() -> None:
    hosts = Hosts()
    still = Presence(metadata=Meta(name="api", uid="api"), silent=tuple(hosts.uids), sequence=7)
    for _ in range(30):
        hosts.clock.advance(1)
        hosts.picture.put(still)
        hosts.look()
    assert hosts.gone_down == {}


def test_a_fresh_leader_waits_a_whole_interval() -> None:
    hosts = Hosts()
    hosts.beats["api"] = dict.fromkeys(hosts.uids, -100.0)
    hosts.run(6)
    assert hosts.gone_down == {}
    hosts.run(3)
    assert len(hosts.gone_down) == 3


def test_a_node_may_change_its_api_server() -> None:
    hosts = Hosts()
    hosts.beats["other"] = {}
    hosts.run(10, beating=[0, 1, 2])
    hosts.run(20, beating=[0, 1, 2], server="other")
    assert hosts.gone_down == {}


def test_a_killed_api_server_leaves_its_nodes_time_to_go_to_another() -> None:
    hosts = Hosts()
    hosts.beats["other"] = dict.fromkeys(hosts.uids, -50.0)
    hosts.run(20, beating=[0, 1, 2])
    hosts.stopped.add("api")
    hosts.run(5)
    assert hosts.gone_down == {}, "what the other one heard long ago does not count"
    hosts.run(10, beating=[0, 1, 2], server="other")
    assert hosts.gone_down == {}


def test_nodes_of_a_killed_api_server_have_fifteen_seconds_to_be_heard_by_another() -> None:
    hosts = Hosts(6)
    hosts.beats["other"] = {}
    hosts.run(20, beating=range(6))
    hosts.stopped.add("api")
    hosts.run(14, beating=range(3), server="other")
    assert hosts.gone_down == {}
    hosts.run(3, beating=range(3), server="other")
    assert set(hosts.gone_down) == {"n3", "n4", "n5"}


@pytest.mark.parametrize(
    ("crowded_s", "down_s"),
    [
        pytest.param(0, 15, id="nobody waits"),
        pytest.param(25, 30, id="five seconds after the last was let in"),
        pytest.param(200, 60, id="for a minute at most"),
    ],
)
def test_while_many_wait_at_a_door_nodes_of_a_killed_api_server_may_be_among_them(crowded_s: int, down_s: int) -> None:
    hosts = Hosts(4)
    hosts.beats["other"] = {}
    hosts.run(20, beating=range(4))
    hosts.stopped.add("api")
    hosts.arriving = 1 if crowded_s else 0
    for second in range(90):
        hosts.arriving = int(second < crowded_s)
        hosts.run(1, beating=range(3), server="other")
    assert set(hosts.gone_down) == {"n3"}
    assert down_s <= hosts.gone_down["n3"] - 20 <= down_s + 2


def test_a_crowd_at_the_door_delays_no_other_judgement() -> None:
    hosts = Hosts()
    hosts.run(20, beating=[0, 1, 2])
    hosts.arriving = 1
    hosts.run(8, beating=[0, 1])
    assert set(hosts.gone_down) == {"n2"}


def test_a_manager_that_loses_its_power_with_its_api_server_is_down_as_soon_as_any_node() -> None:
    hosts = Hosts()
    hosts.homes["other"] = hosts.uids[2]
    hosts.run(20, beating=[0, 1])
    hosts.beats["other"] = {}
    hosts.run(5, beating=[2], server="other")
    hosts.stopped.add("other")
    hosts.run(8, beating=[0, 1])
    assert set(hosts.gone_down) == {"n2"}


def test_half_of_the_nodes_may_go_down() -> None:
    hosts = Hosts(6)
    hosts.run(10, beating=range(6))
    hosts.run(12, beating=range(3))
    assert len(hosts.gone_down) == 3


def test_the_brake_holds_when_more_than_half_of_five_fall_silent_at_once() -> None:
    hosts = Hosts(6)
    hosts.run(10, beating=range(6))
    hosts.run(55, beating=range(2))
    assert hosts.gone_down == {}
    assert hosts.why().startswith("4 nodes fell silent at once")
    hosts.run(15, beating=range(2))
    assert len(hosts.gone_down) == 4
    assert min(hosts.gone_down.values()) >= 10 + 60


def test_the_brake_holds_even_when_some_are_back() -> None:
    hosts = Hosts(6)
    hosts.run(10, beating=range(6))
    hosts.run(10, beating=range(2))
    hosts.run(30, beating=range(4))
    assert hosts.gone_down == {}


def test_the_brake_is_not_for_small_swarms_nor_for_one_failure_after_another() -> None:
    small = Hosts(4)
    small.run(10, beating=range(4))
    small.run(12, beating=[0])
    assert len(small.gone_down) == 3
    slow = Hosts(6)
    slow.run(10, beating=range(6))
    for left in (5, 4, 3, 2):
        slow.run(12, beating=range(left))
    assert len(slow.gone_down) == 4


def test_the_brake_can_be_set() -> None:
    hosts = Hosts(6, brake=Duration.of(20))
    hosts.run(10, beating=range(6))
    hosts.run(30, beating=range(2))
    assert len(hosts.gone_down) == 4


def test_whoever_knows_better_lifts_the_brake() -> None:
    hosts = Hosts(6)
    hosts.run(10, beating=range(6))
    hosts.run(12, beating=range(2))
    assert hosts.gone_down == {}
    hosts.picture.put(make_cluster(brake=Duration(0)))
    hosts.look()
    assert len(hosts.gone_down) == 4


def test_nothing_is_written_while_nothing_changes() -> None:
    hosts = Hosts()
    hosts.run(10, beating=[0, 1, 2])
    before = [node.metadata.resource_version for node in hosts.picture.all(Node)]
    hosts.run(60, beating=[0, 1, 2])
    assert [node.metadata.resource_version for node in hosts.picture.all(Node)] == before


def placed(node: Node, **changes: Any) -> Task:
    return make_task(make_service("web"), node=node, **changes)


def test_tasks_of_a_removed_node_are_orphaned() -> None:
    hosts = Hosts()
    hosts.picture.put(placed(hosts.nodes[2]))
    hosts.picture.drop(hosts.nodes[2])
    hosts.look()
    task = hosts.picture.one(Task)
    assert (task.status.state, task.status.message) == (
        TaskState.ORPHANED,
        "task belonged to a node that has been removed",
    )


@pytest.mark.parametrize(
    ("hours", "state"),
    [pytest.param(23, TaskState.RUNNING, id="a day is not over"), pytest.param(24, TaskState.ORPHANED, id="a day")],
)
def test_tasks_of_a_node_that_is_down_for_a_day_are_orphaned(hours: int, state: TaskState) -> None:
    hosts = Hosts()
    down = replace(hosts.nodes[2], status=replace(hosts.nodes[2].status, state=NodeState.DOWN))
    hosts.picture.put(down, placed(down))
    now = VirtualClock.START + timedelta(hours=hours)
    plan = hosts.picture.step(KEY, now)
    assert hosts.picture.one(Task).status.state is state
    assert plan.requeue_after == (timedelta(hours=1) if hours == 23 else None)


def test_tasks_that_ended_or_never_started_there_are_left_alone() -> None:
    hosts = Hosts()
    hosts.picture.put(placed(hosts.nodes[2], state=TaskState.FAILED))
    hosts.picture.drop(hosts.nodes[2])
    assert hosts.picture.plan(KEY).actions == ()


def test_a_node_whose_host_left_is_down_at_once_and_for_good() -> None:
    hosts = Hosts()
    hosts.run(2, beating=[0, 1, 2])
    leaver = hosts.picture.all(Node)[1]
    hosts.picture.put(replace(leaver, status=replace(leaver.status, left_at=hosts.clock.now())))
    hosts.look()
    assert hosts.states().count("down") == 1
    hosts.run(5, beating=[0, 1, 2])
    (gone,) = [node for node in hosts.picture.all(Node) if node.status.state is NodeState.DOWN]
    assert gone.metadata.uid == leaver.metadata.uid
    assert gone.status.message == "its host has left the swarm"


def test_a_removed_node_is_forgotten() -> None:
    hosts = Hosts(2)
    hosts.run(3, beating=[0, 1])
    hosts.run(3, beating=[0])
    hearing = hosts.picture.cache.fold(Hearing)
    gone = hosts.nodes[1]
    hosts.picture.drop(gone)
    hosts.run(6, beating=[0])
    remembered = {*hearing._heard_at, *hearing._heard_by, *hearing._fell_at}
    assert remembered == {hosts.uids[0]}
