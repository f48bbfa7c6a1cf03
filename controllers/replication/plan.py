"""What the replication controller decides. Pure.

Per service: which slots there shall be (`members`), what to do about each (`slot`), what to forget (`reap`). Every
action is complete in itself and touches one slot only, so any of them may be lost and the next pass finds the rest.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from controllers.replication.jobs import plan_job
from controllers.replication.members import members_of
from controllers.replication.reap import clear, forget, give_up, let_go_of
from controllers.replication.slot import decide, touched_by
from controllers.replication.view import View
from shoal.machinery.controller import Action, Plan, any_of


def plan(view: View, now: datetime) -> Plan:
    """Keep one runnable task per slot."""
    if view.service is None:
        return Plan(tuple(clear(view)), independent=True)
    if view.service.spec.mode.is_job:
        return plan_job(view, now)
    members = members_of(view)
    actions: list[Action] = []
    wait: timedelta | None = None
    for name in members.drop:
        actions += give_up(view, view.slot(name))
    rollout_is_behind = view.rollout is not None and view.rollout.status.target != view.service.status.revision
    joining = () if rollout_is_behind else members.join
    for name in (*members.stay, *joining):
        held = view.slot(name)
        decision = decide(view, held, now, frozen=name in members.frozen)
        if decision.action is not None:
            actions.append(decision.action)
        wait = any_of(wait, decision.wait)
        if len(held.tasks) > 1:
            actions += forget(view, held, touched_by(decision.action))
    for name in view.held.keys() - {*members.stay, *members.join, *members.drop}:
        actions += let_go_of(view, view.slot(name).tasks, "TaskRemoved")
    because = "waits for rollout to take up the service's newest revision" if members.join and not joining else ""
    return Plan(tuple(actions), wait, because, independent=True)
