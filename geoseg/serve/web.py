"""The web page of the service, for people: jobs, finished maps, and a form that asks for new ones.

The page asks this service alone, and its policy forbids it any other host. The map is drawn by MapLibre GL JS, which
the package ``maplibre`` carries: its two files are served from where that is installed, and nothing of it is imported.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from geoseg.serve.landing import landing_document
from geoseg.serve.problems import Problem
from geoseg.serve.service import Service

__all__ = ["OPEN_PATHS", "prefers_html", "router"]

OPEN_PATHS = ("/page/",)

_FOLDER = Path(__file__).with_name("page")
_TYPES = {".css": "text/css", ".js": "text/javascript", ".html": "text/html", ".svg": "image/svg+xml"}
_MAPLIBRE = ("maplibre-gl.js", "maplibre-gl.css")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"  # MapLibre's worker is a blob
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
    "Cache-Control": "no-cache",  # asked for again by ETag: a service that was updated never meets old scripts
}


def router(service: Service) -> APIRouter:  # noqa: ARG001 - the page knows what the API tells it
    """``/`` and the files of the page."""
    routes = APIRouter()

    @routes.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        if prefers_html(request.headers.get("accept", "")):
            return _sent(request, _FOLDER / "index.html")
        return JSONResponse(landing_document(request), headers={"Vary": "Accept"})

    @routes.get("/page/{name}", include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        path = _files().get(name)
        if path is None and name in _MAPLIBRE:
            raise Problem(404, "No map", "the service lacks the package maplibre: pip install 'geoseg[serve]'")
        if path is None:
            raise Problem(404, "No such file", "it is no part of the page")
        return _sent(request, path)

    return routes


def _sent(request: Request, path: Path) -> Response:
    answer = FileResponse(path, media_type=_TYPES[path.suffix], headers=_HEADERS, stat_result=path.stat())
    if request.headers.get("if-none-match") == answer.headers["etag"]:
        return Response(status_code=304, headers=_HEADERS | {"ETag": answer.headers["etag"]})
    return answer


@cache
def _files() -> dict[str, Path]:
    """Name -> place of every file of the page."""
    own = {path.name: path for path in _FOLDER.iterdir() if path.suffix in _TYPES and path.name != "index.html"}
    package = find_spec("maplibre")
    folders = list(package.submodule_search_locations or ()) if package else []
    theirs = [Path(folder) / "srcjs" / name for folder in folders for name in _MAPLIBRE]
    return own | {path.name: path for path in theirs if path.is_file()}


def prefers_html(accept: str) -> bool:
    """Whether a client asks for HTML by name, and rather than JSON (RFC 9110, 12.5.1).

    >>> prefers_html("text/html,application/xhtml+xml,*/*;q=0.8"), prefers_html("*/*"), prefers_html("text/html;q=0")
    (True, False, False)
    >>> prefers_html("application/json, text/html;q=0.9")
    False
    """
    wishes = {}
    for entry in accept.lower().split(","):
        kind, *parameters = (word.strip() for word in entry.split(";"))
        weights = [found[1] for word in parameters if (found := re.fullmatch(r"q=([01](?:\.\d{0,3})?)", word))]
        wishes[kind] = float(weights[0]) if weights else 1.0
    return wishes.get("text/html", 0.0) > wishes.get("application/json", 0.0)
