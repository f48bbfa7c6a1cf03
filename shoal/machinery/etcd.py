"""The store on etcd, version 3.4 and later. Only importer of etcd3 and grpc; their errors end here.

Reads are quorum reads and are tried on every endpoint; a write is sent once. Every call has a deadline, so a frozen
etcd makes calls fail and nobody hang. A watch mends its stream by itself; how it tells that a stream is dead, and why
etcd's progress notifications never move its position, is told at `_Follower`.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import structlog
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from shoal.api.errors import (
    ExpiredError,
    ForbiddenError,
    InvalidError,
    InvariantError,
    NotFoundError,
    ShoalError,
    UnavailableError,
)
from shoal.machinery.store import (
    Batch,
    Compare,
    CreatedAt,
    Event,
    Exists,
    Item,
    Listing,
    NoneUnder,
    Put,
    Seen,
    Txn,
    Unchanged,
    check_txn,
    conflict_of,
    prefix_end,
)

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # before gRPC loads: its fork handlers break subprocesses
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client")  # its threads wake each other for every message
import grpc
import grpc.aio
from etcd3.etcdrpc import kv_pb2, rpc_pb2, rpc_pb2_grpc

CALL_S = 5.0
"""Deadline of one call, in seconds: an etcd that elects a leader answers in less."""

MESSAGE_BYTES = 64 << 20
"""Largest gRPC message accepted; gRPC's own limit is 4 MiB."""

PAGE_ITEMS = 500
"""Items asked for in the first page of a list; later pages aim at PAGE_BYTES."""

PAGE_BYTES = 4 << 20
"""Wanted size of a page: big enough to be quick, small enough not to hold up other calls."""

PROBE_S = 5.0
"""After so many silent seconds a watch's stream is asked for a sign of life."""

SILENCE_S = 10.0
"""A stream that gave no sign of life for so many seconds is dead: it was asked, and had half of them to answer."""

RETRY_S = (0.1, 2.0)
"""First and longest wait before a broken watch is opened again, in seconds; it doubles."""

WATCH_BUFFER = 1000
"""Batches a watch holds for a slow reader before it lets etcd wait."""

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),  # etcd refuses clients that ping more often than every 5 s
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 0),  # it pings with every message; a window for a slow line instead:
    ("grpc.http2.lookahead_bytes", 4 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
_PUT = kv_pb2.Event.PUT
_MODIFIED, _CREATED = rpc_pb2.Compare.MOD, rpc_pb2.Compare.CREATE

_HAS_LEADER = (("hasleader", "true"),)
"""Tells etcd to end a stream when its member has lost the quorum."""

_log = structlog.get_logger()
T = TypeVar("T")


@dataclass(frozen=True)
class Tls:
    """Files in PEM; the client certificate is needed where etcd asks for one."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None


class Status(NamedTuple):
    """What one member says of itself."""

    version: str
    member: int
    leader: int
    """Member id of the leader; 0 = there is none."""
    revision: int
    db_size_bytes: int


class EtcdStore:
    """`endpoints` are URLs of the members: http://127.0.0.1:2379, or https:// with `tls`.

    InvalidError where a URL or a certificate file is unusable.
    """

    def __init__(self, endpoints: Sequence[str], tls: Tls | None = None) -> None:
        if not endpoints:
            raise InvalidError("no etcd endpoint given")
        self._targets = [_target(url) for url in endpoints]
        self._credentials = _credentials(tls) if any(is_tls for _, is_tls in self._targets) else None
        self._endpoints: list[_Endpoint] = []
        self._current = 0
        self._is_closed = False
        self.cluster = 0
        """Id of the etcd cluster that answered last; a restored etcd has another."""

    async def get(self, key: str) -> Item | None:
        answer = await self._range(rpc_pb2.RangeRequest(key=key.encode()))
        return _item(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str) -> Listing:
        for _ in range(3):
            try:
                return await self._list(prefix)
            except ExpiredError:  # compacted between two pages: the next try starts at a newer revision
                continue
        raise UnavailableError(f"history is compacted faster than {prefix} can be listed")

    async def _list(self, prefix: str) -> Listing:
        """The first page fixes the revision, the others are read at it."""
        items: list[Item] = []
        start, end, revision, limit = prefix.encode() or b"\0", _end(prefix_end(prefix)), 0, PAGE_ITEMS
        while True:
            request = rpc_pb2.RangeRequest(key=start, range_end=end, limit=limit, revision=revision)
            try:
                answer = await self._range(request)
            except _TooLargeError:
                if limit == 1:
                    raise
                limit = max(1, limit // 8)
                continue
            revision = revision or answer.header.revision
            items.extend(map(_item, answer.kvs))
            if not answer.more:
                return Listing(tuple(items), revision)
            start = answer.kvs[-1].key + b"\0"
            limit = max(1, min(PAGE_ITEMS * 10, len(answer.kvs) * PAGE_BYTES // answer.ByteSize()))

    async def commit(self, txn: Txn) -> int:
        check_txn(txn)
        request = _request(txn)
        endpoint = self._pick()
        async with self._translated(endpoint):
            answer = await endpoint.kv.Txn(request, timeout=CALL_S)
        revision: int = answer.header.revision
        if not answer.succeeded:
            raise await self._refusal(txn.compares, revision)
        return revision

    async def _refusal(self, compares: Sequence[Compare], revision: int) -> ShoalError:
        """Return why a transaction was refused: what its compares saw, read at the revision they saw it at.

        It is read only now. Reading it in the transaction itself would make each of them a third larger, and hardly
        any is refused.
        """
        try:
            answer = await self._look(compares, revision)
        except ExpiredError:  # compacted in this very moment: what disagreed then still does, or is gone
            answer = await self._look(compares, 0)
        return _conflict(compares, [found.response_range.kvs for found in answer.responses])

    async def _look(self, compares: Sequence[Compare], revision: int) -> Any:
        request = rpc_pb2.TxnRequest(success=[_range_of(compare, revision) for compare in compares])
        return await self._read(lambda each: each.kv.Txn(request, timeout=CALL_S))

    @asynccontextmanager
    async def watch(self, prefix: str, since: int) -> AsyncIterator[AsyncIterator[Batch]]:
        send, receive = anyio.create_memory_object_stream[Batch | ShoalError](WATCH_BUFFER)
        with receive, _without_group():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_Follower(self, prefix, since, send).run)
                yield _Batches(receive)
                tasks.cancel_scope.cancel()

    async def lease_grant(self, ttl_s: float) -> int:
        request = rpc_pb2.LeaseGrantRequest(TTL=max(1, math.ceil(ttl_s)))
        answer = await self._read(lambda each: each.lease.LeaseGrant(request, timeout=CALL_S))
        lease: int = answer.ID
        return lease

    async def lease_keep_alive(self, lease: int) -> float:
        answer = await self._read(lambda each: each.renewals.renew(lease))
        left = float(answer.TTL)
        if left <= 0:
            raise NotFoundError(f"lease {lease} is gone")
        return left

    async def lease_revoke(self, lease: int) -> None:
        request = rpc_pb2.LeaseRevokeRequest(ID=lease)
        try:
            await self._read(lambda each: each.lease.LeaseRevoke(request, timeout=CALL_S))
        except NotFoundError:
            return

    async def compact(self, revision: int) -> None:
        request = rpc_pb2.CompactionRequest(revision=revision)
        try:
            await self._read(lambda each: each.kv.Compact(request, timeout=CALL_S))
        except ExpiredError as error:
            now = (await self.status()).revision
            if revision > now:
                raise InvariantError(f"revision {revision} cannot be compacted: the store is at {now}") from error

    async def status(self) -> Status:
        """Ask the member in use about itself."""
        answer = await self._read(lambda each: each.maintenance.Status(rpc_pb2.StatusRequest(), timeout=CALL_S))
        return Status(
            answer.version,
            answer.header.member_id,
            answer.leader,
            answer.header.revision,
            answer.dbSize,
        )

    async def close(self) -> None:
        """End all calls. Watches that are still open raise `UnavailableError`."""
        self._is_closed = True
        endpoints, self._endpoints = self._endpoints, []
        for endpoint in endpoints:
            await endpoint.channel.close()

    async def _range(self, request: Any) -> Any:
        return await self._read(lambda each: each.kv.Range(request, timeout=CALL_S))

    async def _read(self, call: Callable[[_Endpoint], Awaitable[Any]]) -> Any:
        """Make a call that may be repeated, on one endpoint after the other until one answers."""
        tries = len(self._targets)
        while True:
            endpoint = self._pick()
            tries -= 1
            try:
                async with self._translated(endpoint):
                    answer = await call(endpoint)
            except UnavailableError:
                if tries <= 0:
                    raise
                continue
            self.cluster = answer.header.cluster_id
            return answer

    def _pick(self) -> _Endpoint:
        """Return the endpoint in use; channels are made here, for they belong to the running loop."""
        if self._is_closed:
            raise UnavailableError("the store was closed")
        if not self._endpoints:
            self._endpoints = [_Endpoint(target, self._credentials if tls else None) for target, tls in self._targets]
        for _ in self._endpoints:
            endpoint = self._endpoints[self._current % len(self._endpoints)]
            if endpoint.channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                return endpoint
            self._current += 1
        return self._endpoints[self._current % len(self._endpoints)]

    def _leave(self, endpoint: _Endpoint) -> None:
        """Use the next endpoint from now on, unless somebody has left this one already."""
        if self._endpoints and self._endpoints[self._current % len(self._endpoints)] is endpoint:
            self._current += 1

    @asynccontextmanager
    async def _translated(self, endpoint: _Endpoint) -> AsyncIterator[None]:
        """Turn gRPC's errors into ours, and leave an endpoint that does not answer."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            translated = _translate(error, endpoint.target)
            if isinstance(translated, UnavailableError):
                self._leave(endpoint)
            raise translated from error
        except UnavailableError:
            self._leave(endpoint)
            raise
        except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise UnavailableError("the store was closed during a call") from error
        except asyncio.CancelledError:
            # gRPC raises a cancellation of its own in place of anyio's, whose scopes would not know it for theirs.
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise


class _Endpoint:
    """One member: a channel and its stubs."""

    def __init__(self, target: str, credentials: Any | None) -> None:
        self.target = target
        if credentials is None:
            self.channel: Any = grpc.aio.insecure_channel(target, options=_OPTIONS)
        else:
            self.channel = grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
        self.kv: Any = rpc_pb2_grpc.KVStub(self.channel)
        self.watch: Any = rpc_pb2_grpc.WatchStub(self.channel)
        self.lease: Any = rpc_pb2_grpc.LeaseStub(self.channel)
        self.renewals = _Renewals(self.lease.LeaseKeepAlive)
        self.maintenance: Any = rpc_pb2_grpc.MaintenanceStub(self.channel)


class _TooLargeError(ShoalError):
    """An answer was larger than MESSAGE_BYTES."""


class _BrokenError(Exception):
    """A watch's stream ended; the watch goes on over a new one."""


class _Follower:
    """Reads one watch to its end, over as many streams as it takes.

    - It asks etcd from `position` on, one revision earlier than needed, and drops what is not newer. So a position is
      expired exactly if it was compacted away (etcd 3.4 may lose a deletion *at* the compacted revision), and events
      that an old etcd repeats or delivers late do no harm.
    - Only events move the position. etcd's progress notifications may run ahead of events (fixed in 3.4.25), so they
      serve as sign of life alone: one is asked for after PROBE_S of silence, and a stream silent for SILENCE_S is dead
      even though its connection may be up.
    - A revision's events come in one response (we do not ask for fragments). A backlog too large for one message is
      expired too: a list is paged.
    - A store that has not reached the position was restored from a backup: expired, as is another cluster id.
    """

    def __init__(
        self, store: EtcdStore, prefix: str, since: int, deliver: MemoryObjectSendStream[Batch | ShoalError]
    ) -> None:
        self._store, self._prefix, self._deliver = store, prefix, deliver
        self._position, self._cluster = since, store.cluster
        self._failures = 0
        self._waits_since = math.inf
        """Since when etcd owes a response, by anyio's clock; inf while it is the reader who is slow."""

    async def run(self) -> None:
        async with self._deliver:
            while True:
                try:
                    endpoint = self._store._pick()
                    await self._follow(endpoint)
                except _BrokenError as error:
                    self._store._leave(endpoint)
                    await self._wait(error)
                except ShoalError as error:
                    await self._deliver.send(error)
                    return

    async def _wait(self, error: _BrokenError) -> None:
        if self._failures == 0:
            _log.warning("watch_broken", prefix=self._prefix, revision=self._position, error=str(error))
        first, longest = RETRY_S
        await anyio.sleep(min(longest, first * 2 ** min(self._failures, 10)))
        self._failures += 1

    async def _follow(self, endpoint: _Endpoint) -> None:
        call = endpoint.watch.Watch(metadata=_HAS_LEADER)
        try:
            with _broken(), _without_group():
                self._waits_since = anyio.current_time()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._guard, call, tasks)
                    await call.write(self._request())
                    await self._read(call)
        except asyncio.CancelledError:
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise _BrokenError(f"etcd was silent for {SILENCE_S:g} s") from None  # it was the guard
        finally:
            call.cancel()

    async def _guard(self, call: Any, tasks: TaskGroup) -> None:
        """Ask a silent stream for a sign of life, and end the call if none comes.

        A time limit around the read would do the same, were it not that gRPC and anyio cannot agree on cancellation.
        """
        asked = math.nan
        while True:
            since = self._waits_since
            now = anyio.current_time()
            if now - since >= SILENCE_S:
                call.cancel()
                return
            if now - since >= PROBE_S and asked != since:
                asked = since
                tasks.start_soon(_probe, call)
            limit = SILENCE_S if asked == since else PROBE_S
            await anyio.sleep(min(PROBE_S, since + limit - now))

    def _request(self) -> Any:
        create = rpc_pb2.WatchCreateRequest(
            key=self._prefix.encode() or b"\0",
            range_end=_end(prefix_end(self._prefix)),
            start_revision=max(1, self._position),
        )
        return rpc_pb2.WatchRequest(create_request=create)

    async def _read(self, call: Any) -> None:
        while True:
            self._waits_since = anyio.current_time()
            response = await call.read()
            self._waits_since = math.inf
            if response is grpc.aio.EOF:
                raise _BrokenError("etcd ended the stream")
            await self._check(response)
            for batch in _batches(response.events):
                if batch.revision > self._position:
                    self._position = batch.revision
                    await self._deliver.send(batch)

    async def _check(self, response: Any) -> None:
        """Raise if the watch cannot go on. etcd may say "canceled" in the same breath as "created"."""
        if response.compact_revision:
            raise ExpiredError(
                f"revision {self._position} was compacted; history begins after {response.compact_revision}"
            )
        if response.canceled:
            raise _BrokenError(response.cancel_reason or "etcd cancelled the watch")
        if not response.created:
            return
        if self._cluster and response.header.cluster_id != self._cluster:
            raise ExpiredError(f"etcd has another cluster id than revision {self._position} came from")
        self._cluster = response.header.cluster_id
        if response.header.revision < self._position:
            await self._check_not_restored()
        if self._failures:
            _log.info("watch_mended", prefix=self._prefix, revision=self._position, tries=self._failures)
        self._failures = 0

    async def _check_not_restored(self) -> None:
        """A member may lag behind the position, a quorum may not."""
        request = rpc_pb2.RangeRequest(key=b"\0", keys_only=True, limit=1)
        try:
            answer = await self._store._range(request)
        except UnavailableError as error:
            raise _BrokenError(str(error)) from error
        if answer.header.revision < self._position:
            raise ExpiredError(
                f"revision {self._position} lies ahead of the store's {answer.header.revision}: it went back"
            )


class _Batches:
    """What the reader of a watch iterates over."""

    def __init__(self, receive: MemoryObjectReceiveStream[Batch | ShoalError]) -> None:
        self._receive = receive
        self._error: ShoalError | None = None

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        if self._error is None:
            try:
                found = await self._receive.receive()
            except anyio.EndOfStream:
                found = UnavailableError("the store was closed during a watch")
            if isinstance(found, Batch):
                return found
            self._error = found
        raise self._error


async def _probe(call: Any) -> None:
    """Ask for a sign of life. That the stream is over is for its reader to find."""
    request = rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())
    try:
        await call.write(request)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return
    except asyncio.CancelledError:
        if call.cancelled():  # gRPC's word for a call that its reader gave up: nobody cancels this task
            return
        raise


class _Renewals:
    """Renews leases over one stream, as opening one costs more than all it carries; one renewal at a time."""

    def __init__(self, open_stream: Callable[..., Any]) -> None:
        self._open = open_stream
        self._call: Any = None
        self._turn = anyio.Lock()

    async def renew(self, lease: int) -> Any:
        """Return etcd's answer. A kept stream may have ended since, with its etcd; a new one tells."""
        async with self._turn:
            if self._call is not None:
                with suppress(grpc.aio.AioRpcError, _BrokenError):
                    return await self._ask(lease)
            try:
                return await self._ask(lease)
            except _BrokenError as error:
                raise UnavailableError(f"etcd did not answer the renewal of lease {lease}: {error}") from error

    async def _ask(self, lease: int) -> Any:
        """Ask over the kept stream or a new one, which is kept if it answers in time."""
        call = self._call or self._open(metadata=_HAS_LEADER)
        self._call = None
        limit = asyncio.get_running_loop().call_later(CALL_S, call.cancel)
        try:
            await call.write(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
            answer = await call.read()
        except asyncio.CancelledError:
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise UnavailableError(f"etcd did not answer the renewal of lease {lease} in {CALL_S:g} s") from None
        finally:
            limit.cancel()
        if answer is grpc.aio.EOF:
            raise _BrokenError("it ended the stream")
        self._call = call
        return answer


@contextmanager
def _broken() -> Iterator[None]:
    """Whatever ends a stream is a broken stream."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if isinstance(_translate(error, ""), _TooLargeError):
            raise ExpiredError(f"what a watch missed is larger than {MESSAGE_BYTES} bytes") from error
        raise _BrokenError(error.details() or error.code().name) from error
    except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:
        raise _BrokenError(str(error)) from error


@contextmanager
def _without_group() -> Iterator[None]:
    """Take the group off a lone error that went through a task group."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from group.exceptions[0].__cause__


def _translate(error: Any, target: str) -> ShoalError:
    code, message = error.code(), f"etcd at {target}: {error.details() or error.code().name}"
    if code is grpc.StatusCode.NOT_FOUND:
        return NotFoundError(message)
    if code is grpc.StatusCode.OUT_OF_RANGE:
        return ExpiredError(message)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvariantError(message)
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
        return ForbiddenError(message)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message:
        return _TooLargeError(message)
    return UnavailableError(message)


def _target(url: str) -> tuple[str, bool]:
    """Return host:port and whether to speak TLS."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise InvalidError(f"expected an etcd endpoint such as https://10.0.0.1:2379, found {url!r}")
    return f"{parts.netloc}" if parts.port else f"{parts.netloc}:2379", parts.scheme == "https"


def _credentials(tls: Tls | None) -> Any:
    if tls is None:
        return grpc.ssl_channel_credentials()
    try:
        ca, key, cert = (None if path is None else path.read_bytes() for path in (tls.ca, tls.key, tls.cert))
    except OSError as error:
        raise InvalidError(f"cannot read a certificate for etcd: {error}") from error
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)


def _item(found: Any) -> Item:
    return Item(found.key.decode(), found.value, found.mod_revision)


def _batches(events: Iterable[Any]) -> Iterator[Batch]:
    """Group a response's events, which come by revision."""
    revision, found = 0, list[Event]()
    for event in events:
        kv = event.kv
        if kv.mod_revision != revision:
            if found:
                yield Batch(revision, tuple(found))
            revision, found = kv.mod_revision, []
        found.append(Event(kv.key.decode(), kv.value if event.type == _PUT else None, revision))
    if found:
        yield Batch(revision, tuple(found))


def _end(end: str) -> bytes:
    """The end of a range; etcd writes "no end" as a zero byte."""
    return end.encode() or b"\0"


def _request(txn: Txn) -> Any:
    """Spell a transaction, each part in its place: parts that are made first are copied, at twice the price."""
    request = rpc_pb2.TxnRequest()
    for compare in txn.compares:
        _spell_compare(request.compare.add(), compare)
    for write in txn.writes:
        operation = request.success.add()
        if isinstance(write, Put):
            put = operation.request_put
            put.key, put.value = write.key.encode(), write.value
            if write.lease:
                put.lease = write.lease
        else:
            operation.request_delete_range.key = write.key.encode()
    return request


def _spell_compare(found: Any, compare: Compare) -> None:
    """Fill in a compare. Its result is EQUAL unless said otherwise."""
    match compare:
        case Unchanged(key, revision):
            found.key, found.target, found.mod_revision = key.encode(), _MODIFIED, revision
        case NoneUnder(prefix):
            found.key, found.range_end = prefix.encode() or b"\0", _end(prefix_end(prefix))
            found.target, found.create_revision = _CREATED, 0
        case Exists(key):
            found.key, found.target, found.create_revision = key.encode(), _CREATED, 0
            found.result = rpc_pb2.Compare.GREATER
        case CreatedAt(key, revision):  # 0 would hold where the key does not exist
            found.key, found.target, found.create_revision = key.encode(), _CREATED, revision or -1


def _range_of(compare: Compare, revision: int) -> Any:
    """Read what a compare looked at, as it was at a revision (0 = as it is)."""
    if isinstance(compare, NoneUnder):
        start, end = compare.prefix.encode() or b"\0", _end(prefix_end(compare.prefix))
        look = rpc_pb2.RangeRequest(key=start, range_end=end, limit=1, keys_only=True, revision=revision)
    else:
        look = rpc_pb2.RangeRequest(key=compare.key.encode(), keys_only=True, revision=revision)
    return rpc_pb2.RequestOp(request_range=look)


def _conflict(compares: Sequence[Compare], found: Sequence[Sequence[Any]]) -> ShoalError:
    """Name the first compare that does not hold."""
    for compare, kvs in zip(compares, found, strict=True):
        seen = Seen(kvs[0].key.decode(), kvs[0].create_revision, kvs[0].mod_revision) if kvs else None
        conflict = conflict_of(compare, seen)
        if conflict is not None:
            return conflict
    return InvariantError("etcd refused a transaction whose compares all hold")
