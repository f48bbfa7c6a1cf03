"""Ports as published: explicit ones as given, dynamic ones chosen once and kept."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from controllers.endpoint import CONTROLLER
from controllers.endpoint.ports import explicit_claim
from shoal.api import keys
from shoal.api.meta import Owner
from shoal.api.objects import Claim, Service, ServiceEndpoint
from shoal.api.states import EndpointMode, Protocol, PublishMode
from shoal.api.template import Endpoint, Port
from shoal.machinery.testkit import make_service
from shoal.rules.claims import make_claim
from tests.support.picture import Picture


def web(*ports: Port, **spec: Any) -> Service:
    return make_service("web", ports=ports, **spec)


def settled(*services: Service) -> Picture:
    picture = Picture(CONTROLLER, *services)
    picture.settle(*(f"service/{service.metadata.uid}" for service in services))
    return picture


def published(picture: Picture) -> list[int]:
    return [port.published for port in picture.one(ServiceEndpoint).spec.ports]


EXPLICIT = (Port(80, 8080), Port(53, 53, Protocol.UDP, PublishMode.HOST))


def claims_of(service: Service) -> list[Claim]:
    owner = Owner("Service", service.metadata.name, service.metadata.uid)
    return [make_claim(explicit_claim(port, owner.uid), owner) for port in service.spec.ports if port.published]


def test_explicit_ports_are_published_as_given_and_their_claims_left_alone() -> None:
    service = web(*EXPLICIT)
    picture = Picture(CONTROLLER, service, *claims_of(service))
    before = picture.all(Claim)
    picture.settle(f"service/{service.metadata.uid}")
    assert picture.one(ServiceEndpoint).spec.ports == EXPLICIT
    assert picture.all(Claim) == before


def test_a_spec_that_came_back_by_itself_gets_its_ports_claimed_and_others_given_back() -> None:
    service = web(*EXPLICIT)
    picture = Picture(CONTROLLER, service, *claims_of(web(Port(80, 9090))))
    picture.settle(f"service/{service.metadata.uid}")
    assert {claim.key for claim in picture.all(Claim)} == {claim.key for claim in claims_of(service)}


def test_a_port_that_another_took_meanwhile_is_not_published_and_the_reason_is_told() -> None:
    service = web(*EXPLICIT)
    other = make_claim(keys.ingress_port_claim("tcp", 8080), Owner("Service", "other", "o" * 25))
    picture = Picture(CONTROLLER, service, other)
    picture.settle(f"service/{service.metadata.uid}")
    endpoint = picture.one(ServiceEndpoint).spec
    assert (endpoint.ports, endpoint.message) == (EXPLICIT[1:], "port 8080 is in use by another service")


def test_dynamic_ports_are_claimed_from_30000_for_each_protocol_apart() -> None:
    picture = settled(web(Port(80), Port(81), Port(53, protocol=Protocol.UDP)))
    assert published(picture) == [30000, 30001, 30000]
    assert [claim.key for claim in picture.all(Claim)] == [
        "claims/port/tcp/30000/ingress",
        "claims/port/tcp/30001/ingress",
        "claims/port/udp/30000/ingress",
    ]


def test_a_host_port_without_a_number_is_left_to_the_engine() -> None:
    picture = settled(web(Port(80, mode=PublishMode.HOST)))
    assert published(picture) == [0]


def test_a_port_that_anyone_holds_is_passed_over() -> None:
    other = Owner("Service", "other", "o" * 25)
    service = web(Port(80))
    picture = Picture(
        CONTROLLER,
        service,
        make_claim(keys.ingress_port_claim("tcp", 30000), other),
        make_claim(keys.host_port_claim("tcp", 30001, other.uid), other),
    )
    picture.settle(f"service/{service.metadata.uid}")
    assert published(picture) == [30002]


def test_dynamic_ports_stay_across_updates_and_are_freed_with_their_port() -> None:
    picture = settled(web(Port(80), Port(81)))
    key = f"service/{web().metadata.uid}"
    picture.put(web(Port(90), Port(81)))
    picture.settle(key)
    assert published(picture) == [30002, 30001]
    picture.put(web(Port(81), image="busybox:2"))
    picture.settle(key)
    assert published(picture) == [30001]
    assert [claim.key for claim in picture.all(Claim)] == ["claims/port/tcp/30001/ingress"]


def test_a_dynamic_port_may_be_made_explicit() -> None:
    picture = settled(web(Port(80)))
    key = f"service/{web().metadata.uid}"
    picture.put(web(Port(80, 30000)))
    picture.settle(key)
    assert published(picture) == [30000]
    assert len(picture.all(Claim)) == 1


def test_a_deleted_service_takes_its_endpoint_and_whatever_it_has_claimed_along() -> None:
    service = web(Port(80), Port(81, 8081))
    picture = settled(service)
    picture.put(make_claim(keys.ingress_port_claim("tcp", 8081), Owner("Service", "web", service.metadata.uid)))
    picture.drop(service)
    picture.settle(f"service/{service.metadata.uid}")
    assert picture.all(ServiceEndpoint) == []
    assert picture.all(Claim) == []


def test_when_all_ports_are_taken_the_endpoint_says_so_and_looks_again() -> None:
    service = web(Port(80))
    other = Owner("Service", "other", "o" * 25)
    claims = [make_claim(keys.ingress_port_claim("tcp", number), other) for number in range(30000, 32768)]
    picture = Picture(CONTROLLER, service, *claims)
    key = f"service/{service.metadata.uid}"
    plan = picture.step(key)
    assert plan.requeue_after is not None
    assert picture.one(ServiceEndpoint).spec.message == "no free tcp port between 30000 and 32767"
    assert picture.step(key).actions == ()
    picture.drop(claims[7])
    picture.settle(key)
    assert published(picture) == [30007]
    assert picture.one(ServiceEndpoint).spec.message == ""


def test_the_mode_is_shown_and_an_unchanged_service_writes_nothing() -> None:
    service = web(endpoint=Endpoint(EndpointMode.DNSRR))
    picture = settled(service)
    assert picture.one(ServiceEndpoint).spec.mode == "dnsrr"
    picture.put(replace(service, metadata=replace(service.metadata, labels={"a": "b"})))
    assert picture.step(f"service/{service.metadata.uid}").actions == ()
