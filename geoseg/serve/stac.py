"""STAC API 1.0 over the finished runs: collections, items and search."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from geoseg.catalog.tree import GEOJSON, JSON, collection_document
from geoseg.serve.problems import Problem, explained, problem_responses
from geoseg.serve.records import base_url
from geoseg.serve.results import public
from geoseg.serve.runs import FinishedRun
from geoseg.serve.search import COLLECTIONS, ItemsQuery, Kind, Page, SearchBody, SearchQuery, collection_of, find_runs
from geoseg.serve.service import Service
from geoseg.serve.tiles import layers_of

__all__ = ["CONFORMS_TO", "LINKS", "GeoJson", "item_document", "router"]

_STAC, _OGC = "https://api.stacspec.org/v1.0.0", "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf"
CONFORMS_TO = (
    f"{_STAC}/core",
    f"{_STAC}/collections",
    f"{_STAC}/ogcapi-features",
    f"{_STAC}/item-search",
    f"{_OGC}/core",
    f"{_OGC}/geojson",
)
LINKS = (
    ("data", "/collections", JSON, "Collections of finished runs"),
    ("child", "/collections/maps", JSON, "Maps"),
    ("child", "/collections/changes", JSON, "Changes"),
    *(("search", "/search", GEOJSON, "Search in all finished runs", method) for method in ("GET", "POST")),
)


class GeoJson(JSONResponse):
    """An answer in GeoJSON."""

    media_type = GEOJSON


def router(service: Service) -> APIRouter:
    """``/collections`` with what is below it, and ``/search``."""
    routes = APIRouter(tags=["runs"])
    _add_collections(routes, service)
    _add_items(routes, service)
    _add_search(routes, service)
    return routes


def item_document(request: Request, run: FinishedRun) -> dict[str, Any]:
    """The item of a run as clients see it: under the run's id, for two runs on one scene are two items."""
    base, kind, files = base_url(request), collection_of(run), run.files()
    shown = public(run.item)
    assets = {
        key: asset | {"href": f"{base}/jobs/{run.id}/files/{name}"}
        for key, asset in shown["assets"].items()
        if (name := asset["href"].removeprefix("./")) in files
    }
    own = f"{base}/collections/{kind}"
    links = [
        _link("self", f"{own}/items/{run.id}", GEOJSON),
        _link("parent", own, JSON),
        _link("collection", own, JSON),
        _link("root", f"{base}/", JSON),
        _link("related", f"{base}/runs/{run.id}", JSON, title="Its polygons, feature by feature"),
        *(
            _link("tilejson", f"{base}/runs/{run.id}/tiles/{name}/tilejson.json", JSON, title=name)
            for name in layers_of(run)
        ),
        *(link for link in shown.get("links", ()) if "://" in str(link.get("href"))),
    ]
    return {**shown, "id": run.id, "collection": kind, "assets": assets, "links": links}


def _link(rel: str, href: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"rel": rel, "href": href, "type": kind, **more}


def _collection(request: Request, kind: Kind, runs: Iterable[FinishedRun]) -> dict[str, Any]:
    base = base_url(request)
    own = f"{base}/collections/{kind}"
    links = [
        _link("self", own, JSON),
        _link("parent", f"{base}/", JSON),
        _link("root", f"{base}/", JSON),
        _link("items", f"{own}/items", GEOJSON),
    ]
    items = {run.id: run.item for run in runs if collection_of(run) == kind}
    return collection_document(kind, items, {}) | {"links": links, "itemType": "feature"}


def _add_collections(routes: APIRouter, service: Service) -> None:
    @routes.get("/collections", summary="Collections of finished runs")
    def collections(request: Request) -> dict[str, Any]:
        runs, base = service.runs.list(), base_url(request)
        links = [_link("self", f"{base}/collections", JSON), _link("root", f"{base}/", JSON)]
        return {"collections": [_collection(request, kind, runs) for kind in COLLECTIONS.values()], "links": links}

    @routes.get("/collections/{kind}", summary="One of them", responses=problem_responses(404))
    def collection(request: Request, kind: Annotated[str, Path(max_length=64)]) -> dict[str, Any]:
        return _collection(request, _known(kind), service.runs.list())


def _known(kind: str) -> Kind:
    for known in COLLECTIONS.values():
        if kind == known:
            return known
    raise Problem(404, "No such collection", "GET /collections lists them")


def _add_items(routes: APIRouter, service: Service) -> None:
    @routes.get(
        "/collections/{kind}/items",
        summary="Items of a collection",
        response_class=GeoJson,
        responses=problem_responses(400, 404),
    )
    def items(
        request: Request, kind: Annotated[str, Path(max_length=64)], query: Annotated[ItemsQuery, Query()]
    ) -> dict[str, Any]:
        known = _known(kind)
        page = find_runs([run for run in service.runs.list() if collection_of(run) == known], query.body())
        base = base_url(request)
        return _answer(request, page, _by_url(request, page), _link("collection", f"{base}/collections/{known}", JSON))

    @routes.get(
        "/collections/{kind}/items/{run_id}",
        summary="The item of a run",
        response_class=GeoJson,
        responses=problem_responses(404),
    )
    def item(
        request: Request,
        kind: Annotated[str, Path(max_length=64)],
        run_id: Annotated[str, Path(max_length=64)],
    ) -> dict[str, Any]:
        run = service.runs.find(run_id)
        if run is None or collection_of(run) != _known(kind):
            raise Problem(404, "No such item", "GET /search lists them")
        return item_document(request, run)


def _add_search(routes: APIRouter, service: Service) -> None:
    @routes.get("/search", summary="Search items", response_class=GeoJson, responses=problem_responses(400))
    def search(request: Request, query: Annotated[SearchQuery, Query()]) -> dict[str, Any]:
        try:
            body = query.body()
        except ValidationError as error:
            raise Problem(400, "Bad Request", explained(error.errors(include_url=False))) from None
        page = find_runs(service.runs.list(), body)
        return _answer(request, page, _by_url(request, page))

    @routes.post("/search", summary="Search items", response_class=GeoJson, responses=problem_responses(400))
    def search_posted(request: Request, body: SearchBody) -> dict[str, Any]:
        page = find_runs(service.runs.list(), body)
        following = []
        if page.token is not None:
            again = body.model_dump(exclude_none=True) | {"token": page.token}
            more = {"method": "POST", "body": again, "merge": False}
            following = [_link("next", f"{base_url(request)}/search", GEOJSON, **more)]
        return _answer(request, page, following)


def _by_url(request: Request, page: Page) -> list[dict[str, Any]]:
    """The link to the next page, if there is one."""
    if page.token is None:
        return []
    query = request.url.include_query_params(token=page.token).query
    return [_link("next", f"{base_url(request)}{request.url.path}?{query}", GEOJSON, method="GET")]


def _answer(request: Request, page: Page, following: list[dict[str, Any]], *links: dict[str, Any]) -> dict[str, Any]:
    base = base_url(request)
    query = f"?{request.url.query}" if request.url.query else ""
    own = _link("self", f"{base}{request.url.path}{query}", GEOJSON)
    return {
        "type": "FeatureCollection",
        "features": [item_document(request, run) for run in page.runs],
        "links": [own, _link("root", f"{base}/", JSON), *links, *following],
        "numberMatched": page.matched,
        "numberReturned": len(page.runs),
    }
