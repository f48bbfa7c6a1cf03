"""What this server counts, in Prometheus' words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics import Counter
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from apiserver.joined import joined_status
from apiserver.mirror import Mirror
from apiserver.watches import Hub
from shoal.api import objects as o


class Metrics(Collector):
    """Counters of requests, and gauges read from the mirror whenever somebody asks."""

    def __init__(self, mirror: Mirror, hub: Hub, registry: CollectorRegistry | None = None) -> None:
        self._mirror, self._hub = mirror, hub
        self.registry = registry if registry is not None else CollectorRegistry()
        self._requests = Counter(
            "shoal_api_requests_total", "Requests answered.", ["method", "status"], registry=self.registry
        )
        self.registry.register(self)

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def count(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            response = await handler(request)
            self._requests.labels(request.method, str(response.status)).inc()
            return response

        return count

    async def handler(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self.text(), headers={"Content-Type": "text/plain; version=0.0.4"})

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def collect(self) -> Iterable[Metric]:
        cache = self._mirror.cache
        yield GaugeMetricFamily("shoal_api_cache_revision", "Revision the cache is true at.", value=cache.revision)
        yield GaugeMetricFamily("shoal_api_synced", "1 once the store was read.", value=int(self._mirror.synced))
        watchers = GaugeMetricFamily("shoal_api_watchers", "Open watches.", labels=["kind"])
        for word, count in self._hub.watchers().items():
            watchers.add_metric([word], count)
        yield watchers
        objects = GaugeMetricFamily("shoal_objects", "Objects in the store.", labels=["kind"])
        for kind in o.KINDS.values():
            objects.add_metric([kind.KIND], len(cache.all(kind)))
        yield objects
        yield from self._services()

    def _services(self) -> Iterable[Metric]:
        gauges = {
            word: GaugeMetricFamily(f"shoal_service_tasks_{word}", f"Tasks {word}.", labels=["service"])
            for word in ("desired", "running")
        }
        for service in self._mirror.cache.all(o.Service).values():
            replicas = joined_status(service, self._mirror.cache)["replicas"]
            for word, gauge in gauges.items():
                gauge.add_metric([service.metadata.name], getattr(replicas, word))
        yield from gauges.values()
