"""Several lab hosts that are one swarm, and what a test sees on all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import yaml

from tests.support.lab import Host, Lab, Output, eventually, remove_folder
from tests.support.onlookers import objects


class Cluster:
    """The first host is the manager; the others are workers."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = tuple(hosts)
        self.boss, self.two, self.three = self.hosts[:3]
        self._configured = False

    def token(self, role: str = "worker") -> str:
        return self.boss.shoal(["token", role, "-q"]).ok().out.strip()

    def join(self, host: Host, *options: str, token: str = "", remote: str = "") -> Output:
        return host.shoal(["join", "--token", token or self.token(), *options, remote or self.boss.address])

    def objects(self, path: str) -> list[dict[str, Any]]:
        return objects(self.boss, path)

    def nodes(self) -> dict[str, str]:
        """Node name → state."""
        return {node["metadata"]["name"]: node["status"]["state"] for node in self.objects("nodes")}

    def node(self, host: Host) -> dict[str, Any]:
        """A host's Node object."""
        return next(node for node in self.objects("nodes") if node["metadata"]["name"] == host.name)

    def tasks(self, service: str = "") -> list[dict[str, Any]]:
        """Tasks, oldest first; of one service, if it is named."""
        found = self.objects(f"tasks?fields=spec.service.name={service}" if service else "tasks")
        return sorted(found, key=lambda task: str(task["metadata"]["createdAt"]))

    def running(self, service: str = "") -> Counter[str]:
        """Node name → wanted tasks that run there."""
        return Counter(
            task["spec"]["node"]["name"]
            for task in self.tasks(service)
            if task["status"]["state"] == task["spec"]["desiredState"] == "running"
        )

    def running_on(self, service: str, *hosts: Host) -> int:
        """How many wanted tasks of a service run on these hosts."""
        found = self.running(service)
        return sum(found[host.name] for host in hosts)

    def settle(self, service: str = "", within: float = 60.0, **wanted: int) -> None:
        """Wait until so many tasks run on each host, and none elsewhere: `settle(host31=3, host32=2)`."""

        def probe() -> bool:
            found = self.running(service)
            assert found == Counter(wanted), found
            return True

        eventually(probe, within=within)

    def update(self, host: Host, *options: str) -> None:
        """`shoal node update` of a host's node."""
        self.boss.shoal(["node", "update", host.name, *options]).ok()

    def configure(self, **spec: Any) -> None:
        """Change settings of the whole swarm, the others going back to their defaults."""
        self._configured = True
        document = _document("Cluster", self.objects("clusters")[0], spec)
        self.boss.shoal(["apply", "-d", "-f", "-"], stdin=yaml.safe_dump(document)).ok()

    def slots(self, service: str) -> list[str]:
        """The slots of a service's running containers on all engines that have power, sorted as text."""
        live = [host for host in self.hosts if host.init_pid]
        names = [name for host in live for name in host.docker(["ps", "--format", "{{.Names}}"]).ok().out.split()]
        return sorted(name.split(".")[1] for name in names if name.startswith(f"{service}."))

    def restore(self) -> None:
        """Undo what a test did: no service is left, and every host is a ready, active node without labels."""
        for host in self.hosts:
            host.on()
            host.heal()
            if not host.status().get("settled"):
                host.shoal("up").ok()
            if host.status()["problems"]:
                host.shoal("leave")
            if host.status()["identity"] is None:
                self.boss.shoal(["node", "rm", "--force", host.name])
                self.join(host).ok()
        self._restore_objects()
        eventually(lambda: sorted(self.nodes().items()) == [(host.name, "ready") for host in self.hosts], within=60)
        for host in self.hosts:
            eventually(lambda host=host: not host.docker("ps -q").ok().out, within=60)  # type: ignore[misc]

    def _restore_objects(self) -> None:
        services = [f"service/{one['metadata']['name']}" for one in self.objects("services")]
        if services:
            self.boss.shoal(["delete", *services]).ok()
        changed = [
            _document("Node", node, {"role": node["spec"]["role"], "availability": "active"})
            for node in self.objects("nodes")
            if node["spec"].get("availability", "active") != "active" or node["metadata"].get("labels")
        ]
        if self._configured:
            changed.append(_document("Cluster", self.objects("clusters")[0], {}))
            self._configured = False
        if changed:
            self.boss.shoal(["apply", "-d", "-f", "-"], stdin=yaml.safe_dump_all(changed)).ok()


def _document(kind: str, obj: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """A manifest of what is there already, with this spec and no labels."""
    return {"apiVersion": "shoal/v1", "kind": kind, "metadata": {"name": obj["metadata"]["name"]}, "spec": spec}


@contextmanager
def forming(
    lab: Lab,
    *numbers: int,
    engines: dict[int, dict[str, object]] | None = None,
    init: Sequence[str] = (),
    has_data_path: bool = False,
) -> Iterator[Cluster]:
    """Make hosts of these numbers a cluster, for as long as the block lasts.

    `engines`: number → daemon.json; `init`: options of `shoal init`; with a data path of their own, containers' traffic
    goes to second addresses of the hosts.
    """
    cluster = Cluster([lab.host(number) for number in numbers])
    for number, settings in (engines or {}).items():
        lab.host(number).configure_engine(**settings)
    try:
        for host in cluster.hosts:
            host.on()
        each(cluster.hosts, _make_ready)
        if has_data_path:
            each(cluster.hosts, _add_data_path)
        paths = {host.name: ["--data-path-addr", data_path(host)] if has_data_path else [] for host in cluster.hosts}
        cluster.boss.shoal(["init", "--advertise-addr", cluster.boss.address, *paths[cluster.boss.name], *init]).ok()
        token = cluster.token()
        each(cluster.hosts[1:], lambda host: cluster.join(host, *paths[host.name], token=token).ok())
        yield cluster
    finally:
        for host in cluster.hosts:
            host.off()
            remove_folder(host.directory)


def data_path(host: Host) -> str:
    """A second address of a host, for traffic between containers."""
    return host.address.replace("10.99.", "10.98.")


def _add_data_path(host: Host) -> None:
    host.run("ip", "address", "add", f"{data_path(host)}/24", "dev", "eth0").ok()


def _make_ready(host: Host) -> None:
    host.run("hack/images").ok()
    host.shoal("up").ok()


def each(hosts: Sequence[Host], work: Callable[[Host], object]) -> None:
    """Do the same on all hosts at once."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(work, hosts))
