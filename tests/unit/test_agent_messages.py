"""Objects in the assignments stream that this version cannot read."""

from __future__ import annotations

from nodeagent.client import Message
from shoal.api import codec, keys
from shoal.machinery.factories import make_service, make_task

TASK = make_task(make_service("web"), 1)
GOOD = codec.to_builtins(TASK)
BAD = {**GOOD, "spec": {**GOOD["spec"], "desiredState": "hibernating"}}


def test_what_cannot_be_read_is_left_out_and_the_rest_is_taken() -> None:
    message = Message("update", {"put": [BAD, GOOD, {"kind": "Galaxy"}]})
    assert [obj.metadata.name for obj in message.objects("put")] == [TASK.metadata.name]


def test_an_unreadable_task_is_named_so_that_it_is_not_taken_for_gone() -> None:
    message = Message("complete", {"objects": [BAD, {"kind": "Galaxy"}]})
    assert message.unreadable_tasks("objects") == {keys.task(TASK.metadata.name)}
    assert not Message("complete", {"objects": [GOOD]}).unreadable_tasks("objects")
