"""What a service counts, as Prometheus reads it, and the middleware that counts."""

import time
from collections.abc import Callable, Container

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OTHER = "other"  # what paths that are not known are counted as
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
INPUTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        labels = ["path", "status"]
        self.requests = Counter("mrl_requests", "Requests answered", labels, registry=registry)
        self.seconds = Histogram(
            "mrl_request_seconds", "Time of requests", ["path"], buckets=SECONDS, registry=registry
        )
        self.batches = Histogram("mrl_batch_inputs", "Inputs of a batch", buckets=INPUTS, registry=registry)
        self.held = Gauge("mrl_held_inputs", "Inputs that are read, wait or are computed", registry=registry)

    def watch(self, held: Callable[[], float]) -> None:
        """Ask a function how many inputs are there, whenever that is told."""
        self.held.set_function(held)

    def told(self) -> Response:
        """Return all figures as a response."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)


class Counted:
    """Counts requests and their time, by path."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Container[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"] if scope["path"] in self.paths else OTHER
        begin, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - begin)
