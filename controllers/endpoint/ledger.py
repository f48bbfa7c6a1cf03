"""Running sums of the endpoint controller, so that one change costs the same however much there is."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import islice

from controllers.endpoint.addresses import Taken
from controllers.endpoint.vips import is_releasing
from shoal.api.keys import key_of
from shoal.api.objects import Claim, Task
from shoal.api.states import TaskState
from shoal.machinery.cache import Fold


class Pool(Fold[Claim]):
    """What is claimed: addresses by network, ports by protocol, node numbers, and everything by owner."""

    kind = Claim

    def __init__(self) -> None:
        self.by_owner: dict[str, dict[str, Claim]] = {}
        self.node_owners: Counter[str] = Counter()
        self.numbers: set[int] = set()
        self.ports: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self.releasing: dict[str, Claim] = {}
        """Claims of VIPs that no Endpoint has any more, by key."""
        self.unchecked: set[str] = set()
        """Uids of tasks that may be over while they still hold claims. Checked and emptied by the reader."""
        self._addresses: defaultdict[str, set[str]] = defaultdict(set)
        self._newest: dict[str, tuple[int, int, str]] = {}

    def change(self, old: Claim | None, new: Claim | None) -> None:
        claim = new if new is not None else old
        assert claim is not None
        self._own(old, new)
        self.releasing.pop(key_of(claim), None)
        if new is not None and is_releasing(new):
            self.releasing[key_of(new)] = new
        match claim.key.split("/"):
            case ["addresses", holder, address]:
                network = holder.rpartition(".")[2]
                (self._addresses[network].add if new is not None else self._addresses[network].discard)(address)
                if new is not None:
                    stamp = (new.metadata.resource_version, _number(address), address)
                    self._newest[network] = max(self._newest.get(network, stamp), stamp)
            case ["claims", "port", protocol, published, *_] if published.isdigit():
                self.ports[protocol][int(published)] += (new is not None) - (old is not None)
            case ["claims", "node-number", number] if number.isdigit():
                (self.numbers.add if new is not None else self.numbers.discard)(int(number))

    def taken(self, network: str) -> Taken:
        """A network's addresses, by its uid; `newest` outlives its claim, so what was just freed is not given next."""
        return Taken(self._addresses[network], self._newest.get(network, (0, 0, ""))[2])

    def is_port_taken(self, protocol: str, published: int) -> bool:
        return self.ports[protocol][published] > 0

    def _own(self, old: Claim | None, new: Claim | None) -> None:
        for claim, sign in ((old, -1), (new, 1)):
            owner = claim.metadata.owner if claim is not None else None
            if claim is None or owner is None:
                continue
            held = self.by_owner.setdefault(owner.uid, {})
            if sign > 0:
                held[key_of(claim)] = claim
            else:
                held.pop(key_of(claim), None)
            if not held:
                del self.by_owner[owner.uid]
            if owner.kind == "Task":
                self.unchecked.add(owner.uid)
            elif owner.kind == "Node":
                self.node_owners[owner.uid] += sign
                if not self.node_owners[owner.uid]:
                    del self.node_owners[owner.uid]


class Waiting(Fold[Task]):
    """Tasks without the addresses they need; and it tells the pool which tasks may be over."""

    kind = Task

    def __init__(self, pool: Pool) -> None:
        self._fresh: dict[str, Task] = {}
        self._stuck: dict[str, Task] = {}
        """Those that were told why they wait; they are tried again at every pass."""
        self._pool = pool

    def first(self, count: int) -> tuple[Task, ...]:
        """Return the stuck tasks and the `count` others that have waited longest."""
        return (*self._stuck.values(), *islice(self._fresh.values(), count))

    def change(self, old: Task | None, new: Task | None) -> None:
        task = new if new is not None else old
        assert task is not None
        name = task.metadata.name
        self._stuck.pop(name, None)
        if new is not None and new.status.state is TaskState.NEW and new.spec.desired_state.is_live:
            if new.status.err:
                self._fresh.pop(name, None)
            (self._stuck if new.status.err else self._fresh)[name] = new
        else:
            self._fresh.pop(name, None)
        if task.spec.addresses and (new is None or new.status.state.is_terminal):
            self._pool.unchecked.add(task.metadata.uid)


def _number(address: str) -> int:
    """An IPv4 address's order; 0 for what is none."""
    parts = address.split(".")
    if len(parts) != 4 or not all(part.isdigit() for part in parts):
        return 0
    return sum(int(part) << shift for part, shift in zip(parts, (24, 16, 8, 0), strict=True))
