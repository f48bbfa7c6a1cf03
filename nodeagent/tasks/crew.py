"""All tasks of a node: a worker for each, fed by assignments, listings and events.

A worker is started only when both a synced set of assignments and a listing of the engine's containers are known:
then everything of ours that exists is adopted, and only what is certainly unwanted goes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import Final

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from nodeagent.assignments import Assignments
from nodeagent.engine.contract import EngineEvent, Summary
from nodeagent.tasks.container import TASK_LABEL, Around, is_of_task
from nodeagent.tasks.worker import Tools, Worker
from shoal.api import keys
from shoal.api.objects import Backend, Task
from shoal.rules.expand import NodeFacts

_TELLING: Final = ("start", "die", "stop", "oom", "pause", "unpause", "restart", "destroy", "rename", "health_status")
"""What events of a container are worth a look; a health check's own exec events are not."""
BEGUN_PER_TURN: Final = 8
"""Workers begun in one turn of the event loop: of a thousand tasks that come at once, all are heard of, and the node's
beats go on, while the first are worked on."""

_TASKS: Final = keys.prefix_of(Task)
_BACKENDS: Final = keys.prefix_of(Backend)


def _is_old_news(event: EngineEvent, worker: Worker) -> bool:
    """The start of what was seen alive: our own start's echo, and an inspection the engine is spared."""
    return event.action == "start" and worker.container is not None and worker.container.is_alive


class Crew:
    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self.workers: dict[str, Worker] = {}
        self._found: tuple[Summary, ...] | None = None
        self._assignments = Assignments()
        self._now = Around()
        self._group: TaskGroup | None = None
        self._to_begin: deque[Worker] = deque()
        self._has_more = anyio.Event()

    def start(self, group: TaskGroup) -> None:
        """Say where the workers run; `assign`, `listed` and `hint` may be called from then on."""
        self._group = group
        group.start_soon(self._begin_some, group)

    def assign(self, assignments: Assignments, moved: Collection[str] | None = None) -> None:
        """Take a set of assignments; one that is not synced changes nothing.

        `moved` names the keys in which it differs from the last one, None = any: work is done for their tasks alone.
        """
        if not assignments.synced:
            return
        self._assignments = assignments
        self.tools.files.offer(assignments)
        around = self._around()
        if moved is None or self._found is None or around != self._now:
            self._bring_up_to_date()
            return
        for key in moved:
            if key.startswith(_TASKS):
                self._hand_on(self._task_at(key), key.rpartition(".")[2], around)
            elif key.startswith(_BACKENDS):
                worker = self.workers.get(key.rpartition("/")[2])
                if worker is not None and worker.task is not None and worker.wanted:
                    worker.assign(worker.task, self._assignments.backend_of(worker.task), around)

    def _task_at(self, key: str) -> Task | None:
        task, here = self._assignments.objects.get(key), self.tools.identity.node
        return task if isinstance(task, Task) and task.spec.node is not None and task.spec.node.uid == here else None

    def _hand_on(self, task: Task | None, uid: str, around: Around) -> None:
        """Tell a task's worker what is wanted of it now; None = nothing any more."""
        if task is not None:
            worker = self.workers.get(uid) or self._begin(uid, None)
            worker.assign(task, self._assignments.backend_of(task), around)
        elif uid in self.workers:
            self.workers[uid].withdraw()

    def listed(self, summaries: Iterable[Summary]) -> None:
        """Take the engine's listing of containers with our labels."""
        self._found = tuple(summaries)
        ours = self._ours()
        for uid, worker in self.workers.items():
            worker.listed(ours.get(uid))
        self._bring_up_to_date()

    def hint(self, event: EngineEvent) -> None:
        worker = self.workers.get(event.labels.get(TASK_LABEL, ""))
        if worker is not None and event.action.startswith(_TELLING) and not _is_old_news(event, worker):
            worker.hint()

    def task_named(self, name: str) -> Worker | None:
        """The worker of a task of this name or uid that has a container."""
        return next(
            (
                worker
                for uid, worker in self.workers.items()
                if worker.container_id and (uid == name or (worker.task and worker.task.metadata.name == name))
            ),
            None,
        )

    def _bring_up_to_date(self) -> None:
        if self._found is None or not self._assignments.synced:
            return
        tasks, ours = self._assignments.tasks(self.tools.identity.node), self._ours()
        for uid in sorted(ours.keys() - self.workers.keys()):
            self._begin(uid, ours[uid])
        self._found = ()
        self._now = self._around()
        for uid in (*tasks, *(self.workers.keys() - tasks.keys())):
            self._hand_on(tasks.get(uid), uid, self._now)

    def _ours(self) -> dict[str, Summary]:
        """The last listing's containers of this node's tasks, by task uid."""
        found = ((summary.labels.get(TASK_LABEL, ""), summary) for summary in self._found or ())
        return {
            uid: summary
            for uid, summary in found
            if uid and is_of_task(summary.labels, summary.name, uid, self.tools.identity)
        }

    def _around(self) -> Around:
        cluster, uid = self._assignments.cluster(), self.tools.identity.node
        node = self._assignments.node(uid)
        facts = NodeFacts.of(node) if node is not None else NodeFacts(uid)
        return Around(cluster.spec.log_driver if cluster is not None else None, facts)

    def _begin(self, uid: str, found: Summary | None) -> Worker:
        assert self._group is not None
        worker = Worker(uid, self.tools, found)
        self.workers[uid] = worker
        self._to_begin.append(worker)
        self._has_more.set()
        return worker

    async def _begin_some(self, group: TaskGroup) -> None:
        """Begin workers in the order they came, a few per turn of the loop, for ever."""
        while True:
            await self._has_more.wait()
            self._has_more = anyio.Event()
            while self._to_begin:
                for _ in range(min(BEGUN_PER_TURN, len(self._to_begin))):
                    worker = self._to_begin.popleft()
                    group.start_soon(self._work, worker, name=f"task {worker.uid}")
                await checkpoint()

    async def _work(self, worker: Worker) -> None:
        await worker.run()
        if self.workers.get(worker.uid) is worker:
            del self.workers[worker.uid]
