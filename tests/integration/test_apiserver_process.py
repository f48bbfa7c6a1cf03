"""The API server as a process of its own on a real etcd, killed and starved."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from anyio import to_thread

from shoal.api import codec, keys
from shoal.machinery.etcd import EtcdStore, Tls
from shoal.machinery.factories import make_network
from shoal.machinery.store import Put, Txn
from tests.support import eventually
from tests.support.certificates import make_tls_files
from tests.support.etcd import EtcdProcess, running_etcd

pytestmark = pytest.mark.anyio

WEB = {
    "apiVersion": "shoal/v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"image": "busybox:1", "replicas": 2, "ports": ["8080:80"]},
}


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdProcess]:
    with running_etcd() as found:
        yield found


async def begin(url: str, tls: Tls | None = None) -> None:
    """Write what services with published ports need from the beginning."""
    store, ingress = EtcdStore([url], tls), make_network("ingress")
    await store.commit(Txn((), (Put(keys.key_of(ingress), codec.encode(ingress)),)))
    await store.close()


@contextmanager
def process(directory: Path, url: str, *options: str, name: str = "api") -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m apiserver`; it dies with the test."""
    key = directory / "cluster.key"
    key.write_bytes(bytes(32))
    command = [
        "setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "apiserver", "--etcd", url,
        "--socket", str(directory / f"{name}.sock"), "--cluster-key", str(key), *options,
    ]  # fmt: skip
    with (directory / f"{name}.log").open("ab") as log:
        running = subprocess.Popen(command, stderr=log, env={**os.environ, "PYTHONPATH": os.getcwd()})
    try:
        yield running
    finally:
        running.kill()
        running.wait()


async def call(directory: Path, method: str, path: str, body: Any = None, name: str = "api") -> tuple[int, Any]:
    connector = aiohttp.UnixConnector(str(directory / f"{name}.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.request(method, f"http://api{path}", json=body) as response,
    ):
        is_json = response.content_type == "application/json"
        return response.status, await (response.json() if is_json else response.text())


@asynccontextmanager
async def watching(directory: Path) -> AsyncIterator[None]:
    """Keep a watch open."""
    connector = aiohttp.UnixConnector(str(directory / "api.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://api/shoal/v1/services?watch=1") as response,
    ):
        assert response.status == 200
        yield


async def ready(directory: Path, name: str = "api") -> None:
    async def is_ready() -> bool:
        try:
            return (await call(directory, "GET", "/readyz", name=name))[0] == 200
        except (aiohttp.ClientError, OSError):
            return False

    await eventually(is_ready, within=20)


async def test_what_was_written_survives_kill_9_and_sigterm_ends_in_order(tmp_path: Path, etcd: EtcdProcess) -> None:
    status_socket = tmp_path / "status.sock"
    await begin(etcd.url)
    with process(tmp_path, etcd.url) as first:
        await ready(tmp_path)
        assert stat.S_IMODE((tmp_path / "api.sock").stat().st_mode) == 0o660
        status, made = await call(tmp_path, "POST", "/shoal/v1/services", WEB)
        assert status == 201, made
        first.send_signal(signal.SIGKILL)
        await to_thread.run_sync(first.wait)
    with process(tmp_path, etcd.url, "--status-socket", str(status_socket)) as second:
        await ready(tmp_path)
        assert (await call(tmp_path, "GET", "/shoal/v1/services/web"))[1] == made
        before = await _revision(tmp_path)
        _, applied = await call(tmp_path, "POST", "/shoal/v1/apply", {"objects": [WEB]})
        assert applied["results"][0]["result"] == "unchanged"
        assert await _revision(tmp_path) == before
        async with watching(tmp_path):
            second.send_signal(signal.SIGTERM)
            with anyio.fail_after(10):
                assert await to_thread.run_sync(second.wait) == 0
    assert "Traceback" not in (tmp_path / "api.log").read_text()


@contextmanager
def controller(directory: Path, name: str, *options: str) -> Iterator[None]:
    """Run a controller by hand; it dies with the test."""
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "controllers", name, *options]
    with (directory / f"{name}.log").open("ab") as log:
        running = subprocess.Popen(command, stderr=log, env={**os.environ, "PYTHONPATH": os.getcwd()})
    try:
        yield
    finally:
        running.kill()
        running.wait()


async def test_an_etcd_of_ones_own_will_do_with_its_own_certificates_and_others_data(tmp_path: Path) -> None:
    tls = make_tls_files(tmp_path)
    options = ("--etcd-ca", str(tls.ca), "--etcd-cert", str(tls.client_cert), "--etcd-key", str(tls.client_key))
    with running_etcd(tls) as etcd:
        with_tls = Tls(tls.ca, tls.client_cert, tls.client_key)
        await begin(etcd.url, with_tls)
        store = EtcdStore([etcd.url], with_tls)
        await store.commit(Txn((), (Put("/registry/pods/x", b"of others"),)))
        hands = ("rollout", "replication")
        with ExitStack() as running:
            running.enter_context(process(tmp_path, etcd.url, *options))
            for name in hands:
                running.enter_context(controller(tmp_path, name, "--etcd", etcd.url, *options))
            await ready(tmp_path)
            assert (await call(tmp_path, "POST", "/shoal/v1/services", WEB))[0] == 201

            async def has_tasks() -> bool:
                return len((await call(tmp_path, "GET", "/shoal/v1/tasks"))[1]["items"]) == 2

            await eventually(has_tasks, within=20)
        kept = await store.get("/registry/pods/x")
        assert kept is not None
        assert kept.value == b"of others"
        await store.close()


async def test_two_servers_never_give_one_port_twice(tmp_path: Path, etcd: EtcdProcess) -> None:
    await begin(etcd.url)
    with process(tmp_path, etcd.url, name="a"), process(tmp_path, etcd.url, name="b"):
        await ready(tmp_path, "a")
        await ready(tmp_path, "b")
        answers: list[int] = []

        async def create(name: str, port: int, service: str) -> None:
            body = {**WEB, "metadata": {"name": service}, "spec": {"image": "busybox:1", "ports": [f"{port}:80"]}}
            answers.append((await call(tmp_path, "POST", "/shoal/v1/services", body, name))[0])

        for port in range(9000, 9010):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(create, "a", port, f"a{port}")
                tasks.start_soon(create, "b", port, f"b{port}")
        assert sorted(answers) == [201] * 10 + [422] * 10


async def test_an_outage_of_etcd_is_answered_not_hung_and_heals(tmp_path: Path) -> None:
    with running_etcd() as etcd, process(tmp_path, etcd.url):
        await begin(etcd.url)
        await ready(tmp_path)
        await call(tmp_path, "POST", "/shoal/v1/services", WEB)
        etcd.kill()
        with anyio.fail_after(20):
            status, error = await call(tmp_path, "PATCH", "/shoal/v1/services/web", {"spec": {"replicas": 5}})
        assert (status, error["reason"]) == (503, "Unavailable")
        assert (await call(tmp_path, "GET", "/shoal/v1/services/web"))[0] == 200
        etcd.start()

        async def is_patched() -> bool:
            return (await call(tmp_path, "PATCH", "/shoal/v1/services/web", {"spec": {"replicas": 6}}))[0] == 200

        await eventually(is_patched, within=30)
        assert (await call(tmp_path, "GET", "/shoal/v1/services/web"))[1]["spec"]["replicas"] == 6


async def _revision(directory: Path) -> int:
    _, listed = await call(directory, "GET", "/shoal/v1/services")
    found: int = listed["items"][0]["metadata"]["resourceVersion"]
    return found


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "cannot read the cluster key"), (b"short", "has 5 bytes, expected 32")]
)
def test_a_wrong_cluster_key_is_said_at_once(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    key = tmp_path / "key"
    if content is not None:
        key.write_bytes(content)
    command = [sys.executable, "-m", "apiserver", "--socket", str(tmp_path / "s"), "--cluster-key", str(key)]
    ended = subprocess.run(command, capture_output=True, timeout=30, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert ended.returncode == 2
    assert sentence in ended.stderr.decode()
    assert "Traceback" not in ended.stderr.decode()
