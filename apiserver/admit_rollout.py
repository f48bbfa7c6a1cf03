"""What people ask of a rollout: pause it, go on with it, go back, replace all tasks once more. Pure.

All of these are writes of the Service, so that one compare-and-swap decides between them and whatever else is asked
of it; the rollout controller follows.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from apiserver.admission import Admission, View, refuse, replaced, updated
from apiserver.admit_service import admit_service
from shoal.api import keys
from shoal.api import objects as o
from shoal.api.errors import Fault
from shoal.api.states import RolloutState
from shoal.machinery.controller import Replace
from shoal.rules import attempts
from shoal.rules.slots import IN_PROGRESS, PAUSED


class Verb(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"
    UNDO = "undo"
    RESTART = "restart"


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request. `revision` is a number, for `undo` alone; 0 = the one before."""

    action: Verb
    revision: int = 0


def admit_rollout(old: o.Service, asked: Request, view: View) -> Admission:
    """Decide what a request about a service's rollout means."""
    if asked.revision and asked.action is not Verb.UNDO:
        return refuse(old, Fault("revision", f"means nothing to {asked.action.value}; leave it out"))
    match asked.action:
        case Verb.PAUSE:
            return _pause(old, view)
        case Verb.RESUME:
            return _resume(old, view)
        case Verb.RESTART:
            spec = msgspec.structs.replace(old.spec, force_update=old.spec.force_update + 1)
            return admit_service(old, updated(old, spec=spec), view, "")
        case Verb.UNDO:
            return _undo(old, asked.revision, view)


def _state(service: o.Service, view: View) -> RolloutState:
    found = view.get(o.Rollout, keys.rollout(o.ref_of(service)))
    if found is None or found.status.target != service.status.revision:
        return RolloutState.UPDATING
    return found.status.state


def _pause(old: o.Service, view: View) -> Admission:
    if old.status.attempt.is_paused or _state(old, view) in PAUSED:
        return Admission(old)
    if _state(old, view) not in IN_PROGRESS:
        return refuse(old, Fault("action", "no rollout is under way: there is nothing to pause"))
    return replaced(old, updated(old, status=attempts.paused(old.status)))


def _resume(old: o.Service, view: View) -> Admission:
    if not old.status.attempt.is_paused and _state(old, view) not in PAUSED:
        return refuse(old, Fault("action", "the rollout is not paused: there is nothing to resume"))
    return replaced(old, updated(old, status=attempts.resumed(old.status)))


def _undo(old: o.Service, number: int, view: View) -> Admission:
    known = {one.spec.number: one.spec for one in view.revisions(old.metadata.uid)}
    if number:
        wanted = known.get(number)
        kept = ", ".join(map(str, sorted(known)))
        problem = f"there is no revision {number}; kept are {kept}"
    else:
        wanted = next((one for one in known.values() if one.hash == old.status.previous_revision), None)
        problem = "there is no previous revision to go back to; `shoal rollout history` lists those that are kept"
    if wanted is None:
        return refuse(old, Fault("revision", problem))
    if wanted.hash == old.status.revision:
        return refuse(old, Fault("revision", f"the service is at revision {wanted.number} already"))
    admission = admit_service(old, updated(old, spec=attempts.spec_at(old, wanted)), view, "")
    return admission if admission.faults else _as_rollback(admission)


def _as_rollback(admission: Admission) -> Admission:
    """Mark what is written as the way back: it is then rolled out with the service's rollback settings."""
    assert isinstance(admission.obj, o.Service)
    service = updated(admission.obj, status=attempts.as_rollback(admission.obj.status))
    return Admission(service, (Replace(service), *admission.steps[1:]), admission.compares)
