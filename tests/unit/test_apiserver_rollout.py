"""What people's changes, and their words about a rollout, mean for it: attempts, undo, pause, refusals."""

from __future__ import annotations

from typing import Any

import pytest

from apiserver.admission import Admission, View
from apiserver.admit_rollout import Request, Verb, admit_rollout
from shoal.api import objects as o
from shoal.api.states import Availability, Mode, NodeState, PublishMode, RolloutState, UpdateOrder
from shoal.api.template import Placement, Port
from shoal.machinery.testkit import make_node, make_rollout
from tests.unit.test_apiserver_admission import Cluster, wanted


def stored(cluster: Cluster) -> o.Service:
    service = cluster.service()
    assert service is not None
    return service


def deployed(*specs: dict[str, Any], state: RolloutState = RolloutState.COMPLETED) -> Cluster:
    """A service that was applied with one spec after the other."""
    cluster = Cluster()
    for spec in specs:
        cluster.apply(wanted(**spec))
    cluster.put(make_rollout(stored(cluster), state=state))
    return cluster


def ask(cluster: Cluster, verb: Verb, revision: int = 0) -> Admission:
    admission = admit_rollout(stored(cluster), Request(verb, revision), View(cluster.cache))
    if not admission.faults:
        cluster.write(admission)
    return admission


@pytest.mark.parametrize(
    ("change", "number"),
    [
        pytest.param({"image": "busybox:2"}, 1, id="another template"),
        pytest.param({"update": o.Update(parallelism=2)}, 1, id="other settings: a paused rollout goes on with them"),
        pytest.param({"replicas": 9}, 0, id="scaling is none"),
        pytest.param({}, 0, id="nothing"),
    ],
)
def test_what_is_a_new_attempt(change: dict[str, Any], number: int) -> None:
    assert stored(deployed({"replicas": 2}, {"replicas": 2, **change})).status.attempt.number == number


def test_undo_brings_back_the_revision_before_and_keeps_replicas_and_settings() -> None:
    update = o.Update(parallelism=2)
    cluster = deployed({"replicas": 2}, {"replicas": 2, "image": "busybox:2"}, {"replicas": 5, "image": "busybox:2"})
    cluster.apply(wanted(replicas=5, image="busybox:2", update=update))
    ask(cluster, Verb.UNDO)
    service = stored(cluster)
    assert (service.spec.image, service.spec.replicas, service.spec.update) == ("busybox:1", 5, update)
    assert (service.status.revision_number, service.status.previous_spec.image) == (1, "busybox:2")  # type: ignore[union-attr]
    attempt = service.status.attempt
    assert (attempt.is_rollback, attempt.message) == (True, "manually requested rollback")


def test_undoing_twice_leads_back() -> None:
    cluster = deployed({}, {"image": "busybox:2"})
    numbers = []
    for _ in range(3):
        ask(cluster, Verb.UNDO)
        numbers.append(stored(cluster).status.revision_number)
    assert numbers == [1, 2, 1]


def test_undo_goes_to_any_revision_that_is_kept() -> None:
    cluster = deployed({}, {"image": "busybox:2"}, {"image": "busybox:3"})
    ask(cluster, Verb.UNDO, revision=1)
    assert stored(cluster).spec.image == "busybox:1"


def test_undo_takes_ports_back_as_any_change_does() -> None:
    cluster = deployed({"ports": (Port(80, 8080),)}, {"ports": (Port(80, 9090),)})
    ask(cluster, Verb.UNDO)
    assert cluster.claims() == {"claims/port/tcp/8080/ingress"}


@pytest.mark.parametrize(
    ("specs", "state", "verb", "revision", "sentence"),
    [
        ([{}], "completed", Verb.UNDO, 0, "there is no previous revision to go back to"),
        ([{}, {"image": "busybox:2"}], "completed", Verb.UNDO, 7, "there is no revision 7; kept are 1, 2"),
        ([{}, {"image": "busybox:2"}], "completed", Verb.UNDO, 2, "the service is at revision 2 already"),
        ([{}], "completed", Verb.PAUSE, 0, "no rollout is under way: there is nothing to pause"),
        ([{}], "updating", Verb.RESUME, 0, "the rollout is not paused: there is nothing to resume"),
        ([{}], "updating", Verb.PAUSE, 3, "means nothing to pause; leave it out"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(
    specs: list[dict[str, Any]], state: str, verb: Verb, revision: int, sentence: str
) -> None:
    (fault,) = ask(deployed(*specs, state=RolloutState(state)), verb, revision).faults
    assert sentence in fault.message


def test_a_pause_is_kept_by_scaling_and_ended_by_resuming_or_any_other_change() -> None:
    cluster = deployed({}, {"image": "busybox:2"}, state=RolloutState.UPDATING)
    ask(cluster, Verb.PAUSE)
    cluster.apply(wanted(image="busybox:2", replicas=5))
    assert stored(cluster).status.attempt == o.Attempt(number=1, is_paused=True)
    ask(cluster, Verb.RESUME)
    assert stored(cluster).status.attempt == o.Attempt(number=2)
    ask(cluster, Verb.PAUSE)
    cluster.apply(wanted(image="busybox:3", replicas=5))
    assert stored(cluster).status.attempt == o.Attempt(number=3)


def test_restart_changes_nothing_but_forces_an_update() -> None:
    cluster = deployed({})
    ask(cluster, Verb.RESTART)
    assert (stored(cluster).spec.force_update, stored(cluster).status.revision_number) == (1, 2)


HOST_PORT = {"ports": (Port(80, 8080, mode=PublishMode.HOST),)}
START_FIRST = {"update": o.Update(order=UpdateOrder.START_FIRST)}


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [
        pytest.param({"replicas": 2}, {}, True, id="as many tasks as nodes"),
        pytest.param({"replicas": 1}, {}, False, id="a node to spare"),
        pytest.param({"mode": Mode.GLOBAL}, {}, True, id="on every node"),
        pytest.param({"replicas": 2}, {"update": None}, False, id="stop-first"),
        pytest.param({"replicas": 2}, {"image": "busybox:1"}, False, id="nothing is replaced"),
        pytest.param({"replicas": 2}, {"ports": (Port(80, 9090, mode=PublishMode.HOST),)}, False, id="to another port"),
        pytest.param(
            {"replicas": 1}, {"placement": Placement(constraints=("node.hostname == n1",))}, True, id="one node fits"
        ),
    ],
)
def test_an_update_whose_order_and_host_port_can_never_converge_is_refused(
    before: dict[str, Any], after: dict[str, Any], refused: bool
) -> None:
    cluster = Cluster(
        make_node("n1"), make_node("n2", state=NodeState.DOWN), make_node("n3", availability=Availability.DRAIN)
    )
    base = {**HOST_PORT, **START_FIRST, **before}
    cluster.apply(wanted(**base))
    faults = cluster.apply(wanted(**{**base, "image": "busybox:2", **after})).faults
    assert [fault.path for fault in faults] == (["spec.update.order"] if refused else [])
    assert all("use stop-first" in fault.message for fault in faults)
