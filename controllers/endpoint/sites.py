"""Which node takes part in which network: running sums, so that a task's change costs the same however many there are.

A site is one node on one network. `unchecked` names the sites that may need something; the reader takes out those
that are found in order.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime

from shoal.api.objects import Attachment, Network, Node, Task
from shoal.machinery.cache import Fold

Site = tuple[str, str]
"""(network uid, node uid)."""


class Sites(Fold[Task]):
    """Who uses a network on a node: the tasks there that have not ended, and when those ended that have."""

    kind = Task

    def __init__(self) -> None:
        self.unchecked: defaultdict[str, set[str]] = defaultdict(set)
        """Network uid → node uids."""
        self.nodes: set[str] = set()
        self.ingress: set[str] = set()
        """Uids of networks that every node is on."""
        self.attached: defaultdict[str, set[str]] = defaultdict(set)
        """Node uid → uids of networks it has an Attachment on, its own or a container's."""
        self._live: defaultdict[Site, set[str]] = defaultdict(set)
        self._ended: defaultdict[Site, dict[str, datetime]] = defaultdict(dict)
        self._containers: defaultdict[Site, set[str]] = defaultdict(set)

    def change(self, old: Task | None, new: Task | None) -> None:
        for site in _sites(old) | _sites(new):
            was_used = self.is_used(site)
            for task in (old, new):
                if task is not None:
                    self._live[site].discard(task.metadata.uid)
                    self._ended[site].pop(task.metadata.uid, None)
            if new is not None and site in _sites(new):
                self._count(site, new)
            if was_used != self.is_used(site):
                self.unchecked[site[0]].add(site[1])
            self._forget_empty(site)

    def is_used(self, site: Site) -> bool:
        """Say whether a task or a plain container needs the network on the node."""
        return bool(self._live.get(site) or self._containers.get(site)) or (site[0] in self.ingress)

    def ended_at(self, site: Site) -> datetime | None:
        """Return when the last of the tasks there ended, None if there is none whose end is known."""
        return max(self._ended.get(site, {}).values(), default=None)

    def networks_of(self, node: str) -> set[str]:
        """Return the networks that a node may take part in."""
        waiting = {network for network, nodes in self.unchecked.items() if node in nodes}
        return self.attached.get(node, set()) | self.ingress | waiting

    def doubt_network(self, uid: str) -> None:
        """Look at every node of a network again."""
        on_it = {node for network, node in (*self._live, *self._containers) if network == uid}
        on_it |= {node for node, networks in self.attached.items() if uid in networks}
        self.unchecked[uid] |= on_it | (self.nodes if uid in self.ingress else set())

    def doubt_node(self, uid: str) -> None:
        """Look at every network of a node again."""
        for network in self.networks_of(uid):
            self.unchecked[network].add(uid)

    def note_container(self, attachment: Attachment, *, is_there: bool) -> None:
        site = attachment.spec.network.uid, attachment.spec.node.uid
        (self._containers[site].add if is_there else self._containers[site].discard)(attachment.spec.container)
        self._forget_empty(site)

    def _count(self, site: Site, task: Task) -> None:
        if not task.status.state.is_terminal:
            self._live[site].add(task.metadata.uid)
        elif task.status.timestamp is not None:
            self._ended[site][task.metadata.uid] = task.status.timestamp

    def _forget_empty(self, site: Site) -> None:
        for held in (self._live, self._ended, self._containers):
            if site in held and not held[site]:
                del held[site]


def _sites(task: Task | None) -> set[Site]:
    if task is None or task.spec.node is None:
        return set()
    return {(one.network.uid, task.spec.node.uid) for one in task.spec.addresses}


class SiteNodes(Fold[Node]):
    """Nodes that came, went or moved to another address."""

    kind = Node

    def __init__(self, sites: Sites) -> None:
        self._sites = sites

    def change(self, old: Node | None, new: Node | None) -> None:
        node = new if new is not None else old
        assert node is not None
        uid = node.metadata.uid
        (self._sites.nodes.add if new is not None else self._sites.nodes.discard)(uid)
        if old is None or new is None or tunnel_end(old) != tunnel_end(new):
            self._sites.doubt_node(uid)


class SiteAttachments(Fold[Attachment]):
    """Attachments that came, went or were altered."""

    kind = Attachment

    def __init__(self, sites: Sites) -> None:
        self._sites = sites
        self._count: dict[Site, int] = {}

    def change(self, old: Attachment | None, new: Attachment | None) -> None:
        for attachment, sign in ((old, -1), (new, 1)):
            if attachment is None:
                continue
            network, node = attachment.spec.network.uid, attachment.spec.node.uid
            self._count[network, node] = self._count.get((network, node), 0) + sign
            if self._count[network, node]:
                self._sites.attached[node].add(network)
            else:
                del self._count[network, node]
                self._sites.attached[node].discard(network)
            if attachment.spec.container:
                self._sites.note_container(attachment, is_there=sign > 0)
            self._sites.unchecked[network].add(node)


class SiteNetworks(Fold[Network]):
    """Networks that came or went."""

    kind = Network

    def __init__(self, sites: Sites) -> None:
        self._sites = sites

    def change(self, old: Network | None, new: Network | None) -> None:
        network = new if new is not None else old
        assert network is not None
        uid = network.metadata.uid
        if network.spec.ingress:
            (self._sites.ingress.add if new is not None else self._sites.ingress.discard)(uid)
        if old is None or new is None:
            self._sites.doubt_network(uid)


def tunnel_end(node: Node) -> str:
    """Return a node's address for overlay traffic, "" = not known yet."""
    return node.status.data_path or node.status.address
