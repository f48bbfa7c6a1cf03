"""Batches, delay and monitoring, failures and what follows from them, pauses and the way back: tables of decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace as with_changes
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from controllers.rollout import batch
from controllers.rollout.failures import action_on_failures
from controllers.rollout.plan import plan
from controllers.rollout.view import View
from shoal.api.objects import Attempt, Rollout, RolloutStatus, Service, Task, Update, Watched
from shoal.api.states import (
    Availability,
    DesiredState,
    FailureAction,
    Mode,
    RestartCondition,
    RolloutState,
    TaskState,
)
from shoal.api.template import Restart
from shoal.api.units import Duration
from shoal.machinery.clock import VirtualClock
from shoal.machinery.controller import Plan, Replace
from shoal.machinery.testkit import (
    at_revision,
    make_node,
    make_revision,
    make_rollout,
    make_service,
    make_slot,
    make_task,
)

NOW = VirtualClock.START + timedelta(hours=1)
N1 = make_node("n1")
OLD = make_service(image="busybox:1")
FIRST = Attempt(number=1)


def ago(seconds: float) -> Any:
    return NOW - timedelta(seconds=seconds)


def granted(seconds_ago: float = 0, settled: float | None = None) -> Watched:
    return Watched(granted_at=ago(seconds_ago), settled_at=None if settled is None else ago(settled))


def new_task(service: Service, slot: str, state: TaskState, **changes: Any) -> Task:
    """A task of the new revision, made in attempt 1."""
    return make_task(service, slot, state=state, node=N1, **{"attempt": 1, **changes})


def scene(
    update: Update | None = None,
    *,
    slots: Sequence[str] = ("1", "2", "3"),
    tasks: Mapping[str, Task] | None = None,
    attempt: Attempt = FIRST,
    rollout: Mapping[str, Any] | None = None,
    **spec: Any,
) -> View:
    """An update from busybox:1 to busybox:2: slots not among `tasks` run the old one."""
    service = make_service(image="busybox:2", update=update, previous=OLD.spec, **spec)
    status = replace(service.status, attempt=attempt, revision_number=2, previous_revision=OLD.status.revision)
    service = at_revision(replace(service, status=status))
    own = {slot: make_task(OLD, slot, node=N1) for slot in slots} | dict(tasks or {})
    made = make_rollout(
        service,
        stable=OLD.status.revision,
        **{"state": RolloutState.UPDATING, "attempt": 1, "dirty": tuple(slots), **(rollout or {})},
    )
    return View(
        service=service,
        rollout=at_revision(made),
        revisions=(at_revision(make_revision(OLD, 1)), at_revision(make_revision(service, 2))),
        slots={slot: make_slot(task) for slot, task in own.items()},
        tasks=tuple(own.values()),
        nodes={N1.metadata.uid: N1},
    )


def service_of(view: View) -> Service:
    return view.owner


def status_after(view: View) -> RolloutStatus:
    """The Rollout's status once the plan is carried out."""
    assert view.rollout is not None
    written = [step.new for action in plan(view, NOW).actions for step in action.steps if isinstance(step, Replace)]
    return next((one.status for one in written if isinstance(one, Rollout)), view.rollout.status)


def restored_by(found: Plan) -> Service | None:
    steps = [step for action in found.actions for step in action.steps if isinstance(step, Replace)]
    return next((step.new for step in steps if isinstance(step.new, Service)), None)


RUNS = {"1": granted(60, settled=10)}


@pytest.mark.parametrize(
    ("update", "watched", "expected"),
    [
        pytest.param(Update(), {}, ("1",), id="one at a time by default"),
        pytest.param(Update(parallelism=2), {}, ("1", "2"), id="two at a time"),
        pytest.param(Update(parallelism=0), {}, ("1", "2", "3"), id="0: all at once"),
        pytest.param(Update(parallelism=9), {}, ("1", "2", "3"), id="more than there are"),
        pytest.param(Update(), {"1": granted(60)}, ("1",), id="the first does not run yet"),
        pytest.param(Update(parallelism=2), {"1": granted(60)}, ("1", "2"), id="one place is free"),
        pytest.param(Update(), {"1": granted(60, settled=0)}, ("1", "2"), id="it runs: the next one, while monitored"),
        pytest.param(Update(delay=Duration.of(30)), RUNS, ("1",), id="the delay is not over"),
        pytest.param(Update(delay=Duration.of(10)), RUNS, ("1", "2"), id="the delay is over"),
    ],
)
def test_who_is_granted(update: Update, watched: dict[str, Watched], expected: tuple[str, ...]) -> None:
    view = scene(update, rollout={"granted": tuple(watched), "watched": watched})
    assert view.rollout is not None
    assert batch.grant(view, view.rollout.status, update, NOW).granted == expected


@pytest.mark.parametrize(
    ("update", "watched", "wait"),
    [
        pytest.param(Update(), {"1": granted(60)}, 540, id="its deadline"),
        pytest.param(Update(deadline=Duration(0)), {"1": granted(60)}, None, id="without a deadline: what happens"),
        pytest.param(Update(), {"1": granted(60, settled=2)}, 3, id="the rest of the monitoring"),
        pytest.param(Update(delay=Duration.of(30)), RUNS, 20, id="the rest of the delay"),
        pytest.param(Update(monitor=Duration.of(60), delay=Duration.of(15)), RUNS, 5, id="the delay, then the rest"),
        pytest.param(Update(), {"1": Watched(granted_at=ago(-3600))}, 600, id="a clock that is ahead: never longer"),
    ],
)
def test_when_to_look_again(update: Update, watched: dict[str, Watched], wait: float | None) -> None:
    status = make_rollout(OLD, granted=("1",), dirty=("1", "2"), watched=watched).status
    found = batch.next_look(status, update, NOW)
    assert (found.total_seconds() if found is not None else None) == wait


def ended(
    view: View,
    slot: str,
    state: TaskState = TaskState.FAILED,
    *,
    ran: float | None = 1,
    unasked: bool = True,
    **spec: Any,
) -> Task:
    """A new task that ended just now, `ran` seconds after it began to run (None = it never did)."""
    running_at = None if ran is None else ago(ran)
    status = {"timestamp": NOW, "running_at": running_at, "unasked": unasked, "err": "oops"}
    return new_task(service_of(view), slot, state, status=status, **spec)


GRANTED = {"granted": ("1",), "watched": {"1": granted(60)}}


@pytest.mark.parametrize(
    ("end", "counts"),
    [
        pytest.param({"ran": 1}, True, id="it ran for a second"),
        pytest.param({"ran": 5}, True, id="it ended as the monitoring did"),
        pytest.param({"ran": 6}, False, id="later"),
        pytest.param({"ran": None}, True, id="it never ran"),
        pytest.param({"ran": None, "state": TaskState.REJECTED}, True, id="rejected"),
        pytest.param({"unasked": False}, False, id="it was told to stop"),
        pytest.param({"attempt": 0}, False, id="made before this attempt"),
        pytest.param({"revision": "another"}, False, id="of another revision"),
        pytest.param({"state": TaskState.COMPLETE}, True, id="completed, and shall go on"),
        pytest.param({"state": TaskState.COMPLETE, "once": True}, False, id="completed, as it shall"),
    ],
)
def test_what_counts_as_a_failure(end: dict[str, Any], counts: bool) -> None:
    condition = RestartCondition.NONE if end.get("once") else RestartCondition.ANY
    spec = {"restart": Restart(condition=condition)}
    given = {name: value for name, value in end.items() if name != "once"}
    view = scene(rollout=GRANTED, **spec)
    view = scene(rollout=GRANTED, tasks={"1": ended(view, "1", **given)}, **spec)
    assert (status_after(view).state is RolloutState.PAUSED) is counts


def test_a_failure_is_found_though_its_task_was_replaced_meanwhile() -> None:
    """A pass may come late: what ended is read from the slot's history, with stamps of one clock."""
    base = scene(rollout=GRANTED)
    failed = ended(base, "1", desired=DesiredState.SHUTDOWN, uid="failed")
    next_one = new_task(service_of(base), "1", TaskState.RUNNING, replaces="failed")
    view = scene(rollout=GRANTED, tasks={"1": next_one})
    view = with_changes(view, tasks=(*view.tasks, failed))
    status = status_after(view)
    assert (status.state, status.failures) == (RolloutState.PAUSED, {"1": "failed"})
    assert status.message == "update paused due to failure or early termination of task failed: failed, oops"


def test_a_slot_that_gets_no_farther_within_the_deadline_counts_as_failed_with_the_cause() -> None:
    base = scene()
    waits = new_task(service_of(base), "1", TaskState.PENDING, uid="stuck", status={"err": "no suitable node"})
    late = {"granted": ("1",), "watched": {"1": granted(600)}}
    status = status_after(scene(rollout=late, tasks={"1": waits}))
    assert status.state is RolloutState.PAUSED
    assert status.message.endswith("of task stuck: still pending after 10m, no suitable node")


@pytest.mark.parametrize(
    ("failed", "ratio", "acts"),
    [
        pytest.param(1, 0.0, True, id="none is tolerated"),
        pytest.param(2, 0.2, False, id="exactly as many as may"),
        pytest.param(3, 0.2, True, id="one more"),
        pytest.param(10, 1.0, False, id="all may fail"),
    ],
)
def test_how_many_failures_are_too_many(failed: int, ratio: float, acts: bool) -> None:
    slots = [str(number) for number in range(1, 11)]
    failures = {slot: f"task-{slot}" for slot in slots[:failed]}
    view = scene(Update(max_failure_ratio=ratio), slots=slots, rollout={"failures": failures})
    assert view.rollout is not None
    assert (action_on_failures(view, view.rollout.status) is not None) is acts


@pytest.mark.parametrize(
    ("action", "state", "stable", "expected"),
    [
        pytest.param("pause", RolloutState.UPDATING, "", FailureAction.PAUSE, id="pause"),
        pytest.param("continue", RolloutState.UPDATING, "", None, id="continue"),
        pytest.param("rollback", RolloutState.UPDATING, "", FailureAction.ROLLBACK, id="rollback"),
        pytest.param("rollback", RolloutState.UPDATING, "forgotten", FailureAction.PAUSE, id="nothing to go back to"),
        pytest.param("pause", RolloutState.ROLLBACK_STARTED, "", FailureAction.PAUSE, id="a rollback pauses"),
        pytest.param("continue", RolloutState.ROLLBACK_STARTED, "", None, id="a rollback continues"),
    ],
)
def test_what_is_done_about_them(action: str, state: RolloutState, stable: str, expected: FailureAction | None) -> None:
    settings = Update(failure_action=FailureAction(action))
    rollout = {"failures": {"1": "task"}, "state": state}
    view = scene(settings, rollback=settings, rollout=rollout)
    assert view.rollout is not None
    status = replace(view.rollout.status, **({"stable": stable} if stable else {}))
    assert action_on_failures(view, status) is expected


def test_a_tolerated_failure_lets_the_next_slot_in() -> None:
    update = Update(max_failure_ratio=0.5)
    base = scene(update, rollout=GRANTED)
    status = status_after(scene(update, rollout=GRANTED, tasks={"1": ended(base, "1")}))
    assert (status.state, status.granted) == (RolloutState.UPDATING, ("1", "2"))
    assert status.failures == {"1": base.tasks[0].metadata.uid}


def test_an_update_that_continues_completes_whatever_fails() -> None:
    update = Update(failure_action=FailureAction.CONTINUE)
    base = scene(update, slots=("1",))
    over = {"granted": ("1",), "watched": {"1": granted(60, settled=5)}}
    status = status_after(scene(update, slots=("1",), rollout=over, tasks={"1": ended(base, "1")}))
    assert (status.state, status.stable) == (RolloutState.COMPLETED, service_of(base).status.revision)


ROLLBACK = Update(failure_action=FailureAction.ROLLBACK)


def test_an_automatic_rollback_restores_the_stable_template_and_keeps_replicas_and_labels() -> None:
    spec = {"replicas": 3, "labels": {"tier": "front"}}
    base = scene(ROLLBACK, rollout=GRANTED, **spec)
    found = plan(scene(ROLLBACK, rollout=GRANTED, tasks={"1": ended(base, "1", uid="bad")}, **spec), NOW)
    (action,) = found.actions
    service = restored_by(found)
    assert service is not None
    assert (service.spec.image, service.spec.replicas, service.spec.update) == ("busybox:1", 3, None)
    assert service.metadata.labels == {"tier": "front"}
    assert (service.status.revision, service.status.revision_number) == (OLD.status.revision, 1)
    assert (service.status.previous_spec, service.status.previous_revision) == (None, "")
    message = "update rolled back due to failure or early termination of task bad: failed, oops"
    assert service.status.attempt == Attempt(number=2, is_rollback=True, message=message)
    assert (action.note, action.warning) == (message, True)


def test_an_automatic_rollback_begins_in_the_transaction_that_restores_the_spec() -> None:
    base = scene(ROLLBACK, rollout=GRANTED)
    status = status_after(scene(ROLLBACK, rollout=GRANTED, tasks={"1": ended(base, "1", uid="bad")}))
    assert (status.state, status.attempt) == (RolloutState.ROLLBACK_STARTED, 2)
    assert status.stable == status.target == OLD.status.revision
    assert (status.dirty, status.granted, status.watched) == (("1",), ("2", "3"), {})


def test_settings_come_back_with_the_previous_spec_only_if_it_was_of_the_stable_revision() -> None:
    base = scene(ROLLBACK, rollout=GRANTED)
    view = scene(ROLLBACK, rollout=GRANTED, tasks={"1": ended(base, "1")})
    other = make_service(image="busybox:7").spec
    service = replace(view.owner, status=replace(view.owner.status, previous_spec=other))
    found = restored_by(plan(with_changes(view, service=service), NOW))
    assert found is not None
    assert (found.spec.image, found.spec.update) == ("busybox:1", ROLLBACK)


@pytest.mark.parametrize(
    ("state", "paused"),
    [
        pytest.param(RolloutState.UPDATING, RolloutState.PAUSED, id="an update"),
        pytest.param(RolloutState.ROLLBACK_STARTED, RolloutState.ROLLBACK_PAUSED, id="a rollback"),
    ],
)
def test_a_pause_by_hand_grants_nothing_and_keeps_what_was_granted(state: RolloutState, paused: RolloutState) -> None:
    view = scene(attempt=Attempt(number=1, is_paused=True), rollout={**GRANTED, "state": state})
    status = status_after(view)
    assert (status.state, status.granted) == (paused, ("1",))
    assert status.message.endswith("paused by hand")


def test_resuming_forgives_failures_and_goes_on_with_the_same_slots() -> None:
    base = scene()
    view = scene(
        attempt=Attempt(number=2),
        tasks={"1": ended(base, "1")},
        rollout={"granted": ("1",), "failures": {"1": "bad"}, "state": RolloutState.PAUSED},
    )
    status = status_after(view)
    assert (status.state, status.attempt, status.failures) == (RolloutState.UPDATING, 2, {})
    assert (status.granted, status.watched) == (("1",), {"1": granted()})


def test_a_newer_template_resumes_too_and_begins_anew() -> None:
    view = scene(rollout={"target": "older", "attempt": 0, "granted": ("1", "2"), "state": RolloutState.PAUSED})
    status = status_after(view)
    assert (status.state, status.attempt, status.granted) == (RolloutState.UPDATING, 1, ("1",))
    assert status.stable == OLD.status.revision


def test_a_rollback_by_hand_is_marked_as_one_and_uses_the_rollback_settings() -> None:
    asked = Attempt(number=2, is_rollback=True, message="manually requested rollback")
    view = scene(
        attempt=asked, rollback=Update(parallelism=2), rollout={"target": "older", "state": RolloutState.COMPLETED}
    )
    status = status_after(view)
    assert (status.state, status.message) == (RolloutState.ROLLBACK_STARTED, "manually requested rollback")
    assert status.granted == ("1", "2")


@pytest.mark.parametrize(
    ("state", "expected", "message"),
    [
        pytest.param(RolloutState.UPDATING, RolloutState.COMPLETED, "update completed", id="update"),
        pytest.param(
            RolloutState.ROLLBACK_STARTED, RolloutState.ROLLBACK_COMPLETED, "rollback completed", id="rollback"
        ),
    ],
)
def test_stable_moves_when_the_last_slot_is_done_with(
    state: RolloutState, expected: RolloutState, message: str
) -> None:
    base = scene(slots=("1",))
    runs = {"1": new_task(service_of(base), "1", TaskState.RUNNING)}
    monitored = {"granted": ("1",), "watched": {"1": granted(60, settled=4)}, "state": state}
    before = status_after(scene(slots=("1",), tasks=runs, rollout=monitored))
    assert (before.state, before.stable) == (state, OLD.status.revision)
    over = {"granted": ("1",), "watched": {"1": granted(60, settled=5)}, "state": state}
    after = status_after(scene(slots=("1",), tasks=runs, rollout=over))
    assert (after.state, after.message, after.completed_at) == (expected, message, NOW)
    assert after.stable == after.target == service_of(base).status.revision


def test_a_global_service_s_node_out_of_use_takes_no_place() -> None:
    uids = [make_node(name).metadata.uid for name in ("n1", "n2")]
    view = scene(slots=uids, mode=Mode.GLOBAL)
    drained = make_node("n1", availability=Availability.DRAIN)
    nodes = {drained.metadata.uid: drained, uids[1]: make_node("n2")}
    assert status_after(with_changes(view, nodes=nodes)).granted == (uids[1],)


def test_a_slot_scaled_away_takes_no_place() -> None:
    view = scene(rollout={"granted": ("1",), "watched": {"1": granted(60)}})
    slots = {name: slot for name, slot in view.slots.items() if name != "1"}
    status = status_after(with_changes(view, slots=slots))
    assert (status.granted, set(status.watched)) == (("1", "2"), {"2"})


def test_people_are_told_when_the_state_changes_and_not_of_every_step() -> None:
    quiet = plan(scene(rollout={"granted": ()}), NOW).actions
    assert [(action.reason, action.note) for action in quiet] == [("RolloutAdvanced", "")]
    base = scene(rollout=GRANTED)
    (action,) = plan(scene(rollout=GRANTED, tasks={"1": ended(base, "1")}), NOW).actions
    assert (action.reason, action.warning) == ("RolloutPaused", True)
