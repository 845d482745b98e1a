"""The landing page, for programs, and what the service conforms to: put together of what each part says of itself.

A part's module may have ``CONFORMS_TO``, URIs of conformance classes; ``LINKS``, each (rel, path, media type, title),
with the method behind where it matters; and ``OPEN_PATHS``, those that need no token (what ends in ``/`` stands for all
below it).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from fastapi import APIRouter, Request

from geoseg.serve.records import Conformance, link_to

__all__ = ["OPEN_PATHS", "landing_document", "router"]

OPEN_PATHS = ("/",)

_LINKS = (
    ("self", "/", "application/json", "This document"),
    ("root", "/", "application/json", "This document"),
    ("service-desc", "/api", "application/vnd.oai.openapi+json;version=3.1", "The API"),
    ("conformance", "/conformance", "application/json", "Standards"),
    ("http://www.opengis.net/def/rel/ogc/1.0/conformance", "/conformance", "application/json", "Standards"),
)


def landing_document(request: Request) -> dict[str, Any]:
    """The landing page of both OGC APIs, which is the root catalog of the STAC API, too."""
    parts: Sequence[ModuleType] = request.app.state.parts
    links: list[tuple[str, ...]] = [*_LINKS, *(link for part in parts for link in getattr(part, "LINKS", ()))]
    return {
        "type": "Catalog",
        "stac_version": "1.0.0",
        "id": "geoseg",
        "title": "geoseg",
        "description": "Maps made of satellite scenes.",
        "conformsTo": conformance(parts),
        "links": [
            link_to(request, path, rel, kind, title).model_dump() | ({"method": method[0]} if method else {})
            for rel, path, kind, title, *method in links
        ],
    }


def conformance(parts: Sequence[ModuleType]) -> list[str]:
    """URIs of the conformance classes of all parts."""
    return list(dict.fromkeys(uri for part in parts for uri in getattr(part, "CONFORMS_TO", ())))


def router(parts: Sequence[ModuleType]) -> APIRouter:
    """``/`` where no page stands there, and ``/conformance``."""
    routes = APIRouter(tags=["landing"])

    @routes.get("/", summary="Landing page")
    async def landing(request: Request) -> dict[str, Any]:
        return landing_document(request)

    @routes.get("/conformance", summary="Standards that the service keeps")
    async def conforms() -> Conformance:
        return Conformance(conformsTo=conformance(parts))

    return routes
