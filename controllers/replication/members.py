"""Which slots a service shall have: 1…N, or one per node it belongs on. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from controllers.replication.view import View
from shoal.api.defaults import desired_count
from shoal.rules.slots import Occupied, is_member, lowest_free, may_join, pick_victims, slot_order


@dataclass(frozen=True)
class Members:
    """`stay` and `drop` share out the slots there are; `join` are new. In a `frozen` one nothing new is started."""

    stay: tuple[str, ...] = ()
    join: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    frozen: frozenset[str] = frozenset()


def members_of(view: View) -> Members:
    return _nodes(view) if view.owner.spec.mode.is_global else _numbers(view)


def _numbers(view: View) -> Members:
    excess = len(view.slots) - desired_count(view.owner.spec, 0)
    occupied = (Occupied(name, view.slot(name).current) for name in view.slots)
    victims = pick_victims(occupied, excess) if excess > 0 else []
    return Members(
        stay=tuple(sorted(view.slots.keys() - set(victims), key=slot_order)),
        join=tuple(lowest_free(view.slots, -excess)),
        drop=tuple(victims),
    )


def _nodes(view: View) -> Members:
    belongs = {uid for uid, node in view.nodes.items() if is_member(node, view.template)}
    open_to_new = {uid for uid in belongs if may_join(view.nodes[uid])}
    stay = view.slots.keys() & belongs
    return Members(
        stay=tuple(sorted(stay)),
        join=tuple(sorted(open_to_new - view.slots.keys())),
        drop=tuple(sorted(view.slots.keys() - belongs)),
        frozen=frozenset(stay - open_to_new),
    )
