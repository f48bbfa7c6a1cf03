"""Every kind of object, as it lies in etcd: `{kind, apiVersion, metadata, spec, status}`. Pure.

`shoal.api.keys` says under which key each lies and `shoal.api.ownership` who may write which field.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Final

from msgspec import Struct

from shoal.api.meta import API_VERSION, Meta, Owner, Ref
from shoal.api.states import (
    Availability,
    DesiredState,
    FailureAction,
    Mode,
    NodeState,
    Protocol,
    PublishMode,
    Role,
    RolloutState,
    TaskState,
    UpdateOrder,
)
from shoal.api.template import GenericResource, LogDriver, Port, TaskTemplate
from shoal.api.units import Bytes, Cpus, Duration


class _Part(Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    pass


class Object(Struct, frozen=True, gc=False, rename="camel", tag_field="kind", kw_only=True):
    """Base of all kinds. `kind` is written first, then the rest in field order."""

    PLURAL: ClassVar[str] = ""
    KIND: ClassVar[str] = ""

    api_version: str = API_VERSION
    metadata: Meta


class Update(Struct, frozen=True, gc=False, rename="camel"):
    """How an update (or a rollback) proceeds; `parallelism` 0 = all at once.

    `deadline` is Shoal's own: a slot that does not run the target so long after it was granted counts as failed; 0 =
    it is waited for without end, as in Swarm.
    """

    parallelism: int = 1
    delay: Duration = Duration(0)
    failure_action: FailureAction = FailureAction.PAUSE
    monitor: Duration = Duration(5_000_000_000)
    max_failure_ratio: float = 0.0
    order: UpdateOrder = UpdateOrder.STOP_FIRST
    deadline: Duration = Duration(600_000_000_000)


class ServiceSpec(TaskTemplate, frozen=True, kw_only=True):
    """The template's fields, and how many tasks to make from it.

    `replicas` counts tasks (replicated) or completions (job); None = 1.
    """

    mode: Mode = Mode.REPLICATED
    replicas: int | None = None
    max_concurrent: int | None = None
    update: Update | None = None
    rollback: Update | None = None


class Attempt(_Part, frozen=True):
    """What was last asked of a service's rollout, and by whom: people (API server), or rollout to go back by itself.

    `number` grows with whatever makes a rollout begin or go on anew: a changed spec (but for `replicas`), a rollback,
    a resumption. Failures count within one attempt.
    """

    number: int = 0
    is_rollback: bool = False
    is_paused: bool = False
    message: str = ""
    """Why it goes back."""


class ServiceStatus(_Part, frozen=True):
    """Written with the spec: the revision the spec's template is, the one it was before, and the iteration of a job."""

    revision: str = ""
    revision_number: int = 0
    previous_revision: str = ""
    """What `rollout undo` goes back to; "" = nothing, as after an automatic rollback."""
    attempt: Attempt = Attempt()
    job_iteration: int = 0
    last_execution: datetime | None = None
    previous_spec: ServiceSpec | None = None


class Service(Object, frozen=True, tag="Service", kw_only=True):
    PLURAL: ClassVar[str] = "services"
    KIND: ClassVar[str] = "Service"

    spec: ServiceSpec
    status: ServiceStatus = ServiceStatus()


class RevisionSpec(_Part, frozen=True):
    service: Ref
    hash: str
    number: int
    template: TaskTemplate


class Revision(Object, frozen=True, tag="Revision", kw_only=True):
    """A template a service has had. Never changed; collected beyond the last ten."""

    PLURAL: ClassVar[str] = "revisions"
    KIND: ClassVar[str] = "Revision"

    spec: RevisionSpec


class Watched(_Part, frozen=True):
    """A granted slot that is not done with: granted when, and since when it runs or has failed, by rollout's clock."""

    granted_at: datetime
    settled_at: datetime | None = None


class RolloutStatus(_Part, frozen=True, kw_only=True):
    """Which revision each slot shall run. `shoal.rules.slots.Rights` reads it.

    `granted` are the slots that may run `target`; `dirty` those that did not when the rollout began, the denominator
    of the failure ratio. Any other slot is new and gets the target (the stable one while paused). `watched` are the
    granted ones whose start, delay or monitoring is not over. All four are empty once it is completed.
    """

    service: Ref
    state: RolloutState
    stable: str = ""
    target: str = ""
    attempt: int = 0
    """The service's attempt this is about."""
    granted: tuple[str, ...] = ()
    dirty: tuple[str, ...] = ()
    watched: dict[str, Watched] = {}
    failures: dict[str, str] = {}
    """Slot → the uid of its task that failed first in this attempt."""
    started_at: datetime | None = None
    completed_at: datetime | None = None
    message: str = ""


class Rollout(Object, frozen=True, tag="Rollout", kw_only=True):
    PLURAL: ClassVar[str] = "rollouts"
    KIND: ClassVar[str] = "Rollout"

    status: RolloutStatus


class SlotSpec(_Part, frozen=True):
    service: Ref
    slot: str
    """"1", "2", … of a replicated service, the node's uid of a global one."""
    task: str
    """Uid of the slot's newest task; swapped in the transaction that creates it, so a slot cannot fork."""


class Slot(Object, frozen=True, tag="Slot", kw_only=True):
    PLURAL: ClassVar[str] = "slots"
    KIND: ClassVar[str] = "Slot"

    spec: SlotSpec


class TaskAddress(_Part, frozen=True):
    """A task's address on one network: `10.0.0.4/24`, and the MAC made from it (02:42:0a:00:00:04)."""

    network: Ref
    address: str
    mac: str
    aliases: tuple[str, ...] = ()
    """Names its template gives it there, beside the service's and its own."""


class TaskSpec(_Part, frozen=True):
    """`desired_state`: replication's; `addresses`: endpoint's; `node` and `evicted`: placement's (see ownership)."""

    service: Ref
    slot: str
    revision: str
    template: TaskTemplate
    desired_state: DesiredState
    node: Ref | None = None
    addresses: tuple[TaskAddress, ...] = ()
    evicted: str = ""
    """Why placement takes the task from its node; empty = it may stay."""
    job_iteration: int = 0
    attempt: int = 0
    """The rollout's attempt in which the task was made."""
    restart_after: datetime | None = None
    """Replication: a `ready` replacement may be released from then on."""
    replaces: str = ""
    """Uid of the task this one takes over from; "" = the slot's first."""
    start_first: bool = False
    """The replaced task is stopped only after this one serves."""
    generic: tuple[GenericResource, ...] = ()
    """The named or counted resources placement has given to it."""


class PortStatus(_Part, frozen=True):
    """A host-mode port as the engine bound it."""

    target: int
    published: int
    protocol: Protocol = Protocol.TCP
    mode: PublishMode = PublishMode.HOST


class ContainerStatus(_Part, frozen=True):
    id: str = ""
    pid: int = 0
    exit_code: int = 0


class TaskStatus(_Part, frozen=True):
    """`timestamp` is when the state was reached, by the clock of who reported it, `running_at` when `running` was.

    `unasked`: it ended though it was wanted alive where it was. Both are filled in as a status is stored
    (`shoal.rules.reports`).
    """

    state: TaskState
    timestamp: datetime | None = None
    message: str = ""
    err: str = ""
    container: ContainerStatus | None = None
    ports: tuple[PortStatus, ...] = ()
    running_at: datetime | None = None
    unasked: bool = False


class Task(Object, frozen=True, tag="Task", kw_only=True):
    """One-shot: it is replaced, never restarted."""

    PLURAL: ClassVar[str] = "tasks"
    KIND: ClassVar[str] = "Task"

    spec: TaskSpec
    status: TaskStatus


class EndpointNetwork(_Part, frozen=True):
    """How a service is found on one of its networks."""

    network: Ref
    vip: str = ""
    """With its mask, 10.0.1.2/24; "" with dnsrr, and where none was free (then the endpoint's message says so)."""
    aliases: tuple[str, ...] = ()
    """Names the service has there beside its own."""
    withdrawn: bool = False
    """No name leads to the VIP any more; its rules stay until all nodes have followed."""


class EndpointSpec(_Part, frozen=True):
    service: Ref
    mode: str = "vip"
    ports: tuple[Port, ...] = ()
    """As published: dynamic ones resolved."""
    networks: tuple[EndpointNetwork, ...] = ()
    """The service's networks in its spec's order, those last that it is leaving; never the ingress network."""
    message: str = ""
    """Why something could not be allocated; empty = all is."""


class ServiceEndpoint(Object, frozen=True, tag="Endpoint", kw_only=True):
    PLURAL: ClassVar[str] = "endpoints"
    KIND: ClassVar[str] = "Endpoint"

    spec: EndpointSpec


class BackendSpec(_Part, frozen=True):
    service: Ref
    task: Ref
    """Its name is its container's: web.1.<uid>."""
    node: Ref
    addresses: tuple[TaskAddress, ...] = ()
    slot: str = ""
    hostname: str = ""
    """What its template calls its container, a name that it has on its networks; "" = nothing."""


class BackendStatus(_Part, frozen=True):
    """`ready`: route to it. `serving_at`: all nodes do. `drained_at`: no node does any more."""

    ready: bool
    serving_at: datetime | None = None
    drained_at: datetime | None = None
    container: str = ""
    """The first twelve digits of its container's id, a name it has on its networks; known once it was ready."""


class Backend(Object, frozen=True, tag="Backend", kw_only=True):
    PLURAL: ClassVar[str] = "backends"
    KIND: ClassVar[str] = "Backend"

    spec: BackendSpec
    status: BackendStatus


class Subnet(_Part, frozen=True):
    subnet: str
    gateway: str = ""
    range: str = ""


LOCAL_DRIVERS: Final = ("bridge", "ipvlan", "macvlan")
"""Docker's drivers of networks that end at their host."""


class NetworkSpec(_Part, frozen=True):
    """As it was asked for; what is left out is chosen, and stands in the status."""

    driver: str = "overlay"
    """`overlay`, or one of LOCAL_DRIVERS: the network is then each engine's own, and no two nodes share it."""
    config_from: str = ""
    """The config-only network on each engine that says what a node-local network is like there; "" = the options do."""
    subnets: tuple[Subnet, ...] = ()
    mtu: int = 0
    """Bytes; 0 = the default."""
    options: dict[str, str] = {}
    """The driver's, in Docker's words."""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    predefined: bool = False
    """`host` and `bridge`: they exist on every engine and are never created."""

    @property
    def is_local(self) -> bool:
        """Addresses on it are each engine's affair: nothing of it is allocated, routed or named by Shoal."""
        return self.driver in LOCAL_DRIVERS and not self.predefined


class NetworkStatus(_Part, frozen=True):
    """What the API server allocated, and what is in force: subnets with their gateways, VXLAN number, MTU in bytes."""

    subnets: tuple[Subnet, ...] = ()
    vni: int = 0
    mtu: int = 0


class Network(Object, frozen=True, tag="Network", kw_only=True):
    PLURAL: ClassVar[str] = "networks"
    KIND: ClassVar[str] = "Network"

    spec: NetworkSpec = NetworkSpec()
    status: NetworkStatus = NetworkStatus()


class AttachmentSpec(_Part, frozen=True):
    """A node's own address on a network (its bridge), its tunnel end and its number (1-65535, for connection marks).

    With `container`, the id of a plain container on that node: the container's address, and the names it has there.
    """

    network: Ref
    node: Ref
    container: str = ""
    names: tuple[str, ...] = ()
    address: str = ""
    mac: str = ""
    vtep: str = ""
    number: int = 0


class Attachment(Object, frozen=True, tag="Attachment", kw_only=True):
    PLURAL: ClassVar[str] = "attachments"
    KIND: ClassVar[str] = "Attachment"

    spec: AttachmentSpec


class Claim(Object, frozen=True, tag="Claim", kw_only=True):
    """A key that exists once: an address, a port, a subnet, a VNI, a node number. `metadata.owner` holds it."""

    PLURAL: ClassVar[str] = "claims"
    KIND: ClassVar[str] = "Claim"

    key: str
    """The whole key, below /shoal/: addresses/ingress.<uid>/10.0.0.4."""


class Reference(Object, frozen=True, tag="Reference", kw_only=True):
    """`metadata.owner` uses the object named here; while it exists, that object cannot be deleted."""

    PLURAL: ClassVar[str] = "refs"
    KIND: ClassVar[str] = "Reference"

    to: Owner


class FileSpec(_Part, frozen=True):
    """`data` is base64, of at most what Swarm allows; in the store a secret's and a credential's is sealed instead.

    `templating` golang: the agent fills in placeholders (`shoal.api.payload`). `driver` names an external source.
    """

    data: str = ""
    templating: str = ""
    driver: str = ""


class Secret(Object, frozen=True, tag="Secret", kw_only=True):
    PLURAL: ClassVar[str] = "secrets"
    KIND: ClassVar[str] = "Secret"

    spec: FileSpec


class Config(Object, frozen=True, tag="Config", kw_only=True):
    PLURAL: ClassVar[str] = "configs"
    KIND: ClassVar[str] = "Config"

    spec: FileSpec


class Credential(Object, frozen=True, tag="Credential", kw_only=True):
    PLURAL: ClassVar[str] = "credentials"
    KIND: ClassVar[str] = "Credential"

    spec: FileSpec


class NodeSpec(Struct, frozen=True, gc=False, rename="camel"):
    """A node's labels are its `metadata.labels`."""

    role: Role = Role.WORKER
    availability: Availability = Availability.ACTIVE


class Plugin(_Part, frozen=True):
    type: str
    name: str


class NodeDescription(_Part, frozen=True):
    """What the node's agent says of its host."""

    hostname: str = ""
    os: str = ""
    architecture: str = ""
    cpus: Cpus = Cpus(0)
    memory: Bytes = Bytes(0)
    generic: tuple[GenericResource, ...] = ()
    engine_version: str = ""
    engine_labels: dict[str, str] = {}
    plugins: tuple[Plugin, ...] = ()


class NodeStatus(_Part, frozen=True, kw_only=True):
    """`description`, `address`: the agent's. `state`, `message`, `since`: the nodes controller's. `left_at`: when the
    host left; from then on the node is down for good. `api`: where a manager serves other hosts, "10.0.0.1:2377".
    `data_path`: the host's address for overlay traffic, "" = `address`.
    """

    description: NodeDescription = NodeDescription()
    address: str = ""
    data_path: str = ""
    state: NodeState
    message: str = ""
    since: datetime | None = None
    left_at: datetime | None = None
    api: str = ""


class Node(Object, frozen=True, tag="Node", kw_only=True):
    """`metadata.name` is the hostname, which need not be unique; the uid decides."""

    PLURAL: ClassVar[str] = "nodes"
    KIND: ClassVar[str] = "Node"

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus(state=NodeState.UNKNOWN)


class ClusterSpec(Struct, frozen=True, gc=False, rename="camel"):
    """Defaults with Swarm's values where Swarm has them."""

    task_history_limit: int = 5
    heartbeat_period: Duration = Duration(5_000_000_000)
    orphan_after: Duration = Duration(86_400_000_000_000)
    brake: Duration = Duration(60_000_000_000)
    certificate_expiry: Duration = Duration(7_776_000_000_000_000)
    default_addr_pools: tuple[str, ...] = ("10.0.0.0/8",)
    subnet_size: int = 24
    data_path_port: int = 4789
    log_driver: LogDriver | None = None


class ClusterStatus(_Part, frozen=True):
    """`incarnation` is renewed by a restore; `revision_base` is then raised, so versions never run backwards."""

    incarnation: str = ""
    revision_base: int = 0
    ca_certificate: str = ""
    sealed_ca_key: str = ""
    sealed_tokens: str = ""


class Cluster(Object, frozen=True, tag="Cluster", kw_only=True):
    PLURAL: ClassVar[str] = "clusters"
    KIND: ClassVar[str] = "Cluster"

    spec: ClusterSpec = ClusterSpec()
    status: ClusterStatus = ClusterStatus()


class Event(Object, frozen=True, tag="Event", kw_only=True):
    """Something worth telling a person; aggregated by (about, reason), and expiring."""

    PLURAL: ClassVar[str] = "events"
    KIND: ClassVar[str] = "Event"

    about: Owner
    reason: str
    message: str = ""
    source: str = ""
    type: str = "Normal"
    """Normal or Warning."""
    count: int = 1
    first_at: datetime | None = None
    last_at: datetime | None = None


class Presence(Object, frozen=True, tag="Presence", kw_only=True):
    """What one API server hears of the agents; written on change and once a second.

    `heard`: nodes that sent something within the last heartbeat period, of which only such time counts as the server
    could listen in; an open connection alone proves nothing, as a
    host that lost its power leaves it open. `silent`: nodes this server has heard, but not within the last period, as
    long as they exist. `applied` maps node uid → the revision that node has programmed its network up to, as far as
    this server was told; it only grows.
    """

    PLURAL: ClassVar[str] = "presences"
    KIND: ClassVar[str] = "Presence"

    heard: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    applied: dict[str, int] = {}
    sequence: int = 0
    """Counts this server's writes; a change of it, not of any time stamp, shows that the server is fresh."""
    node: str = ""
    """The node this server runs on; "" = not told."""
    arriving: int = 0
    """Connections at its door whose handshake is not done: nodes may be among them."""


def ref_of(obj: Object) -> Ref:
    return Ref(obj.metadata.name, obj.metadata.uid)


def owner_of(obj: Object) -> Owner:
    return Owner(obj.KIND, obj.metadata.name, obj.metadata.uid)


KINDS: dict[str, type[Object]] = {
    kind.KIND: kind
    for kind in (
        Service, Revision, Rollout, Slot, Task, ServiceEndpoint, Backend, Network, Attachment, Claim, Reference,
        Secret, Config, Credential, Node, Cluster, Event, Presence,
    )
}  # fmt: skip
