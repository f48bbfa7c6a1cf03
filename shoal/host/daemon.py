"""The host daemon: one per host. Runs what the host's role calls for, and makes a host the first of a cluster."""

from __future__ import annotations

import platform
import secrets
import signal
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup, TaskStatus

from shoal.api.errors import AlreadyExistsError, InvalidError, ShoalError, TerminalError, UnavailableError
from shoal.host import identity as identities
from shoal.host import preflight
from shoal.host.bootstrap import bootstrap, open_store
from shoal.host.files import make_private, remove, write_atomic
from shoal.host.identity import EtcdPorts, Identity, Phase
from shoal.host.logs import last_lines
from shoal.host.paths import Paths
from shoal.host.pki import ensure_etcd_pki
from shoal.host.processes import CLUSTER, processes_for
from shoal.host.supervisor import Supervisor

INIT_WITHIN_S = 60.0
"""etcd answers and holds the first objects by then, else init gives up and takes back what it made."""

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
    echoes: bool = False

    def etcd_ports(self) -> EtcdPorts:
        default = EtcdPorts()
        return EtcdPorts(self.etcd_port or default.client, self.etcd_peer_port or default.peer)


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
        self._init_lock = anyio.Lock()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop` or a signal asks for the end; then stop the processes in order."""
        async with anyio.create_task_group() as self._group:
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

    async def problems(self) -> list[str]:
        """Tell what keeps this host from working, each with what to do; empty = nothing."""
        found = []
        try:
            preflight.need_programs()
        except ShoalError as error:
            found.append(str(error))
        try:
            await preflight.need_engine(self.options.docker)
        except ShoalError as error:
            found.append(str(error))
        return found

    async def init(self, advertise_addr: str) -> Identity:
        """Make this host the first of a new cluster. Every complaint comes before anything is changed."""
        async with self._init_lock:
            if self.identity is not None:
                raise AlreadyExistsError(
                    f"this host is already a {self.identity.role} of cluster {self.identity.cluster}: `shoal status`"
                )
            identity = await self._choose_identity(advertise_addr)
            self._prepare(identity)
            self.identity = identity
            assert self._group is not None
            await self._group.start(self._run_swarm)
            with anyio.move_on_after(INIT_WITHIN_S):
                await self.supervisor.until(lambda: self.supervisor.is_ready(CLUSTER))
            if not self.supervisor.is_ready(CLUSTER):
                await self._undo()
                said = "\n".join(last_lines(self.options.paths.log("etcd"), 3))
                raise TerminalError(f"etcd did not come up within {INIT_WITHIN_S:.0f} s; it said:\n{said}")
            log.info("cluster_initialised", cluster=identity.cluster, node=identity.node)
            assert self.identity is not None
            return self.identity

    async def _choose_identity(self, advertise_addr: str) -> Identity:
        options, ports = self.options, self.options.etcd_ports()
        address = preflight.choose_address(
            advertise_addr, preflight.addresses_by_interface(), preflight.default_address()
        )
        preflight.need_programs()
        await preflight.need_engine(options.docker)
        preflight.need_free_port(ports.client, "etcd", "`shoal up --etcd-port`")
        preflight.need_free_port(ports.peer, "etcd", "`shoal up --etcd-peer-port`")
        if options.paths.etcd_data.exists():
            raise AlreadyExistsError(f"{options.paths.etcd_data} holds an earlier cluster: move it away, then retry")
        return identities.make_first_identity(options.name, address, ports)

    def _prepare(self, identity: Identity) -> None:
        """Write what the processes need; the identity last, so that a crash before it leaves an uninitialised host."""
        paths = self.options.paths
        make_private(paths.etcd_pki.parent)
        hosts = ("localhost", "127.0.0.1", "::1", identity.advertise_addr)
        ensure_etcd_pki(paths.etcd_pki, datetime.now(UTC), tuple(dict.fromkeys(hosts)))
        if not paths.cluster_key.exists():
            write_atomic(paths.cluster_key, secrets.token_bytes(32))
        if identity != self.identity:
            identities.save(paths.identity, identity)

    async def _undo(self) -> None:
        """Take back a failed init."""
        paths = self.options.paths
        await self.supervisor.stop_all()
        if self._running is not None:
            self._running.cancel()
        for path in (paths.identity, paths.etcd_data, paths.etcd_pki, paths.cluster_key):
            remove(path)
        self.identity = None
        self.supervisor = Supervisor(paths, echoes=self.options.echoes)

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
        with anyio.CancelScope() as self._running:
            async with anyio.create_task_group() as group:
                group.start_soon(self.supervisor.run)
                task_status.started()
                if self.identity.phase is Phase.INITIALISING:
                    await self._write_first_objects(self.identity)
                self.supervisor.satisfy(CLUSTER)

    async def _write_first_objects(self, identity: Identity) -> None:
        await self.supervisor.until(lambda: self.supervisor.is_ready("etcd"))
        store = open_store(identity, self.options.paths)
        try:
            while True:
                try:
                    await bootstrap(store, identity, datetime.now(UTC))
                    break
                except UnavailableError as error:
                    log.warning("bootstrap_retried", error=str(error))
                    await anyio.sleep(BOOTSTRAP_AGAIN_S)
        finally:
            await store.close()
        self.identity = msgspec.structs.replace(identity, phase=Phase.MEMBER)
        identities.save(self.options.paths.identity, self.identity)


def refuse_other_ports(options: Options, identity: Identity) -> None:
    """InvalidError if etcd is asked onto other ports than it was born with. Pure."""
    for option, asked, held in (
        ("--etcd-port", options.etcd_port, identity.etcd_ports.client),
        ("--etcd-peer-port", options.etcd_peer_port, identity.etcd_ports.peer),
    ):
        if asked not in (None, held):
            raise InvalidError(f"{option}: this host's etcd was set up with port {held}, found {asked}; leave it out")
