"""Objects in the assignments stream that this version cannot read."""

from __future__ import annotations

from typing import Any

import msgspec

from nodeagent.client import read_message
from nodeagent.reading import read_objects
from shoal.api import codec, keys
from shoal.machinery.factories import make_service, make_task

TASK = make_task(make_service("web"), 1)
GOOD = codec.to_builtins(TASK)
BAD = {**GOOD, "spec": {**GOOD["spec"], "desiredState": "hibernating"}}


def put(*objects: dict[str, Any]) -> tuple[msgspec.Raw, ...]:
    return read_message(msgspec.json.encode({"type": "update", "put": objects, "more": "of newer code"})).put


def test_what_cannot_be_read_is_left_out_and_the_rest_is_taken() -> None:
    found, _ = read_objects(put(BAD, GOOD, {"kind": "Galaxy"}))
    assert [obj.metadata.name for obj in found] == [TASK.metadata.name]


def test_an_unreadable_task_is_named_so_that_it_is_not_taken_for_gone() -> None:
    assert read_objects(put(BAD, {"kind": "Galaxy"}))[1] == {keys.task(TASK.metadata.name)}
    assert not read_objects(put(GOOD))[1]


def test_an_object_comes_with_the_version_it_shows() -> None:
    shown = {**GOOD, "metadata": {**GOOD["metadata"], "resourceVersion": 12}}
    (found,), _ = read_objects(put(shown))
    assert found.metadata.resource_version == 12
