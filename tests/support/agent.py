"""A crew on a fake engine and a virtual clock, and the little of managers it needs."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from anyio import Semaphore
from anyio.abc import TaskGroup

from nodeagent.assignments import Assignments
from nodeagent.engine.contract import Engine
from nodeagent.engine.fake import FakeEngine
from nodeagent.mounts.contents import contents_of
from nodeagent.ports import BoundFile, ContainerNetwork
from nodeagent.tasks.container import NODE_LABEL, Identity
from nodeagent.tasks.crew import Crew
from nodeagent.tasks.images import Images
from nodeagent.tasks.worker import Tools
from shoal.api.meta import Ref
from shoal.api.objects import Backend, Object, Task, TaskStatus
from shoal.api.states import DesiredState, TaskState
from shoal.machinery.clock import Clock, VirtualClock
from shoal.machinery.factories import make_cluster, make_service, make_task
from shoal.rules.expand import NodeFacts

IMAGE = "shoal-test:1"
NODE = Ref("n1", "n1uid")
CLUSTER = make_cluster()
OURS = Identity(CLUSTER.metadata.uid, NODE.uid)


class PlainNetwork:
    """A NetworkPort that wires nothing: every container is on the engine's default bridge."""

    def __init__(self) -> None:
        self.programmed: list[Assignments] = []
        self.completed: list[tuple[str, int]] = []
        """Task uids and processes."""

    async def prepare(self, task: Task) -> ContainerNetwork:
        return ContainerNetwork()

    async def complete(self, task: Task, pid: int) -> None:
        self.completed.append((task.metadata.uid, pid))

    def distrust(self) -> None:
        pass

    async def program(self, assignments: Assignments) -> None:
        self.programmed.append(assignments)

    async def cleanup(self) -> None:
        return


class PlainFiles:
    """A FilesPort that writes nothing: it notes whose files there would be."""

    def __init__(self) -> None:
        self.held: dict[str, Assignments] = {}
        self._assignments = Assignments()

    def offer(self, assignments: Assignments) -> None:
        self._assignments = assignments

    async def prepare(self, task: Task, node: NodeFacts) -> tuple[BoundFile, ...]:
        contents = contents_of(task, self._assignments, node)
        if contents:
            self.held[task.metadata.uid] = self._assignments
        return tuple(BoundFile(f"/files/{task.metadata.uid}/{at}", one.target) for at, one in enumerate(contents))

    async def wipe(self, task_uid: str) -> None:
        self.held.pop(task_uid, None)

    async def sweep(self, keep: Collection[str]) -> None:
        for uid in self.held.keys() - set(keep):
            await self.wipe(uid)


def task_for(
    slot: int = 1,
    *,
    state: TaskState = TaskState.ASSIGNED,
    desired: DesiredState = DesiredState.RUNNING,
    uid: str = "",
    **template: object,
) -> Task:
    """A task on this node that sleeps, unless its template says otherwise."""
    spec = {"image": IMAGE, "args": ("sleep", "1000"), **template}
    return make_task(make_service(**spec), slot, state=state, desired=desired, node=NODE, uid=uid)


class Managers:
    """What the managers know: the tasks, and each status that reached them."""

    def __init__(self, *tasks: Task, hears: bool = True) -> None:
        self.tasks = {task.metadata.uid: task for task in tasks}
        self.extra: list[Object] = [CLUSTER]
        self.hears = hears
        self.told: dict[str, list[TaskStatus]] = {}

    def report(self, task: Task, status: TaskStatus) -> None:
        uid = task.metadata.uid
        self.told.setdefault(uid, []).append(status)
        if self.hears and uid in self.tasks:
            self.tasks[uid] = msgspec.structs.replace(self.tasks[uid], status=status)

    def want(self, desired: DesiredState, *uids: str, evicted: str = "") -> None:
        for uid in uids or tuple(self.tasks):
            spec = msgspec.structs.replace(self.tasks[uid].spec, desired_state=desired, evicted=evicted)
            self.tasks[uid] = msgspec.structs.replace(self.tasks[uid], spec=spec)

    def assignments(self, *, synced: bool = True) -> Assignments:
        found = Assignments().replaced([*self.extra, *self.tasks.values()], 1)
        return msgspec.structs.replace(found, synced=synced)

    def backend(self, backend: Backend) -> None:
        self.extra = [obj for obj in self.extra if not isinstance(obj, Backend)] + [backend]

    def states(self, uid: str) -> list[TaskState]:
        return [status.state for status in self.told.get(uid, [])]


def make_crew(engine: Engine, managers: Managers, group: TaskGroup, clock: Clock | None = None) -> Crew:
    crew = Crew(
        Tools(
            engine=engine,
            network=PlainNetwork(),
            files=PlainFiles(),
            images=Images(engine),
            clock=clock or VirtualClock(),
            identity=OURS,
            report=managers.report,
            making=Semaphore(4),
            starting=Semaphore(4),
        )
    )
    crew.start(group)
    return crew


async def relist(crew: Crew, engine: FakeEngine) -> None:
    crew.listed(await engine.containers({NODE_LABEL: NODE.uid}))
