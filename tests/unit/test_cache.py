from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shoal.api import keys
from shoal.api.objects import Node, Task
from shoal.api.states import TaskState
from shoal.machinery.cache import Cache, Change, Fold, Index
from shoal.machinery.factories import at_revision, make_node, make_service, make_task

BY_STATE = Index(Task, lambda task: (task.status.state,))


class Running(Fold[Task]):
    kind = Task

    def __init__(self) -> None:
        self.count = 0

    def change(self, old: Task | None, new: Task | None) -> None:
        for task, by in ((old, -1), (new, 1)):
            if task is not None and task.status.state is TaskState.RUNNING:
                self.count += by


def test_setting_tells_what_changed() -> None:
    cache = Cache()
    node = at_revision(make_node(), 3)
    key = keys.key_of(node)
    assert cache.set(key, node) == Change(key, None, node)
    assert cache.set(key, node) is None
    assert cache.set(key, None) == Change(key, node, None)
    assert cache.set(key, None) is None


def test_an_older_state_does_not_replace_a_newer_one() -> None:
    cache = Cache()
    newer, older = at_revision(make_node(cpus=8), 9), at_revision(make_node(cpus=4), 8)
    cache.set(keys.key_of(newer), newer)
    assert cache.set(keys.key_of(older), older) is None
    assert cache.get(Node, keys.key_of(newer)) is newer


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from([None, TaskState.PENDING, TaskState.RUNNING, TaskState.FAILED])),
        max_size=40,
    )
)
def test_indexes_and_sums_always_agree_with_the_objects(changes: list[tuple[int, TaskState | None]]) -> None:
    cache = Cache([BY_STATE], [Running()])
    service = make_service()
    for revision, (slot, state) in enumerate(changes, start=1):
        task = at_revision(make_task(service, slot), revision)
        new = (
            msgspec.structs.replace(task, status=msgspec.structs.replace(task.status, state=state))
            if state is not None
            else None
        )
        cache.set(keys.key_of(task), new)
    tasks = cache.all(Task)
    for state in TaskState:
        assert dict(cache.by(BY_STATE, state)) == {
            key: task for key, task in tasks.items() if task.status.state is state
        }
    assert cache.fold(Running).count == len(cache.by(BY_STATE, TaskState.RUNNING))
