"""What happens, counted for Prometheus and written to the log: one line a request, without its query."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from geoseg.serve.queue import JobQueue
from geoseg.serve.tokens import ANYBODY

__all__ = ["Figures", "Metered"]

_log = logging.getLogger("geoseg.serve")
_QUIET = ("/health/", "/metrics")


class _Jobs(Collector):
    """Jobs by state, as they are when they are asked for."""

    def __init__(self, jobs: JobQueue) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[GaugeMetricFamily]:
        gauge = GaugeMetricFamily("geoseg_jobs", "Jobs by state", labels=["state"])
        counts = self._jobs.counts()
        for state in ("accepted", "running", "successful", "failed", "dismissed"):
            gauge.add_metric([state], counts.get(state, 0))
        yield gauge


class Figures:
    """The figures of one service."""

    def __init__(self, jobs: JobQueue) -> None:
        """Nothing has happened yet."""
        self.registry = CollectorRegistry()
        """What `prometheus_client` writes out; other parts may add theirs."""
        self.registry.register(_Jobs(jobs))
        names = ["method", "route", "status"]
        self._requests = Counter("geoseg_requests", "Requests", names, registry=self.registry)
        self._seconds = Histogram("geoseg_request_seconds", "Time to answer", ["route"], registry=self.registry)

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)


class Metered:
    """Middleware that counts requests and writes them down."""

    def __init__(self, app: ASGIApp, figures: Figures) -> None:
        """Takes the application and where to count."""
        self._app, self._figures = app, figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on, and looks at what comes back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(
            scope.get("route"), "path", "none"
        )  # never what a client made up: there would be no end to them
        known = scope["method"] if scope["method"] in {"GET", "HEAD", "POST", "DELETE", "OPTIONS"} else "other"
        self._figures.note(known, route, status, seconds)
        client = scope.get("state", {}).get("client", ANYBODY)
        facts = {"method": known, "route": route, "status": status, "seconds": round(seconds, 4), "client": client.name}
        facts |= {"job": job} if (job := scope.get("path_params", {}).get("job_id")) else {}
        level = logging.DEBUG if scope["path"].startswith(_QUIET) else logging.INFO
        _log.log(level, "%s %s: %s", known, route, status, extra={"event": "request", "facts": facts})
