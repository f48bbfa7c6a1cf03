"""The store on a real etcd that is killed, frozen, cut off, compacted and wiped while it is in use."""

from __future__ import annotations

import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from shoal.api.errors import ConflictError, ExpiredError, InvalidError, UnavailableError
from shoal.machinery import etcd as adapter
from shoal.machinery.etcd import EtcdStore, Tls
from shoal.machinery.store import MAX_TRANSACTION_BYTES, Batch, Event, Put, Txn, Unchanged
from tests.support.certificates import TlsFiles, make_tls_files
from tests.support.etcd import EtcdProcess, free_ports, running_etcd
from tests.support.proxy import running_proxy

pytestmark = pytest.mark.anyio
PREFIX = "/shoal/outages/"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lose patience sooner than in production, for the sake of short tests."""
    monkeypatch.setattr(adapter, "CALL_S", 1.0)
    monkeypatch.setattr(adapter, "PROBE_S", 0.4)
    monkeypatch.setattr(adapter, "SILENCE_S", 1.0)


@pytest.fixture
async def store(own_etcd: EtcdProcess) -> AsyncIterator[EtcdStore]:
    found = EtcdStore([own_etcd.url])
    yield found
    await found.close()


@pytest.fixture
async def shared(etcd: EtcdProcess) -> AsyncIterator[EtcdStore]:
    """On the run's etcd, for tests that do it no harm."""
    found = EtcdStore([etcd.url])
    yield found
    await found.close()


async def put(store: EtcdStore, name: str, value: bytes = b"x") -> int:
    """Put, and put again while the store is away."""
    while True:
        try:
            return await store.commit(Txn((), (Put(PREFIX + name, value),)))
        except UnavailableError:
            await anyio.sleep(0.05)


async def take_until(watch: AsyncIterator[Batch], name: str, within: float = 20.0) -> list[Event]:
    """Read events until one is about `name`."""
    events: list[Event] = []
    with anyio.fail_after(within):
        async for batch in watch:
            events += batch.events
            if any(event.key == PREFIX + name for event in batch.events):
                return events
    raise AssertionError("the watch ended")


async def add_one(store: EtcdStore) -> None:
    """Add one to a counter exactly once, reading back whenever the outcome is unknown."""
    wanted: int | None = None
    while True:
        try:
            item = await store.get(PREFIX + "counter")
            value, revision = (int(item.value), item.revision) if item else (0, 0)
            if wanted is not None and value == wanted:
                return
            wanted = value + 1
            write = Put(PREFIX + "counter", str(wanted).encode())
            await store.commit(Txn((Unchanged(PREFIX + "counter", revision),), (write,)))
            return
        except UnavailableError:
            await anyio.sleep(0.05)


async def test_kill_and_restart_in_the_middle_of_a_watch_and_commits(own_etcd: EtcdProcess, store: EtcdStore) -> None:
    since = (await store.list(PREFIX)).revision
    seen: list[Event] = []

    async def kill_thrice() -> None:
        for _ in range(3):
            await anyio.sleep(0.2)
            own_etcd.kill()
            await own_etcd.restart()

    async with store.watch(PREFIX, since) as watch:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill_thrice)
            for _ in range(300):
                await add_one(store)
        await put(store, "end")
        seen = await take_until(watch, "end")
    async with store.watch(PREFIX, since) as again:
        assert seen == await take_until(again, "end")
    counter = await store.get(PREFIX + "counter")
    assert counter is not None
    assert counter.value == b"300"
    assert [event.value for event in seen[:-1]] == [str(number + 1).encode() for number in range(300)]


@pytest.mark.usefixtures("quick")
async def test_a_frozen_etcd_fails_calls_in_time_and_the_watch_goes_on_after_it(
    own_etcd: EtcdProcess, store: EtcdStore
) -> None:
    since = await put(store, "a")
    async with store.watch(PREFIX, since) as watch:
        await put(store, "b")
        await take_until(watch, "b")
        own_etcd.freeze()
        started = time.monotonic()
        for call in (store.get(PREFIX), store.list(PREFIX), store.commit(Txn()), store.lease_grant(5), store.status()):
            with pytest.raises(UnavailableError):
                await call
        assert time.monotonic() - started < 20
        own_etcd.thaw()
        await put(store, "c")
        assert [event.key for event in await take_until(watch, "c")] == [PREFIX + "c"]


async def test_a_call_can_be_given_up_at_any_moment(own_etcd: EtcdProcess, store: EtcdStore) -> None:
    """gRPC cancels in its own way; a scope of anyio's must still know its cancellation again."""
    lease = await store.lease_grant(60)

    async def watch() -> None:
        async with store.watch(PREFIX, 1) as batches:
            await anext(batches)

    own_etcd.freeze()
    for call in (
        lambda: store.get(PREFIX),
        lambda: store.list(PREFIX),
        lambda: store.commit(Txn((), (Put(PREFIX, b""),))),
        lambda: store.lease_keep_alive(lease),
        watch,
    ):
        for patience_s in (0.0, 0.01, 0.1):
            with anyio.move_on_after(patience_s) as scope:
                await call()
            assert scope.cancelled_caught, (call, patience_s)


@pytest.mark.usefixtures("quick")
async def test_a_silent_stream_is_left_though_its_connection_is_up(etcd: EtcdProcess) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(running_proxy(etcd.port))
        direct, proxied = EtcdStore([etcd.url]), EtcdStore([f"http://127.0.0.1:{proxy.port}", etcd.url])
        stack.push_async_callback(direct.close)
        stack.push_async_callback(proxied.close)
        since = await put(proxied, "a")
        watch = await stack.enter_async_context(proxied.watch(PREFIX, since))
        await put(direct, "b")
        await take_until(watch, "b")
        proxy.hold_answers()
        await put(direct, "c")
        assert [event.key for event in await take_until(watch, "c")] == [PREFIX + "c"]


async def test_a_watch_survives_idleness_longer_than_its_patience(
    etcd: EtcdProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle etcd is no silent one: probes are answered, and the stream stays."""
    monkeypatch.setattr(adapter, "PROBE_S", 0.2)
    monkeypatch.setattr(adapter, "SILENCE_S", 0.7)
    async with running_proxy(etcd.port) as proxy:
        store = EtcdStore([f"http://127.0.0.1:{proxy.port}"])
        async with store.watch(PREFIX, await put(store, "a")) as watch:
            with anyio.move_on_after(2):
                await anext(watch)
            assert proxy.accepted == 1
            await put(store, "b")
            await take_until(watch, "b")
        await store.close()


async def test_compaction_behind_a_broken_watch_expires_it(etcd: EtcdProcess, shared: EtcdStore) -> None:
    async with running_proxy(etcd.port) as proxy:
        proxied = EtcdStore([f"http://127.0.0.1:{proxy.port}"])
        async with proxied.watch(PREFIX, await put(shared, "a")) as watch:
            await put(shared, "b")
            await take_until(watch, "b")
            proxy.cut()
            await put(shared, "c")
            await shared.compact(await put(shared, "d"))
            proxy.mend()
            with anyio.fail_after(10), pytest.raises(ExpiredError):
                await anext(watch)
        await proxied.close()


async def test_compaction_between_the_pages_of_a_list_goes_unnoticed(
    store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number:03}" for number in range(60)]
    await store.commit(Txn((), tuple(Put(PREFIX + name, b"x") for name in names)))
    monkeypatch.setattr(adapter, "PAGE_ITEMS", 2)
    monkeypatch.setattr(adapter, "PAGE_BYTES", 1)
    ask, asked = store._range, 0

    async def ask_and_compact(request: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 5:
            await store.compact(await put(store, names[0], b"y"))
        return await ask(request)

    monkeypatch.setattr(store, "_range", ask_and_compact)
    listing = await store.list(PREFIX)
    assert [item.key for item in listing.items] == [PREFIX + name for name in names]
    assert listing.items[0].value == b"y"
    assert asked > 60


async def test_a_cut_connection_is_mended_without_loss(etcd: EtcdProcess, shared: EtcdStore) -> None:
    async with running_proxy(etcd.port) as proxy:
        proxied = EtcdStore([f"http://127.0.0.1:{proxy.port}"])
        async with proxied.watch(PREFIX, (await shared.list(PREFIX)).revision) as watch:
            for number in range(40):
                await put(shared, f"{number:02}")
                if number % 10 == 5:
                    proxy.cut()
                    proxy.mend()
            events = await take_until(watch, "39")
        await proxied.close()
    assert [event.key for event in events] == [f"{PREFIX}{number:02}" for number in range(40)]


async def test_a_store_that_lost_its_data_expires_watches(own_etcd: EtcdProcess, store: EtcdStore) -> None:
    for name in "abcdef":
        since = await put(store, name)
    async with store.watch(PREFIX, since) as watch:
        await put(store, "g")
        await take_until(watch, "g")
        own_etcd.wipe()
        await own_etcd.restart()
        with anyio.fail_after(10), pytest.raises(ExpiredError):
            await anext(watch)
    assert (await store.list(PREFIX)).items == ()


async def test_a_backlog_too_large_for_a_message_expires_the_watch(store: EtcdStore) -> None:
    since = await put(store, "a")
    value = b"x" * (MAX_TRANSACTION_BYTES - 100)
    for _ in range(adapter.MESSAGE_BYTES // len(value) + 2):
        await put(store, "large", value)
    async with store.watch(PREFIX, since) as watch:
        with anyio.fail_after(20), pytest.raises(ExpiredError):
            await anext(watch)


@pytest.mark.usefixtures("quick")
async def test_a_write_whose_answer_is_lost_is_unknown_and_reading_back_tells(etcd: EtcdProcess) -> None:
    async with running_proxy(etcd.port) as proxy:
        direct, proxied = EtcdStore([etcd.url]), EtcdStore([f"http://127.0.0.1:{proxy.port}"])
        await put(proxied, "a")
        proxy.hold_answers()
        write = Txn((Unchanged(PREFIX + "once", 0),), (Put(PREFIX + "once", b"mine"),))
        with pytest.raises(UnavailableError):
            await proxied.commit(write)
        found = await direct.get(PREFIX + "once")
        assert found is not None
        assert found.value == b"mine"
        proxy.release_answers()
        with pytest.raises(ConflictError):
            await direct.commit(write)
        await direct.close()
        await proxied.close()


async def test_nobody_there_is_said_at_once(one_loop: None) -> None:
    store = EtcdStore([f"http://127.0.0.1:{free_ports(1)[0]}"])
    started = time.monotonic()
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1"):
        await store.get("/a")
    assert time.monotonic() - started < 5
    await store.close()


async def test_a_dead_endpoint_is_passed_over(etcd: EtcdProcess) -> None:
    store = EtcdStore([f"http://127.0.0.1:{free_ports(1)[0]}", etcd.url])
    listing = await store.list(PREFIX)
    async with store.watch(PREFIX, listing.revision) as watch:
        await store.commit(Txn((), (Put(PREFIX + "a", b""),)))
        await take_until(watch, "a")
    await store.close()


async def test_closing_the_store_ends_its_watches(etcd: EtcdProcess) -> None:
    store = EtcdStore([etcd.url])
    async with store.watch(PREFIX, await put(store, "a")) as watch:
        await put(store, "b")
        await take_until(watch, "b")
        await store.close()
        with anyio.fail_after(10), pytest.raises(UnavailableError):
            await anext(watch)
    with pytest.raises(UnavailableError):
        await store.get("/a")


async def test_subprocesses_do_not_disturb_a_watch(shared: EtcdStore) -> None:
    since = (await shared.list(PREFIX)).revision
    async with shared.watch(PREFIX, since) as watch:
        for number in range(30):
            subprocess.run(["true"], check=True)
            await put(shared, f"{number}")
        assert len(await take_until(watch, "29")) == 30


async def test_status_tells_what_operators_ask(shared: EtcdStore) -> None:
    revision = await put(shared, "a")
    status = await shared.status()
    assert (status.revision, status.leader) == (revision, status.member)
    assert status.db_size_bytes > 0
    assert status.version.startswith("3.")


class TestTls:
    @pytest.fixture
    def files(self, tmp_path: Path) -> TlsFiles:
        return make_tls_files(tmp_path)

    @pytest.fixture
    def secured(self, one_loop: None, files: TlsFiles) -> Iterator[EtcdProcess]:
        with running_etcd(files) as process:
            yield process

    async def test_a_client_certificate_opens_the_store(self, secured: EtcdProcess, files: TlsFiles) -> None:
        store = EtcdStore([secured.url], Tls(files.ca, files.client_cert, files.client_key))
        async with store.watch(PREFIX, await put(store, "a")) as watch:
            await put(store, "b")
            await take_until(watch, "b")
        lease = await store.lease_grant(30)
        assert await store.lease_keep_alive(lease) > 0
        await store.close()

    async def test_nobody_comes_in_without_one_or_to_a_stranger(
        self, secured: EtcdProcess, files: TlsFiles, tmp_path: Path
    ) -> None:
        (tmp_path / "other").mkdir()
        other = make_tls_files(tmp_path / "other")
        for tls in (Tls(files.ca), Tls(other.ca, files.client_cert, files.client_key)):
            store = EtcdStore([secured.url], tls)
            with pytest.raises(UnavailableError):
                await store.get("/a")
            await store.close()


@pytest.mark.parametrize("url", ["127.0.0.1:2379", "ftp://127.0.0.1", "http://", "http://h/path"])
def test_an_unusable_endpoint_is_named(url: str) -> None:
    with pytest.raises(InvalidError, match="etcd endpoint"):
        EtcdStore([url])


def test_an_unreadable_certificate_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match=r"none\.pem"):
        EtcdStore(["https://127.0.0.1:1"], Tls(tmp_path / "none.pem"))
