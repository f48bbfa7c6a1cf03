"""Whether a task merely goes on its way: what most changes of tasks are, and few have to act upon. Pure."""

from __future__ import annotations

from shoal.api.objects import Task


def merely_proceeds(old: Task, new: Task) -> bool:
    """Say whether nothing is new about a task but its addresses, its node, or how far it is.

    It is wanted alive as it was, and it has not ended.
    """
    was, now = old.spec, new.spec
    return (
        now.desired_state is was.desired_state
        and now.desired_state.is_live
        and not new.status.state.is_terminal
        and not old.status.state.is_terminal
        and (was.revision, was.slot, was.restart_after) == (now.revision, now.slot, now.restart_after)
        and (was.evicted, was.replaces) == (now.evicted, now.replaces)
    )
