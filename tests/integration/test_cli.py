"""The command against a real API server, real controllers and an agent that pretends."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import msgspec
import pytest
import yaml

from shoal.api.errors import InvalidError
from shoal.api.objects import Service
from shoal.api.states import Availability
from shoal.machinery.factories import make_node
from shoal.machinery.store import Txn
from tests.support.swarm import BROKEN, ROOT, Result, Swarm, running_swarm

pytestmark = pytest.mark.anyio

HELLO = str(ROOT / "manifests" / "01-hello.yaml")


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[Swarm]:
    async with running_swarm(tmp_path) as swarm:
        yield swarm


def manifest(name: str = "web", **spec: object) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "shoal/v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"image": "nginx:1", **spec},
        }
    )


async def applied(swarm: Swarm, text: str, *options: str) -> Result:
    return await swarm.shoal("apply", "-f", "-", *options, stdin=text)


async def test_apply_creates_configures_and_leaves_alone(swarm: Swarm) -> None:
    first = await swarm.shoal("apply", "-f", HELLO)
    assert first.code == 0, first
    assert first.lines[0] == "service/hello created"
    assert first.lines[-1] == "service/hello converged: 3/3 running"
    before = await swarm.written()
    again = await swarm.shoal("apply", "-f", HELLO)
    assert again.lines == ["service/hello unchanged", "service/hello converged: 3/3 running"]
    assert await swarm.written() == before
    text = Path(HELLO).read_text().replace("replicas: 3", "replicas: 4")
    assert (await applied(swarm, text)).lines[0] == "service/hello configured"


async def test_a_set_that_is_too_large_for_one_apply_says_what_to_do(swarm: Swarm, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("c1", "c2", "c3", "c4"):
        text = f"apiVersion: shoal/v1\nkind: Config\nmetadata: {{name: {name}}}\nspec: {{text: {'x' * 1_000_000}}}\n"
        (folder / f"{name}.yaml").write_text(text)
    before = await swarm.written()
    refused = await swarm.shoal("apply", "-f", str(folder))
    assert (refused.code, refused.said("4 objects of 5.3 MB in all, and one apply takes 4.2 MB")) == (2, True)
    assert await swarm.written() == before


async def test_a_service_may_be_named_by_its_uid_also_where_it_is_waited_for(swarm: Swarm) -> None:
    await applied(swarm, manifest(replicas=1))
    named = msgspec.json.decode((await swarm.shoal("get", "service", "web", "-o", "json")).out)
    uid = named["metadata"]["uid"]
    for command in (("wait", f"service/{uid}"), ("rollout", "status", uid), ("scale", f"{uid}=2")):
        done = await swarm.shoal(*command)
        assert (done.code, done.lines[-1].startswith("service/web converged")) == (0, True), done


async def test_what_does_not_exist_is_said_at_once(swarm: Swarm) -> None:
    for command in (("get", "service", "nix", "-w"), ("top", "nix"), ("logs", "nix.1"), ("wait", "service/nix")):
        done = await swarm.shoal(*command)
        assert (done.code, "nix" in done.err) == (1, True), done


async def test_a_dry_run_says_what_would_be_done_and_writes_nothing(swarm: Swarm) -> None:
    before = await swarm.written()
    assert (await swarm.shoal("apply", "--dry-run", "-f", HELLO)).lines == ["service/hello created (dry run)"]
    assert await swarm.written() == before


async def test_one_bad_document_among_good_ones_stops_all_of_them(swarm: Swarm, tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "a.yaml").write_text(manifest("a") + "---\n" + manifest("b", imagee="x"))
    (folder / "b.yaml").write_text(manifest("c", replicas="many"))
    before = await swarm.written()
    done = await swarm.shoal("apply", "-f", str(folder))
    assert done.code == 2
    assert f"{folder}/a.yaml:" in done.err
    assert "Service b: spec.imagee: unknown field; did you mean image?" in done.err
    assert "Service c: spec.replicas: expected a whole number, found the text 'many'" in done.err
    assert await swarm.written() == before
    assert done.out == ""


async def test_a_fault_only_the_server_can_find_has_its_line_too(swarm: Swarm) -> None:
    await applied(swarm, manifest("first", ports=["8080:80"]), "--detach")
    done = await applied(swarm, manifest("second", ports=["8081:80", "8080:80"]), "--detach")
    assert done.code == 2
    assert "standard input:" in done.err
    assert "Service second: spec.ports[1]" in done.err
    assert "first" in done.err


async def test_apply_tells_why_no_node_fits(swarm: Swarm) -> None:
    done = await applied(swarm, manifest(placement={"constraints": ["node.labels.zone == moon"]}), "--timeout", "2s")
    assert done.code == 4
    assert "not converged after 2 s (0/1 running, 1 pending)" in done.err
    assert "constraint" in done.err


async def test_apply_tells_the_last_failure_where_nothing_is_restarted(swarm: Swarm) -> None:
    done = await applied(swarm, manifest(image=BROKEN, restart="none"))
    assert done.code == 1
    assert "service/web does not converge: 0/1 running" in done.err
    assert "exit code 3; not restarted (restart condition none)" in done.err


async def test_some_services_failing_is_partial(swarm: Swarm) -> None:
    done = await applied(swarm, manifest("good") + "---\n" + manifest("bad", image=BROKEN, restart="none"))
    assert done.code == 3
    assert done.said("service/good converged", "service/bad does not converge")


async def test_diff_tells_by_its_exit_code(swarm: Swarm) -> None:
    new = await swarm.shoal("diff", "-f", HELLO)
    assert new.code == 1
    assert "+  image: shoal/hello:1" in new.lines
    await swarm.shoal("apply", "-d", "-f", HELLO)
    assert await swarm.shoal("diff", "-f", HELLO) == Result(0, "", "")
    assert (await swarm.shoal("diff", "-f", "/no/such")).code == 2
    assert (await swarm.shoal("diff", "-f", HELLO, api="unix:///no/such.sock")).code == 2


async def test_get_shows_tables_documents_and_names(swarm: Swarm) -> None:
    await swarm.shoal("apply", "-f", HELLO)
    table = (await swarm.shoal("get", "services")).lines
    assert table[0].split() == ["NAME", "MODE", "REPLICAS", "IMAGE", "PORTS", "AGE"]
    assert table[1].split()[:5] == ["hello", "replicated", "3/3", "shoal/hello:1", "8080->80/tcp"]
    assert "UID" in (await swarm.shoal("get", "svc", "-o", "wide")).lines[0]
    names = (await swarm.shoal("get", "svc,ps", "-o", "name")).lines
    assert [name.split(".")[0] for name in names] == ["service/hello", *["task/hello"] * 3]
    found = msgspec.json.decode((await swarm.shoal("get", "service", "hello", "-o", "json")).out)
    assert found["status"]["replicas"]["running"] == 3
    assert (await swarm.shoal("get", "svc", "-l", "example!=01")).said("no services")
    rows = (await swarm.shoal("get", "tasks", "-s", "hello", "--no-headers", "--sort-by", "metadata.name")).lines
    assert len(rows) == 3
    missing = await swarm.shoal("get", "service", "hello", "nope")
    assert (missing.code, missing.said("service nope not found")) == (3, True)
    assert (await swarm.shoal("get", "service", "nope")).code == 1


async def test_what_get_shows_can_be_edited_and_applied_again(swarm: Swarm) -> None:
    await swarm.shoal("apply", "-f", HELLO)
    shown = (await swarm.shoal("get", "service/hello", "-o", "yaml")).out
    assert (await applied(swarm, shown)).lines[0] == "service/hello unchanged"
    edited = shown.replace("replicas: 3", "replicas: 2")
    assert (await applied(swarm, edited)).lines[0] == "service/hello configured"
    stale = await applied(swarm, edited.replace("replicas: 2", "replicas: 1"))
    assert stale.code == 6
    assert "somebody changed it first" in stale.err


async def test_get_watch_prints_every_change(swarm: Swarm) -> None:
    await swarm.shoal("apply", "-f", HELLO)
    async with swarm.running("get", "services", "-w") as process:
        assert process.stdout is not None
        seen = ""
        with anyio.fail_after(20):
            seen += (await process.stdout.receive()).decode()
            await swarm.shoal("scale", "-d", "hello=4")
            while "4/4" not in seen:
                seen += (await process.stdout.receive()).decode()
            await swarm.shoal("delete", "service", "hello")
            while "deleted" not in seen:
                seen += (await process.stdout.receive()).decode()
    assert seen.startswith("NAME")


async def test_scale_waits_until_it_is_so(swarm: Swarm) -> None:
    await swarm.shoal("apply", "-f", HELLO)
    done = await swarm.shoal("scale", "hello=5")
    assert done.lines[0] == "service/hello scaled to 5"
    assert done.lines[-1] == "service/hello converged: 5/5 running"
    assert (await swarm.shoal("scale", "hello=0")).lines[-1] == "service/hello converged: 0/0 running"
    both = await swarm.shoal("scale", "hello=1", "nope=1")
    assert (both.code, both.said("service nope not found")) == (3, True)


async def test_nothing_of_a_service_that_is_not_there_is_a_mistake(swarm: Swarm) -> None:
    await applied(swarm, manifest(replicas=0))
    nothing, mistake = await swarm.shoal("get", "tasks", "-s", "web"), await swarm.shoal("get", "tasks", "-s", "wbe")
    assert (nothing.code, mistake.code, mistake.said("service wbe not found")) == (0, 1, True)


async def test_scaling_is_done_while_a_rollout_stays_paused(swarm: Swarm) -> None:
    await applied(swarm, manifest(replicas=2))
    assert (await swarm.shoal("rollout", "restart", "web", "-d")).code == 0
    assert (await swarm.shoal("rollout", "pause", "web")).code == 0
    done = await swarm.shoal("scale", "web=4")
    assert (done.code, done.lines[-1].startswith("service/web converged: 4/4 running")) == (0, True), done
    assert done.said("the rollout stays paused: update paused by hand")
    assert (await swarm.shoal("rollout", "status", "web", "--no-wait")).said("paused by hand")


async def test_an_apply_that_is_stopped_half_way_says_what_is_written(swarm: Swarm) -> None:
    def stop(txn: Txn) -> None:
        if any("/services/second" in write.key for write in txn.writes):
            raise InvalidError("somebody was faster")

    swarm.api.store.before_commit = stop
    files = "---\n".join(manifest(name) for name in ("first", "second", "third"))
    done = await swarm.shoal("apply", "-f", "-", stdin=files)
    assert (done.code, done.lines) == (3, ["service/first created"])
    assert done.err.splitlines() == ["service/second refused: somebody was faster", "service/third not written"]


async def test_delete_waits_until_the_containers_are_gone(swarm: Swarm) -> None:
    await swarm.shoal("apply", "-f", HELLO)
    done = await swarm.shoal("delete", "-f", HELLO)
    assert (done.code, done.lines) == (0, ["service/hello deleted"])
    assert swarm.tasks("hello") == []
    assert (await swarm.shoal("delete", "service", "hello")).code == 1
    assert (await swarm.shoal("delete", "--ignore-not-found", "service", "hello")).code == 0


async def test_describe_names_the_cause_first(swarm: Swarm) -> None:
    await applied(swarm, manifest(placement={"constraints": "node.role == manager"}, replicas=2), "-d")
    await applied(swarm, manifest("crash", image=BROKEN, restart="none", env=["SECRET=hunter2"]))
    pending = (await swarm.shoal("describe", "service", "web")).lines
    assert pending[1] == "State:         not converged: 0/2 running, 2 pending"
    assert pending[2].startswith("Cause:         2 tasks pending: ")
    crashed = await swarm.shoal("describe", "service/crash")
    assert "exit code 3" in crashed.lines[2]
    assert "hunter2" not in crashed.out
    assert "SECRET" in crashed.out
    (task,) = swarm.tasks("crash")
    told = (await swarm.shoal("describe", "task", task.metadata.name)).out
    assert "Exit code:     3" in told
    assert "TaskCreated" in crashed.out
    node = (await swarm.shoal("describe", "node", "node-1")).out
    assert "Availability:  active" in node


async def test_events_are_listed_for_all_or_for_one(swarm: Swarm) -> None:
    await applied(swarm, manifest("a") + "---\n" + manifest("b"))
    assert "service/b" in (await swarm.shoal("events")).out
    one = await swarm.shoal("events", "service", "a")
    assert "TaskCreated" in one.out
    assert "service/b" not in one.out


async def test_wait_ends_when_it_is_so_or_time_is_up(swarm: Swarm) -> None:
    swarm.hanging.add("web")
    await applied(swarm, manifest(), "-d")
    late = await swarm.shoal("wait", "service/web", "--timeout", "1s")
    assert (late.code, late.said("1 preparing")) == (4, True)
    assert (await swarm.shoal("wait", "node/node-1", "--for=ready")).lines == ["node/node-1 ready"]
    field = await swarm.shoal("wait", "node/node-1", "--for=spec.availability=drain", "--timeout", "1s")
    assert field.code == 4
    swarm.hanging.clear()
    assert (await swarm.shoal("wait", "service/web")).code == 0
    assert (await swarm.shoal("rollout", "status", "web")).lines == ["service/web converged: 1/1 running"]
    async with swarm.running("wait", "service/web", "--for=delete") as process:
        await swarm.shoal("delete", "service", "web")
        with anyio.fail_after(20):
            assert await process.wait() == 0
    assert (await swarm.shoal("wait", "service/web")).code == 1


async def test_a_node_is_drained_by_applying_it(swarm: Swarm) -> None:
    await applied(swarm, manifest())
    shown = (await swarm.shoal("get", "node", "node-1", "-o", "yaml")).out
    done = await applied(swarm, shown.replace("availability: active", "availability: drain"))
    assert done.lines == ["node/node-1 configured"]
    assert "drain" in (await swarm.shoal("get", "nodes")).out


async def test_names_are_completed_from_what_lives(swarm: Swarm) -> None:
    await swarm.shoal("apply", "-d", "-f", HELLO)
    assert await completed(swarm, "shoal describe service ") == ["hello"]
    assert await completed(swarm, "shoal get service/") == ["service/hello"]
    assert await completed(swarm, "shoal scale ") == ["hello="]
    assert "services" in await completed(swarm, "shoal get ")
    assert {"apply", "get"} <= set(await completed(swarm, "shoal "))


async def completed(swarm: Swarm, line: str) -> list[str]:
    words = line.split()
    environment = {
        **os.environ,
        "SHOAL_API": f"unix://{swarm.api.socket}",
        "PYTHONPATH": str(ROOT),
        "_SHOAL_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) if line.endswith(" ") else len(words) - 1),
    }
    done = await anyio.run_process([sys.executable, "-m", "shoal.cli.main"], env=environment, check=False)
    return [answer.partition(",")[2] for answer in done.stdout.decode().splitlines()]


async def test_a_missing_server_is_a_sentence(swarm: Swarm) -> None:
    for words in (
        ["get", "svc"],
        ["events", "-w"],
        ["scale", "hello=1"],
        ["delete", "svc", "x"],
        ["top"],
        ["logs", "x"],
    ):
        done = await swarm.shoal(*words, api="unix:///no/such.sock")
        assert done.code == 1
        assert "no API server answers at /no/such.sock: start Shoal with `shoal up`" in done.err
        assert "Traceback" not in done.err


async def test_a_global_service_without_a_node_says_so(tmp_path: Path) -> None:
    async with running_swarm(tmp_path, make_node("n", availability=Availability.DRAIN)) as swarm:
        done = await applied(swarm, manifest(mode="global"))
        assert done.lines[-1] == "service/web converged: 0/0 running"
        assert len(swarm.api.server.mirror.cache.all(Service)) == 1


async def test_secrets_and_configs_from_files_to_removal(swarm: Swarm, tmp_path: Path) -> None:
    (tmp_path / "site").write_text("listen 80\n")
    made = await swarm.shoal("config", "create", "site", str(tmp_path / "site"), "--label", "tier=front")
    assert made.lines == ["config/site created"]
    assert (await swarm.shoal("secret", "create", "db", "-", stdin="hunter2")).lines == ["secret/db created"]
    again = await swarm.shoal("secret", "create", "db", "-", stdin="hunter2")
    assert again.code == 1
    assert again.said("secret db already exists")
    listed = await swarm.shoal("secret", "ls")
    assert listed.lines[1].split()[0] == "db"
    shown = yaml.safe_load((await swarm.shoal("config", "inspect", "site")).out)
    assert (shown["spec"], shown["metadata"]["labels"]) == ({"text": "listen 80\n"}, {"tier": "front"})
    assert "hunter2" not in (await swarm.shoal("secret", "inspect", "db")).out
    (await applied(swarm, manifest(secrets=["db"], configs=["site"])))
    refused = await swarm.shoal("secret", "rm", "db")
    assert refused.code == 2
    assert refused.said("secret 'db' is in use by the following service: web")
    assert (await swarm.shoal("delete", "service", "web")).code == 0
    assert (await swarm.shoal("secret", "rm", "db")).lines == ["secret/db deleted"]
    empty = await swarm.shoal("secret", "create", "none", "-")
    assert empty.code == 2
    assert empty.said("secret data must be larger than 0 and less than 512000 bytes")


async def test_apply_waits_until_a_job_has_completed(swarm: Swarm) -> None:
    done = await applied(swarm, manifest("batch", mode="job", replicas=5, maxConcurrent=2))
    assert (done.code, done.lines[-1]) == (0, "service/batch converged: 5/5 completed")
    assert "5/5 completed" in (await swarm.shoal("get", "services")).out
    assert (await swarm.shoal("wait", "service/batch")).code == 0


async def test_apply_says_when_a_job_has_failed_for_good(swarm: Swarm) -> None:
    done = await applied(swarm, manifest("bad", image=BROKEN, mode="job", restart={"condition": "none"}))
    assert done.code == 1
    assert done.said("service/bad does not converge: 0/1 completed", "exit code 3; not restarted")
