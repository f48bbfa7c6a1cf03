"""From a task to the body of the engine's create call. Pure.

Source: which labels a task's container carries, and what each field of a task becomes, is Swarm's (moby,
daemon/cluster/executor/container); the words of the body are the Docker Engine API's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

from nodeagent.ports import BoundFile, ContainerNetwork, NetworkEndpoint
from shoal.api.objects import Task
from shoal.api.states import MountType, PublishMode
from shoal.api.template import Healthcheck, LogDriver, Mount, Port, Privileges, Resources, TaskTemplate
from shoal.rules.expand import NodeFacts, expanded

MAC_PER_ENDPOINT: Final = (1, 44)
"""From this API version on, a MAC belongs to an endpoint; before, to the whole container."""

CLUSTER_LABEL: Final = "shoal.cluster"
NODE_LABEL: Final = "shoal.node"
TASK_LABEL: Final = "shoal.task"
SERVICE_LABEL: Final = "shoal.service"
SLOT_LABEL: Final = "shoal.slot"
REVISION_LABEL: Final = "shoal.revision"


class Identity(Struct, frozen=True):
    """Whose containers these are: a cluster's and a node's uid."""

    cluster: str
    node: str

    def labels(self) -> dict[str, str]:
        """What every container of ours on this node carries."""
        return {CLUSTER_LABEL: self.cluster, NODE_LABEL: self.node}


class Around(Struct, frozen=True):
    """What a container takes from its surroundings: the cluster's log driver, and what its node is."""

    log_driver: LogDriver | None = None
    node: NodeFacts = NodeFacts()


NOWHERE: Final = Around()


def labels_of(task: Task, identity: Identity) -> dict[str, str]:
    """The system's labels; they win over the user's."""
    service, uid = task.spec.service, task.metadata.uid
    return {
        "com.docker.swarm.task": "",
        "com.docker.swarm.task.id": uid,
        "com.docker.swarm.task.name": task.metadata.name,
        "com.docker.swarm.node.id": identity.node,
        "com.docker.swarm.service.id": service.uid,
        "com.docker.swarm.service.name": service.name,
        **identity.labels(),
        TASK_LABEL: uid,
        SERVICE_LABEL: service.uid,
        SLOT_LABEL: task.spec.slot,
        REVISION_LABEL: task.spec.revision,
    }


def is_of_task(labels: Mapping[str, str], name: str, task_uid: str, identity: Identity) -> bool:
    """Is a container with these labels and this name the task's own?

    The name counts too: an image committed from a task's container hands the labels on to strangers.
    """
    ours = {**identity.labels(), TASK_LABEL: task_uid}
    return ours.items() <= labels.items() and name.endswith(f".{task_uid}")


def make_body(
    task: Task,
    network: ContainerNetwork,
    identity: Identity,
    *,
    around: Around = NOWHERE,
    files: Iterable[BoundFile] = (),
    api_version: tuple[int, int] = (1, 41),
) -> dict[str, Any]:
    """Return the body for POST /containers/create; TerminalError for a placeholder that is not known."""
    template = expanded(task, around.node)
    body: dict[str, Any] = {
        "Image": template.image,
        "Hostname": template.hostname,
        "Env": [*template.env, *_generic_env(task)],
        "WorkingDir": template.working_dir,
        "User": template.user,
        "Tty": template.tty,
        "OpenStdin": template.stdin,
        "Labels": {**template.container_labels, **labels_of(task, identity)},
        "HostConfig": _host_config(template, network, around.log_driver, files),
    }
    if template.command:
        body["Entrypoint"] = list(template.command)
    if template.args:
        body["Cmd"] = list(template.args)
    if template.stop_signal:
        body["StopSignal"] = template.stop_signal
    if template.stop_grace_period is not None:
        body["StopTimeout"] = math.ceil(template.stop_grace_period.seconds)
    if template.healthcheck is not None:
        body["Healthcheck"] = _healthcheck(template.healthcheck)
    if ports := _host_ports(template):
        body["ExposedPorts"] = {_target(port): {} for port in ports}
    if network.endpoints:
        body |= _networking(network.endpoints[0], api_version)
    return body


def endpoint_settings(endpoint: NetworkEndpoint, api_version: tuple[int, int]) -> dict[str, Any]:
    """Return an EndpointSettings for creation or for joining a further network."""
    settings: dict[str, Any] = {"Aliases": list(endpoint.aliases)}
    if endpoint.ip:
        settings["IPAMConfig"] = {"IPv4Address": endpoint.ip.partition("/")[0]}
    if endpoint.mac and api_version >= MAC_PER_ENDPOINT:
        settings["MacAddress"] = endpoint.mac
    if endpoint.options:
        settings["DriverOpts"] = dict(endpoint.options)
    return settings


def _networking(first: NetworkEndpoint, api_version: tuple[int, int]) -> dict[str, Any]:
    joined = {"NetworkingConfig": {"EndpointsConfig": {first.name: endpoint_settings(first, api_version)}}}
    return joined if not first.mac or api_version >= MAC_PER_ENDPOINT else {**joined, "MacAddress": first.mac}


def _host_config(
    template: TaskTemplate, network: ContainerNetwork, log_driver: LogDriver | None, files: Iterable[BoundFile]
) -> dict[str, Any]:
    own_dns = template.dns
    host: dict[str, Any] = {
        "NetworkMode": network.endpoints[0].name if network.endpoints else network.mode or "default",
        "ReadonlyRootfs": template.read_only,
        "GroupAdd": list(template.groups),
        "ExtraHosts": _extra_hosts(template.hosts),
        "Dns": [*network.nameservers, *(own_dns.nameservers if own_dns else ())],
        "DnsSearch": [*(own_dns.search if own_dns else ()), *network.search],
        "DnsOptions": [*network.options, *(own_dns.options if own_dns else ())],
        "Mounts": [*(_mount(mount) for mount in template.mounts), *map(_file_mount, files)],
        "CapAdd": list(template.cap_add),
        "CapDrop": list(template.cap_drop),
        "Sysctls": template.sysctls,
        "Ulimits": [{"Name": one.name, "Soft": one.soft, "Hard": one.hard} for one in template.ulimits],
        "SecurityOpt": _security(template.privileges),
        "PortBindings": _bindings(_host_ports(template)),
        "RestartPolicy": {"Name": "no"},
    }
    if template.init is not None:
        host["Init"] = template.init
    if template.isolation:
        host["Isolation"] = template.isolation
    if template.oom_score_adj is not None:
        host["OomScoreAdj"] = template.oom_score_adj
    if driver := template.log_driver or log_driver:
        host["LogConfig"] = {"Type": driver.name, "Config": driver.options}
    return {**host, **_resources(template.resources)}


def _resources(resources: Resources | None) -> dict[str, Any]:
    """Limits only: reservations are placement's business. Swap is counted on top of memory, as the engine wants it."""
    found: dict[str, Any] = {}
    if resources is None:
        return found
    if limits := resources.limits:
        if limits.cpus:
            found["NanoCpus"] = int(limits.cpus)
        if limits.memory:
            found["Memory"] = int(limits.memory)
        if limits.pids:
            found["PidsLimit"] = limits.pids
    if resources.swap is not None and "Memory" in found:
        found["MemorySwap"] = -1 if resources.swap < 0 else found["Memory"] + int(resources.swap)
    if resources.swappiness is not None:
        found["MemorySwappiness"] = resources.swappiness
    return found


def _mount(mount: Mount) -> dict[str, Any]:
    made: dict[str, Any] = {
        "Type": mount.type.value,
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
    }
    if mount.consistency:
        made["Consistency"] = mount.consistency
    if mount.type is MountType.BIND:
        made["BindOptions"] = _given(Propagation=mount.propagation, NonRecursive=mount.non_recursive)
    elif mount.type is MountType.VOLUME:
        driver = _given(Name=mount.driver, Options=mount.driver_opts)
        made["VolumeOptions"] = _given(NoCopy=mount.no_copy, Labels=mount.labels, DriverConfig=driver)
    elif mount.type is MountType.TMPFS:
        made["TmpfsOptions"] = _given(SizeBytes=int(mount.size or 0), Mode=mount.file_mode)
    return made


def _file_mount(file: BoundFile) -> dict[str, Any]:
    return {"Type": "bind", "Source": file.source, "Target": file.target, "ReadOnly": True}


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


def _healthcheck(check: Healthcheck) -> dict[str, Any]:
    durations = {
        "Interval": check.interval,
        "Timeout": check.timeout,
        "StartPeriod": check.start_period,
        "StartInterval": check.start_interval,
    }
    return _given(
        Test=list(check.test),
        Retries=check.retries,
        **{name: None if value is None else int(value) for name, value in durations.items()},
    )


def _security(privileges: Privileges | None) -> list[str]:
    """Return the engine's security options; what is "default" is not mentioned."""
    if privileges is None:
        return []
    options = ["no-new-privileges:true"] if privileges.no_new_privileges else []
    if linux := privileges.se_linux:
        parts = {"user": linux.user, "role": linux.role, "type": linux.type, "level": linux.level}
        options += ["label=disable"] if linux.disable else [f"label={k}:{v}" for k, v in parts.items() if v]
    if seccomp := privileges.seccomp:
        options += {"unconfined": ["seccomp=unconfined"], "custom": [f"seccomp={seccomp.profile}"]}.get(
            seccomp.mode, []
        )
    if armor := privileges.app_armor:
        options += {
            "disabled": ["apparmor=unconfined"],
            "unconfined": ["apparmor=unconfined"],
            "custom": [f"apparmor={armor.profile}"],
        }.get(armor.mode, [])
    return options


def _extra_hosts(lines: Iterable[str]) -> list[str]:
    """ "10.0.0.9 db cache" becomes "db:10.0.0.9" and "cache:10.0.0.9"."""
    return [f"{name}:{ip}" for ip, *names in (line.split() for line in lines if line.strip()) for name in names]


def _host_ports(template: TaskTemplate) -> list[Port]:
    return [port for port in template.ports if port.mode is PublishMode.HOST]


def _target(port: Port) -> str:
    return f"{port.target}/{port.protocol}"


def _bindings(ports: Iterable[Port]) -> dict[str, list[dict[str, str]]]:
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in ports:
        binding = {"HostIp": port.address, "HostPort": str(port.published or "")}
        bindings.setdefault(_target(port), []).append(binding)
    return bindings


def _generic_env(task: Task) -> list[str]:
    """Named and counted resources given to the task: DOCKER_RESOURCE_GPU=uuid1,uuid2."""
    kinds: dict[str, list[str]] = {}
    for one in task.spec.generic:
        kinds.setdefault(one.kind, []).append(one.value if one.value is not None else str(one.count))
    return [f"DOCKER_RESOURCE_{kind.upper()}={','.join(values)}" for kind, values in sorted(kinds.items())]
