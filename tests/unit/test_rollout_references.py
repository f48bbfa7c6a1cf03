"""When a service lets go of secrets and configs it has stopped using."""

from __future__ import annotations

from shoal.api.meta import Meta, Owner, derived_uid
from shoal.api.objects import Reference
from shoal.api.states import DesiredState, RolloutState
from shoal.api.template import FileUse
from shoal.machinery.testkit import make_node, make_service, owner_of
from tests.support.stage import Stage

N1 = make_node("n1")


def use(name: str) -> FileUse:
    return FileUse(name, target="db", uid=derived_uid("secret", name))


def reference(name: str) -> Reference:
    service = make_service()
    to = Owner("Secret", name, derived_uid("secret", name))
    return Reference(metadata=Meta(name=name, uid=derived_uid("ref", name), owner=owner_of(service)), to=to)


def staged() -> Stage:
    stage = Stage(N1)
    stage.put(reference("old"))
    stage.deploy(replicas=2, secrets=(use("old"),))
    stage.run(N1)
    return stage


def held(stage: Stage) -> set[str]:
    return {one.to.name for one in stage.cache.all(Reference).values()}


def test_what_is_in_use_stays_held() -> None:
    assert held(staged()) == {"old"}


def test_the_old_secret_is_let_go_when_the_rollout_is_over_and_no_sooner() -> None:
    stage = staged()
    stage.put(reference("new"))
    stage.deploy(replicas=2, secrets=(use("new"),))
    stage.settle()
    assert stage.rollout().status.state is RolloutState.UPDATING
    assert held(stage) == {"old", "new"}
    stage.run(N1)
    assert stage.rollout().status.state is RolloutState.COMPLETED
    assert held(stage) == {"new"}
    assert not [one for one in stage.tasks() if one.spec.desired_state is DesiredState.RUNNING and "old" in str(one)]


def test_going_back_during_a_rollout_finds_the_old_secret_still_held() -> None:
    stage = staged()
    stage.put(reference("new"))
    stage.deploy(replicas=2, secrets=(use("new"),))
    stage.settle()
    stage.deploy(replicas=2, secrets=(use("old"),))
    stage.run(N1)
    assert held(stage) == {"old"}


def test_a_reference_that_a_deleted_service_has_left_goes() -> None:
    stage = staged()
    for service in stage.services():
        stage.drop(service)
    stage.run(N1)
    assert held(stage) == set()
