"""Handlers for objects of every kind: list, watch, get, create, replace, patch, delete, apply."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from http import HTTPStatus
from typing import Any, Final

import anyio
import msgspec
from aiohttp import web

from apiserver import audit, incoming, kinds, watches, wire
from apiserver.admission import Admission, View
from apiserver.admit_rollout import Request, admit_rollout
from apiserver.joined import Joined, network_body
from apiserver.lookup import find
from apiserver.mirror import FIELD_INDEXES, Mirror
from apiserver.selectors import Selector, Term, parse_for
from apiserver.vault import shown
from apiserver.watches import Hub, Record
from apiserver.writes import Writes, fresh_uid
from shoal.api import codec, keys
from shoal.api import objects as o
from shoal.api.errors import (
    AlreadyExistsError,
    ConflictError,
    Fault,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    ShoalError,
    UnavailableError,
)
from shoal.machinery.cache import Cache, Change

RESULT: Final = "Shoal-Result"
"""The header that says what a write came to: created, configured, unchanged."""

GONE_S: Final = 1.0
"""Seconds between looks whether the client of a quiet stream is still there."""

SEND_S: Final = 30.0
"""Seconds a client may take to read what fits into a socket's buffers before its connection is cut."""


class Objects:
    def __init__(self, mirror: Mirror, hub: Hub, joined: Joined, writes: Writes, bookmark_s: float) -> None:
        self._mirror, self._hub, self._joined, self._writes = mirror, hub, joined, writes
        self._bookmark_s = bookmark_s
        self._events_seen = 0
        """The newest revision of an event."""

    async def list_or_watch(self, request: web.Request) -> web.StreamResponse:
        kind = kinds.kind_of(request.match_info["plural"])
        words = ("labels", "fields", "limit", "continue", "watch", "since")
        query = incoming.only(request.query, *words, *(("about",) if kind is o.Event else ()))
        selector = parse_for(kind, query.get("labels", ""), query.get("fields", ""))
        if kind is o.Event and query.get("about"):
            selector = about(selector, query["about"], await self._mirror.fresh())
        if incoming.flag(query, "watch"):
            return await self._watch(request, kind, selector)
        cache = await self._mirror.fresh()
        limit = incoming.number(query, "limit")
        first_version, after = _continued(query.get("continue", ""))
        version = first_version or self._mirror.version(self._seen(kind))
        found = sorted(key for key, obj in _candidates(cache, kind, selector) if key > after and selector.matches(obj))
        more = ""
        if limit and len(found) > limit:
            found = found[:limit]
            more = _continue(version, found[-1])
        if kind is o.Event:  # only now: pages follow the order of keys
            found.sort(key=lambda key: _last_at(cache.get(o.Event, key)))
        body = wire.listing(kind.KIND, version, (self.body(kind, key) for key in found), more)
        return json_response(body)

    def _seen(self, kind: type[o.Object]) -> int:
        """Return the revision a kind is shown at. Events come by a watch of their own."""
        return max(self._mirror.revision, self._events_seen) if kind is o.Event else self._mirror.revision

    def body(self, kind: type[o.Object], key: str) -> bytes:
        """Return an object as it is answered."""
        if kind is o.Service:
            service = self._mirror.cache.get(o.Service, key)
            if service is not None:
                return self._joined.body(key, service)
        network = self._mirror.cache.get(o.Network, key) if kind is o.Network else None
        if network is not None:
            return network_body(self._mirror, key, network)
        return self._mirror.bytes_of(key)

    async def get(self, request: web.Request) -> web.StreamResponse:
        incoming.only(request.query)
        kind = kinds.kind_of(request.match_info["plural"])
        obj = find(await self._mirror.fresh(), kind, request.match_info["name"])
        return json_response(self.body(kind, keys.key_of(obj)))

    async def _watch(self, request: web.Request, kind: type[o.Object], selector: Selector) -> web.StreamResponse:
        await self._mirror.fresh()
        if "since" in request.query:
            since = max(0, incoming.number(request.query, "since") - self._mirror.base)
            if kind is not o.Event:
                await self._mirror.wait_for(since)
        else:
            since = self._seen(kind)
        watcher = self._hub.subscribe(kind, selector, since)
        if kind is o.Service:
            self._joined.begin_telling()
        lines = watches.lines(
            self._hub, kind, watcher, self._bookmark_s, lambda: self._mirror.version(self._seen(kind))
        )
        return await stream(request, lines)

    def changed(self, revision: int, changes: Sequence[Change], is_new: bool) -> None:
        """Publish what the watch has brought; a first sight of the store is listed, not published."""
        self._joined.note(changes, is_new=is_new)
        if is_new:
            return
        base = self._mirror.base
        for change in changes:
            kind = change.kind
            body = self.body(kind, change.key) if change.new is not None else b""
            if kind is o.Event and change.new is not None:
                self._events_seen = max(self._events_seen, change.new.metadata.resource_version)
            at = self._seen(kind)
            record = Record(at, at + base, change.key, change.old, change.new, body)
            self._hub.publish(kind, record)
            if kind is o.Service:
                self._joined.was_told(change.key)

    def tell_joined(self, key: str, service: o.Service) -> None:
        """Publish a service whose joined part has changed though it itself has not."""
        revision = self._mirror.revision
        record = Record(
            revision, self._mirror.version(revision), key, service, service, self._joined.body(key, service)
        )
        self._hub.publish(o.Service, record)
        self._joined.was_told(key)

    async def create(self, request: web.Request) -> web.StreamResponse:
        kind = kinds.kind_of(request.match_info["plural"])
        rules = kinds.rules_of(kind)
        incoming.only(request.query, "dryRun")
        new = incoming.object_from(incoming.json_from(await request.read()), kind)
        uid = fresh_uid()

        def admit(view: View) -> Admission:
            old = _stored(view, new)
            if old is not None:
                raise AlreadyExistsError(f"{kind.KIND.lower()} {new.metadata.name} already exists")
            return rules.admit(None, new, view, uid)

        return await self._written(request, admit, status=201)

    async def replace(self, request: web.Request) -> web.StreamResponse:
        plain = incoming.json_from(await request.read())
        return await self._changed_to(request, lambda _: plain)

    async def patch(self, request: web.Request) -> web.StreamResponse:
        patch = incoming.json_from(await request.read())
        return await self._changed_to(request, lambda old: incoming.patched(old, patch))

    async def _changed_to(self, request: web.Request, wanted: Any) -> web.StreamResponse:
        kind = kinds.kind_of(request.match_info["plural"])
        rules = kinds.rules_of(kind)
        incoming.only(request.query, "dryRun")

        def admit(view: View) -> Admission:
            old = find(view.cache, kind, request.match_info["name"])
            new = incoming.object_from(wanted(old), kind, old)
            self._expect(old, new.metadata.resource_version)
            return rules.admit(old, new, view, "")

        return await self._written(request, admit)

    async def rollout(self, request: web.Request) -> web.StreamResponse:
        """Do what is asked of a service's rollout; answers the service."""
        incoming.only(request.query, "dryRun")
        asked = incoming.understood(await request.read(), Request)

        def admit(view: View) -> Admission:
            return admit_rollout(find(view.cache, o.Service, request.match_info["name"]), asked, view)

        return await self._written(request, admit)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        kind = kinds.kind_of(request.match_info["plural"])
        rules = kinds.rules_of(kind)
        incoming.only(request.query, "resourceVersion", "force", "dryRun")
        version = incoming.number(request.query, "resourceVersion")
        forced = incoming.flag(request.query, "force")
        body = b""

        def admit(view: View) -> Admission:
            nonlocal body
            old = find(view.cache, kind, request.match_info["name"])
            self._expect(old, version)
            body = self.body(kind, keys.key_of(old))
            return rules.delete(old, view, forced)

        written = await self._writes.write(admit, dry_run=incoming.flag(request.query, "dryRun"))
        audit.note(f"{kind.KIND.lower()}/{written.obj.metadata.name}", written.admission.result)
        return json_response(body)

    def _expect(self, old: o.Object, version: int) -> None:
        """ConflictError unless the client has seen the stored version, or does not care."""
        found = self._mirror.version(old.metadata.resource_version)
        if version and version != found:
            raise ConflictError(keys.key_of(old), version, found)

    async def _written(self, request: web.Request, admit: Any, status: int = 200) -> web.StreamResponse:
        written = await self._writes.write(admit, dry_run=incoming.flag(request.query, "dryRun"))
        response = json_response(self._answer(written.obj, bool(written.revision)), status)
        response.headers[RESULT] = written.admission.result
        audit.note(f"{written.obj.KIND.lower()}/{written.obj.metadata.name}", written.admission.result)
        return response

    def _answer(self, obj: o.Object, is_written: bool) -> bytes:
        """Return what was written as the mirror now shows it; after a dry run, what would have been."""
        key = keys.key_of(obj)
        unchanged = obj.metadata.resource_version and self._mirror.read(key) == obj
        if (is_written or unchanged) and self._mirror.read(key) is not None:
            return self.body(type(obj), key)
        return msgspec.json.encode(_plain(obj))

    async def apply(self, request: web.Request) -> web.StreamResponse:
        """Validate all, then write all, services last; nothing is written unless everything is valid.

        Where somebody is in the way of a later one all the same, it ends there: 207 tells what is written by then.
        """
        incoming.only(request.query, "dryRun")
        wanted = sorted(_wanted(incoming.json_from(await request.read())), key=lambda obj: isinstance(obj, o.Service))
        dry_run = incoming.flag(request.query, "dryRun")
        uids = [fresh_uid() for _ in wanted]
        admissions = self._admitted(self._writes.view(await self._mirror.fresh()), wanted, uids)
        if dry_run:
            return json_response(msgspec.json.encode({"results": [self._would(one) for one in admissions]}))
        results: list[dict[str, Any]] = []
        for new, uid in zip(wanted, uids, strict=True):
            try:
                written = await self._writes.write(lambda view, new=new, uid=uid: self._admit_one(view, new, uid))  # type: ignore[misc]
            except ShoalError as error:
                if not results:
                    raise
                rest = _unwritten(error, wanted[len(results) :])
                return json_response(msgspec.json.encode({"results": [*results, *rest]}), HTTPStatus.MULTI_STATUS)
            results.append(_result(written.admission))
            audit.note(f"{new.KIND.lower()}/{new.metadata.name}", written.admission.result)
        return json_response(msgspec.json.encode({"results": results}))

    def _admitted(self, view: View, wanted: list[o.Object], uids: list[str]) -> list[Admission]:
        """Admit one object after the other, each seeing those before it; InvalidError with all faults of all."""
        faults: list[Fault] = []
        admissions = []
        for new, uid in zip(wanted, uids, strict=True):
            name = f"{new.KIND.lower()}/{new.metadata.name}"
            try:
                admission = self._admit_one(view, new, uid)
            except (InvalidError, ForbiddenError) as error:
                admission = Admission(new, faults=(Fault("", str(error)),))
            faults += [msgspec.structs.replace(fault, object=name) for fault in admission.faults]
            admissions.append(admission)
            view = view.after(admission.steps)
        if faults:
            raise InvalidError(faults)
        return admissions

    def _admit_one(self, view: View, new: o.Object, uid: str) -> Admission:
        rules = kinds.rules_of(type(new))
        old = _stored(view, new)
        if old is not None:
            self._expect(old, new.metadata.resource_version)
        return rules.admit(old, new, view, uid)

    def _would(self, admission: Admission) -> dict[str, Any]:
        """What a dry run answers: the result, and the object before and after, for a diff."""
        before = self._mirror.read(keys.key_of(admission.obj)) if admission.result != "created" else None
        return {
            **_result(admission),
            "before": _plain(before) if before is not None else None,
            "after": _plain(admission.obj),
        }


def _plain(obj: o.Object) -> dict[str, Any]:
    plain: dict[str, Any] = codec.to_builtins(shown(obj))
    return plain


def _result(admission: Admission) -> dict[str, Any]:
    obj = admission.obj
    return {"kind": obj.KIND, "name": obj.metadata.name, "result": admission.result}


def _unwritten(error: ShoalError, left: Sequence[o.Object]) -> Iterator[dict[str, Any]]:
    """Tell of the object that an error stopped, and of those after it, which nobody tried to write."""
    is_unknown = isinstance(error, UnavailableError)
    for at, obj in enumerate(left):
        plain = {"kind": obj.KIND, "name": obj.metadata.name, "result": "not written"}
        yield {**plain, "result": "unknown" if is_unknown else "refused", "message": str(error)} if at == 0 else plain


def _wanted(plain: Any) -> list[o.Object]:
    """Read the body of an apply; InvalidError with the faults of every object."""
    documents = plain.get("objects") if isinstance(plain, Mapping) else None
    if not isinstance(documents, list) or not documents:
        raise InvalidError([Fault("objects", "expected a list of objects")])
    faults: list[Fault] = []
    wanted: list[o.Object] = []
    for at, document in enumerate(documents):
        intake = incoming.checked(document)
        if intake.obj is not None:
            wanted.append(intake.obj)
            continue
        name = _name_in(document) or f"objects[{at}]"
        faults += [fault if fault.object else msgspec.structs.replace(fault, object=name) for fault in intake.faults]
    seen: set[tuple[str, str]] = set()
    for obj in wanted:
        named = (obj.KIND, obj.metadata.uid or obj.metadata.name)
        if named in seen:
            faults.append(Fault("metadata.name", "given twice in one apply", object=f"{named[0].lower()}/{named[1]}"))
        seen.add(named)
    if faults:
        raise InvalidError(faults)
    return wanted


def _name_in(document: Any) -> str:
    if not isinstance(document, Mapping) or not isinstance(document.get("metadata"), Mapping):
        return ""
    kind, name = document.get("kind"), document["metadata"].get("name")
    return f"{kind.lower()}/{name}" if isinstance(kind, str) and isinstance(name, str) else ""


def _stored(view: View, new: o.Object) -> o.Object | None:
    """Return the stored object that a wanted one is about: a node by uid, or by a name only one node has."""
    if isinstance(new, o.Node):
        if new.metadata.uid:
            return view.get(o.Node, keys.node(new.metadata.uid))
        by_uid = view.get(o.Node, keys.node(new.metadata.name))
        if by_uid is not None:
            return by_uid
        named = [node for node in view.all(o.Node) if node.metadata.name == new.metadata.name]
        if len(named) > 1:
            raise InvalidError(
                [Fault("metadata.name", f"{len(named)} nodes are called {new.metadata.name}: give a uid")]
            )
        return named[0] if named else None
    return view.get(type(new), keys.key_of(new))


def _candidates(cache: Cache, kind: type[o.Object], selector: Selector) -> list[tuple[str, o.Object]]:
    """Return the objects to look at, from the smallest index that can answer."""
    for (indexed, field), index in FIELD_INDEXES.items():
        value = selector.only(field) if indexed is kind else None
        if value is not None:
            return list(cache.by(index, value).items())
    return list(cache.all(kind).items())


def about(selector: Selector, text: str, cache: Cache) -> Selector:
    """Narrow a selector of events to those about one object: `service/web`, `kind/<uid>`."""
    word, _, name = text.partition("/")
    kind = next((kind for kind in o.KINDS.values() if word.lower() in (kind.KIND.lower(), kind.PLURAL)), None)
    if kind is None or not name:
        raise InvalidError(
            [Fault("about", f"expected kind/name or kind/uid, such as service/web, found {text[:100]!r}")]
        )
    try:
        uid = find(cache, kind, name).metadata.uid
    except NotFoundError:
        uid = name  # what is gone may still have events
    terms = (Term("about.kind", frozenset({kind.KIND})), Term("about.uid", frozenset({uid})))
    return Selector(selector.labels, (*selector.fields, *terms))


def _last_at(event: o.Event | None) -> str:
    return event.last_at.isoformat() if event is not None and event.last_at is not None else ""


def _continue(version: int, key: str) -> str:
    return base64.urlsafe_b64encode(f"{version} {key}".encode()).decode()


def _continued(token: str) -> tuple[int, str]:
    """Return the version and the key that an earlier page ended with."""
    if not token:
        return 0, ""
    try:
        version, _, key = base64.urlsafe_b64decode(token.encode()).decode().partition(" ")
        return int(version), key
    except (ValueError, binascii.Error) as error:
        raise InvalidError([Fault("continue", "not a token this server has given")]) from error


def json_response(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


async def stream(
    request: web.Request, lines: AsyncGenerator[bytes, None], heard: Callable[[bytes], None] = lambda _: None
) -> web.StreamResponse:
    """Send lines until they end or the client goes; one that stops reading is cut off.

    `heard` is called for each line that comes as part of the request's body: a sign of life.
    """
    response = web.StreamResponse(headers={"Content-Type": "application/json-lines", "Cache-Control": "no-store"})
    await response.prepare(request)
    is_stuck = False
    async with anyio.create_task_group() as tasks, aclosing(lines):
        tasks.start_soon(_end_with, request, tasks.cancel_scope, heard)
        try:
            async for line in lines:
                is_stuck = bool(line) and not await _sent(response, line)
                line = b""  # a long one is not kept until the next comes
                if is_stuck:
                    break
            else:
                await response.write_eof()
        except ConnectionResetError:
            pass
        tasks.cancel_scope.cancel()
    if is_stuck and request.transport is not None:
        request.transport.abort()
    return response


async def _sent(response: web.StreamResponse, line: bytes) -> bool:
    """Whether the client took the line in time."""
    for piece in wire.pieces(line):
        with anyio.move_on_after(SEND_S) as waiting:
            await response.write(piece)
        if waiting.cancelled_caught:
            return False
    return True


async def _end_with(request: web.Request, scope: anyio.CancelScope, heard: Callable[[bytes], None]) -> None:
    """Cancel once the client is gone: a quiet stream would never notice. One that goes on sending ends by itself."""
    with suppress(ConnectionError):
        async for line in request.content:
            heard(line)
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110  aiohttp has no event
        await anyio.sleep(GONE_S)
    scope.cancel()


def error_response(error: ShoalError) -> web.Response:
    faults = [msgspec.to_builtins(fault) for fault in error.faults] if isinstance(error, InvalidError) else []
    body = {"reason": error.reason, "message": str(error), "faults": faults}
    return json_response(msgspec.json.encode(body), error.status)
