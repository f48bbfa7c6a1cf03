"""Whether an object says something that can be done: all faults at once. Pure.

Types and field names are `shoal.api.strict`'s business; this judges values. Source of the limits: SwarmKit's
manager/controlapi, and Docker's own validation of a container.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from shoal.api.codec import encode
from shoal.api.errors import Fault
from shoal.api.grammar import (
    CONSTRAINT_KEYS,
    LABEL,
    PLACEHOLDERS,
    is_known_key,
    parse_constraint,
    parse_image,
    unknown_placeholders,
)
from shoal.api.names import below, file_name_problem, hint, service_name_problem
from shoal.api.networks import network_faults, pool_faults, use_faults
from shoal.api.objects import (
    Cluster,
    ClusterSpec,
    Config,
    FileSpec,
    Network,
    Node,
    Object,
    Secret,
    Service,
    ServiceSpec,
)
from shoal.api.payload import problems
from shoal.api.states import (
    EndpointMode,
    FailureAction,
    Mode,
    MountType,
    Protocol,
    PublishMode,
)
from shoal.api.template import FileUse, GenericResource, Healthcheck, Mount, Port, path_of_config, path_of_secret
from shoal.api.units import Bytes, Cpus, Duration

MAX_OBJECT_BYTES: Final = 512_000
"""Bytes of an object's stored form. One transaction holds 1 MiB, and every process caches every object."""

MAX_BODY_BYTES: Final = 4 << 20
"""Bytes of one request, and so of one `apply`: room for a stack with two of the largest configs, in base64."""

MAX_SECRET_BYTES: Final = 512_000
MAX_CONFIG_BYTES: Final = 1_024_000
"""A secret's or config's data is shorter. Source: SwarmKit's api/validation."""

MAX_FILE_HEAD_BYTES: Final = 64_000
"""Bytes of a secret's or config's stored form without its data; with the data it still fits into one transaction."""

MAX_REPLICAS: Final = 100_000
"""More is a typing error: every task is an object in the store."""

MAX_GENERIC: Final = 1_000_000
"""More of one kind of generic resource no node has."""

_GENERIC_KIND: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
"""It becomes part of a variable's name: DOCKER_RESOURCE_GPU."""

MIN_CPUS: Final = Cpus(1_000_000)
MIN_MEMORY: Final = Bytes(4 << 20)
MIN_HEALTH: Final = Duration(1_000_000)

Faults = Iterator[Fault]


def validate(obj: Object) -> list[Fault]:
    """Return everything that is wrong with an object; [] = it may be stored."""
    faults = list(_object_faults(obj))
    is_file = isinstance(obj, (Secret, Config))
    size = len(encode(obj)) - (len(obj.spec.data) if isinstance(obj, (Secret, Config)) else 0)
    limit = MAX_FILE_HEAD_BYTES if is_file else MAX_OBJECT_BYTES
    if size > limit:
        what = "without its data" if is_file else "in its stored form"
        faults.append(Fault("", f"the object is {size // 1000} kB long {what}; at most {limit // 1000} kB"))
    return faults


def _object_faults(obj: Object) -> Faults:
    yield from _label_faults(obj.metadata.labels, "metadata.labels")
    if isinstance(obj, Service):
        yield from _named(obj, service_name_problem)
        for check in (*_SERVICE_CHECKS, _not_yet_faults):
            yield from check(obj.spec)
    elif isinstance(obj, (Network, Secret, Config)):
        yield from _named(obj, file_name_problem)
        if isinstance(obj, Network):
            yield from network_faults(obj.spec)
        else:
            yield from _file_faults(obj.KIND.lower(), obj.spec)
    elif isinstance(obj, Node) and not obj.metadata.name:
        yield Fault("metadata.name", "missing; expected the node's name or uid")
    elif isinstance(obj, Cluster):
        yield from cluster_faults(obj.spec)


def _named(obj: Object, problem: Callable[[str], str]) -> Faults:
    wrong = problem(obj.metadata.name)
    if wrong:
        yield Fault("metadata.name", wrong)


class NotYet(Struct, frozen=True):
    """A field whose use is refused until it works: `path` with [] for every item, and which of its values count."""

    path: str
    sentence: str
    is_used: Callable[[Any], bool] = bool


_LATER: Final = "not available yet in this version; leave it out"

NOT_YET: Final[tuple[NotYet, ...]] = (
    NotYet(
        "spec.ports[]",
        "sctp ports on every node are not available yet in this version; use mode: host",
        lambda port: port.protocol is Protocol.SCTP and port.mode is PublishMode.INGRESS,
    ),
    NotYet(
        "spec.mounts[].type",
        f"cluster volumes and named pipes are {_LATER}, or use volume, bind or tmpfs",
        lambda kind: kind in (MountType.CLUSTER, MountType.NPIPE),
    ),
)
"""Delete a row when its field works."""


def _not_yet_faults(spec: ServiceSpec) -> Faults:
    for row in NOT_YET:
        for path, value in _values(spec, row.path.removeprefix("spec."), "spec"):
            if row.is_used(value):
                yield Fault(path, row.sentence)


def _values(value: Any, pattern: str, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of every field a pattern such as `mounts[].source` names."""
    if not pattern:
        yield path, value
        return
    head, _, rest = pattern.partition(".")
    name = head.removesuffix("[]")
    found = getattr(value, re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", name), None)
    if found is None:
        return
    if head.endswith("[]"):
        for index, item in enumerate(found):
            yield from _values(item, rest, f"{path}.{name}[{index}]")
    else:
        yield from _values(found, rest, f"{path}.{name}")


def cluster_faults(spec: ClusterSpec) -> Faults:
    """Judge a cluster's settings. Source of the limits: SwarmKit's manager/controlapi and manager/allocator."""
    for path, duration, least in (
        ("spec.heartbeatPeriod", spec.heartbeat_period, Duration.of(1)),
        ("spec.orphanAfter", spec.orphan_after, Duration.of(1)),
        ("spec.brake", spec.brake, Duration(0)),
        ("spec.certificateExpiry", spec.certificate_expiry, Duration.of(3600)),
    ):
        if duration < least:
            yield Fault(path, f"found {duration}, expected at least {least}")
    if not 1024 <= spec.data_path_port <= 49151:
        yield Fault("spec.dataPathPort", f"found {spec.data_path_port}, expected 1024 to 49151")
    yield from pool_faults(spec.default_addr_pools, spec.subnet_size)


def _file_faults(kind: str, spec: FileSpec) -> Faults:
    """No message quotes any of the data. That a new one has data, admission sees to: an update need not repeat it."""
    if spec.driver:
        yield Fault("spec.driver", f"{kind}s from external drivers are not supported; give the data itself")
    if spec.templating not in ("", "golang"):
        yield Fault("spec.templating", f"found {spec.templating!r}; golang is the only one there is")
    try:
        data = base64.b64decode(spec.data, validate=True)
    except (binascii.Error, ValueError):
        yield Fault("spec.data", "is not base64; give plain text as `text`")
        return
    limit = MAX_SECRET_BYTES if kind == "secret" else MAX_CONFIG_BYTES
    if len(data) >= limit:
        yield Fault("spec.data", f"{kind} data must be larger than 0 and less than {limit} bytes; found {len(data)}")
    elif spec.templating == "golang":
        yield from (Fault("spec.data", problem) for problem in problems(data))


def _mode_faults(spec: ServiceSpec) -> Faults:
    if spec.replicas is not None:
        if spec.mode.is_global:
            yield Fault("spec.replicas", f"found {spec.replicas}, but a {spec.mode} service has one task per node")
        elif not 0 <= spec.replicas <= MAX_REPLICAS:
            yield Fault("spec.replicas", f"found {spec.replicas}, expected 0 to {MAX_REPLICAS}")
    if spec.max_concurrent is not None:
        if spec.mode is not Mode.JOB:
            yield Fault("spec.maxConcurrent", f"only a job has it; this service's mode is {spec.mode}")
        elif spec.max_concurrent < 0:
            yield Fault("spec.maxConcurrent", f"found {spec.max_concurrent}, expected 0 or more")
    for field, given in (("update", spec.update), ("rollback", spec.rollback)):
        if spec.mode.is_job and given is not None:
            yield Fault(f"spec.{field}", "a job is not updated task by task; leave it out")
    if spec.force_update < 0:
        yield Fault("spec.forceUpdate", f"found {spec.force_update}, expected 0 or more")


def _image_faults(spec: ServiceSpec) -> Faults:
    if not spec.image:
        yield Fault("spec.image", "empty; expected an image reference such as nginx:1.27")
        return
    try:
        parse_image(spec.image)
    except ValueError as error:
        yield Fault("spec.image", str(error))


_ENV_NAME_LIMIT = 1024
_HOSTNAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9._-]*[a-zA-Z0-9])?")
_SIGNAL = re.compile(r"(?:SIG)?[A-Z][A-Z0-9+-]*|\d{1,2}")
_SYSCTL = re.compile(r"[a-zA-Z0-9_-]+(?:[./][a-zA-Z0-9_-]+)+")
_CAPABILITY = re.compile(r"[A-Za-z_]+")


def _container_faults(spec: ServiceSpec) -> Faults:
    for index, entry in enumerate(spec.env):
        name = entry.partition("=")[0]
        if not name or "\0" in entry or re.search(r"\s", name) or len(name) > _ENV_NAME_LIMIT:
            yield Fault(
                f"spec.env[{index}]", f"found the name {name[:60]!r}, expected NAME=value without blanks in NAME"
            )
    for field, words in (("command", spec.command), ("args", spec.args)):
        for index, word in enumerate(words):
            if "\0" in word:
                yield Fault(f"spec.{field}[{index}]", "holds a NUL character, which no argument can")
    if (
        spec.hostname
        and "{{" not in spec.hostname
        and not (len(spec.hostname) <= 63 and _HOSTNAME.fullmatch(spec.hostname))
    ):
        yield Fault("spec.hostname", f"found {spec.hostname!r}, expected at most 63 letters, digits, '-' and '.'")
    if spec.working_dir and not spec.working_dir.startswith("/"):
        yield Fault("spec.workingDir", f"found {spec.working_dir!r}, expected an absolute path")
    if spec.stop_signal and not _SIGNAL.fullmatch(spec.stop_signal):
        yield Fault("spec.stopSignal", f"found {spec.stop_signal!r}, expected a signal such as SIGTERM or 15")
    yield from _not_negative(spec.stop_grace_period, "spec.stopGracePeriod")
    if spec.oom_score_adj is not None and not -1000 <= spec.oom_score_adj <= 1000:
        yield Fault("spec.oomScoreAdj", f"found {spec.oom_score_adj}, expected -1000 to 1000")
    if spec.isolation not in ("", "default"):
        yield Fault("spec.isolation", f"found {spec.isolation!r}; Linux knows only default")
    yield from _label_faults(spec.container_labels, "spec.containerLabels")
    for key, value in spec.sysctls.items():
        if not _SYSCTL.fullmatch(key) or not value:
            yield Fault(
                below("spec.sysctls", key), f"found {key}={value!r}, expected one such as net.core.somaxconn=1024"
            )
    for field, names in (("capAdd", spec.cap_add), ("capDrop", spec.cap_drop)):
        for index, name in enumerate(names):
            if not _CAPABILITY.fullmatch(name):
                yield Fault(f"spec.{field}[{index}]", f"found {name!r}, expected a capability such as NET_ADMIN")


def _host_faults(spec: ServiceSpec) -> Faults:
    for index, line in enumerate(spec.hosts):
        address, *names = line.split() or [""]
        if not _is_address(address) or not names:
            yield Fault(f"spec.hosts[{index}]", f"found {line!r}, expected an address and names: 10.0.0.1 db db.local")
    if spec.dns is not None:
        for index, address in enumerate(spec.dns.nameservers):
            if not _is_address(address):
                yield Fault(f"spec.dns.nameservers[{index}]", f"found {address!r}, expected an IP address")


def _limit_faults(spec: ServiceSpec) -> Faults:
    seen: Counter[str] = Counter(limit.name for limit in spec.ulimits)
    for index, limit in enumerate(spec.ulimits):
        path = f"spec.ulimits[{index}]"
        if seen[limit.name] > 1:
            yield Fault(path, f"{limit.name} is given {seen[limit.name]} times")
        if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
            yield Fault(path, f"found soft {limit.soft} above hard {limit.hard}; expected soft at most hard")


def _resource_faults(spec: ServiceSpec) -> Faults:
    resources = spec.resources
    if resources is None:
        return
    limits, reservations = resources.limits, resources.reservations
    for path, given in (("spec.resources.limits", limits), ("spec.resources.reservations", reservations)):
        if given is None:
            continue
        if given.cpus is not None and given.cpus and given.cpus < MIN_CPUS:
            yield Fault(f"{path}.cpus", f"found {given.cpus}, expected at least {MIN_CPUS}")
        if given.memory is not None and given.memory and given.memory < MIN_MEMORY:
            yield Fault(f"{path}.memory", f"found {given.memory}, expected at least {MIN_MEMORY}")
    if limits is not None and limits.pids is not None and limits.pids < -1:
        yield Fault("spec.resources.limits.pids", f"found {limits.pids}, expected 0 or more")
    if limits is not None and reservations is not None:
        for field in ("cpus", "memory"):
            most, least = getattr(limits, field), getattr(reservations, field)
            if most and least and least > most:
                yield Fault(
                    f"spec.resources.reservations.{field}",
                    f"found {least}, more than the limit of {most} allows to use",
                )
    if reservations is not None:
        yield from _generic_faults(reservations.generic)
    if resources.swappiness is not None and not -1 <= resources.swappiness <= 100:
        yield Fault("spec.resources.swappiness", f"found {resources.swappiness}, expected 0 to 100")
    if resources.swap is not None and resources.swap < -1:
        yield Fault("spec.resources.swap", f"found {resources.swap}, expected a size, or -1 for no limit")


def _generic_faults(generic: Sequence[GenericResource]) -> Faults:
    """A service asks for so many of a kind; which ones it gets is not its choice. Source: swarm semantics 4.0."""
    seen: set[str] = set()
    for index, one in enumerate(generic):
        path = f"spec.resources.reservations.generic[{index}]"
        if not _GENERIC_KIND.fullmatch(one.kind):
            yield Fault(f"{path}.kind", f"found {one.kind!r}, expected a name of letters, digits, '-', '_' and '.'")
        elif one.kind in seen:
            yield Fault(f"{path}.kind", f"{one.kind} is asked for twice; say once how many")
        seen.add(one.kind)
        if one.value is not None:
            yield Fault(f"{path}.value", "only nodes have named resources; a service asks for a count, such as gpu=2")
        elif one.count is None:
            yield Fault(f"{path}.count", "missing; expected how many, 1 or more")
        elif not 1 <= one.count <= MAX_GENERIC:
            yield Fault(f"{path}.count", f"found {one.count}, expected 1 to {MAX_GENERIC}")


def _restart_faults(spec: ServiceSpec) -> Faults:
    restart = spec.restart
    if restart is None:
        return
    yield from _not_negative(restart.delay, "spec.restart.delay")
    yield from _not_negative(restart.window, "spec.restart.window")
    if restart.max_attempts is not None and restart.max_attempts < 0:
        yield Fault("spec.restart.maxAttempts", f"found {restart.max_attempts}, expected 0 (no limit) or more")


def _update_faults(spec: ServiceSpec) -> Faults:
    for path, update in (("spec.update", spec.update), ("spec.rollback", spec.rollback)):
        if update is None:
            continue
        if update.parallelism < 0:
            yield Fault(f"{path}.parallelism", f"found {update.parallelism}, expected 0 (all at once) or more")
        yield from _not_negative(update.delay, f"{path}.delay")
        yield from _not_negative(update.monitor, f"{path}.monitor")
        yield from _not_negative(update.deadline, f"{path}.deadline")
        if not 0 <= update.max_failure_ratio <= 1:
            yield Fault(f"{path}.maxFailureRatio", f"found {update.max_failure_ratio}, expected 0 to 1")
    if spec.rollback is not None and spec.rollback.failure_action is FailureAction.ROLLBACK:
        yield Fault(
            "spec.rollback.failureAction", "found rollback, but a rollback cannot be rolled back; pause or continue"
        )


def _placement_faults(spec: ServiceSpec) -> Faults:
    placement = spec.placement
    if placement is None:
        return
    for index, text in enumerate(placement.constraints):
        path = f"spec.placement.constraints[{index}]"
        try:
            key = parse_constraint(text).key
        except ValueError as error:
            yield Fault(path, str(error))
            continue
        if not is_known_key(key):
            known = ", ".join(f"{k}<key>" if k.endswith(".") else k for k in CONSTRAINT_KEYS)
            yield Fault(path, f"found the key {key!r}, which no node has; expected one of {known}")
    for index, preference in enumerate(placement.preferences):
        if not re.fullmatch(r"(?i:node|engine)\.(?i:labels)\..+", preference.spread):
            yield Fault(
                f"spec.placement.preferences[{index}].spread",
                f"found {preference.spread!r}, expected a label such as node.labels.zone",
            )
    if placement.max_replicas_per_node < 0:
        yield Fault("spec.placement.maxReplicasPerNode", f"found {placement.max_replicas_per_node}, expected 0 or more")
    if placement.max_replicas_per_node and spec.mode.is_global:
        yield Fault("spec.placement.maxReplicasPerNode", f"a {spec.mode} service has one task per node anyway")


_BIND_PROPAGATIONS = ("", "rprivate", "private", "rshared", "shared", "rslave", "slave")


def _mount_faults(spec: ServiceSpec) -> Faults:
    targets = Counter(_tidy(mount.target) for mount in spec.mounts)
    for index, mount in enumerate(spec.mounts):
        path = f"spec.mounts[{index}]"
        yield from _one_mount_faults(mount, path)
        if targets[_tidy(mount.target)] > 1:
            yield Fault(f"{path}.target", f"{mount.target} is mounted {targets[_tidy(mount.target)]} times")


def _one_mount_faults(mount: Mount, path: str) -> Faults:
    if not mount.target.startswith("/") or _tidy(mount.target) == "/":
        yield Fault(f"{path}.target", f"found {mount.target!r}, expected an absolute path below /")
    if mount.type is MountType.BIND and not mount.source.startswith("/"):
        yield Fault(f"{path}.source", f"found {mount.source!r}, expected an absolute path on the host")
    if mount.type is MountType.TMPFS and mount.source:
        yield Fault(f"{path}.source", f"found {mount.source!r}, but a tmpfs mount has no source")
    if mount.type is MountType.VOLUME and mount.source and not re.fullmatch(
        r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", mount.source
    ) and "{{" not in mount.source:  # fmt: skip
        yield Fault(
            f"{path}.source", f"found {mount.source!r}, expected a volume's name: letters, digits, '_', '.' and '-'"
        )
    if mount.propagation not in _BIND_PROPAGATIONS:
        yield Fault(
            f"{path}.propagation", f"found {mount.propagation!r}, expected one of {', '.join(_BIND_PROPAGATIONS[1:])}"
        )
    for kind, fields in _ONLY_FOR.items():
        for field, attribute in fields:
            if mount.type is not kind and getattr(mount, attribute):
                yield Fault(f"{path}.{field}", f"only a {kind} mount has it; this one is of type {mount.type}")
    if mount.size is not None and mount.size < 0:
        yield Fault(f"{path}.size", f"found {mount.size}, expected a size")
    if mount.file_mode is not None and not 0 <= mount.file_mode <= 0o7777:
        yield Fault(f"{path}.fileMode", f"found {mount.file_mode}, expected permission bits such as 01777")


_ONLY_FOR: Final[dict[MountType, tuple[tuple[str, str], ...]]] = {
    MountType.BIND: (("propagation", "propagation"), ("nonRecursive", "non_recursive")),
    MountType.VOLUME: (
        ("noCopy", "no_copy"), ("labels", "labels"), ("driver", "driver"), ("driverOpts", "driver_opts"),
    ),
    MountType.TMPFS: (("size", "size"), ("fileMode", "file_mode")),
}  # fmt: skip


MAX_ID: Final = (1 << 32) - 2
"""The highest user or group id there is; one more means nobody asked."""


def _file_use_faults(spec: ServiceSpec) -> Faults:
    mounted = {_tidy(mount.target): f"mount {mount.target}" for mount in spec.mounts}
    for field, uses, path_of in (("secret", spec.secrets, path_of_secret), ("config", spec.configs, path_of_config)):
        for index, use in enumerate(uses):
            path = f"spec.{field}s[{index}]"
            yield from _one_use_faults(use, path)
            target = _tidy(path_of(use))
            other = mounted.get(target)
            if other is None:
                mounted[target] = f"{field} {use.source}"
            elif other.startswith(field):
                names = f"'{other.partition(' ')[2]}' and '{use.source}'"
                shown = use.target or use.source
                message = f"{field} references {names} have a conflicting target: '{shown}'"
                yield Fault(f"{path}.target", message)
            else:
                yield Fault(f"{path}.target", f"{target} is also the target of {other}")


def _one_use_faults(use: FileUse, path: str) -> Faults:
    if not use.source:
        yield Fault(f"{path}.source", "missing; expected a name")
    if ".." in use.target.split("/") or use.target.endswith("/") or "\0" in use.target:
        yield Fault(f"{path}.target", f"found {use.target!r}, expected a file's path without ..")
    for field, number in (("owner", use.owner), ("group", use.group)):
        if not re.fullmatch(r"[0-9]{1,10}", number) or int(number) > MAX_ID:
            yield Fault(f"{path}.{field}", f"found {number!r}, expected a number from 0 to {MAX_ID}")
    if not 0 <= use.file_mode <= 0o7777:
        yield Fault(f"{path}.fileMode", f"found {use.file_mode}, expected permission bits such as 0440")


def _port_faults(spec: ServiceSpec) -> Faults:
    published = Counter((port.protocol, port.published) for port in spec.ports if port.published)
    targets = Counter((port.protocol, port.target) for port in spec.ports if not port.published)
    for index, port in enumerate(spec.ports):
        path = f"spec.ports[{index}]"
        if not 1 <= port.target <= 65535:
            yield Fault(f"{path}.target", f"found {port.target}, expected a port from 1 to 65535")
        if not 0 <= port.published <= 65535:
            yield Fault(
                f"{path}.published", f"found {port.published}, expected 1 to 65535, or 0 for one of Shoal's choice"
            )
        if published[port.protocol, port.published] > 1:
            yield Fault(f"{path}.published", _twice("published", port.published, port, spec))
        elif targets[port.protocol, port.target] > 1 and not port.published:
            yield Fault(f"{path}.target", _twice("target", port.target, port, spec))
        if port.address and not _is_address(port.address):
            yield Fault(f"{path}.address", f"found {port.address!r}, expected an IP address of the host")
    if spec.endpoint is not None and spec.endpoint.mode is EndpointMode.DNSRR:
        for index, port in enumerate(spec.ports):
            if port.mode is PublishMode.INGRESS:
                yield Fault(
                    f"spec.ports[{index}].mode",
                    "found ingress, but endpoint mode dnsrr has no virtual IP to publish; use mode: host",
                )


def _twice(field: str, number: int, port: Port, spec: ServiceSpec) -> str:
    at = [
        f"spec.ports[{index}]"
        for index, other in enumerate(spec.ports)
        if getattr(other, field) == number and other.protocol is port.protocol
    ]
    return f"{number}/{port.protocol} is given {len(at)} times: {', '.join(at)}"


def _health_faults(spec: ServiceSpec) -> Faults:
    check = spec.healthcheck
    if check is None:
        return
    yield from _health_test_faults(check)
    for field, value in (
        ("interval", check.interval),
        ("timeout", check.timeout),
        ("startPeriod", check.start_period),
        ("startInterval", check.start_interval),
    ):
        if value is not None and value != 0 and value < MIN_HEALTH:
            yield Fault(f"spec.healthcheck.{field}", f"found {value}, expected 0s or at least {MIN_HEALTH}")
    if check.retries is not None and check.retries < 0:
        yield Fault("spec.healthcheck.retries", f"found {check.retries}, expected 0 or more")


def _health_test_faults(check: Healthcheck) -> Faults:
    kind, path = check.test[0] if check.test else "", "spec.healthcheck.test"
    rest = len(check.test) - 1
    if kind not in ("", "NONE", "CMD", "CMD-SHELL"):
        yield Fault(path, f"begins with {kind!r}, expected CMD, CMD-SHELL or NONE first, or one line for the shell")
    elif (kind == "CMD" and rest < 1) or (kind == "CMD-SHELL" and rest != 1) or (kind == "NONE" and rest):
        wanted = {"CMD": "a command and its arguments", "CMD-SHELL": "exactly one line", "NONE": "nothing"}[kind]
        yield Fault(path, f"found {rest} items after {kind}, expected {wanted}")


_PROFILES: Final = {"seccomp": ("default", "unconfined", "custom"), "appArmor": ("default", "disabled")}
"""Source: Docker's SeccompOpts and AppArmorOpts."""


def _privilege_faults(spec: ServiceSpec) -> Faults:
    if spec.privileges is None:
        return
    for field, profile in (("seccomp", spec.privileges.seccomp), ("appArmor", spec.privileges.app_armor)):
        if profile is None:
            continue
        path, known = f"spec.privileges.{field}", _PROFILES[field]
        if profile.mode not in known:
            more = hint(profile.mode, known)
            yield Fault(f"{path}.mode", f"found {profile.mode!r}, expected one of {', '.join(known)}{more}")
        if (profile.mode == "custom") != bool(profile.profile):
            yield Fault(f"{path}.profile", "mode custom and a profile go together; one is given without the other")


def _placeholder_faults(spec: ServiceSpec) -> Faults:
    for path, text in _templated(spec):
        for name in unknown_placeholders(text):
            more = hint(name, PLACEHOLDERS)
            yield Fault(path, f"found the placeholder {name!r}{more}; known are {', '.join((*PLACEHOLDERS, LABEL))}")


def _templated(spec: ServiceSpec) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of everything in which an agent fills in placeholders."""
    for index, entry in enumerate(spec.env):
        yield f"spec.env[{index}]", entry.partition("=")[2]
    yield "spec.hostname", spec.hostname
    for index, mount in enumerate(spec.mounts):
        path = f"spec.mounts[{index}]"
        yield f"{path}.source", mount.source
        yield f"{path}.target", mount.target
        for field, mapping in (("labels", mount.labels), ("driverOpts", mount.driver_opts)):
            for key, value in mapping.items():
                yield below(f"{path}.{field}", key), value


_SERVICE_CHECKS: Final[tuple[Callable[[ServiceSpec], Faults], ...]] = (
    _image_faults, _mode_faults, _container_faults, _host_faults, _limit_faults, _resource_faults, _restart_faults,
    _update_faults, _placement_faults, _mount_faults, _port_faults, _health_faults, _privilege_faults,
    _placeholder_faults, _file_use_faults, use_faults,
)  # fmt: skip


def _label_faults(labels: dict[str, str], path: str) -> Faults:
    for key, value in labels.items():
        if not key or key != key.strip() or "\0" in key + value:
            yield Fault(below(path, key), f"found the key {key!r}, expected text without blanks around it")


def _not_negative(value: Duration | None, path: str) -> Faults:
    if value is not None and value < 0:
        yield Fault(path, f"found {value}, expected 0s or longer")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _tidy(path: str) -> str:
    """Spell a path so that equal ones look equal: /data/ and /data//. are /data."""
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def all_of(objects: Iterable[Object]) -> list[Fault]:
    """Validate several objects that are to be written together: each, and that none is there twice."""
    faults: list[Fault] = []
    seen: Counter[tuple[str, str]] = Counter()
    for obj in objects:
        label = f"{obj.KIND} {obj.metadata.name}"
        faults += [Fault(f.path, f.message, f.file, f.line, label) for f in validate(obj)]
        seen[obj.KIND, obj.metadata.name] += 1
        if seen[obj.KIND, obj.metadata.name] == 2:
            faults.append(Fault("metadata.name", "this object is given more than once", object=label))
    return faults
