"""What holds whatever happens: scaling, updates, crashes, nodes that come and go, lost and late writes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.replication import CONTROLLER as REPLICATION
from shoal.api.objects import Node, Task, Update
from shoal.api.states import Availability, DesiredState, FailureAction, Mode, NodeState, TaskState, UpdateOrder
from shoal.api.template import Restart
from shoal.api.units import Duration
from shoal.machinery.controller import Action
from shoal.machinery.testkit import make_node
from tests.support.stage import Stage

NAMES = ("n1", "n2", "n3")
GOOD = {name: make_node(name) for name in NAMES}

CHANGES = st.one_of(
    st.tuples(st.just("scale"), st.integers(0, 4)),
    st.tuples(st.just("image"), st.integers(1, 3)),
    st.tuples(st.just("node"), st.sampled_from(NAMES), st.sampled_from(["drain", "pause", "active", "down"])),
    st.tuples(st.just("end"), st.integers(0, 9), st.sampled_from([TaskState.FAILED, TaskState.COMPLETE])),
    st.tuples(st.just("agent"), st.integers(0, 9)),
    st.tuples(st.just("agent"), st.integers(0, 9)),
    st.tuples(st.just("controllers"), st.just(255)),
    st.tuples(st.just("controllers"), st.integers(0, 255)),
    st.tuples(st.just("look")),
    st.tuples(st.just("late")),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 5.0])),
)
HISTORIES = st.lists(CHANGES, min_size=20, max_size=50)


class Story:
    """A service to which things happen; what a controller decided may be written late, or in part, or never."""

    def __init__(self, mode: Mode, order: UpdateOrder) -> None:
        self.stage = Stage(*GOOD.values())
        self.spec: dict[str, object] = {
            "mode": mode,
            "replicas": 2 if mode is Mode.REPLICATED else None,
            "update": Update(order=order, failure_action=FailureAction.CONTINUE),
            "restart": Restart(delay=Duration.of(2)),
        }
        self.nodes = dict(GOOD)
        self.kept: list[tuple[str, Action]] = []
        self.stage.deploy(**self.spec)
        self.stage.run(*self.up())

    def happen(self, what: str, *details: object) -> None:
        getattr(self, f"do_{what}")(*details)

    def do_scale(self, replicas: int) -> None:
        if self.spec["mode"] is Mode.REPLICATED:
            self.spec["replicas"] = replicas
            self.stage.deploy(**self.spec)

    def do_image(self, version: int) -> None:
        self.spec["image"] = f"busybox:{version}"
        self.stage.deploy(**self.spec)

    def do_node(self, name: str, how: str) -> None:
        if how == "down":
            self.nodes[name] = make_node(name, state=NodeState.DOWN)
        else:
            self.nodes[name] = make_node(name, availability=Availability(how))
        self.stage.put(self.nodes[name])

    def do_end(self, which: int, state: TaskState) -> None:
        running = self.stage.tasks(lambda task: task.status.state is TaskState.RUNNING)
        if running:
            self.stage.move(running[which % len(running)], state)

    def do_agent(self, which: int) -> None:
        """One agent looks at one task."""
        tasks = self.stage.tasks()
        if tasks:
            self.stage.work(*self.up(), only=tasks[which % len(tasks)].metadata.uid)

    def do_controllers(self, mask: int) -> None:
        """Each controller decides; of its actions only those in the mask get written."""
        for controller in self.stage.controllers:
            for number, action in enumerate(self.stage.plan(controller).actions):
                if mask >> (number % 8) & 1:
                    self.stage.apply(action, controller.name)

    def do_look(self) -> None:
        """A leader decides, and is then paused before it writes."""
        self.kept = [(one.name, action) for one in self.stage.controllers for action in self.stage.plan(one).actions]

    def do_late(self) -> None:
        for actor, action in self.kept:
            self.stage.apply(action, actor)
        self.kept = []

    def do_wait(self, seconds: float) -> None:
        self.stage.sleep(seconds)

    def up(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.status.state is NodeState.READY]

    def end_well(self) -> None:
        """Trouble ends: every node is good, agents and controllers do all they can."""
        for name, node in GOOD.items():
            self.nodes[name] = node
            self.stage.put(node)
        self.stage.run(*GOOD.values())


def wanted_running(stage: Stage) -> Counter[str]:
    """Slot → tasks that may have a container now because somebody wants it to run."""

    def may_run(task: Task) -> bool:
        return task.spec.desired_state is DesiredState.RUNNING and not task.status.state.is_terminal

    return Counter(task.spec.slot for task in stage.tasks(may_run))


def containers(story: Story) -> Counter[str]:
    """Slot → containers that run on nodes that can be reached."""
    up = {node.metadata.uid for node in story.up()}
    running = story.stage.tasks(lambda task: task.status.state is TaskState.RUNNING)
    return Counter(task.spec.slot for task in running if task.spec.node and task.spec.node.uid in up)


def check_end(story: Story) -> None:
    """Running is what was asked for, once per slot, in the newest revision, and little else is left."""
    stage = story.stage
    expected = len(NAMES) if story.spec["mode"] is Mode.GLOBAL else story.spec["replicas"]
    assert len(stage.live()) == expected
    assert containers(story) == wanted_running(stage)
    assert set(wanted_running(stage).values()) <= {1}
    assert {task.spec.template.image for task in stage.live()} <= {story.spec.get("image", "busybox:1")}
    assert set(Counter(task.spec.slot for task in stage.tasks()).values()) <= {1, 2, 3, 4, 5}
    assert not stage.plan().actions


@settings(max_examples=80)
@given(st.sampled_from([Mode.REPLICATED, Mode.GLOBAL]), HISTORIES)
def test_stop_first_wants_at_most_one_task_of_a_slot_and_ends_as_desired(mode: Mode, history: list) -> None:  # type: ignore[type-arg]
    story = Story(mode, UpdateOrder.STOP_FIRST)
    for change in history:
        story.happen(*change)
        assert set(wanted_running(story.stage).values()) <= {1}, change
    story.end_well()
    check_end(story)


@settings(max_examples=80)
@given(HISTORIES.map(lambda history: [one for one in history if "down" not in one]))
def test_a_slot_s_containers_never_overlap_while_all_nodes_are_reachable(history: list) -> None:  # type: ignore[type-arg]
    """Within the minute a stubborn old task may take: the waits here add up to less or are cut short."""
    story = Story(Mode.REPLICATED, UpdateOrder.STOP_FIRST)
    waited = 0.0
    for change in history:
        if change[0] == "wait":
            waited += change[1]
            if waited >= 60:
                break
        story.happen(*change)
        assert set(containers(story).values()) <= {1}, change


@settings(max_examples=80)
@given(st.sampled_from([Mode.REPLICATED, Mode.GLOBAL]), HISTORIES)
def test_start_first_wants_at_most_two_tasks_of_a_slot_and_ends_as_desired(mode: Mode, history: list) -> None:  # type: ignore[type-arg]
    story = Story(mode, UpdateOrder.START_FIRST)
    for change in history:
        story.happen(*change)
        assert set(wanted_running(story.stage).values()) <= {1, 2}, change
    story.end_well()
    check_end(story)


@settings(max_examples=30)
@given(st.sampled_from([Mode.REPLICATED, Mode.GLOBAL]), HISTORIES, st.randoms(use_true_random=False))
def test_a_plan_does_not_depend_on_the_order_of_what_it_sees(mode: Mode, history: list, random) -> None:  # type: ignore[type-arg,no-untyped-def]
    story = Story(mode, UpdateOrder.START_FIRST)
    for change in history:
        story.happen(*change)
    (service,) = story.stage.services()
    view = REPLICATION.observe(service.metadata.uid, story.stage.cache)
    assert view is not None

    def shuffled(mapping):  # type: ignore[no-untyped-def]
        items = list(mapping.items())
        random.shuffle(items)
        return dict(items)

    tasks = list(view.tasks)
    random.shuffle(tasks)
    other = replace(view, tasks=tuple(tasks), slots=shuffled(view.slots), nodes=shuffled(view.nodes))
    assert REPLICATION.plan(other, story.stage.now) == REPLICATION.plan(view, story.stage.now)


@settings(max_examples=30)
@given(st.sampled_from([Mode.REPLICATED, Mode.GLOBAL]), HISTORIES)
def test_nothing_is_left_of_a_deleted_service(mode: Mode, history: list) -> None:  # type: ignore[type-arg]
    story = Story(mode, UpdateOrder.START_FIRST)
    for change in history:
        story.happen(*change)
    story.stage.drop(story.stage.services()[0])
    story.end_well()
    assert story.stage.left() == []


@settings(max_examples=30)
@given(st.sampled_from([Mode.REPLICATED, Mode.GLOBAL]), HISTORIES)
def test_no_key_is_written_twice_by_one_plan(mode: Mode, history: list) -> None:  # type: ignore[type-arg]
    story = Story(mode, UpdateOrder.START_FIRST)
    for change in history:
        story.happen(*change)
        written: Counter[str] = Counter()
        for action in story.stage.plan().actions:
            written.update(action.keys())
        assert set(written.values()) <= {1}
