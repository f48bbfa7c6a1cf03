"""A service's Endpoint: its ports as published, explicit ones as given, dynamic ones resolved and kept. Pure.

The API server claims explicit ports with the spec; after an automatic rollback, which brings back ports without it,
they are claimed and given back here. A dynamic port's claim is written with the Endpoint and labelled, so that it is
known whose it is to give back. A resolved port stays with its target and protocol across updates.
The networks and virtual IPs that go into the same Endpoint are `vips`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from controllers.endpoint.addresses import RETRY
from controllers.endpoint.vips import Wanted, plan_networks, withdrawn
from shoal.api import keys
from shoal.api.defaults import endpoint_mode
from shoal.api.meta import Meta, Owner, derived_uid
from shoal.api.objects import Claim, EndpointSpec, Service, ServiceEndpoint, ref_of
from shoal.api.states import Protocol, PublishMode
from shoal.api.template import Port
from shoal.machinery.controller import Action, Create, Plan, Remove, Replace, Step, is_unchanged
from shoal.machinery.store import Compare, NoneUnder, Unchanged
from shoal.rules.claims import make_claim

FIRST_DYNAMIC: Final = 30000
LAST_DYNAMIC: Final = 32767
"""Swarm's range (semantics 4.10), for each protocol apart."""

DYNAMIC_LABEL: Final = "shoal.port"
DYNAMIC: Final = {DYNAMIC_LABEL: "dynamic"}


@dataclass(frozen=True)
class ServiceView:
    """A service (None = deleted), its Endpoint, its claims that endpoint made for ports (with neither service nor
    Endpoint left: for VIPs too), and enough free ports of each protocol.

    `explicit` are its claims on ports it names, `taken` those of these ports that are another's.
    """

    service: Service | None
    endpoint: ServiceEndpoint | None
    dynamic: tuple[Claim, ...]
    free: Mapping[Protocol, tuple[int, ...]]
    networks: tuple[Wanted, ...] = ()
    explicit: tuple[Claim, ...] = ()
    taken: frozenset[Port] = frozenset()


def is_dynamic(port: Port) -> bool:
    return port.mode is PublishMode.INGRESS and port.published == 0


def explicit_claim(port: Port, service_uid: str) -> str:
    """Return the key of the claim on a port that a service names."""
    if port.mode is PublishMode.HOST:
        return keys.host_port_claim(port.protocol, port.published, service_uid)
    return keys.ingress_port_claim(port.protocol, port.published)


def plan_ports(view: ServiceView) -> Plan:
    """Bring one service's Endpoint up to date, or clear up after a service that was deleted."""
    if view.service is None:
        claims = tuple(Action("ClaimReleased", (Remove(claim),)) for claim in (*view.dynamic, *view.explicit))
        return Plan((*_taken_down(view.endpoint), *claims), independent=True)
    return _plan_endpoint(view.service, view)


def _taken_down(endpoint: ServiceEndpoint | None) -> tuple[Action, ...]:
    """Remove the Endpoint of a deleted service; one with virtual IPs loses its names and ports first."""
    if endpoint is None:
        return ()
    left = withdrawn(endpoint)
    if not left:
        return (Action("EndpointRemoved", (Remove(endpoint),)),)
    spec = replace(endpoint.spec, networks=left, ports=())
    return (Action("EndpointWithdrawn", (Replace(replace(endpoint, spec=spec)),)),) if spec != endpoint.spec else ()


def _plan_endpoint(service: Service, view: ServiceView) -> Plan:
    ports, fresh, missing = _resolve(service, view)
    ports = tuple(port for port in ports if port not in view.taken)
    ref = ref_of(service)
    owner = Owner("Service", ref.name, ref.uid)
    mode = endpoint_mode(service.spec)
    old = view.endpoint
    networks = plan_networks(service, mode, view.networks, old)
    taken = [port.published for port in service.spec.ports if port in view.taken]
    problems = [f"port {published} is in use by another service" for published in taken]
    problems += [f"no free {', '.join(missing)} port between {FIRST_DYNAMIC} and {LAST_DYNAMIC}"] if missing else []
    problems += [f"network {name} has no free address for the service's virtual IP" for name in networks.full]
    message = "; ".join(problems)
    spec = EndpointSpec(service=ref, mode=mode.value, ports=ports, networks=networks.entries, message=message)
    steps: list[Step] = []
    if old is None:
        meta = Meta(name=ref.name, uid=derived_uid("endpoint", ref.uid), owner=owner)
        steps.append(Create(ServiceEndpoint(metadata=meta, spec=spec)))
    elif old.spec != spec:
        steps.append(Replace(replace(old, spec=spec)))
    steps += networks.steps
    compares: list[Compare] = []
    _claim_explicit(service, view, owner, steps, compares)
    for port in fresh:
        key = keys.ingress_port_claim(port.protocol, port.published)
        steps.append(Create(make_claim(key, owner, DYNAMIC)))
        compares.append(NoneUnder(keys.port_claims(port.protocol, port.published)))
    kept = {keys.ingress_port_claim(port.protocol, port.published) for port in ports}
    steps += [Remove(claim) for claim in view.dynamic if keys.key_of(claim) not in kept]
    wait = RETRY if message else None
    if not steps:
        return Plan(requeue_after=wait, because=message)
    action = Action(
        "EndpointWritten", tuple(steps), (is_unchanged(service), *compares), message, service, bool(message)
    )
    return Plan((action,), requeue_after=wait, because=message)


def _claim_explicit(
    service: Service, view: ServiceView, owner: Owner, steps: list[Step], compares: list[Compare]
) -> None:
    """Claim ports that the spec names and give back those it names no more: what a rollback has left to do."""
    held = {keys.key_of(claim): claim for claim in view.explicit}
    named = {explicit_claim(port, owner.uid): port for port in service.spec.ports if port.published}
    steps += [Remove(claim) for key, claim in held.items() if key not in named]
    for key, port in named.items():
        if key in held or port in view.taken:
            continue
        steps.append(Create(make_claim(key, owner)))
        if port.mode is PublishMode.HOST:
            compares.append(Unchanged(keys.ingress_port_claim(port.protocol, port.published), 0))
        else:
            compares.append(NoneUnder(keys.port_claims(port.protocol, port.published)))


def _resolve(service: Service, view: ServiceView) -> tuple[tuple[Port, ...], tuple[Port, ...], tuple[str, ...]]:
    """Return all ports as published, those of them that are new claims, and the protocols that ran out."""
    explicit = {(port.protocol, port.published) for port in service.spec.ports if port.published}
    held = {keys.key_of(claim) for claim in view.dynamic}
    known = list(view.endpoint.spec.ports) if view.endpoint is not None else []
    old = [port for port in known if keys.ingress_port_claim(port.protocol, port.published) in held]
    old = [port for port in old if (port.protocol, port.published) not in explicit]
    free = {protocol: list(numbers) for protocol, numbers in view.free.items()}
    ports: list[Port] = []
    fresh: list[Port] = []
    missing: list[str] = []
    for port in service.spec.ports:
        if not is_dynamic(port):
            ports.append(port)
            continue
        same = next((p for p in old if (p.target, p.protocol) == (port.target, port.protocol)), None)
        if same is not None:
            old.remove(same)
            ports.append(replace(port, published=same.published))
        elif free.get(port.protocol):
            ports.append(replace(port, published=free[port.protocol].pop(0)))
            fresh.append(ports[-1])
        else:
            ports.append(port)
            missing.append(port.protocol.value)
    return tuple(ports), tuple(fresh), tuple(dict.fromkeys(missing))
