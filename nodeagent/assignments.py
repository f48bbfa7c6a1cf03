"""What the managers want of this node: a picture fed by the assignments stream. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from msgspec import Struct

from shoal.api import keys
from shoal.api.objects import Backend, Cluster, Node, Object, Task
from shoal.rules.following import is_waiting

T = TypeVar("T", bound=Object)


class Assignments(Struct, frozen=True):
    """Every object this node was sent, by key, true at `revision`.

    `synced` is false for the copy read from disk while managers are away: good for names and rules only.
    """

    objects: Mapping[str, Object] = {}
    revision: int = 0
    synced: bool = False

    def of(self, kind: type[T]) -> dict[str, T]:
        """Every object of one kind, by key."""
        return {key: obj for key, obj in self.objects.items() if isinstance(obj, kind)}

    def tasks(self, node_uid: str) -> dict[str, Task]:
        """The node's own tasks, by uid."""
        return {
            task.metadata.uid: task
            for task in self.of(Task).values()
            if task.spec.node is not None and task.spec.node.uid == node_uid
        }

    def backend_of(self, task: Task) -> Backend | None:
        found = self.objects.get(keys.backend(task.spec.service, task.metadata.uid))
        return found if isinstance(found, Backend) else None

    def cluster(self) -> Cluster | None:
        found = self.objects.get(keys.CLUSTER)
        return found if isinstance(found, Cluster) else None

    def node(self, node_uid: str) -> Node | None:
        found = self.objects.get(keys.node(node_uid))
        return found if isinstance(found, Node) else None

    def replaced(self, objects: Iterable[Object], revision: int) -> Assignments:
        """After a complete set."""
        return Assignments({keys.key_of(obj): obj for obj in objects}, revision, synced=True)

    def changed(self, put: Iterable[Object], deleted: Collection[str], revision: int) -> Assignments:
        """After an increment, or a bookmark (nothing put, nothing deleted)."""
        new = {keys.key_of(obj): obj for obj in put}
        objects = self.objects
        if new or deleted:
            objects = dict(objects)
            for key in deleted:
                objects.pop(key, None)
            objects.update(new)
        return Assignments(objects, max(revision, self.revision), synced=self.synced)


def moves_network(old: Object | None, new: Object) -> bool:
    """May names, rules or bridges differ, or does somebody wait for this node to follow?

    Not because a task goes on, nor because all nodes follow a backend by now.
    """
    match old, new:
        case Task(), Task():
            has_ended = new.status.state.is_terminal and not old.status.state.is_terminal
            return has_ended or old.spec.addresses != new.spec.addresses
        case Backend(), Backend():
            was, now = old.status, new.status
            return is_waiting(new) or (old.spec, was.ready, was.container) != (new.spec, now.ready, now.container)
    return True
