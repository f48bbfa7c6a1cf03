"""What the agent has to say to the managers, until they have acknowledged it; and its heartbeat.

A status is sent at once while nothing is under way; what is said meanwhile goes together, newest state per task. While
several tasks are on their way at once, reports keep a distance, because each costs every manager process a turn; what
somebody waits for does not wait for it: that a stopping task's traffic has ended, and the steps of a replacement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import anyio
import structlog

from nodeagent.client import Receipt, Report
from shoal.api.errors import ForbiddenError, NotFoundError, UnavailableError
from shoal.api.objects import NodeDescription, Task, TaskStatus
from shoal.api.states import DesiredState, TaskState
from shoal.machinery.clock import Clock, wait

BEATS_PER_PERIOD: Final = 5
"""Four lost beats in a row are noticed by nobody."""

FIRST_PERIOD_S: Final = 5.0
"""The heartbeat period until the server has said its own."""

RETRY_FIRST_S: Final = 0.1
RETRY_MOST_S: Final = 1.0

MANY: Final = 16
"""Tasks on their way at once, beyond which no single one is waited for: it is not an update's batch any more."""

BURST: Final = 3
"""Tasks on their way to running at once, from which reports keep a distance."""

GAP_PER_TASK_S: Final = 0.05
GAP_MOST_S: Final = 1.0
"""Seconds between reports in a burst, for each task on its way, and at most: 4 tasks 0.2 s, 30 tasks 1 s.

A report is one transaction, and what follows it (backends, who has programmed them) three more; each wakes the manager
processes, and containers start no sooner for it. The distance shrinks as tasks arrive: the last are told at once.
"""

GAP_PER_MANY_S: Final = 0.005
RESTS_PER_REPORT: Final = 4.0
LONGEST_GAP_S: Final = 5.0
"""More, and the most, in a large burst: of 1,000 tasks an engine starts a few while 5 s pass, and whoever waits for one
of them waits for minutes. And no more than once in so many times what the last report took: managers that are slow to
answer have much to do, and would have more of it."""

LEAST_WAIT_S: Final = 0.001
"""A shorter wait is over: clocks are not more exact."""

MOST_TASKS: Final = 1000
"""Statuses in one report."""

log = structlog.get_logger()


class Sink(Protocol):
    async def report(self, report: Report) -> Receipt: ...

    def beat(self, applied: int | None = None) -> bool:
        """Give a sign of life the cheap way, and say how far the node is programmed if that is news.

        False where there is no such way, and a report must do.
        """


class Reporter:
    def __init__(self, sink: Sink, clock: Clock, address: str = "") -> None:
        self._sink, self._clock = sink, clock
        self._address = address
        self._pending: dict[str, TaskStatus] = {}
        self._said: dict[str, TaskStatus] = {}
        self._on_their_way: set[str] = set()
        """Tasks that were last said to be in a state before running."""
        self._replacing: set[str] = set()
        """Tasks that awaited their release: each takes another one's place."""
        self._is_urgent = False
        self._sooner = anyio.Event()
        """The distance that is being kept has shrunk, or somebody waits."""
        self._kept_s = 0.0
        self._took_s = 0.0
        """How long the last report waited for its answer."""
        self._is_due = False
        """A sign of life has to be a report."""
        self._applied: int | None = None
        self._description: NodeDescription | None = None
        self._unsent: set[str] = set()
        self._period_s = FIRST_PERIOD_S
        self._news = anyio.Event()

    @property
    def described(self) -> NodeDescription | None:
        return self._description

    def status(self, task: Task, status: TaskStatus) -> None:
        """Say what a task reached; an older state never overtakes a newer one."""
        name = task.metadata.name
        known = self._pending.get(name) or self._said.get(name)
        if known is None or status.state.rank >= known.state.rank:
            self._pending[name] = self._said[name] = status
            (self._on_their_way.discard if _is_there(status) else self._on_their_way.add)(name)
            self._is_urgent |= self._is_awaited(task, status.state) and len(self._on_their_way) <= MANY
            self._tell_sooner()

    def _is_awaited(self, task: Task, state: TaskState) -> bool:
        """Does a replacement go on with it: its new task is ready for its release, the old one has ended, it runs?"""
        name, desired = task.metadata.name, task.spec.desired_state
        if state is TaskState.READY and desired is DesiredState.READY:
            self._replacing.add(name)
            return True
        if state is TaskState.RUNNING:
            return name in self._replacing or task.spec.start_first
        return state.is_terminal and not desired.is_live

    def applied(self, revision: int, *, is_urgent: bool = False) -> None:
        """Say up to which revision the node's network is programmed; at once if somebody waits for it."""
        if revision != self._applied:
            self._applied = revision
            self._unsent.add("applied")
            self._is_urgent |= is_urgent
            self._tell_sooner()

    def describe(self, description: NodeDescription) -> None:
        if description != self._description:
            self._description = description
            self._unsent.add("description")
            self._news.set()

    def greeted(self, tasks: Mapping[str, Task]) -> None:
        """A new connection with its complete set: say again what this server may not have heard.

        `tasks` by name. What left the assignments is of interest to nobody any more.
        """
        for name in [name for name in self._said if name not in tasks]:
            self.forget(name)
        self._pending = {
            name: said for name, said in self._said.items() if said.state.rank > tasks[name].status.state.rank
        }
        self._unsent |= {"applied"} if self._applied is not None else set()
        self._unsent |= {"description"} if self._description is not None else set()
        self._news.set()

    def expect(self, period_s: float | None) -> None:
        """Take the heartbeat period that the server says, None if it says none."""
        self._period_s = period_s or self._period_s

    def forget(self, name: str) -> None:
        """A task left the assignments."""
        self._said.pop(name, None)
        self._pending.pop(name, None)
        self._on_their_way.discard(name)
        self._replacing.discard(name)

    async def run(self) -> None:
        """Report news at once, or at a distance in a burst, and beat all the while, for ever."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._beat)
            await self._tell()

    async def _beat(self) -> None:
        """Give a sign of life, whatever a report may be waiting for; where no stream is open, one is due instead."""
        while True:
            await self._clock.sleep(self._period_s / BEATS_PER_PERIOD)
            if not self._sink.beat():
                self._is_due = True
                self._tell_sooner()

    async def _tell(self) -> None:
        retry_s = 0.0
        while True:
            if not (retry_s or self._is_due or self._pending or self._unsent):
                await self._news.wait()
            try:
                await self._say()
            except (UnavailableError, NotFoundError, ForbiddenError) as error:
                retry_s = min(RETRY_MOST_S, max(RETRY_FIRST_S, retry_s * 2))
                log.debug("report_lost", reason=str(error), retry_s=retry_s)
                await self._clock.sleep(retry_s)
            else:
                retry_s = 0.0
                await self._keep_distance(self._clock.monotonic())

    async def _say(self) -> None:
        """How far the node is programmed goes down the stream, if it is all there is to say.

        Whatever becomes of it, a new connection is told again what the last one was.
        """
        self._news, self._is_urgent = anyio.Event(), False
        is_all = self._unsent == {"applied"} and not (self._pending or self._is_due)
        if is_all and self._sink.beat(self._applied):
            self._unsent = set()
        else:
            self._is_due = False
            await self._send()

    async def _keep_distance(self, sent_at: float) -> None:
        """Return when the next report may go."""
        while not self._is_urgent:
            self._kept_s = self._gap_s()
            left_s = sent_at + self._kept_s - self._clock.monotonic()
            if left_s <= LEAST_WAIT_S:
                break
            self._sooner = anyio.Event()
            await wait(self._clock, self._sooner, left_s)
        self._kept_s = 0.0

    def _tell_sooner(self) -> None:
        """There is news. It shortens a wait only if it is urgent, or one of the last of a burst."""
        self._news.set()
        if self._is_urgent or (self._kept_s and self._gap_s() < self._kept_s):
            self._sooner.set()

    def _gap_s(self) -> float:
        on_their_way = len(self._on_their_way)
        longest_s = GAP_MOST_S if self._is_due else LONGEST_GAP_S
        most_s = min(longest_s, max(GAP_MOST_S, GAP_PER_MANY_S * on_their_way, RESTS_PER_REPORT * self._took_s))
        return min(most_s, GAP_PER_TASK_S * on_their_way) if on_their_way >= BURST else 0.0

    async def _send(self) -> None:
        tasks = dict(list(self._pending.items())[:MOST_TASKS])
        unsent, self._unsent = self._unsent, set()
        report = Report(
            tasks=tasks,
            applied=self._applied,
            description=self._description if "description" in unsent else None,
            address=self._address if "description" in unsent else "",
        )
        began = self._clock.monotonic()
        try:
            receipt = await self._sink.report(report)
        except BaseException:
            self._unsent |= unsent
            raise
        self._took_s = self._clock.monotonic() - began
        self.expect(receipt.period_s())
        for name, sent in tasks.items():
            if self._pending.get(name) is sent:
                del self._pending[name]
        for name, why in receipt.refused.items():
            log.warning("status_refused", task=name, reason=why)


def _is_there(status: TaskStatus) -> bool:
    return status.state.rank >= TaskState.RUNNING.rank
