"""What people see of a service besides what is stored."""

from __future__ import annotations

from apiserver.joined import joined_status
from apiserver.mirror import INDEXES
from shoal.api import keys
from shoal.api import objects as o
from shoal.api.codec import with_meta
from shoal.api.meta import Meta, derived_uid
from shoal.api.states import DesiredState, Mode, NodeState, TaskState
from shoal.api.template import Port
from shoal.machinery.cache import Cache
from shoal.machinery.testkit import make_node, make_rollout, make_service, make_task, ref_of
from shoal.rules.counts import Counts

UP, DOWN = make_node("up"), make_node("down", state=NodeState.DOWN)


def cache_of(*objects: o.Object) -> Cache:
    cache = Cache(INDEXES)
    for revision, obj in enumerate(objects, 1):
        cache.set(keys.key_of(obj), with_meta(obj, resource_version=revision))
    return cache


def test_tasks_on_nodes_that_are_down_do_not_run() -> None:
    web = make_service(replicas=3)
    cache = cache_of(UP, DOWN, make_task(web, 1, node=UP), make_task(web, 2, node=DOWN))
    assert joined_status(web, cache)["replicas"] == Counts(desired=3, running=1, updated=1, completed=0)


def test_a_global_service_wants_one_task_per_node_that_may_have_one() -> None:
    web = make_service(mode=Mode.GLOBAL)
    assert joined_status(web, cache_of(UP, DOWN))["replicas"].desired == 1


def test_reasons_why_tasks_wait_are_counted_and_those_on_their_way_are_not() -> None:
    web = make_service(replicas=5)
    full = {"err": "no suitable node (insufficient resources on 1 node)"}
    waiting = [make_task(web, slot, state=TaskState.PENDING, status=full) for slot in (1, 2)]
    on_its_way = make_task(web, 3, state=TaskState.PENDING, status={"message": "waits for a node"})
    given_up = make_task(web, 4, state=TaskState.PENDING, desired=DesiredState.SHUTDOWN, status=full)
    joined = joined_status(web, cache_of(*waiting, on_its_way, given_up))
    assert joined["pending"] == {full["err"]: 2}


def test_rollout_and_endpoint_are_shown_where_there_are_any() -> None:
    web = make_service()
    assert set(joined_status(web, cache_of())) == {"replicas"}
    spec = o.EndpointSpec(ref_of(web), ports=(Port(80, 30000),))
    endpoint = o.ServiceEndpoint(metadata=Meta(name="web", uid=derived_uid("endpoint")), spec=spec)
    rollout = make_rollout(web)
    joined = joined_status(web, cache_of(rollout, endpoint))
    assert (joined["rollout"], joined["endpoint"]) == (rollout.status, spec)
