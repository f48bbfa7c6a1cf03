"""The agent's process on a Docker engine of the test's own, with a scripted API server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from docker import APIClient

from shoal.api.objects import Task
from shoal.api.states import DesiredState, PublishMode, TaskState
from shoal.api.template import Healthcheck, Limits, Mount, MountType, Port, Resources
from shoal.api.units import Bytes, Cpus, Duration
from shoal.machinery.factories import make_service, make_task
from tests.support.docker_engine import IMAGE, PrivateEngine, private_engine
from tests.support.scripted_api import ScriptedApi, scripted_api

pytestmark = pytest.mark.anyio

S, D = TaskState, DesiredState
ROOT = Path(__file__).parents[2]
QUICK = {"stop_grace_period": Duration.of(1)}


@pytest.fixture(scope="module")
def dockerd() -> Iterator[PrivateEngine]:
    with private_engine() as engine:
        yield engine


@pytest.fixture
def docker(dockerd: PrivateEngine) -> Iterator[APIClient]:
    client = dockerd.client()
    yield client
    client.close()
    dockerd.clear()


class AgentProcess:
    """`python -m nodeagent` in the engine's network namespace; started and killed by process id."""

    def __init__(self, engine: PrivateEngine, api: ScriptedApi, folder: Path) -> None:
        self.engine, self.api, self.folder = engine, api, folder
        self.log = folder / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *("nsenter", f"--net=/proc/{self.engine.pid}/ns/net", "--", sys.executable, "-m", "nodeagent"),
                    *("--api", self.api.url, "--node", self.api.node.uid, "--docker", self.engine.url),
                    *("--state-dir", str(self.folder / "state"), "--run-dir", str(self.folder / "run")),
                ],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(20)
            self.process = None


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ScriptedApi]:
    async with scripted_api(tmp_path / "api.sock") as server:
        yield server


@pytest.fixture
async def agent(
    dockerd: PrivateEngine, docker: APIClient, api: ScriptedApi, tmp_path: Path
) -> AsyncIterator[AgentProcess]:
    process = AgentProcess(dockerd, api, tmp_path)
    process.start()
    try:
        yield process
    except BaseException:
        print(process.log.read_text()[-5000:])
        raise
    finally:
        process.kill()


async def eventually(check: Callable[[], Any], within_s: float = 20) -> Any:
    """Return the check's first true answer; fail with its last one."""
    answer: Any = None
    try:
        with anyio.fail_after(within_s):
            while not (answer := check()):
                await anyio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not within {within_s} s; the last answer was {answer!r}")
    return answer


def task_for(api: ScriptedApi, slot: int = 1, **template: Any) -> Task:
    spec = {"image": IMAGE, "args": ("sleep", "1000"), **QUICK, **template}
    return make_task(make_service(**spec), slot, state=S.ASSIGNED, node=api.node)


def wanted(api: ScriptedApi, task: Task, desired: DesiredState, **spec: Any) -> Task:
    now = api.task(task.metadata.uid)
    return msgspec.structs.replace(now, spec=msgspec.structs.replace(now.spec, desired_state=desired, **spec))


def ids(docker: APIClient) -> dict[str, tuple[str, int]]:
    """Containers that run, by name: id and process id."""
    found = [docker.inspect_container(one["Id"]) for one in docker.containers()]
    return {one["Name"][1:]: (one["Id"], one["State"]["Pid"]) for one in found}


async def test_a_task_runs_reports_and_is_removed(agent: AgentProcess, api: ScriptedApi, docker: APIClient) -> None:
    task = task_for(api, env=("MODE=prod",), container_labels={"tier": "front"})
    await api.put(task)
    await eventually(lambda: api.state(task) is S.RUNNING)
    made = docker.inspect_container(task.metadata.name)
    assert "MODE=prod" in made["Config"]["Env"]
    assert made["Config"]["Labels"]["tier"] == "front"
    assert made["Config"]["Labels"]["com.docker.swarm.task.id"] == task.metadata.uid
    container = api.last(task).container
    assert container is not None
    assert (container.id, container.pid) == (made["Id"], made["State"]["Pid"])
    assert api.states(task) == sorted(api.states(task), key=lambda state: state.rank)
    assert api.described().engine_version
    await eventually(lambda: api.applied >= api.revision)
    await api.put(wanted(api, task, D.REMOVE))
    await eventually(lambda: api.state(task) is S.SHUTDOWN)
    await eventually(lambda: not docker.containers(all=True))


async def test_a_failed_task_tells_its_exit_code_and_keeps_its_container(
    agent: AgentProcess, api: ScriptedApi, docker: APIClient
) -> None:
    task = task_for(api, args=("sh", "-c", "echo oops >&2; exit 3"))
    await api.put(task)
    await eventually(lambda: api.state(task) is S.FAILED)
    assert api.last(task).err == "task: non-zero exit (3)"
    assert len(docker.containers(all=True)) == 1
    lines = await api.request("logs", tasks=[task.metadata.name])
    assert [(line["task"], line["stream"], line["line"]) for line in lines] == [(task.metadata.name, "stderr", "oops")]
    await api.delete(task)
    await eventually(lambda: not docker.containers(all=True))


@pytest.mark.parametrize(
    ("template", "state", "cause"),
    [
        pytest.param({"image": "127.0.0.1:9/none:1"}, S.REJECTED, "127.0.0.1:9", id="no-such-image"),
        pytest.param(
            {"mounts": (Mount(type=MountType.BIND, source="/nowhere/at/all", target="/x"),)},
            S.REJECTED,
            "bind source path does not exist",
            id="no-such-bind-source",
        ),
        pytest.param({"args": ("/no/such/program",)}, S.FAILED, "no such file or directory", id="no-such-program"),
    ],
)
async def test_what_cannot_run_says_why(
    agent: AgentProcess, api: ScriptedApi, template: dict[str, Any], state: TaskState, cause: str
) -> None:
    task = task_for(api, **template)
    await api.put(task)
    await eventually(lambda: api.state(task).is_terminal)
    assert api.last(task).state is state
    assert cause in api.last(task).err


async def test_health_gates_running_and_unhealthy_fails(
    agent: AgentProcess, api: ScriptedApi, docker: APIClient
) -> None:
    check = Healthcheck(test=("CMD", "test", "-e", "/ok"), interval=Duration.of(0.1), retries=3)
    task = task_for(api, healthcheck=check)
    late = task_for(api, 2, healthcheck=Healthcheck(test=("CMD", "false"), interval=Duration.of(0.1), retries=1))
    await api.put(task, late)
    await eventually(lambda: api.state(task) is S.STARTING and docker.containers(filters={"name": task.metadata.name}))
    made = docker.exec_create(task.metadata.name, ["touch", "/ok"])
    docker.exec_start(made["Id"])
    await eventually(lambda: api.state(task) is S.RUNNING)
    await eventually(lambda: api.state(late) is S.FAILED)
    assert api.last(late).err == "task: unhealthy container"
    assert list(ids(docker)) == [task.metadata.name]


async def test_a_removed_container_is_noticed_at_once(agent: AgentProcess, api: ScriptedApi, docker: APIClient) -> None:
    task = task_for(api)
    await api.put(task)
    await eventually(lambda: api.state(task) is S.RUNNING)
    docker.remove_container(task.metadata.name, force=True)
    await eventually(lambda: api.state(task) is S.FAILED, within_s=5)


async def test_options_reach_the_container(
    agent: AgentProcess, api: ScriptedApi, docker: APIClient, dockerd: PrivateEngine
) -> None:
    task = task_for(
        api,
        hostname="box",
        user="nobody",
        read_only=True,
        hosts=("10.9.9.9 db cache",),
        mounts=(
            Mount(type=MountType.TMPFS, target="/scratch", size=Bytes(1 << 20)),
            Mount(type=MountType.VOLUME, source="data", target="/data", labels={"keep": "yes"}),
        ),
        resources=Resources(limits=Limits(cpus=Cpus(200_000_000), memory=Bytes(32 << 20), pids=50)),
        ports=(Port(80, published=8099, mode=PublishMode.HOST),),
        stop_signal="SIGQUIT",
        sysctls={"net.core.somaxconn": "77"},
        cap_drop=("NET_RAW",),
        init=True,
    )
    await api.put(task)
    await eventually(lambda: api.state(task) is S.RUNNING)
    made = docker.inspect_container(task.metadata.name)
    host = made["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (200_000_000, 32 << 20, 50)
    assert (made["Config"]["Hostname"], made["Config"]["User"], made["Config"]["StopSignal"]) == (
        "box",
        "nobody",
        "SIGQUIT",
    )
    assert {mount["Type"] for mount in made["Mounts"]} >= {"volume"}
    assert (host["ReadonlyRootfs"], host["Init"]) == (True, True)
    assert [(port.target, port.published) for port in api.last(task).ports] == [(80, 8099)]
    assert docker.inspect_volume("data")["Labels"] == {"keep": "yes"}
    shown = docker.exec_start(docker.exec_create(made["Id"], ["cat", "/etc/hosts"])["Id"]).decode()
    assert "10.9.9.9\tcache" in shown


async def test_stats_and_unknown_tasks_are_answered(agent: AgentProcess, api: ScriptedApi) -> None:
    task = task_for(api)
    await api.put(task)
    await eventually(lambda: api.state(task) is S.RUNNING)
    (item,) = await api.request("stats")
    assert (item["task"], item["service"]) == (task.metadata.name, "web")
    assert item["memoryLimit"] > item["memory"] >= 0
    (line,) = await api.request("logs", tasks=["web.9.nobody"])
    assert "web.9.nobody" in line["warning"]


async def test_killed_and_restarted_it_adopts_what_runs(
    agent: AgentProcess, api: ScriptedApi, docker: APIClient
) -> None:
    tasks = [task_for(api, slot) for slot in range(1, 4)]
    await api.put(*tasks)
    await eventually(lambda: all(api.state(task) is S.RUNNING for task in tasks))
    before = ids(docker)
    for _ in range(3):
        agent.kill()
        seen = api.connections
        agent.start()
        await eventually(lambda seen=seen: api.connections > seen)
        await eventually(lambda: api.applied >= api.revision)
        assert ids(docker) == before
    docker.kill(tasks[0].metadata.name)
    await eventually(lambda: api.state(tasks[0]) is S.FAILED)


async def test_killed_in_the_middle_of_starting_it_doubles_nothing(
    agent: AgentProcess, api: ScriptedApi, docker: APIClient, seed: int
) -> None:
    tasks = [task_for(api, slot) for slot in range(1, 7)]
    await api.put(*tasks)
    for turn in range(4):
        await anyio.sleep(0.2 + ((seed >> turn) % 7) / 20)
        agent.kill()
        agent.start()
    await eventually(lambda: all(api.state(task) is S.RUNNING for task in tasks), within_s=40)
    assert sorted(ids(docker)) == sorted(task.metadata.name for task in tasks)
    assert len(docker.containers(all=True)) == 6
    assert all(docker.inspect_container(task.metadata.name)["RestartCount"] == 0 for task in tasks)


async def test_while_managers_are_away_nothing_starts_and_nothing_stops(
    agent: AgentProcess, api: ScriptedApi, docker: APIClient
) -> None:
    task = task_for(api)
    await api.put(task)
    await eventually(lambda: api.state(task) is S.RUNNING)
    stored = agent.folder / "state" / "agent" / "assignments.json"
    await eventually(lambda: stored.exists() and task.metadata.name in stored.read_text())
    before = ids(docker)
    await api.stop()
    agent.kill()
    agent.start()
    await eventually(lambda: "managers_lost" in agent.log.read_text())
    await anyio.sleep(1)
    assert ids(docker) == before
    docker.kill(task.metadata.name)
    await api.start()
    await eventually(lambda: api.state(task) is S.FAILED)


async def test_strays_go_and_other_containers_stay(agent: AgentProcess, api: ScriptedApi, docker: APIClient) -> None:
    task = task_for(api)
    await api.put(task)
    await eventually(lambda: api.state(task) is S.RUNNING)
    plain = docker.create_container(IMAGE, ["sleep", "1000"], name="plain")
    docker.start(plain["Id"])
    agent.kill()
    await api.delete(task)
    agent.start()
    await eventually(lambda: list(ids(docker)) == ["plain"])


async def test_an_engine_restart_ends_the_tasks_honestly(
    agent: AgentProcess, api: ScriptedApi, dockerd: PrivateEngine
) -> None:
    task = task_for(api)
    await api.put(task)
    await eventually(lambda: api.state(task) is S.RUNNING)
    dockerd.stop()
    beats = api.beats
    await eventually(lambda: api.beats > beats + 3)
    dockerd.start()
    await eventually(lambda: api.state(task).is_terminal)
    assert api.last(task).state is S.FAILED
    replacement = task_for(api, 2)
    await api.put(replacement)
    await eventually(lambda: api.state(replacement) is S.RUNNING)


async def test_an_engine_that_dies_and_restores_its_containers_changes_no_task(
    api: ScriptedApi, tmp_path: Path
) -> None:
    with private_engine("--live-restore") as engine:
        agent = AgentProcess(engine, api, tmp_path)
        agent.start()
        try:
            tasks = [task_for(api, slot) for slot in range(1, 3)]
            await api.put(*tasks)
            await eventually(lambda: all(api.state(task) is S.RUNNING for task in tasks))
            client = engine.client()
            before = ids(client)
            client.close()
            engine.stop(signal.SIGKILL)
            await eventually(lambda: "engine_lost" in agent.log.read_text())
            engine.start()
            await eventually(lambda: agent.log.read_text().count("engine_reached") == 2)
            client = engine.client()
            assert ids(client) == before
            client.close()
            assert all(api.state(task) is S.RUNNING for task in tasks)
        finally:
            agent.kill()


async def test_without_an_engine_it_says_so_and_goes_on_trying(
    api: ScriptedApi, tmp_path: Path, dockerd: PrivateEngine
) -> None:
    absent = PrivateEngine(tmp_path / "none")
    absent.holder = dockerd.holder
    agent = AgentProcess(absent, api, tmp_path)
    agent.start()
    try:
        await eventually(lambda: "engine_lost" in agent.log.read_text())
        assert f"the Docker engine at {absent.url} does not answer" in agent.log.read_text()
        beats = api.beats
        await eventually(lambda: api.beats > beats + 3)
    finally:
        agent.kill()
