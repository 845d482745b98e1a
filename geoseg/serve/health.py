"""Whether the service lives and can work, and its figures for Prometheus."""

from __future__ import annotations

import shutil
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from geoseg.errors import GeosegError
from geoseg.serve.problems import Problem, problem_responses
from geoseg.serve.service import Service

__all__ = ["OPEN_PATHS", "router"]

OPEN_PATHS = ("/health/live", "/health/ready")

_LEAST_BYTES = 1 << 28


def router(service: Service) -> APIRouter:
    """``/health/live``, ``/health/ready`` and ``/metrics``."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health/live", summary="Whether the process answers")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @routes.get("/health/ready", summary="Whether jobs can be taken", responses=problem_responses(503))
    def ready() -> dict[str, str]:
        if not service.jobs.accepting:
            raise Problem(503, "Not ready", "the service begins or ends")
        if shutil.disk_usage(service.settings.root).free < _LEAST_BYTES:
            raise Problem(503, "Not ready", "the disk is full")
        try:
            service.scenes.list()
        except GeosegError as error:
            raise Problem(503, "Not ready", "the catalog of scenes cannot be read") from error
        if service.database is not None:
            service.database.demand()
        return {"status": "ready"}

    @routes.get("/metrics", summary="Figures for Prometheus", response_class=Response, responses=_TEXT)
    async def metrics(request: Request) -> Response:
        return Response(generate_latest(request.app.state.figures.registry), media_type=CONTENT_TYPE_LATEST)

    return routes


_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"description": "Figures.", "content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}
}
