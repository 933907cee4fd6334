"""The counters of a server, in the format of Prometheus (https://prometheus.io/docs/concepts)."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Monitor:
    """Counters of one server; several servers in one process count separately."""

    def __init__(self, queue_length: Callable[[], float]) -> None:
        """Initialise with a function that returns the number of images in the queue."""
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "jaxcap_requests", "Answered requests", ("path", "status"), registry=registry
        )
        self.failures = Counter(
            "jaxcap_failures", "Requests without captions", ("kind",), registry=registry
        )
        self.seconds = Histogram(
            "jaxcap_request_seconds",
            "Latency of requests with captions",
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_sizes = Histogram(
            "jaxcap_batch_size", "Images captioned together", buckets=_SIZES, registry=registry
        )
        Gauge(
            "jaxcap_queue_length", "Images that wait or are captioned", registry=registry
        ).set_function(queue_length)

    def text(self) -> bytes:
        """Return all counters as Prometheus reads them."""
        return generate_latest(self._registry)
