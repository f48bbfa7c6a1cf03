"""The HTTP application: routes, who may use them, errors as sentences, one audit line per change.

`serving` starts what runs behind the handlers and yields a `Server`; the caller binds `Server.app` to sockets. The
identity of a request comes from its connection: the unix socket's peers are admins, over TLS the certificate decides.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio
from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client.registry import CollectorRegistry

from apiserver import audit, kinds
from apiserver.agents import BOOKMARK_S as AGENT_BOOKMARK_S
from apiserver.agents import Agents
from apiserver.containers import Containers
from apiserver.doctor import Doctor
from apiserver.identity import Identity, may
from apiserver.joined import Joined
from apiserver.listener import Connections, identify
from apiserver.logs import Logs
from apiserver.membership import Membership
from apiserver.metrics import Metrics
from apiserver.mirror import Mirror
from apiserver.objects import Objects, error_response, json_response
from apiserver.openapi import document
from apiserver.presence import Presences
from apiserver.requests import Requests
from apiserver.vault import Vault
from apiserver.watches import Hub
from apiserver.writes import Writes, fresh_uid
from shoal.api import keys
from shoal.api import objects as o
from shoal.api.errors import ForbiddenError, InvalidError, NotFoundError, ShoalError, UnavailableError
from shoal.api.ownership import API
from shoal.api.validation import MAX_BODY_BYTES
from shoal.machinery.clock import Clock, SystemClock
from shoal.machinery.events import Recorder
from shoal.machinery.informer import Informer
from shoal.machinery.store import Store
from shoal.machinery.writer import Writer

BOOKMARK_S: Final = 5.0
"""Seconds of silence after which a watch says how far it is."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """All parts of one API server, wired together."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        cluster_key: bytes,
        bookmark_s: float = BOOKMARK_S,
        agent_bookmark_s: float = AGENT_BOOKMARK_S,
        registry: CollectorRegistry | None = None,
        node: str = "",
    ) -> None:
        self.store, self.clock = store, clock
        self.mirror, self.hub = Mirror(), Hub()
        self.joined = Joined(self.mirror)
        self.writer = Writer(store, API, clock)
        self.vault = Vault(cluster_key)
        self.writes = Writes(self.mirror, self.writer, self.vault, clock)
        self.membership = Membership(self.mirror, self.writes, clock, cluster_key)
        self.containers = Containers(self.mirror, self.writes)
        self.connections = Connections(self.membership, lambda: clock.now().timestamp())
        self.objects = Objects(self.mirror, self.hub, self.joined, self.writes, bookmark_s)
        self.requests = Requests()
        self.recorder = Recorder(store, API, clock)
        self.presences = Presences(fresh_uid(), store, clock, lambda: self.agents.period_s(), node)
        self.agents = Agents(
            self.mirror, self.writer, self.writes, self.presences, self.requests, self.recorder, self.vault, clock,
            agent_bookmark_s,
        )  # fmt: skip
        self.logs = Logs(self.mirror, self.hub, self.requests)
        self.doctor = Doctor(self.mirror, self.logs)
        self.metrics = Metrics(self.mirror, self.hub, registry)
        self.mirror.listeners += [self.objects.changed, self.presences.changed, self.agents.changed]
        self.informer = Informer(
            store, self.mirror.cache, kinds.SHOWN, clock, prefixes=(keys.ROOT, keys.EVENTS), keep=self.mirror.keep
        )
        self.informer.subscribe(self.mirror.changed)
        self.mirror.resets += [self.hub.start_at, lambda _: self.joined.forget(), self.presences.forget]
        self.app = make_app(self)

    async def run(self) -> None:
        """Run what stands behind the handlers, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.informer.run)
            tasks.start_soon(self.presences.run)
            tasks.start_soon(self.recorder.run)
            tasks.start_soon(self.agents.run)
            tasks.start_soon(self.joined.run, self.clock, self.hub.is_watched, self.objects.tell_joined)


@asynccontextmanager
async def serving(
    store: Store,
    clock: Clock | None = None,
    *,
    cluster_key: bytes,
    bookmark_s: float = BOOKMARK_S,
    agent_bookmark_s: float = AGENT_BOOKMARK_S,
    registry: CollectorRegistry | None = None,
    node: str = "",
) -> AsyncIterator[Server]:
    """Run a server's background work and yield it; its app is ready to be bound to a socket.

    `cluster_key` seals secrets; `registry` None = one of its own; `node` is the manager it runs on. Requests that come
    before the store was read wait for that.
    """
    server = Server(
        store, clock or SystemClock(), cluster_key=cluster_key, bookmark_s=bookmark_s,
        agent_bookmark_s=agent_bookmark_s, registry=registry, node=node,
    )  # fmt: skip
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run)
        yield server
        tasks.cancel_scope.cancel()


def make_app(server: Server) -> web.Application:
    """Route every path; each route's name is its row in the table of `apiserver.identity`."""
    objects, agents, logs, membership = server.objects, server.agents, server.logs, server.membership
    app = web.Application(
        client_max_size=MAX_BODY_BYTES,
        middlewares=[server.metrics.middleware, _errors, _guard(server)],
        handler_args={"access_log": None},
    )
    root = "/shoal/v1"
    one = root + "/{plural}/{name:.+}"
    container = root + "/nodes/{node}/containers/{container}"
    app.router.add_routes(
        [
            _route("GET", "/healthz", _healthz, "healthz"),
            _route("GET", "/readyz", _readyz(server), "readyz"),
            _route("GET", "/metrics", server.metrics.handler, "metrics"),
            _route("GET", "/openapi.json", _openapi, "openapi"),
            _route("POST", root + "/apply", objects.apply, "apply"),
            _route("PUT", root + "/nodes/{node}/status", _node_state, "node-state"),
            _route("GET", root + "/nodes/{node}/assignments", agents.assignments, "assignments"),
            _route("POST", root + "/nodes/{node}/status", agents.report, "node-report"),
            _route("POST", root + "/nodes/{node}/events", agents.events, "node-events"),
            _route("POST", root + "/nodes/{node}/answers/{id}", agents.answer, "node-answer"),
            _route("POST", container, server.containers.attach, "container-attach"),
            _route("DELETE", container, server.containers.detach, "container-detach"),
            _route("GET", root + "/services/{name}/logs", logs.of_service, "service-logs"),
            _route("POST", root + "/services/{name}/rollout", objects.rollout, "service-rollout"),
            _route("GET", root + "/tasks/{name}/logs", logs.of_task, "task-logs"),
            _route("POST", root + "/nodes/{node}/certificate", membership.certificate, "certificate"),
            _route("POST", root + "/nodes/{node}/leave", membership.leave, "leave"),
            _route("GET", root + "/ca", membership.ca, "ca"),
            _route("POST", root + "/join", membership.join, "join"),
            _route("GET", root + "/tokens", membership.tokens, "tokens"),
            _route("POST", root + "/tokens/rotate", membership.rotate, "tokens-rotate"),
            _route("GET", root + "/top", logs.top, "top"),
            _route("GET", root + "/doctor/network", server.doctor.network, "doctor-network"),
            _route("GET", root + "/{plural}", objects.list_or_watch, "objects-list"),
            _route("POST", root + "/{plural}", objects.create, "objects-create"),
            _route("GET", one, objects.get, "object-get"),
            _route("PUT", one, objects.replace, "object-replace"),
            _route("PATCH", one, objects.patch, "object-patch"),
            _route("DELETE", one, objects.delete, "object-delete"),
        ]
    )
    return app


def _route(method: str, path: str, handler: Handler, name: str) -> web.RouteDef:
    options = {"allow_head": False} if method == "GET" else {}
    return web.RouteDef(method, path, _named(handler, name), options)


ROUTE: Final = "shoal_route"
"""The attribute of a handler that holds its route's name."""


def _named(handler: Handler, name: str) -> Handler:
    async def run(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    setattr(run, ROUTE, name)
    return run


def route_of(request: web.Request) -> str:
    """Return the name of the route a request has met, empty for none."""
    return getattr(request.match_info.handler, ROUTE, "")


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error raised on purpose into a status and a sentence."""
    try:
        return await handler(request)
    except ShoalError as error:
        return error_response(error)
    except web.HTTPRequestEntityTooLarge:
        return _refusal(413, "TooLarge", f"the body is too large; at most {MAX_BODY_BYTES} bytes are taken")
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        return _refusal(405, "MethodNotAllowed", f"{request.method} does not work here; {allowed} does")
    except web.HTTPNotFound:
        return error_response(NotFoundError(f"there is nothing at {request.path[:200]}"))
    except web.HTTPException as error:
        return _refusal(error.status, "Invalid", error.reason)
    except (ConnectionError, web.RequestPayloadError):
        return _refusal(
            400, "Invalid", "the request broke off before its end"
        )  # heard by nobody, if all is as it seems
    except UnicodeDecodeError:
        return error_response(InvalidError("the request is not UTF-8"))


def _refusal(status: int, reason: str, message: str) -> web.Response:
    response = error_response(InvalidError(message))
    body = response.body
    assert isinstance(body, bytes)
    return json_response(body.replace(b'"reason":"Invalid"', b'"reason":"%b"' % reason.encode(), 1), status)


def _guard(server: Server) -> Middleware:
    """Refuse what the table does not allow and whoever is not part of the cluster; note who changed what."""

    def cluster() -> str:
        found = server.mirror.cache.get(o.Cluster, keys.CLUSTER)
        return found.metadata.uid if found is not None else ""

    def admitted(request: web.Request, route: str) -> Identity:
        identity = identify(request, cluster)
        if identity.node:
            server.membership.need_member(identity.node)
            if server.clock.now().timestamp() > identity.until:
                raise ForbiddenError(f"the certificate of node {identity.node} has ended")
            server.connections.note(request.transport, identity)
        is_unknown = identity.admin and not route
        if not is_unknown and not may(identity, route, request.match_info.get("node", "")):
            raise ForbiddenError(f"{identity} may not use {request.method} {request.path[:200]}")
        return identity

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        route = route_of(request)
        identity = admitted(request, route)
        if not route or request.method == "GET" or route.startswith("node-"):
            return await handler(request)
        with audit.audited(identity, request.method, request.path):
            return await handler(request)

    return guard


async def _healthz(request: web.Request) -> web.StreamResponse:
    return web.Response(text="ok\n")


def _readyz(server: Server) -> Handler:
    async def readyz(request: web.Request) -> web.StreamResponse:
        if not server.mirror.synced:
            raise UnavailableError("the server has not yet read the store")
        return web.Response(text=f"ok, at revision {server.mirror.version(server.mirror.revision)}\n")

    return readyz


async def _openapi(request: web.Request) -> web.StreamResponse:
    return json_response(document())


async def _node_state(request: web.Request) -> web.StreamResponse:
    raise ForbiddenError("a node's state is written by the nodes controller alone")
