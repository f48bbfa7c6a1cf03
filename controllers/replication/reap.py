"""Which tasks to forget, and how a deleted service or slot lets go of its own. Pure.

Source: SwarmKit's manager/orchestrator/taskreaper.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from controllers.replication.make import let_go
from controllers.replication.view import Held, View
from shoal.api.defaults import history_limit
from shoal.api.objects import Task
from shoal.api.states import DesiredState
from shoal.machinery.controller import Action, Remove
from shoal.rules.history import surplus
from shoal.rules.liveness import is_over, is_unclaimed


def clear(view: View) -> Iterator[Action]:
    """Give up everything a deleted service has left."""
    for slot in view.slots.values():
        yield Action("ServiceDeleted", (Remove(slot),))
    yield from let_go_of(view, view.tasks, "ServiceDeleted")


def give_up(view: View, held: Held) -> Iterator[Action]:
    """Give up one slot and its tasks; that no task lives on without its Slot, the first action sees to."""
    assert held.slot is not None
    live = [task for task in held.tasks if task.spec.desired_state.is_live]
    steps = (Remove(held.slot), *(step for task in live if (step := let_go(view, task)) is not None))
    yield Action("SlotRemoved", steps, note=f"{view.owner.metadata.name}.{held.name}: removed", about=view.owner)
    yield from let_go_of(view, [task for task in held.tasks if task not in live], "SlotRemoved")


def forget(view: View, held: Held, touched: Collection[str]) -> Iterator[Action]:
    """Forget what a slot that stays needs no more, but nothing that is being changed now (`touched` uids).

    That is: tasks given up earlier and now over, those no agent ever got or will report on any more, and ended
    tasks beyond the history limit.
    """
    current = held.current.metadata.uid if held.current else ""
    old = [task for task in held.tasks if task.metadata.uid != current and task.metadata.uid not in touched]
    given_up = [task for task in old if task.spec.desired_state is DesiredState.REMOVE]
    yield from let_go_of(view, given_up, "TaskRemoved")
    useless = [task for task in old if task not in given_up and _is_useless(view, task)]
    for task in useless:
        yield Action("TaskForgotten", (Remove(task),))
    kept = [task for task in held.history if task not in useless]
    for task in surplus(kept, current, history_limit(view.template, view.history_limit)):
        if task.metadata.uid not in touched:
            yield Action("TaskForgotten", (Remove(task),))


def let_go_of(view: View, tasks: Collection[Task], reason: str) -> Iterator[Action]:
    """Let go of tasks one by one, each on its own."""
    for task in tasks:
        step = let_go(view, task)
        if step is not None:
            yield Action(reason, (step,))


def _is_useless(view: View, task: Task) -> bool:
    """Told to stop, and it never started or its node was removed: it has nothing to tell and nothing to stop."""
    if task.spec.desired_state.is_live or task.status.state.is_terminal:
        return False
    return is_unclaimed(task) or is_over(task, view.node_of(task))
