"""Every option of a container reaches the engine: one service with all of them, inspected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.lab import Host, eventually
from tests.support.user import GENEROUS_S, running, service, start

SPEC: dict[str, Any] = {
    "command": ["/bin/sh", "-c"],
    "args": ["exec sleep 1000000", "unused"],
    "hostname": "particular",
    "env": {"GREETING": "hello", "RELEASE": "1.10"},
    "workingDir": "/tmp",
    "user": "1000:1000",
    "groups": ["2000"],
    "tty": True,
    "stdin": True,
    "readOnly": True,
    "init": True,
    "stopSignal": "SIGKILL",
    "stopGracePeriod": "7s",
    "containerLabels": {"purpose": "test"},
    "hosts": ["10.1.2.3 database database.local"],
    "dns": {"nameservers": ["10.9.8.7"], "search": ["example.org"], "options": ["ndots:1"]},
    "mounts": [
        "options-data:/data",
        {"type": "volume", "source": "options-labelled", "target": "/labelled", "noCopy": True,
         "labels": {"kept": "yes"}, "driver": "local", "driverOpts": {"type": "tmpfs", "device": "tmpfs"}},
        "/anonymous",
        "/etc:/host-etc:ro,private",
        {"type": "tmpfs", "target": "/scratch", "size": "16M", "fileMode": "0700"},
    ],
    "healthcheck": {"test": ["CMD", "true"], "interval": "2s", "timeout": "3s", "retries": 4, "startPeriod": "5s"},
    "sysctls": {"net.ipv4.ip_unprivileged_port_start": 0},
    "capAdd": ["NET_ADMIN"],
    "capDrop": ["NET_RAW"],
    "ulimits": {"nofile": "1024:2048", "core": 0},
    "oomScoreAdj": 100,
    "privileges": {"noNewPrivileges": True, "seccomp": {"mode": "unconfined"}},
    "logDriver": {"name": "json-file", "options": {"max-size": "1m"}},
    "resources": {"limits": {"cpus": 0.5, "memory": "64M", "pids": 50}, "swap": "32M"},
    "ports": [{"published": 8141, "target": 80, "mode": "host"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def container(lasting_host: Host) -> Iterator[dict[str, Any]]:
    """The inspected container of a service with every option."""
    start(lasting_host, service("everything", **SPEC))
    try:
        (one,) = running(lasting_host, "everything", 1)
        yield json.loads(lasting_host.docker(["inspect", one]).ok().out)[0]
    finally:
        lasting_host.shoal("delete service everything").ok()
        remove = "volume rm -f options-data options-labelled"
        eventually(lambda: lasting_host.docker(remove).code == 0, within=GENEROUS_S)  # its container may just be going


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("Config.Image", "shoal/hello:1", id="image"),
        pytest.param("Config.Entrypoint", ["/bin/sh", "-c"], id="command"),
        pytest.param("Config.Cmd", ["exec sleep 1000000", "unused"], id="args"),
        pytest.param("Config.Hostname", "particular", id="hostname"),
        pytest.param("Config.WorkingDir", "/tmp", id="working-dir"),
        pytest.param("Config.User", "1000:1000", id="user"),
        pytest.param("HostConfig.GroupAdd", ["2000"], id="groups"),
        pytest.param("Config.Tty", True, id="tty"),
        pytest.param("Config.OpenStdin", True, id="stdin"),
        pytest.param("HostConfig.ReadonlyRootfs", True, id="read-only"),
        pytest.param("HostConfig.Init", True, id="init"),
        pytest.param("Config.StopSignal", "SIGKILL", id="stop-signal"),
        pytest.param("Config.StopTimeout", 7, id="stop-grace-period"),
        pytest.param("Config.Labels.purpose", "test", id="container-label"),
        pytest.param("HostConfig.ExtraHosts", ["database:10.1.2.3", "database.local:10.1.2.3"], id="hosts"),
        pytest.param("HostConfig.Dns", ["10.9.8.7"], id="nameservers"),
        pytest.param("HostConfig.DnsSearch", ["example.org"], id="dns-search"),
        pytest.param("HostConfig.DnsOptions", ["ndots:1"], id="dns-options"),
        pytest.param(
            "Config.Healthcheck",
            {
                "Test": ["CMD", "true"],
                "Interval": 2_000_000_000,
                "Timeout": 3_000_000_000,
                "Retries": 4,
                "StartPeriod": 5_000_000_000,
            },
            id="healthcheck",
        ),
        pytest.param("HostConfig.Sysctls", {"net.ipv4.ip_unprivileged_port_start": "0"}, id="sysctls"),
        pytest.param("HostConfig.CapAdd", ["CAP_NET_ADMIN"], id="cap-add"),
        pytest.param("HostConfig.CapDrop", ["CAP_NET_RAW"], id="cap-drop"),
        pytest.param("HostConfig.OomScoreAdj", 100, id="oom-score-adj"),
        pytest.param("HostConfig.SecurityOpt", ["no-new-privileges:true", "seccomp=unconfined"], id="privileges"),
        pytest.param("HostConfig.LogConfig", {"Type": "json-file", "Config": {"max-size": "1m"}}, id="log-driver"),
        pytest.param("HostConfig.NanoCpus", 500_000_000, id="cpus"),
        pytest.param("HostConfig.Memory", 64 << 20, id="memory"),
        pytest.param("HostConfig.MemorySwap", 96 << 20, id="swap"),
        pytest.param("HostConfig.PidsLimit", 50, id="pids"),
        pytest.param("HostConfig.PortBindings", {"80/tcp": [{"HostIp": "", "HostPort": "8141"}]}, id="host-port"),
        pytest.param("HostConfig.RestartPolicy.Name", "no", id="the-engine-restarts-nothing"),
    ],
)
def test_an_option_reaches_the_engine(container: dict[str, Any], path: str, expected: object) -> None:
    found: Any = container
    for part in path.split("."):
        found = found[part]
    assert found in (expected, _canonical(expected))


def _canonical(expected: object) -> object:
    """Engines before version 27 name capabilities as they were given."""
    return [text.removeprefix("CAP_") for text in expected] if isinstance(expected, list) else expected


def test_environment_ulimits_and_system_labels_reach_the_engine(container: dict[str, Any]) -> None:
    assert container["Config"]["Env"][:2] == ["GREETING=hello", "RELEASE=1.10"]
    limits = {one["Name"]: (one["Soft"], one["Hard"]) for one in container["HostConfig"]["Ulimits"]}
    assert limits == {"nofile": (1024, 2048), "core": (0, 0)}
    labels = container["Config"]["Labels"]
    assert labels["com.docker.swarm.service.name"] == "everything"
    assert container["Name"] == f"/{labels['com.docker.swarm.task.name']}"
    assert container["Name"].endswith(labels["com.docker.swarm.task.id"])


def test_mounts_reach_the_engine(container: dict[str, Any], lasting_host: Host) -> None:
    mounts = {mount["Destination"]: mount for mount in container["Mounts"]}
    assert {target: (mount["Type"], mount["RW"]) for target, mount in mounts.items()} == {
        "/data": ("volume", True),
        "/labelled": ("volume", True),
        "/anonymous": ("volume", True),
        "/host-etc": ("bind", False),
        "/scratch": ("tmpfs", True),
    }
    assert mounts["/data"]["Name"] == "options-data"
    assert (mounts["/host-etc"]["Source"], mounts["/host-etc"]["Propagation"]) == ("/etc", "private")
    scratch = next(one for one in container["HostConfig"]["Mounts"] if one["Target"] == "/scratch")
    assert scratch["TmpfsOptions"] == {"SizeBytes": 16 << 20, "Mode": 0o700}
    (volume,) = json.loads(lasting_host.docker("volume inspect options-labelled").ok().out)
    assert volume["Labels"] == {"kept": "yes"}
    assert volume["Options"] == {"type": "tmpfs", "device": "tmpfs"}


def test_options_take_effect_inside(container: dict[str, Any], lasting_host: Host) -> None:
    def inside(*command: str) -> str:
        return lasting_host.docker(["exec", container["Id"], *command]).ok().out

    assert "10.1.2.3\tdatabase" in inside("cat", "/etc/hosts")
    resolving = inside("cat", "/etc/resolv.conf")
    assert "example.org" in resolving
    assert "ndots:1" in resolving
    assert inside("id", "-u").strip() == "1000"
    assert "2000" in inside("id", "-G").split()
    assert inside("sh", "-c", "ulimit -n").strip() == "1024"
    assert lasting_host.docker(["exec", container["Id"], "touch", "/forbidden"]).code != 0
