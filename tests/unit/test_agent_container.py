"""From a task to the engine's create call: every option of a template, labels, networks, placeholders."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nodeagent.engine.docker import split_reference
from nodeagent.ports import ContainerNetwork, NetworkEndpoint
from nodeagent.tasks.container import Around, Identity, is_of_task, make_body
from nodeagent.tasks.images import is_fixed, registry_of
from shoal.api import template as t
from shoal.api.errors import TerminalError
from shoal.api.objects import Task
from shoal.api.states import MountType, Protocol, PublishMode
from shoal.api.units import Bytes, Cpus, Duration
from shoal.machinery.factories import make_service, make_task
from shoal.rules.expand import NodeFacts, expanded
from tests.support.agent import NODE, task_for

OURS = Identity("c1", "n1")
PLAIN = ContainerNetwork()


def body(network: ContainerNetwork = PLAIN, version: tuple[int, int] = (1, 41), **template: Any) -> dict[str, Any]:
    return make_body(task_for(**template), network, OURS, api_version=version)


def at(document: Any, path: str) -> Any:
    for step in path.split("."):
        document = document[step]
    return document


HOST = PublishMode.HOST

OPTIONS: list[tuple[dict[str, Any], str, Any]] = [
    ({"image": "web:1"}, "Image", "web:1"),
    ({"command": ("nginx",)}, "Entrypoint", ["nginx"]),
    ({"args": ("-g", "daemon off;")}, "Cmd", ["-g", "daemon off;"]),
    ({"hostname": "box"}, "Hostname", "box"),
    ({"env": ("A=1", "B")}, "Env", ["A=1", "B"]),
    ({"working_dir": "/srv"}, "WorkingDir", "/srv"),
    ({"user": "1000:1000"}, "User", "1000:1000"),
    ({"groups": ("audio", "44")}, "HostConfig.GroupAdd", ["audio", "44"]),
    ({"tty": True}, "Tty", True),
    ({"stdin": True}, "OpenStdin", True),
    ({"read_only": True}, "HostConfig.ReadonlyRootfs", True),
    ({"init": True}, "HostConfig.Init", True),
    ({"init": False}, "HostConfig.Init", False),
    ({"stop_signal": "SIGQUIT"}, "StopSignal", "SIGQUIT"),
    ({"stop_grace_period": Duration.of(1.5)}, "StopTimeout", 2),
    ({"hosts": ("10.0.0.9 db cache",)}, "HostConfig.ExtraHosts", ["db:10.0.0.9", "cache:10.0.0.9"]),
    ({"dns": t.Dns(("1.1.1.1",), ("corp",), ("ndots:2",))}, "HostConfig.Dns", ["1.1.1.1"]),
    ({"dns": t.Dns(("1.1.1.1",), ("corp",), ("ndots:2",))}, "HostConfig.DnsSearch", ["corp"]),
    ({"dns": t.Dns(("1.1.1.1",), ("corp",), ("ndots:2",))}, "HostConfig.DnsOptions", ["ndots:2"]),
    (
        {"mounts": (t.Mount(MountType.BIND, "/t", "/s", read_only=True, propagation="rslave", non_recursive=True),)},
        "HostConfig.Mounts",
        [
            {
                "Type": "bind",
                "Source": "/s",
                "Target": "/t",
                "ReadOnly": True,
                "BindOptions": {"Propagation": "rslave", "NonRecursive": True},
            }
        ],
    ),
    (
        {
            "mounts": (
                t.Mount(
                    MountType.VOLUME,
                    "/t",
                    "data",
                    no_copy=True,
                    labels={"a": "b"},
                    driver="nfs",
                    driver_opts={"o": "ro"},
                    consistency="cached",
                ),
            )
        },
        "HostConfig.Mounts",
        [
            {
                "Type": "volume",
                "Source": "data",
                "Target": "/t",
                "ReadOnly": False,
                "Consistency": "cached",
                "VolumeOptions": {
                    "NoCopy": True,
                    "Labels": {"a": "b"},
                    "DriverConfig": {"Name": "nfs", "Options": {"o": "ro"}},
                },
            }
        ],
    ),
    (
        {"mounts": (t.Mount(MountType.TMPFS, "/t", size=Bytes(1 << 20), file_mode=0o1777),)},
        "HostConfig.Mounts",
        [
            {
                "Type": "tmpfs",
                "Source": "",
                "Target": "/t",
                "ReadOnly": False,
                "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1777},
            }
        ],
    ),
    (
        {"healthcheck": t.Healthcheck(("CMD", "true"), Duration.of(5), Duration.of(1), 3, Duration.of(2))},
        "Healthcheck",
        {
            "Test": ["CMD", "true"],
            "Interval": 5_000_000_000,
            "Timeout": 1_000_000_000,
            "Retries": 3,
            "StartPeriod": 2_000_000_000,
        },
    ),
    ({"healthcheck": t.Healthcheck(("NONE",))}, "Healthcheck", {"Test": ["NONE"]}),
    ({"isolation": "default"}, "HostConfig.Isolation", "default"),
    ({"privileges": t.Privileges(no_new_privileges=True)}, "HostConfig.SecurityOpt", ["no-new-privileges:true"]),
    (
        {"privileges": t.Privileges(seccomp=t.SecurityProfile("unconfined"))},
        "HostConfig.SecurityOpt",
        ["seccomp=unconfined"],
    ),
    (
        {"privileges": t.Privileges(seccomp=t.SecurityProfile("custom", "{}"))},
        "HostConfig.SecurityOpt",
        ["seccomp={}"],
    ),
    ({"privileges": t.Privileges(seccomp=t.SecurityProfile("default"))}, "HostConfig.SecurityOpt", []),
    (
        {"privileges": t.Privileges(app_armor=t.SecurityProfile("disabled"))},
        "HostConfig.SecurityOpt",
        ["apparmor=unconfined"],
    ),
    ({"privileges": t.Privileges(se_linux=t.SeLinux(disable=True))}, "HostConfig.SecurityOpt", ["label=disable"]),
    (
        {"privileges": t.Privileges(se_linux=t.SeLinux(user="u", level="s0"))},
        "HostConfig.SecurityOpt",
        ["label=user:u", "label=level:s0"],
    ),
    ({"sysctls": {"net.core.somaxconn": "77"}}, "HostConfig.Sysctls", {"net.core.somaxconn": "77"}),
    ({"cap_add": ("NET_ADMIN",)}, "HostConfig.CapAdd", ["NET_ADMIN"]),
    ({"cap_drop": ("ALL",)}, "HostConfig.CapDrop", ["ALL"]),
    ({"ulimits": (t.Ulimit("nofile", 1, 2),)}, "HostConfig.Ulimits", [{"Name": "nofile", "Soft": 1, "Hard": 2}]),
    ({"oom_score_adj": -5}, "HostConfig.OomScoreAdj", -5),
    (
        {"log_driver": t.LogDriver("json-file", {"max-size": "1m"})},
        "HostConfig.LogConfig",
        {"Type": "json-file", "Config": {"max-size": "1m"}},
    ),
    ({"resources": t.Resources(t.Limits(cpus=Cpus.parse("0.2")))}, "HostConfig.NanoCpus", 200_000_000),
    ({"resources": t.Resources(t.Limits(memory=Bytes(1 << 30)))}, "HostConfig.Memory", 1 << 30),
    ({"resources": t.Resources(t.Limits(pids=50))}, "HostConfig.PidsLimit", 50),
    ({"resources": t.Resources(t.Limits(memory=Bytes(100)), swap=Bytes(20))}, "HostConfig.MemorySwap", 120),
    ({"resources": t.Resources(t.Limits(memory=Bytes(100)), swap=Bytes(-1))}, "HostConfig.MemorySwap", -1),
    ({"resources": t.Resources(swappiness=10)}, "HostConfig.MemorySwappiness", 10),
    (
        {"ports": (t.Port(53, 5353, Protocol.UDP, HOST, address="127.0.0.1"), t.Port(80, mode=HOST), t.Port(81, 8081))},
        "HostConfig.PortBindings",
        {"53/udp": [{"HostIp": "127.0.0.1", "HostPort": "5353"}], "80/tcp": [{"HostIp": "", "HostPort": ""}]},
    ),
    ({"ports": (t.Port(80, mode=HOST),)}, "ExposedPorts", {"80/tcp": {}}),
]


@pytest.mark.parametrize(
    ("template", "path", "value"), [pytest.param(*row, id=f"{row[1]} from {next(iter(row[0]))}") for row in OPTIONS]
)
def test_an_option_becomes(template: dict[str, Any], path: str, value: Any) -> None:
    assert at(body(**template), path) == value


@pytest.mark.parametrize(
    "path", ["Entrypoint", "StopSignal", "StopTimeout", "Healthcheck", "ExposedPorts", "NetworkingConfig", "MacAddress"]
)
def test_what_is_not_given_is_the_images_own(path: str) -> None:
    assert path not in body()


@pytest.mark.parametrize("path", ["Init", "LogConfig", "Memory", "NanoCpus", "PidsLimit", "MemorySwap", "OomScoreAdj"])
def test_or_the_engines(path: str) -> None:
    assert path not in body()["HostConfig"]


def test_reservations_limit_nothing() -> None:
    reserved = t.Resources(reservations=t.Reservations(cpus=Cpus(1), memory=Bytes(1)))
    assert body(resources=reserved)["HostConfig"] == body()["HostConfig"]


def test_the_clusters_log_driver_is_used_where_the_task_has_none() -> None:
    around = Around(t.LogDriver("syslog"))
    made = make_body(task_for(), PLAIN, OURS, around=around)
    assert made["HostConfig"]["LogConfig"]["Type"] == "syslog"
    own = make_body(task_for(log_driver=t.LogDriver("local")), PLAIN, OURS, around=around)
    assert own["HostConfig"]["LogConfig"]["Type"] == "local"


def test_the_systems_labels_win_over_the_users() -> None:
    task = task_for(container_labels={"tier": "front", "shoal.task": "mine", "com.docker.swarm.task.id": "mine"})
    labels = make_body(task, PLAIN, OURS)["Labels"]
    assert labels["tier"] == "front"
    assert labels["com.docker.swarm.task"] == ""
    assert labels["com.docker.swarm.task.id"] == labels["shoal.task"] == task.metadata.uid
    assert labels["com.docker.swarm.task.name"] == task.metadata.name
    assert labels["com.docker.swarm.service.name"] == "web"
    assert (labels["shoal.cluster"], labels["shoal.node"], labels["shoal.slot"]) == ("c1", "n1", "1")


@pytest.mark.parametrize(
    ("labels", "name", "ours"),
    [
        pytest.param({}, "web.1.t1", True, id="our own"),
        pytest.param({"shoal.cluster": "c2"}, "web.1.t1", False, id="another cluster's"),
        pytest.param({"shoal.node": "n2"}, "web.1.t1", False, id="another node's"),
        pytest.param({"shoal.task": "t2"}, "web.1.t1", False, id="another task's"),
        pytest.param({}, "jolly_turing", False, id="a stranger made from a committed image"),
    ],
)
def test_a_container_is_a_tasks_own_by_labels_and_name(labels: dict[str, str], name: str, ours: bool) -> None:
    whole = {"shoal.cluster": "c1", "shoal.node": "n1", "shoal.task": "t1", **labels}
    assert is_of_task(whole, name, "t1", OURS) is ours


MESH = ContainerNetwork(
    endpoints=(NetworkEndpoint("shoal-ingress", "10.0.0.4/24", "02:42:0a:00:00:04", ("web",)),),
    nameservers=("10.0.0.2",),
    options=("ndots:0",),
)


def test_a_network_gives_address_aliases_and_names() -> None:
    made = body(MESH, dns=t.Dns(("1.1.1.1",)))
    assert made["HostConfig"]["NetworkMode"] == "shoal-ingress"
    assert made["NetworkingConfig"]["EndpointsConfig"] == {
        "shoal-ingress": {"Aliases": ["web"], "IPAMConfig": {"IPv4Address": "10.0.0.4"}}
    }
    assert made["HostConfig"]["Dns"] == ["10.0.0.2", "1.1.1.1"]
    assert made["HostConfig"]["DnsOptions"] == ["ndots:0"]


def test_the_mac_goes_where_the_engines_version_wants_it() -> None:
    assert body(MESH)["MacAddress"] == "02:42:0a:00:00:04"
    newer = body(MESH, version=(1, 45))
    assert "MacAddress" not in newer
    assert newer["NetworkingConfig"]["EndpointsConfig"]["shoal-ingress"]["MacAddress"] == "02:42:0a:00:00:04"


def test_without_a_network_it_is_on_the_engines_default_bridge() -> None:
    assert body()["HostConfig"]["NetworkMode"] == "default"
    assert body(ContainerNetwork(mode="host"))["HostConfig"]["NetworkMode"] == "host"


def with_generic(*resources: t.GenericResource) -> Task:
    task = task_for()
    return msgspec.structs.replace(task, spec=msgspec.structs.replace(task.spec, generic=resources))


def test_generic_resources_are_in_the_environment() -> None:
    task = with_generic(
        t.GenericResource("gpu", value="a"), t.GenericResource("gpu", value="b"), t.GenericResource("ssd", count=2)
    )
    assert make_body(task, PLAIN, OURS)["Env"] == ["DOCKER_RESOURCE_GPU=a,b", "DOCKER_RESOURCE_SSD=2"]


FACTS = Around(node=NodeFacts("n1uid", "box", "linux", "x86_64"))


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("SLOT={{.Task.Slot}}", "SLOT=3"),
        ("A={{ .Service.Name }}-{{.Node.Hostname}}", "A=web-box"),
        ("A=x {{- .Node.Platform.OS -}} y", "A=xlinuxy"),
        ("A={{.Node.Platform.Architecture}}", "A=x86_64"),
        ("A=plain {braces}", "A=plain {braces}"),
        ("{{.Task.Slot}}=name", "{{.Task.Slot}}=name"),
    ],
)
def test_placeholders_in_the_environment(given: str, made: str) -> None:
    task = make_task(make_service(env=(given,)), 3, node=NODE)
    assert make_body(task, PLAIN, OURS, around=FACTS)["Env"] == [made]


def test_placeholders_in_hostname_and_mounts() -> None:
    mount = t.Mount(MountType.VOLUME, "/data/{{.Task.Slot}}", "data-{{.Task.Slot}}", labels={"n": "{{.Node.ID}}"})
    task = make_task(make_service(hostname="{{.Service.Name}}{{.Task.Slot}}", mounts=(mount,)), 3, node=NODE)
    made = make_body(task, PLAIN, OURS, around=FACTS)
    assert made["Hostname"] == "web3"
    (found,) = made["HostConfig"]["Mounts"]
    assert (found["Source"], found["Target"]) == ("data-3", "/data/3")
    assert found["VolumeOptions"]["Labels"] == {"n": "n1uid"}


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("A={{.Service.Labels.tier}}", "A=front"),
        ('A={{ index .Service.Labels "com.x.team" }}', "A=ops"),
        ("A={{index .Service.Labels `tier`}}", "A=front"),
        ("A={{.Service.Labels.none}}!", "A=!"),
        ("A={{.Service.Labels}}", "A=map[com.x.team:ops tier:front]"),
    ],
)
def test_labels_of_the_service_are_placeholders_too(given: str, made: str) -> None:
    mount = t.Mount(MountType.VOLUME, "/data", "data-{{.Service.Labels.tier}}")
    service = make_service(env=(given,), hostname="{{.Service.Labels.tier}}-1", mounts=(mount,))
    task = make_task(service, 3, node=NODE)
    labels = {"tier": "front", "com.x.team": "ops"}
    task = msgspec.structs.replace(task, metadata=msgspec.structs.replace(task.metadata, labels=labels))
    template = expanded(task, NodeFacts())
    assert (template.env, template.hostname, template.mounts[0].source) == ((made,), "front-1", "data-front")


def test_an_unknown_placeholder_is_named() -> None:
    with pytest.raises(TerminalError, match=r"\.Task\.Colour.*known are .*\.Task\.Slot"):
        body(env=("A={{.Task.Colour}}",))


@pytest.mark.parametrize(
    ("image", "name", "tag"),
    [
        ("busybox", "busybox", "latest"),
        ("busybox:1", "busybox", "1"),
        ("r:5000/a/b", "r:5000/a/b", "latest"),
        ("r:5000/a/b:1", "r:5000/a/b", "1"),
        ("a/b@sha256:00", "a/b", "sha256:00"),
        ("a/b:1@sha256:00", "a/b", "sha256:00"),
    ],
)
def test_a_reference_is_split_for_pulling(image: str, name: str, tag: str) -> None:
    assert split_reference(image) == (name, tag)


@pytest.mark.parametrize(
    ("image", "fixed"),
    [
        ("busybox:1", False),
        ("busybox@sha256:" + "0" * 64, True),
        ("sha256:" + "0" * 64, True),
        ("0" * 64, True),
        ("deadbeef", False),
    ],
)
def test_a_digest_or_an_id_is_fixed(image: str, fixed: bool) -> None:
    assert is_fixed(image) is fixed


@pytest.mark.parametrize(
    ("image", "host"),
    [
        ("nginx", "docker.io"),
        ("a/b", "docker.io"),
        ("r:5000/a", "r:5000"),
        ("localhost/a", "localhost"),
        ("q.io/a", "q.io"),
    ],
)
def test_the_registry_of_a_reference(image: str, host: str) -> None:
    assert registry_of(image) == host
