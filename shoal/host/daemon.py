"""The host daemon: one per host. Runs what the host's role calls for; makes it the first of a cluster, or joins one."""

from __future__ import annotations

import platform
import random
import secrets
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup, TaskStatus
from cryptography import x509

from shoal.api.errors import (
    AlreadyExistsError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    RemovedError,
    ShoalError,
    TerminalError,
    UnavailableError,
)
from shoal.api.states import Availability, Role
from shoal.api.tokens import parse_token
from shoal.api.validation import cluster_faults
from shoal.host import identity as identities
from shoal.host import joining, preflight
from shoal.host.bootstrap import bootstrap, open_store
from shoal.host.identity import API_PORT, EtcdPorts, Identity, Networking, Phase
from shoal.host.joining import Joined
from shoal.host.logs import last_lines
from shoal.host.paths import Paths
from shoal.host.pki import ensure_etcd_pki, ensure_first_root
from shoal.host.processes import CLUSTER, processes_for
from shoal.host.renewal import EARLIEST, LATEST, LONGEST_WAIT_S, retry_after_s, seconds_until_due
from shoal.host.supervisor import Supervisor
from shoal.machinery import managers
from shoal.machinery.files import make_private, remove, write_atomic
from shoal.machinery.pki import Pair
from shoal.machinery.sealing import KEY_BYTES

INIT_WITHIN_S = 60.0
"""etcd answers and holds the first objects by then, else init gives up and takes back what it made."""

JOINED_WITHIN_S = 30.0
"""A host's agent reaches a manager so soon after it joined; if not, it goes on trying, and `shoal status` tells."""

BOOTSTRAP_AGAIN_S = 0.5

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Options:
    """A port of None: the recorded one, or etcd's own default on a host that belongs to no cluster yet."""

    paths: Paths
    docker: str
    name: str
    etcd_port: int | None = None
    etcd_peer_port: int | None = None
    api_port: int | None = None
    echoes: bool = False

    def etcd_ports(self) -> EtcdPorts:
        default = EtcdPorts()
        return EtcdPorts(self.etcd_port or default.client, self.etcd_peer_port or default.peer)


class JoinRequest(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """`remote`: a manager, HOST or HOST:PORT. `advertise_addr`: "" = the address on the way to it."""

    token: str
    remote: str
    advertise_addr: str = ""
    availability: Availability = Availability.ACTIVE
    data_path_addr: str = ""


class FirstHost(msgspec.Struct, frozen=True):
    """What is asked of the first host of a cluster; addresses may be interfaces' names, "" = found by itself."""

    advertise_addr: str = ""
    availability: Availability = Availability.ACTIVE
    data_path_addr: str = ""
    networking: Networking = Networking()


class HostDaemon:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.identity = identities.load(options.paths.identity)
        if self.identity is not None:
            refuse_other_ports(options, self.identity)
        self.supervisor = Supervisor(options.paths, echoes=options.echoes)
        self._stop_asked = anyio.Event()
        self._group: TaskGroup | None = None
        self._running: anyio.CancelScope | None = None
        self._ended = anyio.Event()
        self._lock = anyio.Lock()
        """Held while the host begins, joins or leaves a swarm."""

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop` or a signal asks for the end; then stop the processes in order."""
        async with anyio.create_task_group() as self._group:
            if self.identity is not None and self.identity.phase is Phase.LEAVING:
                async with self._lock:
                    await self._give_up(self.identity)
            if self.identity is not None:
                await self._group.start(self._run_swarm)
            self._group.start_soon(self._stop_on_signal)
            task_status.started()
            await self._stop_asked.wait()
            await self.supervisor.stop_all()
            self._group.cancel_scope.cancel()
        log.info("host_stopped")

    def stop(self) -> None:
        self._stop_asked.set()

    async def _stop_on_signal(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("host_stop_asked", signal=signal.Signals(number).name)
                self.stop()

    async def problems(self, programs: tuple[str, ...] = ("etcd", "nft")) -> list[str]:
        """Tell what keeps this host from working, each with what to do; empty = nothing."""
        found = []
        try:
            preflight.need_programs(programs)
        except ShoalError as error:
            found.append(str(error))
        try:
            await preflight.need_engine(self.options.docker)
        except ShoalError as error:
            found.append(str(error))
        return found

    async def init(self, wanted: FirstHost, brought: Pair | None = None) -> Identity:
        """Make this host the first of a new cluster. Every complaint comes before anything is changed."""
        async with self._lock:
            self._need_no_swarm()
            identity = await self._choose_identity(wanted)
            remove(self.options.paths.first_root)  # of an init that died before its identity was written
            self._prepare(identity, brought)
            self.identity = identity
            assert self._group is not None
            await self._group.start(self._run_swarm)
            with anyio.move_on_after(INIT_WITHIN_S):
                await self.supervisor.until(lambda: self.supervisor.is_ready(CLUSTER))
            if not self.supervisor.is_ready(CLUSTER):
                said = "\n".join(last_lines(self.options.paths.log("etcd"), 3))
                await self._end_swarm()
                self._wipe()
                raise TerminalError(f"etcd did not come up within {INIT_WITHIN_S:.0f} s; it said:\n{said}")
            log.info("cluster_initialised", cluster=identity.cluster, node=identity.node)
            assert self.identity is not None
            return self.identity

    async def join(self, wanted: JoinRequest) -> Identity:
        """Make this host a member of a cluster. Until a manager has let it in, nothing is changed."""
        async with self._lock:
            self._need_no_swarm()
            token, remote = parse_token(wanted.token), joining.parse_remote(wanted.remote)
            preflight.need_programs(("nft",))
            await preflight.need_engine(self.options.docker)
            address = preflight.choose_address(
                wanted.advertise_addr,
                preflight.addresses_by_interface(),
                preflight.address_towards(remote.host, remote.port),
            )
            interfaces = preflight.addresses_by_interface()
            data_path = preflight.choose_address(wanted.data_path_addr, interfaces) if wanted.data_path_addr else ""
            newcomer = joining.Newcomer(self.options.name, address, wanted.availability, data_path)
            joined, key = await joining.join(remote, token, newcomer)
            self.identity = self._keep(joined, key, newcomer, remote)
            assert self._group is not None
            await self._group.start(self._run_swarm)
            with anyio.move_on_after(JOINED_WITHIN_S):
                await self.supervisor.until(lambda: self.supervisor.is_ready("nodeagent"))
            log.info("cluster_joined", cluster=joined.cluster, node=joined.node, role=joined.role.value)
            return self.identity

    async def leave(self, *, force: bool) -> str:
        """Leave the cluster and forget it; returns what could not be done, "" if all was.

        ForbiddenError for a manager, since the cluster would be gone, unless `force`.
        """
        async with self._lock:
            identity = self.identity
            if identity is None:
                raise NotFoundError("this host belongs to no swarm")
            if identity.role is Role.MANAGER and not force:
                raise ForbiddenError(
                    "this host is the last manager: leaving erases the swarm with all its services; "
                    "`shoal leave --force` does so"
                )
            if not force:
                await preflight.need_engine(self.options.docker)
            self.identity = msgspec.structs.replace(identity, phase=Phase.LEAVING)
            identities.save(self.options.paths.identity, self.identity)
            untold = await self._say_goodbye(identity) if identity.role is Role.WORKER else ""
            await self._end_swarm()
            uncleared = await self._give_up(identity)
            return "\n".join(trouble for trouble in (untold, uncleared) if trouble)

    def _need_no_swarm(self) -> None:
        if self.identity is not None:
            raise AlreadyExistsError(
                f"this host is already a {self.identity.role} of cluster {self.identity.cluster}: `shoal status`; "
                "`shoal leave` makes it leave"
            )

    async def _choose_identity(self, wanted: FirstHost) -> Identity:
        options, ports = self.options, self.options.etcd_ports()
        api_port = options.api_port or API_PORT
        if faults := list(cluster_faults(wanted.networking.of_cluster())):
            raise InvalidError(faults)
        interfaces = preflight.addresses_by_interface()
        address = preflight.choose_address(wanted.advertise_addr, interfaces)
        data_path = preflight.choose_address(wanted.data_path_addr, interfaces) if wanted.data_path_addr else ""
        preflight.need_programs()
        await preflight.need_engine(options.docker)
        preflight.need_free_port(ports.client, "etcd", "`shoal up --etcd-port`")
        preflight.need_free_port(ports.peer, "etcd", "`shoal up --etcd-peer-port`")
        preflight.need_free_port(api_port, "the API server", "`shoal up --api-port`", "0.0.0.0")  # noqa: S104
        if options.paths.etcd_data.exists():
            raise AlreadyExistsError(f"{options.paths.etcd_data} holds an earlier cluster: move it away, then retry")
        return identities.make_first_identity(
            options.name, address, ports, api_port, wanted.availability, data_path, wanted.networking
        )

    def _prepare(self, identity: Identity, brought: Pair | None = None) -> None:
        """Write what a manager's processes need; the identity last: a crash before it leaves an uninitialised host."""
        if identity.role is Role.WORKER:
            return
        paths, now = self.options.paths, datetime.now(UTC)
        make_private(paths.etcd_pki.parent)
        hosts = ("localhost", "127.0.0.1", "::1", identity.advertise_addr)
        ensure_etcd_pki(paths.etcd_pki, now, tuple(dict.fromkeys(hosts)))
        if not paths.cluster_key.exists():
            write_atomic(paths.cluster_key, secrets.token_bytes(KEY_BYTES))
        if identity.phase is Phase.INITIALISING:
            ensure_first_root(paths.first_root, identity.cluster, paths.cluster_key.read_bytes(), now, brought)
        if identity != self.identity:
            identities.save(paths.identity, identity)

    def _keep(self, joined: Joined, key: bytes, newcomer: joining.Newcomer, remote: joining.Remote) -> Identity:
        """Write what makes this host a member; the identity last, as in `_prepare`."""
        paths = self.options.paths
        make_private(paths.node_pki.parent)
        make_private(paths.node_pki)
        write_atomic(paths.node_ca, joined.ca.encode())
        write_atomic(paths.node_chain, joined.certificate.encode() + key)
        identity = Identity(
            phase=Phase.MEMBER,
            node=joined.node,
            name=self.options.name,
            role=joined.role,
            cluster=joined.cluster,
            incarnation=joined.incarnation,
            advertise_addr=newcomer.address,
            data_path_addr=newcomer.data_path,
            managers=tuple(dict.fromkeys((str(remote), *joined.managers))),
        )
        identities.save(paths.identity, identity)
        return identity

    def _managers(self, identity: Identity) -> tuple[str, ...]:
        """Return where managers may answer: as the agent was last told, then as it was when the host joined."""
        return tuple(dict.fromkeys((*managers.load(self.options.paths.agent), *identity.managers)))

    async def _say_goodbye(self, identity: Identity) -> str:
        """Tell a manager, any of them, that we leave; returns why none could be told."""
        paths, trouble = self.options.paths, "no manager is known"
        for address in self._managers(identity):
            try:
                remote = joining.parse_remote(address)
                await joining.say_goodbye(remote, paths.node_ca, paths.node_chain, identity.node)
                return ""
            except RemovedError:
                return ""
            except (ShoalError, OSError) as error:
                trouble = str(error)
        return f"no manager could be told that this node leaves ({trouble}): remove it there with `shoal node rm`"

    async def _end_swarm(self) -> None:
        """Stop everything that runs for the swarm."""
        await self.supervisor.stop_all()
        if self._running is not None:
            self._running.cancel()
            await self._ended.wait()
        self.supervisor = Supervisor(self.options.paths, echoes=self.options.echoes)

    async def _give_up(self, identity: Identity) -> str:
        """Remove what the swarm has on this host: containers first, the identity last. Returns what stayed."""
        options = (
            "--node",
            identity.node,
            "--docker",
            self.options.docker,
            "--run-dir",
            str(self.options.paths.run_dir),
        )
        command = (sys.executable, "-P", "-m", "nodeagent.clear", *options)
        done = await anyio.run_process(command, check=False, stderr=subprocess.STDOUT)
        said = done.stdout.decode(errors="replace").strip().splitlines()
        self._wipe()
        log.info("cluster_left", cluster=identity.cluster, node=identity.node, cleared=done.returncode == 0)
        if done.returncode == 0:
            return ""
        return f"the swarm's containers could not be removed from the engine: {said[-1] if said else 'no reason given'}"

    def _wipe(self) -> None:
        """Forget the cluster; logs stay."""
        paths = self.options.paths
        folders = (paths.etcd_data, paths.etcd_pki.parent, paths.agent)
        for path in (*folders, paths.cluster_key, paths.identity):
            remove(path)
        self.identity = None

    async def _run_swarm(self, *, task_status: TaskStatus[None]) -> None:
        """Run the role's processes, and see to the first objects where they may be missing still."""
        assert self.identity is not None
        self._prepare(self.identity)
        if self.identity.phase is Phase.INITIALISING:
            # An etcd killed while it made its data can be left without a member, and then never elects a leader.
            # Nothing but first objects can be in it yet, so it begins anew.
            remove(self.options.paths.etcd_data)
        processes = processes_for(self.identity, self.options.paths, self.options.docker, platform.machine())
        self.supervisor.plan(processes)
        self._ended = anyio.Event()
        try:
            with anyio.CancelScope() as self._running:
                async with anyio.create_task_group() as group:
                    group.start_soon(self.supervisor.run)
                    if self.identity.role is Role.WORKER:
                        group.start_soon(self._renew, self.identity)
                    task_status.started()
                    if self.identity.phase is Phase.INITIALISING:
                        await self._write_first_objects(self.identity)
                    self.supervisor.satisfy(CLUSTER)
        finally:
            self._ended.set()

    async def _renew(self, identity: Identity) -> None:
        """Keep this node's certificate valid, until the cluster knows us no more."""
        paths, share = self.options.paths, random.uniform(EARLIEST, LATEST)  # noqa: S311 -- spreads load only
        while True:
            certificate = x509.load_pem_x509_certificate(paths.node_chain.read_bytes())
            wait_s = seconds_until_due(certificate, share, datetime.now(UTC))
            if wait_s > 0:
                await anyio.sleep(min(wait_s, LONGEST_WAIT_S))
                continue
            try:
                await self._renew_once(identity)
                share = random.uniform(EARLIEST, LATEST)  # noqa: S311
            except RemovedError:
                return
            except ShoalError as error:
                log.warning("certificate_not_renewed", reason=str(error), until=str(certificate.not_valid_after_utc))
                await anyio.sleep(retry_after_s(certificate, datetime.now(UTC)))

    async def _renew_once(self, identity: Identity) -> None:
        """Ask one manager after the other; the last one's error if none answers."""
        paths, known = self.options.paths, self._managers(identity)
        for at, address in enumerate(known, 1):
            try:
                remote = joining.parse_remote(address)
                renewed = await joining.renew(remote, paths.node_ca, paths.node_chain, identity.node)
            except RemovedError:
                raise
            except ShoalError:  # somebody else may have the address by now
                if at == len(known):
                    raise
            else:
                write_atomic(paths.node_chain, renewed)
                log.info("certificate_renewed", node=identity.node)
                return

    async def _write_first_objects(self, identity: Identity) -> None:
        await self.supervisor.until(lambda: self.supervisor.is_ready("etcd"))
        paths, now = self.options.paths, datetime.now(UTC)
        root = ensure_first_root(paths.first_root, identity.cluster, paths.cluster_key.read_bytes(), now)
        store = open_store(identity, paths)
        try:
            while True:
                try:
                    await bootstrap(store, identity, root, datetime.now(UTC))
                    break
                except UnavailableError as error:
                    log.warning("bootstrap_retried", error=str(error))
                    await anyio.sleep(BOOTSTRAP_AGAIN_S)
        finally:
            await store.close()
        self.identity = msgspec.structs.replace(identity, phase=Phase.MEMBER)
        identities.save(paths.identity, self.identity)
        remove(paths.first_root)


def refuse_other_ports(options: Options, identity: Identity) -> None:
    """InvalidError if a manager is asked onto other ports than its cluster knows it by. Pure."""
    if identity.role is Role.WORKER:
        return
    for option, asked, held in (
        ("--etcd-port", options.etcd_port, identity.etcd_ports.client),
        ("--etcd-peer-port", options.etcd_peer_port, identity.etcd_ports.peer),
        ("--api-port", options.api_port, identity.api_port),
    ):
        if asked not in (None, held):
            what = "API server" if option == "--api-port" else "etcd"
            raise InvalidError(f"{option}: this host's {what} was set up with port {held}, found {asked}; leave it out")
