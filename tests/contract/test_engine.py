"""The engine's contract, on the fake and on a Docker engine of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import anyio
import pytest

from nodeagent.engine.contract import Container, Engine, LogLine, NameTakenError
from nodeagent.engine.docker import DockerEngine
from nodeagent.engine.fake import FakeEngine
from shoal.api.errors import EngineError
from tests.support.docker_engine import IMAGE, PrivateEngine, private_engine

pytestmark = pytest.mark.anyio

MINE = {"shoal.node": "n1"}


@pytest.fixture(scope="module")
def dockerd() -> Iterator[PrivateEngine]:
    with private_engine() as engine:
        yield engine


@pytest.fixture(params=["fake", "docker"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    if request.param == "fake":
        yield FakeEngine(images=(IMAGE,))
        return
    private: PrivateEngine = request.getfixturevalue("dockerd")
    real = DockerEngine(private.url)
    yield real
    await real.close()
    private.clear()


def body(*command: str, **more: Any) -> dict[str, Any]:
    return {"Image": IMAGE, "Cmd": list(command), "Labels": {**MINE, "shoal.task": "t1"}, **more}


async def until(engine: Engine, container: str, state: str, within_s: float = 20) -> Container:
    with anyio.fail_after(within_s):
        while (seen := await engine.inspect(container)) is None or seen.state != state:
            await anyio.sleep(0.02)
    return seen


async def test_a_container_is_created_started_and_exits_with_its_code(engine: Engine) -> None:
    uid = await engine.create("web.1.t1", body("sh", "-c", "exit 3"))
    created = await engine.inspect(uid)
    assert created is not None
    assert (created.state, created.name, created.labels["shoal.task"]) == ("created", "web.1.t1", "t1")
    await engine.start(uid)
    ended = await until(engine, uid, "exited")
    assert (ended.exit_code, ended.pid, ended.health) == (3, 0, "")


async def test_starting_twice_and_killing_and_removing_what_is_gone_are_no_errors(engine: Engine) -> None:
    uid = await engine.create("web.1.t1", body("sleep", "1000"))
    await engine.start(uid)
    await engine.start(uid)
    running = await until(engine, uid, "running")
    assert running.pid > 0
    await engine.kill(uid, "SIGKILL")
    assert (await until(engine, uid, "exited")).exit_code == 137
    await engine.kill(uid, "SIGTERM")
    await engine.remove(uid)
    await engine.remove(uid)
    await engine.kill(uid, "SIGKILL")
    assert await engine.inspect(uid) is None


async def test_a_running_container_is_removed_by_force(engine: Engine) -> None:
    uid = await engine.create("web.1.t1", body("sleep", "1000"))
    await engine.start(uid)
    await engine.remove("web.1.t1")
    assert await engine.containers(MINE) == ()


async def test_a_name_is_given_once(engine: Engine) -> None:
    uid = await engine.create("web.1.t1", body("sleep", "1000"))
    with pytest.raises(NameTakenError, match="already in use"):
        await engine.create("web.1.t1", body("sleep", "1000"))
    found = await engine.inspect("web.1.t1")
    assert found is not None
    assert found.id == uid


async def test_without_its_image_a_container_is_not_made(engine: Engine) -> None:
    assert await engine.has_image(IMAGE)
    assert not await engine.has_image("nowhere.invalid/none:1")
    with pytest.raises(EngineError, match=r"(?i)no such image"):
        await engine.create("web.1.t1", {**body("sleep", "1"), "Image": "nowhere.invalid/none:1"})


async def test_a_pull_that_fails_says_why(engine: Engine) -> None:
    with pytest.raises(EngineError) as caught:
        await engine.pull("127.0.0.1:9/none:1")
    assert str(caught.value)


async def test_a_listing_shows_containers_with_all_labels_dead_ones_too(engine: Engine) -> None:
    dead = await engine.create("web.1.t1", body("sh", "-c", "exit 0"))
    other = {**body("sleep", "1000"), "Labels": {"shoal.node": "n2"}}
    await engine.create("web.2.t2", other)
    await engine.start(dead)
    await until(engine, dead, "exited")
    listed = await engine.containers(MINE)
    assert [(one.id, one.name, one.state) for one in listed] == [(dead, "web.1.t1", "exited")]
    assert await engine.containers({**MINE, "shoal.cluster": "c"}) == ()


async def test_the_mark_of_a_listing_changes_with_the_state(engine: Engine) -> None:
    uid = await engine.create("web.1.t1", body("sleep", "1000"))
    marks = {(await engine.containers(MINE))[0].mark}
    await engine.start(uid)
    marks.add((await engine.containers(MINE))[0].mark)
    await engine.kill(uid, "SIGKILL")
    await until(engine, uid, "exited")
    marks.add((await engine.containers(MINE))[0].mark)
    assert len(marks) == 3


@pytest.mark.parametrize(("test", "health"), [("true", "healthy"), ("false", "unhealthy")])
async def test_health_is_what_the_check_says_and_outlives_the_container(engine: Engine, test: str, health: str) -> None:
    check = {"Test": ["CMD", test], "Interval": 50_000_000, "Retries": 1, "Timeout": 5_000_000_000}
    uid = await engine.create("web.1.t1", body("sleep", "1000", Healthcheck=check))
    await engine.start(uid)
    with anyio.fail_after(20):
        while (seen := await engine.inspect(uid)) is None or seen.health in ("", "starting"):
            await anyio.sleep(0.05)
    assert seen.health == health
    if health == "unhealthy":
        await engine.kill(uid, "SIGKILL")
        assert (await until(engine, uid, "exited")).health == "unhealthy"


async def test_events_tell_of_containers_with_the_label(engine: Engine) -> None:
    with anyio.fail_after(20):
        async with engine.events(MINE) as events:
            uid = await engine.create("web.1.t1", body("sleep", "1000"))
            await engine.start(uid)
            await engine.kill(uid, "SIGKILL")
            seen: list[str] = []
            async for event in events:
                assert (event.container_id, event.labels["shoal.task"]) == (uid, "t1")
                assert event.time_ns > 0
                seen.append(event.action)
                if event.action == "die":
                    break
    assert [action for action in seen if action in ("create", "start", "die")] == ["create", "start", "die"]


async def test_events_can_be_asked_for_from_a_moment_on(engine: Engine) -> None:
    with anyio.fail_after(20):
        async with engine.events(MINE) as events:
            uid = await engine.create("web.1.t1", body("sleep", "1000"))
            first = await anext(events)
        await engine.start(uid)
        async with engine.events(MINE, since_ns=first.time_ns + 1) as events:
            assert (await anext(events)).action == "start"


async def lines_of(engine: Engine, uid: str, **how: Any) -> list[LogLine]:
    async with engine.logs(uid, **how) as lines:
        return [line async for line in lines]


async def test_logs_are_lines_with_stream_and_time(engine: Engine) -> None:
    uid = await engine.create("web.1.t1", body("sh", "-c", "echo one; echo two >&2; echo three"))
    await engine.start(uid)
    await until(engine, uid, "exited")
    lines = await lines_of(engine, uid)
    assert sorted((line.stream, line.line) for line in lines) == [
        ("stderr", b"two"),
        ("stdout", b"one"),
        ("stdout", b"three"),
    ]
    assert all(len(line.time) == len("2026-01-01T00:00:00.000000000Z") for line in lines)
    assert [line.line for line in await lines_of(engine, uid, stderr=False)] == [b"one", b"three"]
    assert len(await lines_of(engine, uid, tail=1)) == 1


async def test_logs_of_a_terminal_are_not_framed(engine: Engine) -> None:
    uid = await engine.create("web.1.t1", body("sh", "-c", "echo one", Tty=True))
    await engine.start(uid)
    await until(engine, uid, "exited")
    assert [(line.stream, line.line) for line in await lines_of(engine, uid)] == [("stdout", b"one")]


async def test_followed_logs_end_with_the_container(engine: Engine) -> None:
    uid = await engine.create("web.1.t1", body("sh", "-c", "echo one; sleep 1000"))
    await engine.start(uid)
    with anyio.fail_after(20):
        async with engine.logs(uid, follow=True) as lines:
            assert (await anext(lines)).line == b"one"
            await engine.kill(uid, "SIGKILL")
            with suppress(StopAsyncIteration):
                await anext(lines)


async def test_leaving_a_followed_log_does_not_wait_for_its_next_line(engine: Engine) -> None:
    uid = await engine.create("web.1.t1", body("sh", "-c", "echo one; sleep 1000"))
    await engine.start(uid)
    with anyio.fail_after(20):
        async with engine.logs(uid, follow=True) as lines:
            await anext(lines)
            with anyio.move_on_after(0.05):
                await anext(lines)


async def test_host_ports_are_told_as_bound(engine: Engine) -> None:
    host = {"PortBindings": {"80/tcp": [{"HostPort": ""}], "53/udp": [{"HostPort": "5353"}]}}
    uid = await engine.create(
        "web.1.t1", body("sleep", "1000", HostConfig=host, ExposedPorts={"80/tcp": {}, "53/udp": {}})
    )
    await engine.start(uid)
    seen = await until(engine, uid, "running")
    ports = {(port.target, port.protocol.value): port.published for port in seen.ports}
    assert ports[53, "udp"] == 5353
    assert ports[80, "tcp"] > 0


async def test_networks_are_made_joined_and_removed(engine: Engine) -> None:
    spec = {"Driver": "bridge", "Labels": MINE, "IPAM": {"Config": [{"Subnet": "10.77.0.0/24"}]}}
    await engine.create_network("shoal-test", spec)
    with pytest.raises(NameTakenError):
        await engine.create_network("shoal-test", spec)
    (network,) = await engine.networks(MINE)
    assert (network.name, network.subnets) == ("shoal-test", ("10.77.0.0/24",))
    uid = await engine.create("web.1.t1", body("sleep", "1000"))
    await engine.connect("shoal-test", uid, {"IPAMConfig": {"IPv4Address": "10.77.0.9"}})
    await engine.start(uid)
    await engine.connect("shoal-test", uid, {"IPAMConfig": {"IPv4Address": "10.77.0.9"}})
    seen = await engine.inspect(uid)
    assert seen is not None
    assert "shoal-test" in seen.networks
    with pytest.raises(EngineError, match="active endpoints"):
        await engine.remove_network("shoal-test")
    await engine.remove(uid)
    await engine.remove_network("shoal-test")
    await engine.remove_network("shoal-test")
    assert await engine.networks(MINE) == ()


async def test_a_config_only_network_tells_what_others_are_made_from(engine: Engine) -> None:
    pool = {"Subnet": "10.77.1.0/24", "Gateway": "10.77.1.9"}
    spec = {"ConfigOnly": True, "Labels": MINE, "IPAM": {"Config": [pool]}, "Options": {"parent": "eth9"}}
    await engine.create_network("shoal-test-config", spec)
    (found,) = [one for one in await engine.networks({}) if one.name == "shoal-test-config"]
    assert (found.is_config_only, found.ipam["Config"], found.options) == (True, [pool], {"parent": "eth9"})
    await engine.remove_network("shoal-test-config")


async def test_stats_count_memory_against_its_limit(engine: Engine) -> None:
    uid = await engine.create("web.1.t1", body("sleep", "1000"))
    await engine.start(uid)
    stats = await engine.stats(uid)
    assert 0 <= stats.memory < stats.memory_limit
    assert stats.cpu >= 0


async def test_the_engine_describes_its_host(engine: Engine) -> None:
    found = await engine.describe()
    assert found.os == "linux"
    assert found.architecture
    assert found.cpus >= 1_000_000_000
    assert found.memory > 0
    assert found.engine_version
    assert ("Network", "overlay") in {(plugin.type, plugin.name) for plugin in found.plugins}
    assert await engine.api_version() >= (1, 41)


async def test_an_engine_that_is_not_there_is_a_temporary_error(tmp_path: Any) -> None:
    engine = DockerEngine(f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineError, match="does not answer") as caught:
        await engine.containers(MINE)
    assert caught.value.temporary
