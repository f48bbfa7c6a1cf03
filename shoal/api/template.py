"""What a task is made from: the container, its resources, its networks and its ports. Pure.

Every field that Docker's TaskSpec and EndpointSpec know has a place here, in flat words. A field that was not given
stays None (or empty) and is stored so; `shoal.api.defaults` says what it then means. That keeps the Docker API's
answers lossless, and lets a template keep its hash when a later version adds a field.
"""

from __future__ import annotations

from msgspec import Struct

from shoal.api.states import (
    EndpointMode,
    MountType,
    Protocol,
    PublishMode,
    RestartCondition,
)
from shoal.api.units import Bytes, Cpus, Duration


class _Part(Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """Base of all parts of a spec: frozen, camelCase in JSON, what is not given is not written.

    Parts whose defaults a reader must see (Port, Update) are written in full instead.
    """


class Port(Struct, frozen=True, gc=False, rename="camel"):
    """`target` in the container; `published` 0 = choose one (ingress: 30000-32767; host: the engine's choice)."""

    target: int
    published: int = 0
    protocol: Protocol = Protocol.TCP
    mode: PublishMode = PublishMode.INGRESS
    name: str = ""
    address: str = ""
    """Bind to this address of the host only; empty = all."""


class NetworkUse(_Part, frozen=True):
    """A network a task is attached to; `uid` is filled in by the API server."""

    name: str
    aliases: tuple[str, ...] = ()
    driver_opts: dict[str, str] = {}
    uid: str = ""


class Limits(_Part, frozen=True):
    cpus: Cpus | None = None
    memory: Bytes | None = None
    pids: int | None = None


class GenericResource(_Part, frozen=True):
    """`count` of a discrete kind, or one named `value`."""

    kind: str
    count: int | None = None
    value: str | None = None


class Reservations(_Part, frozen=True):
    cpus: Cpus | None = None
    memory: Bytes | None = None
    generic: tuple[GenericResource, ...] = ()


class Resources(_Part, frozen=True):
    limits: Limits | None = None
    reservations: Reservations | None = None
    swap: Bytes | None = None
    swappiness: int | None = None


class Restart(_Part, frozen=True):
    condition: RestartCondition | None = None
    delay: Duration | None = None
    max_attempts: int | None = None
    window: Duration | None = None


class Preference(_Part, frozen=True):
    """Spread tasks evenly over the values of a label: `node.labels.zone`."""

    spread: str


class Platform(_Part, frozen=True):
    architecture: str = ""
    os: str = ""


class Placement(_Part, frozen=True):
    constraints: tuple[str, ...] = ()
    preferences: tuple[Preference, ...] = ()
    max_replicas_per_node: int = 0
    platforms: tuple[Platform, ...] = ()


class Mount(_Part, frozen=True):
    type: MountType
    target: str
    source: str = ""
    read_only: bool = False
    consistency: str = ""
    propagation: str = ""
    """bind: rprivate (default), private, rshared, shared, rslave, slave"""
    non_recursive: bool = False
    no_copy: bool = False
    """volume: do not copy the image's files into a new volume"""
    labels: dict[str, str] = {}
    driver: str = ""
    driver_opts: dict[str, str] = {}
    size: Bytes | None = None
    """tmpfs"""
    file_mode: int | None = None
    """tmpfs: permission bits, such as 0o1777"""


class FileUse(_Part, frozen=True):
    """A secret or config as a file in the container; `uid` is the object's, filled in by the API server."""

    source: str
    target: str = ""
    owner: str = "0"
    group: str = "0"
    file_mode: int = 0o444
    uid: str = ""


def path_of_secret(use: FileUse) -> str:
    """Return where a secret lies in the container: below /run/secrets, or where an absolute target says."""
    name = use.target or use.source
    return name if name.startswith("/") else f"/run/secrets/{name}"


def path_of_config(use: FileUse) -> str:
    """Return where a config lies in the container: below /, unless its target is absolute."""
    name = use.target or use.source
    return name if name.startswith("/") else f"/{name}"


class Healthcheck(_Part, frozen=True):
    """`test` is Docker's: ["CMD", …], ["CMD-SHELL", line] or ["NONE"]; empty = the image's own."""

    test: tuple[str, ...] = ()
    interval: Duration | None = None
    timeout: Duration | None = None
    retries: int | None = None
    start_period: Duration | None = None
    start_interval: Duration | None = None


class LogDriver(_Part, frozen=True):
    name: str = ""
    options: dict[str, str] = {}


class Ulimit(_Part, frozen=True):
    name: str
    soft: int
    hard: int


class Dns(_Part, frozen=True):
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class SeLinux(_Part, frozen=True):
    disable: bool = False
    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


class SecurityProfile(_Part, frozen=True):
    """`mode` is default, unconfined, disabled or custom (then `profile` holds it)."""

    mode: str = "default"
    profile: str = ""


class Privileges(_Part, frozen=True):
    se_linux: SeLinux | None = None
    seccomp: SecurityProfile | None = None
    app_armor: SecurityProfile | None = None
    no_new_privileges: bool = False


class Endpoint(_Part, frozen=True):
    mode: EndpointMode = EndpointMode.VIP


class TaskTemplate(_Part, frozen=True):
    """Changing any of this makes a service's tasks dirty (see `shoal.rules.dirtiness` for the exceptions)."""

    image: str
    command: tuple[str, ...] = ()
    """The entrypoint; empty = the image's."""
    args: tuple[str, ...] = ()
    """The arguments; empty = the image's (only if `command` is empty too)."""
    hostname: str = ""
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    tty: bool = False
    stdin: bool = False
    read_only: bool = False
    init: bool | None = None
    stop_signal: str = ""
    stop_grace_period: Duration | None = None
    container_labels: dict[str, str] = {}
    hosts: tuple[str, ...] = ()
    """Lines of /etc/hosts: "IP name [name…]"."""
    dns: Dns | None = None
    mounts: tuple[Mount, ...] = ()
    secrets: tuple[FileUse, ...] = ()
    configs: tuple[FileUse, ...] = ()
    healthcheck: Healthcheck | None = None
    isolation: str = ""
    privileges: Privileges | None = None
    sysctls: dict[str, str] = {}
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    oom_score_adj: int | None = None
    log_driver: LogDriver | None = None
    resources: Resources | None = None
    restart: Restart | None = None
    placement: Placement | None = None
    networks: tuple[NetworkUse, ...] = ()
    ports: tuple[Port, ...] = ()
    endpoint: Endpoint | None = None
    force_update: int = 0
