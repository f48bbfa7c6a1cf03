"""Secrets and configs on a real host: seen by containers as they were asked for, and by nobody else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from secrets import token_hex
from typing import Any

import pytest
import yaml

from tests.support.lab import Host, eventually

CANARY = f"canary-{token_hex(12)}-secret-words"
"""Of this run alone, so that no file but those the swarm writes can hold it."""

FILES = "/run/shoal/files"


@pytest.fixture
def clean(host: Host) -> Iterator[Host]:
    """A host whose secrets and configs are removed after the test, together with the services that use them."""
    yield host
    for name in host.shoal("get services -o name").ok().out.split():
        host.shoal(["delete", name]).ok()
    for kind in ("secret", "config"):
        for name in host.shoal(f"{kind} ls -o name").ok().out.split():
            host.shoal([kind, "rm", name.partition("/")[2]]).ok()


def manifest(*, name: str = "user", command: str = "sleep 1000000", **spec: Any) -> str:
    body = {"image": "shoal/hello:1", "command": ["/bin/sh", "-c"], "args": [command], "stopSignal": "SIGKILL", **spec}
    return yaml.safe_dump({"apiVersion": "shoal/v1", "kind": "Service", "metadata": {"name": name}, "spec": body})


def apply(host: Host, text: str, *options: str) -> None:
    host.shoal(["apply", "-f", "-", *options], stdin=text).ok()


def in_container(host: Host, command: str, service: str = "user") -> str:
    (one,) = host.docker(f"ps -q --filter label=com.docker.swarm.service.name={service}").ok().out.split()
    return host.docker(["exec", one, "sh", "-c", command]).ok().out


def files(host: Host) -> list[str]:
    return host.run("find", FILES, "-type", "f").out.split()


def test_containers_see_files_with_owner_mode_and_target_read_only_and_in_memory(clean: Host) -> None:
    clean.shoal("secret create db -", stdin=CANARY).ok()
    clean.shoal("config create site -", stdin="listen 80").ok()
    uses = [
        "db",
        {"source": "db", "target": "again", "owner": "33", "group": "44", "fileMode": 0o440},
        {"source": "db", "target": "/etc/app/pass"},
    ]
    apply(clean, manifest(secrets=uses, configs=["site", {"source": "site", "target": "/etc/app/site"}]))

    for path in ("/run/secrets/db", "/run/secrets/again", "/etc/app/pass"):
        assert in_container(clean, f"cat {path}") == CANARY
    assert in_container(clean, "cat /site /etc/app/site") == "listen 80listen 80"
    assert in_container(clean, "stat -c '%u %g %a' /run/secrets/db /run/secrets/again").split("\n")[:2] == [
        "0 0 444",
        "33 44 440",
    ]
    for path in ("/run/secrets/db", "/site"):
        line = in_container(clean, f"grep ' {path} ' /proc/mounts").split()
        assert line[2] == "tmpfs"
        assert "ro" in line[3].split(",")
        assert "Read-only" in in_container(clean, f"echo x 2>&1 >{path} || true; (echo x > {path}) 2>&1 || true")


def test_secrets_are_wiped_after_the_last_task_s_end(clean: Host) -> None:
    clean.shoal("secret create db -", stdin=CANARY).ok()
    apply(clean, manifest(secrets=["db"]))
    assert len(files(clean)) == 1
    assert clean.run("stat", "-f", "-c", "%T", FILES).ok().out.strip() == "tmpfs"

    clean.shoal("delete service user --detach").ok()
    eventually(lambda: not clean.docker("ps -q").ok().out)
    eventually(lambda: not files(clean))


def test_rotation_replaces_tasks_and_frees_the_old_secret(clean: Host) -> None:
    for name in ("db-1", "db-2"):
        clean.shoal(["secret", "create", name, "-"], stdin=f"password of {name}").ok()
    apply(clean, manifest(secrets=[{"source": "db-1", "target": "db"}]))
    assert in_container(clean, "cat /run/secrets/db") == "password of db-1"
    refused = clean.shoal("secret rm db-1")
    assert refused.code == 2
    assert "secret 'db-1' is in use by the following service: user" in refused.err

    apply(clean, manifest(secrets=[{"source": "db-2", "target": "db"}]))

    assert in_container(clean, "cat /run/secrets/db") == "password of db-2"
    clean.shoal("secret rm db-1").ok()
    assert clean.shoal("secret rm db-2").code == 2


def test_payload_templates_are_filled_in_for_each_task(clean: Host) -> None:
    clean.shoal("secret create pw -", stdin="s3cret").ok()
    text = '{{.Service.Name}}/{{.Task.Slot}}/{{.Node.Hostname}} {{secret "pw"}} {{env "MODE"}}'
    clean.shoal("config create conf - --templating golang", stdin=text).ok()
    apply(clean, manifest(secrets=["pw"], configs=["conf"], env=["MODE=prod"]))
    assert in_container(clean, "cat /conf") == f"user/1/{clean.name} s3cret prod"

    apply(clean, manifest(name="other", configs=["conf"], restart="none"), "--detach")
    eventually(
        lambda: "config conf: line 1: the task has no secret" in clean.shoal("get tasks -s other -o yaml").ok().out,
        within=15,
    )


def test_an_agent_that_was_killed_leaves_no_secret_behind(clean: Host) -> None:
    clean.shoal("secret create db -", stdin=CANARY).ok()
    apply(clean, manifest(secrets=["db"]))
    pid = clean.kill("nodeagent")
    eventually(lambda: clean.pid("nodeagent") not in (0, pid))
    assert in_container(clean, "cat /run/secrets/db") == CANARY
    clean.kill("nodeagent")
    clean.shoal("delete service user --detach").ok()
    eventually(lambda: not clean.docker("ps -q").ok().out and not files(clean), within=40)


def forms(text: str) -> list[str]:
    """A text, and what base64 makes of it at each of the three places it may stand."""
    raw = text.encode()
    cut = [base64.b64encode(b"x" * at + raw)[(4 if at else 0) : -4].decode() for at in range(3)]
    return [text, *cut]


def test_a_canary_is_nowhere_but_in_its_containers(clean: Host) -> None:
    clean.shoal("secret create canary -", stdin=CANARY).ok()
    clean.shoal("secret create template - --templating golang", stdin=f'{CANARY} {{{{env "MODE"}}}}').ok()
    apply(clean, manifest(secrets=["canary", "template"], command="cat /run/secrets/* | wc -c; sleep 1000000"))
    apply(clean, manifest(name="broken", secrets=["canary"], command="exit 3", restart="none"), "--detach")
    clean.shoal("secret create canary -", stdin=CANARY)
    clean.shoal(
        ["apply", "-f", "-"],
        stdin=yaml.safe_dump(
            {"apiVersion": "shoal/v1", "kind": "Secret", "metadata": {"name": "canary"}, "spec": {"text": CANARY + "!"}}
        ),
    )
    eventually(lambda: "failed" in clean.shoal("get tasks -s broken").ok().out)
    clean.etcdctl("snapshot save /var/lib/shoal/snapshot.db").ok()
    clean.run("sync").ok()

    containers = clean.docker("ps -aq").ok().out.split()
    said = [clean.docker(["inspect", *containers]).ok().out, clean.etcdctl("get --prefix /shoal").ok().out]
    for kind in ("services", "tasks", "secrets", "events", "nodes", "revisions", "claims", "references"):
        plural = "refs" if kind == "references" else kind
        said.append(
            clean.run("curl", "-s", "--unix-socket", "/run/shoal/api.sock", f"http://x/shoal/v1/{plural}").ok().out
        )
    said.append(clean.shoal("events").ok().out)
    said.append(clean.run("sh", "-c", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'").out)
    for form in forms(CANARY):
        assert form not in "\n".join(said)
        for folder in ("/var/lib/shoal", "/var/lib/docker/containers", "/run/shoal"):
            found = clean.run("grep", "-rlaF", "--devices=skip", "--exclude-dir=files", "--", form, folder)
            assert found.out == ""
    assert json.loads(clean.shoal("get secrets -o json").ok().out)["items"][0]["spec"] in ({}, {"templating": "golang"})
