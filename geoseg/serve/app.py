"""The application: every part's routes, behind the limits, with problem documents for errors."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

from fastapi import FastAPI

import geoseg
from geoseg.serve import features, health, landing, processes, stac, tiles, web, window
from geoseg.serve.limits import Limits
from geoseg.serve.metrics import Figures, Metered
from geoseg.serve.problems import ANY_PROBLEM, add_problems
from geoseg.serve.service import Service, make_service
from geoseg.serve.settings import ServiceSettings

__all__ = ["ROUTERS", "create_app"]

ROUTERS = (health, processes, window, stac, features, tiles, web)
"""Modules whose `router` makes the routes of one part; `geoseg.serve.landing` says what else they may tell."""


def create_app(settings: ServiceSettings) -> FastAPI:
    """The ASGI application of a service; jobs are taken up when it starts and stopped when it ends.

    Raises:
        ConfigError: The settings contradict each other, or a file of theirs cannot be used.
        ModelError: A model cannot be used.
    """
    service = make_service(settings)
    app = FastAPI(
        title="geoseg",
        summary="Satellite scenes into maps.",
        version=geoseg.__version__,
        openapi_url="/api",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=ANY_PROBLEM,
        lifespan=_lifespan,
    )
    app.state.service, app.state.parts, app.state.failure = service, ROUTERS, None
    app.state.figures = Figures(service.jobs)
    add_problems(app)
    for part in ROUTERS:
        app.include_router(part.router(service))
    app.include_router(landing.router(ROUTERS))
    open_paths = [path for part in (*ROUTERS, landing) for path in getattr(part, "OPEN_PATHS", ())]
    app.add_middleware(Limits, settings=settings, clients=service.clients, open_paths=open_paths)
    app.add_middleware(Metered, figures=app.state.figures)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    try:
        await service.jobs.start(service.clients)
    except Exception as error:
        app.state.failure = error  # the server would only say that it could not start
        await service.jobs.stop()
        raise
    try:
        with _environment(service.jobs.egress.environment()):  # what this process reads goes the jobs' way
            yield
    finally:
        await service.jobs.stop()
        if service.database is not None:
            service.database.close()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
