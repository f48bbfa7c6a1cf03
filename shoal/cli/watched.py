"""A kind's objects, listed and then kept true by a watch, for commands that go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final, NamedTuple

import anyio
import msgspec

from shoal.api.codec import dec_hook
from shoal.api.errors import ExpiredError, UnavailableError
from shoal.api.keys import key_of
from shoal.api.objects import Object
from shoal.cli.client import Client, Plain

PATIENCE_S: Final = 30.0
"""Seconds to try again when an API server that has answered before is away: it is being restarted."""

AGAIN_S: Final = 0.5


class Change(NamedTuple):
    key: str
    old: Plain | None
    new: Plain | None
    """None = deleted."""


async def follow(client: Client, kind: type[Object], labels: str = "", fields: str = "") -> AsyncIterator[list[Change]]:
    """Yield all objects as one list of changes (maybe empty), then what changes; never ends by itself."""
    known: dict[str, Plain] = {}
    first = True
    while True:
        items, version = await (_list if first else _list_again)(client, kind, labels, fields)
        found = {_key(kind, item): item for item in items}
        changes = list(_differences(known, found))
        known = found
        if changes or first:
            yield changes
        first = False
        try:
            async for line in client.watch(kind.PLURAL, version, labels, fields):
                if line["type"] == "bookmark":
                    continue
                key, new = line["key"], line.get("object")
                old = known.pop(key, None)
                if new is not None:
                    known[key] = new
                yield [Change(key, old, new)]
        except (ExpiredError, UnavailableError):
            await anyio.sleep(AGAIN_S)


async def _list(client: Client, kind: type[Object], labels: str, fields: str) -> tuple[list[Plain], int]:
    return await client.list(kind.PLURAL, labels, fields)


async def _list_again(client: Client, kind: type[Object], labels: str, fields: str) -> tuple[list[Plain], int]:
    until = anyio.current_time() + PATIENCE_S
    while True:
        try:
            return await client.list(kind.PLURAL, labels, fields)
        except UnavailableError:
            if anyio.current_time() > until:
                raise
            await anyio.sleep(AGAIN_S)


def _differences(old: dict[str, Plain], new: dict[str, Plain]) -> list[Change]:
    changed = [Change(key, old.get(key), obj) for key, obj in new.items() if old.get(key) != obj]
    return changed + [Change(key, obj, None) for key, obj in old.items() if key not in new]


def _key(kind: type[Object], plain: dict[str, Any]) -> str:
    return key_of(msgspec.convert(plain, kind, dec_hook=dec_hook))


class Mirror:
    """What `follow` yields, gathered: `objects` by key; `changed` is set anew after every change."""

    def __init__(self) -> None:
        self.objects: dict[str, Plain] = {}
        self.synced = False

    async def run(
        self, client: Client, kind: type[Object], changed: Callable[[], None], labels: str = "", fields: str = ""
    ) -> None:
        async for changes in follow(client, kind, labels, fields):
            for change in changes:
                if change.new is None:
                    self.objects.pop(change.key, None)
                else:
                    self.objects[change.key] = change.new
            self.synced = True
            changed()
