"""A service that cannot be read is not taken for deleted: what it owns is left alone."""

from __future__ import annotations

from controllers.endpoint import CONTROLLER as ENDPOINT
from controllers.replication import CONTROLLER as REPLICATION
from controllers.rollout import CONTROLLER as ROLLOUT
from shoal.api import keys
from shoal.api.codec import with_meta
from shoal.api.meta import Meta, Ref
from shoal.api.objects import EndpointSpec, ServiceEndpoint
from shoal.machinery.cache import Cache
from shoal.machinery.clock import VirtualClock
from tests.support.stage import Stage

KEY = keys.service("web")


def deployed() -> Stage:
    stage = Stage()
    stage.node("n1")
    stage.deploy(replicas=2)
    stage.settle()
    return stage


def test_a_deleted_service_loses_what_it_owned() -> None:
    stage = deployed()
    stage.drop(stage.cache.all(type(stage.deploy()))[KEY])
    assert stage.plan(REPLICATION).actions
    assert stage.plan(ROLLOUT).actions


def test_a_damaged_service_loses_nothing() -> None:
    stage = deployed()
    stage.drop(stage.cache.all(type(stage.deploy()))[KEY])
    stage.cache.unreadable[KEY] = ""
    assert not stage.plan(REPLICATION).actions
    assert not stage.plan(ROLLOUT).actions


def test_a_damaged_service_keeps_its_endpoint() -> None:
    cache = Cache(ENDPOINT.indexes, ENDPOINT.folds())
    endpoint = ServiceEndpoint(metadata=Meta(name="web"), spec=EndpointSpec(service=Ref("web", "u1")))
    cache.set(keys.key_of(endpoint), with_meta(endpoint, resource_version=1))
    view = ENDPOINT.observe("service/u1", cache)
    assert view is not None
    assert ENDPOINT.plan(view, VirtualClock.START).actions, "a deleted one loses it"
    cache.unreadable[KEY] = ""
    assert ENDPOINT.observe("service/u1", cache) is None
