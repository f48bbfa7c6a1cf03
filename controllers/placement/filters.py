"""Which nodes may run a task, and in what words that is refused. Pure.

Filters say may, scores say better. They run in this order and a node counts for the first that refuses it.
Source: swarm semantics 4.5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from shoal.api.objects import Node, NodeDescription
from shoal.api.states import Availability, MountType, NodeState
from shoal.api.template import GenericResource, Platform, TaskTemplate
from shoal.rules.constraints import matches
from shoal.rules.ports import PortKey, host_ports
from shoal.rules.resources import NOTHING, Amounts, capacity_of, reserved_by

_SAME_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Use:
    """What tasks take of one node. A task holds its part until its container was seen gone."""

    reserved: Amounts = NOTHING
    ports: frozenset[PortKey] = frozenset()
    values: frozenset[tuple[str, str]] = frozenset()
    """Named resources by kind and value."""
    tasks: int = 0
    """Tasks that are wanted alive; so are those by service."""
    by_service: dict[str, int] = field(default_factory=dict)
    networks: frozenset[str] = frozenset()
    """Uids of the networks its tasks have addresses on."""


class Ask:
    """What the tasks of one group ask of a node.

    `networks` are those they have addresses on, `foes` those whose subnets overlap one of them: no engine has both.
    """

    def __init__(
        self,
        service: str,
        template: TaskTemplate,
        networks: frozenset[str] = frozenset(),
        foes: frozenset[str] = frozenset(),
    ) -> None:
        placement = template.placement
        self.service = service
        self.networks, self.foes = networks, foes
        self.reserved = reserved_by(template)
        self.ports = host_ports(template)
        self.constraints = placement.constraints if placement else ()
        self.platforms = placement.platforms if placement else ()
        self.max_replicas = placement.max_replicas_per_node if placement else 0
        self.spreads = tuple(preference.spread for preference in placement.preferences) if placement else ()
        self.volume_drivers = frozenset(
            mount.driver for mount in template.mounts if mount.type is MountType.VOLUME and mount.driver
        ) - {"local"}
        driver = template.log_driver.name if template.log_driver else ""
        self.log_driver = "" if driver == "none" else driver


class Spot:
    """One node during one plan: what is left of it, counting what the plan has put there."""

    __slots__ = ("_by_service", "_is_own", "free", "networks", "node", "ports", "tasks", "uid", "values")

    def __init__(self, node: Node, use: Use) -> None:
        self.node, self.uid = node, node.metadata.uid
        self.free = capacity_of(node.status.description).minus(use.reserved)
        self.ports = use.ports
        self.values = use.values
        self.tasks = use.tasks
        self.networks = use.networks
        self._by_service, self._is_own = use.by_service, False

    def of_service(self, service: str) -> int:
        return self._by_service.get(service, 0)

    def put(self, ask: Ask) -> tuple[GenericResource, ...]:
        """Count one more task, and return the counted or named resources it gets."""
        given = self._give(ask.reserved.generic) if ask.reserved.generic else ()
        self.free = self.free.minus(ask.reserved)
        self.ports |= ask.ports
        self.networks |= ask.networks
        self.tasks += 1
        if not self._is_own:
            self._by_service, self._is_own = dict(self._by_service), True
        self._by_service[ask.service] = self.of_service(ask.service) + 1
        return given

    def _give(self, wanted: Mapping[str, int]) -> tuple[GenericResource, ...]:
        given: list[GenericResource] = []
        for kind in sorted(wanted):
            offered = sorted(
                one.value for one in self.node.status.description.generic if one.kind == kind and one.value
            )
            if not offered:
                given.append(GenericResource(kind, count=wanted[kind]))
                continue
            named = [value for value in offered if (kind, value) not in self.values][: wanted[kind]]
            self.values |= {(kind, value) for value in named}
            given += [GenericResource(kind, value=value) for value in named]
        return tuple(given)


class Filter(NamedTuple):
    passes: Callable[[Ask, Spot], bool]
    one: str
    many: str
    """What is said of one node, and of `{}` nodes."""


def _is_open(_: Ask, spot: Spot) -> bool:
    return spot.node.status.state is NodeState.READY and spot.node.spec.availability is Availability.ACTIVE


def _has_room(ask: Ask, spot: Spot) -> bool:
    return ask.reserved.fits_into(spot.free)


def _has_plugins(ask: Ask, spot: Spot) -> bool:
    if not ask.volume_drivers and not ask.log_driver:
        return True
    description = spot.node.status.description
    has_volumes = all(_has_plugin(description, "Volume", name) for name in ask.volume_drivers)
    tells_logs = any(plugin.type == "Log" for plugin in description.plugins)
    return has_volumes and (not ask.log_driver or not tells_logs or _has_plugin(description, "Log", ask.log_driver))


def _has_plugin(description: NodeDescription, kind: str, name: str) -> bool:
    return any(plugin.type == kind and plugin.name in (name, f"{name}:latest") for plugin in description.plugins)


def _meets_constraints(ask: Ask, spot: Spot) -> bool:
    return not ask.constraints or matches(ask.constraints, spot.node)


def _is_platform(ask: Ask, spot: Spot) -> bool:
    description = spot.node.status.description
    return not ask.platforms or any(_covers(platform, description) for platform in ask.platforms)


def _covers(platform: Platform, description: NodeDescription) -> bool:
    """Empty is a wildcard; x86_64 is amd64 and aarch64 arm64."""
    wanted, found = platform.architecture.lower(), description.architecture.lower()
    is_same = _SAME_ARCHITECTURE.get(wanted, wanted) == _SAME_ARCHITECTURE.get(found, found)
    return (not wanted or is_same) and (not platform.os or platform.os.lower() == description.os.lower())


def _has_ports(ask: Ask, spot: Spot) -> bool:
    return not ask.ports & spot.ports


def _has_no_foe(ask: Ask, spot: Spot) -> bool:
    return not ask.foes & spot.networks


def _is_below_maximum(ask: Ask, spot: Spot) -> bool:
    return not ask.max_replicas or spot.of_service(ask.service) < ask.max_replicas


FILTERS = (
    Filter(_is_open, "1 node not available for new tasks", "{} nodes not available for new tasks"),
    Filter(_has_room, "insufficient resources on 1 node", "insufficient resources on {} nodes"),
    Filter(_has_plugins, "missing plugin on 1 node", "missing plugin on {} nodes"),
    Filter(
        _meets_constraints,
        "scheduling constraints not satisfied on 1 node",
        "scheduling constraints not satisfied on {} nodes",
    ),
    Filter(_is_platform, "unsupported platform on 1 node", "unsupported platform on {} nodes"),
    Filter(_has_ports, "host-mode port already in use on 1 node", "host-mode port already in use on {} nodes"),
    Filter(
        _has_no_foe,
        "a network with an overlapping subnet in use on 1 node",
        "a network with an overlapping subnet in use on {} nodes",
    ),
    Filter(
        _is_below_maximum,
        "max replicas per node limit exceed on 1 node",
        "max replicas per node limit exceed on {} nodes",
    ),
)


def asking(ask: Ask) -> tuple[Filter, ...]:
    """Return the filters that could refuse this group at all."""
    is_asked: dict[Callable[[Ask, Spot], bool], bool] = {
        _has_room: ask.reserved != NOTHING,
        _has_plugins: bool(ask.volume_drivers or ask.log_driver),
        _meets_constraints: bool(ask.constraints),
        _is_platform: bool(ask.platforms),
        _has_ports: bool(ask.ports),
        _has_no_foe: bool(ask.foes),
        _is_below_maximum: bool(ask.max_replicas),
    }
    return tuple(one for one in FILTERS if is_asked.get(one.passes, True))


def changing(ask: Ask) -> tuple[Filter, ...]:
    """Return the filters that may refuse a node once it has got one more task of this group."""
    return tuple(one for one in asking(ask) if one.passes in (_has_room, _has_ports, _is_below_maximum))


def may_run(ask: Ask, spot: Spot, filters: Iterable[Filter] = FILTERS) -> bool:
    for one in filters:  # noqa: SIM110  asked for every node and group; all() would take twice as long
        if not one.passes(ask, spot):
            return False
    return True


def explain(ask: Ask, spots: Iterable[Spot]) -> str:
    """Say why no node may run the group, counted by reason, the most frequent first."""
    counts: Counter[int] = Counter()
    for spot in spots:
        refused = next((rank for rank, one in enumerate(FILTERS) if not one.passes(ask, spot)), None)
        if refused is not None:
            counts[refused] += 1
    ranked = sorted(counts.items(), key=lambda found: (-found[1], found[0]))
    told = [FILTERS[rank].one if count == 1 else FILTERS[rank].many.format(count) for rank, count in ranked]
    return f"no suitable node ({'; '.join(told)})" if told else "no suitable node"
