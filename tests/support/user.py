"""What a person at a lab host does and sees: manifests, `shoal`, `docker`, `curl`, `etcdctl`."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from datetime import datetime
from typing import Any

import yaml

from tests.support.lab import Host, Output, eventually

Plain = dict[str, Any]

GENEROUS_S = 60.0
"""How long a busy machine may take for what takes a second or two."""

SLEEP = {"command": ["/bin/sleep", "1000000"], "stopSignal": "SIGKILL"}
"""A service that answers nobody, and ends at once."""


def service(name: str, labels: dict[str, str] | None = None, **spec: Any) -> str:
    """A manifest of a service that stops quickly."""
    return yaml.safe_dump(
        {
            "apiVersion": "shoal/v1",
            "kind": "Service",
            "metadata": {"name": name, "labels": labels or {}},
            "spec": {"image": "shoal/hello:1", "stopGracePeriod": "1s", **spec},
        }
    )


def shell(script: str) -> dict[str, Any]:
    """The part of a spec that runs a script, and ends it at once when the task is stopped."""
    return {"command": ["/bin/sh", "-c"], "args": [script], "stopSignal": "SIGKILL"}


def node(host: Host, availability: str = "active", **labels: str) -> str:
    """The manifest of the host's node, with these labels and no others."""
    return yaml.safe_dump(
        {
            "apiVersion": "shoal/v1",
            "kind": "Node",
            "metadata": {"name": host.name, "labels": labels},
            "spec": {"role": "manager", "availability": availability},
        }
    )


def apply(host: Host, manifest: str, *options: str) -> Output:
    return host.shoal(["apply", "-f", "-", *options], stdin=manifest)


def start(host: Host, manifest: str) -> None:
    """Apply a manifest, and do not wait."""
    apply(host, manifest, "--detach").ok()


def get(host: Host, path: str) -> Plain:
    """What the native API answers: `services/hello`, `tasks?fields=…`."""
    url = f"http://localhost/shoal/v1/{path}"
    return dict(json.loads(host.run("curl", "-sSf", "--unix-socket", "/run/shoal/api.sock", url).ok().out))


def tasks(host: Host, name: str, *states: str) -> list[Plain]:
    """A service's tasks, oldest first; only those in these states, if any are given."""
    found = get(host, f"tasks?fields=spec.service.name={name}")["items"]
    ordered = sorted(found, key=lambda task: str(task["metadata"]["createdAt"]))
    return [task for task in ordered if not states or task["status"]["state"] in states]


def containers(host: Host, name: str, *options: str) -> list[str]:
    """Ids of a service's running containers."""
    wanted = f"label=com.docker.swarm.service.name={name}"
    return sorted(host.docker(["ps", "-q", "--no-trunc", "--filter", wanted, *options]).ok().out.split())


def running(host: Host, name: str, count: int, within: float = GENEROUS_S) -> list[str]:
    """Wait until a service has that many running tasks, and return their containers."""

    def probe() -> tuple[list[str]]:
        found = containers(host, name)
        assert len(found) == count, f"{len(found)} containers of {name} run, wanted {count}"
        live = [task for task in tasks(host, name, "running") if task["spec"]["desiredState"] == "running"]
        reported = sorted(task["status"]["container"]["id"] for task in live)
        assert reported == found, f"reported are {reported}, there are {found}"
        return (found,)

    return eventually(probe, within=within)[0]


def slots(host: Host, name: str) -> dict[str, str]:
    """Slot → container of a service's running tasks."""
    return {task["spec"]["slot"]: task["status"]["container"]["id"] for task in tasks(host, name, "running")}


def described(host: Host, target: str) -> str:
    return host.shoal(["describe", *target.split("/")]).ok().out


def says(host: Host, target: str, *parts: str, within: float = GENEROUS_S) -> str:
    """Wait until `shoal describe` says all of this."""

    def probe() -> str:
        text = described(host, target)
        missing = [part for part in parts if part not in text]
        assert not missing, f"{missing} not in:\n{text}"
        return text

    return str(eventually(probe, within=within, every=0.2))


def hostnames(host: Host, url: str, count: int = 12) -> Counter[str]:
    """Which containers of the hello image answered how many of that many requests."""
    answers = [host.curl(url) for _ in range(count)]
    return Counter(re.findall(r"hello from (\w+)", "\n".join(answers)))


def answers(host: Host, url: str) -> str:
    """Wait until somebody answers a URL, and return what."""
    return str(eventually(lambda: host.curl(url, within_s=3), within=GENEROUS_S))


def revisions(host: Host) -> dict[str, int]:
    """Every key under /shoal/ with the revision it was last written at."""
    found = json.loads(host.etcdctl("get --prefix /shoal/ --keys-only -w json").ok().out)
    return {base64.b64decode(item["key"]).decode(): item["mod_revision"] for item in found["kvs"]}


def keys(host: Host) -> set[str]:
    return set(revisions(host))


def instant(text: str) -> datetime:
    """A time as Docker or Shoal spells it, to the microsecond."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
