"""How this process answers requests, for Prometheus. Knows methods, routes and seconds."""

from prometheus_client import CollectorRegistry, Histogram


class HttpMetrics:
    """Requests of this process: how long until the answer began."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._latency = Histogram(
            "realvideo_http_request_seconds",
            "Time until the answer began",
            ["method", "route", "status"],
            registry=self.registry,
        )

    def observe(self, *, method: str, route: str, status: int, seconds: float) -> None:
        self._latency.labels(method=method, route=route, status=str(status)).observe(seconds)
