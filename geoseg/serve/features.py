"""OGC API - Features over the polygons of each finished run, straight from its GeoParquet, or from PostGIS."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from geoseg.catalog.tree import GEOJSON
from geoseg.serve.extents import BBOX, INTERVAL, parse_interval, text_bbox
from geoseg.serve.opened import Opened, fingerprint
from geoseg.serve.polygon_file import PolygonFile, open_polygons
from geoseg.serve.polygon_table import find_table
from geoseg.serve.polygons import PolygonPage, Polygons, Wish
from geoseg.serve.problems import Problem, problem_responses
from geoseg.serve.records import Conformance, LinkTo, base_url, link_to
from geoseg.serve.runs import FinishedRun
from geoseg.serve.service import Service
from geoseg.sink.geojson import feature_texts

__all__ = ["CRS84", "POLYGONS", "polygons_of", "router", "run_of"]

POLYGONS = "polygons.parquet"
CRS84 = "http://www.opengis.net/def/crs/OGC/1.3/CRS84"
LARGEST_PAGE = 10_000
"""Features of a page; who asks for more gets so many."""

_OGC = "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf"
_CONFORMS_TO = [f"{_OGC}/core", f"{_OGC}/geojson"]
_NAMED = ("bbox", "datetime", "limit", "token", "crs", "bbox-crs")
_OPENED: Opened[PolygonFile] = Opened(most=32)

RunId = Annotated[str, Path(max_length=64)]
_Value = Annotated[str | None, Field(max_length=200)]
_RANGE = r"^(-?\d{1,15}(\.\d{1,9})?|(\.\.|-?\d{1,15}(\.\d{1,9})?)/(\.\.|-?\d{1,15}(\.\d{1,9})?))$"
_Range = Annotated[
    str | None, Field(max_length=100, pattern=_RANGE, description="A number, or LEAST/LARGEST, .. for an open end.")
]


class FeaturesQuery(BaseModel):
    """Which polygons; other attributes of theirs may be asked for alike."""

    bbox: Annotated[str | None, Field(max_length=200, pattern=BBOX)] = None
    datetime: Annotated[str | None, Field(max_length=100, pattern=INTERVAL)] = None
    limit: Annotated[int, Field(ge=1, le=10**6)] = 10
    token: Annotated[str | None, Field(max_length=30, pattern=r"^\d{1,9}-\d{1,9}$")] = None
    crs: Literal["http://www.opengis.net/def/crs/OGC/1.3/CRS84"] | None = None
    bbox_crs: Annotated[Literal["http://www.opengis.net/def/crs/OGC/1.3/CRS84"] | None, Field(alias="bbox-crs")] = None
    class_id: _Range = None
    class_name: _Value = None
    area_m2: _Range = None
    confidence_mean: _Range = None


def run_of(service: Service, run_id: str) -> FinishedRun:
    """A finished run.

    Raises:
        Problem: There is none of that id.
    """
    run = service.runs.find(run_id)
    if run is None:
        raise Problem(404, "No such run", "GET /search lists the finished runs")
    return run


def polygons_of(run: FinishedRun) -> PolygonFile:
    """The polygons of a run, kept open for the next question.

    Raises:
        Problem: It has none as GeoParquet.
        SourceError: They cannot be read.
    """
    path, outline = run.folder / POLYGONS, run.item.get("geometry")
    if POLYGONS not in run.files() or outline is None or not path.is_file():
        raise Problem(404, "No polygons", "the run has no polygons.parquet, which the option vector asks for")
    return _OPENED.get((str(path), fingerprint(path)), lambda: open_polygons(path, outline))


def _kept(service: Service, run: FinishedRun) -> Polygons:
    """The polygons of a run from the service's database if it has them, else from the run's file.

    Raises:
        Problem: Neither has any, or the database does not answer.
    """
    outline = run.item.get("geometry")
    if service.database is not None and outline is not None:
        names = polygons_of(run).attributes if POLYGONS in run.files() else None
        found = find_table(service.database, run.item["id"], outline, names)
        if found is not None:
            return found
    return polygons_of(run)


def router(service: Service) -> APIRouter:
    """``/runs/{run}``, an OGC API - Features of its own."""
    routes = APIRouter(tags=["features"])
    _add_landing(routes, service)

    @routes.get("/runs/{run_id}/collections", summary="Its one collection", responses=problem_responses(404, 503))
    def collections(request: Request, run_id: RunId) -> dict[str, Any]:
        path = f"/runs/{run_id}/collections"
        told = _collection(request, service, run_of(service, run_id))
        return {"collections": [told], "links": _links(link_to(request, path, "self"))}

    @routes.get("/runs/{run_id}/collections/polygons", summary="The polygons", responses=problem_responses(404, 503))
    def collection(request: Request, run_id: RunId) -> dict[str, Any]:
        return _collection(request, service, run_of(service, run_id))

    @routes.get(
        "/runs/{run_id}/collections/polygons/items",
        summary="Some of them",
        responses=_GEOJSON | problem_responses(400, 404, 503),
        response_class=Response,
    )
    def items(request: Request, run_id: RunId, query: Annotated[FeaturesQuery, Query()]) -> Response:
        kept = _kept(service, run_of(service, run_id))
        wish = _wish(query, request.query_params)
        page = kept.page(wish, min(query.limit, LARGEST_PAGE), query.token)
        return Response(_collection_text(request, kept, page, kept.matched(wish)), media_type=GEOJSON)

    @routes.get(
        "/runs/{run_id}/collections/polygons/items/{polygon_id}",
        summary="One of them",
        responses=_GEOJSON | problem_responses(400, 404, 503),
        response_class=Response,
    )
    def item(request: Request, run_id: RunId, polygon_id: Annotated[str, Path(max_length=64)]) -> Response:
        kept = _kept(service, run_of(service, run_id))
        usable = polygon_id.isascii() and polygon_id.isdecimal() and len(polygon_id) < 19
        found = kept.find(int(polygon_id)) if usable else None
        if found is None:
            raise Problem(404, "No such polygon", f"their ids are 1 to {kept.count}")
        feature = json.loads(bytes(feature_texts(*found, kept.attributes)))
        own = f"/runs/{run_id}/collections/polygons"
        feature["links"] = _links(
            link_to(request, f"{own}/items/{polygon_id}", "self", GEOJSON), link_to(request, own, "collection")
        )
        return Response(json.dumps(feature, ensure_ascii=False), media_type=GEOJSON)

    return routes


_GEOJSON: dict[int | str, dict[str, Any]] = {
    200: {"description": "GeoJSON.", "content": {GEOJSON: {"schema": {"type": "object"}}}}
}


def _add_landing(routes: APIRouter, service: Service) -> None:
    @routes.get("/runs/{run_id}", summary="One run", responses=problem_responses(404, 503))
    def landing(request: Request, run_id: RunId) -> dict[str, Any]:
        run, own = run_of(service, run_id), f"/runs/{run_id}"
        kind = "changes" if run.kind == "change" else "maps"
        links = _links(
            link_to(request, own, "self"),
            link_to(request, "/api", "service-desc", "application/vnd.oai.openapi+json;version=3.1"),
            link_to(request, f"{own}/conformance", "conformance"),
            link_to(request, f"{own}/collections", "data"),
            link_to(request, f"/collections/{kind}/items/{run_id}", "describedby", GEOJSON, "STAC item"),
        )
        title = run.item["properties"].get("title") or run_id
        return {"title": title, "description": "Polygons of a finished run.", "links": links}

    @routes.get("/runs/{run_id}/conformance", summary="Standards", responses=problem_responses(404, 503))
    def conforms(run_id: RunId) -> Conformance:
        run_of(service, run_id)
        return Conformance(conformsTo=_CONFORMS_TO)


def _collection(request: Request, service: Service, run: FinishedRun) -> dict[str, Any]:
    kept = _kept(service, run)
    own, told = f"/runs/{run.id}/collections/polygons", run.item["properties"]
    times = [told.get("start_datetime") or told["datetime"], told.get("end_datetime") or told["datetime"]]
    return {
        "id": "polygons",
        "title": "Polygons",
        "description": "What the map shows, region by region.",
        "itemType": "feature",
        "crs": [CRS84],
        "geoseg:crs": kept.stored_crs,  # as storageCrs clients would ask for it
        "extent": {"spatial": {"bbox": [run.item["bbox"]], "crs": CRS84}, "temporal": {"interval": [times]}},
        "links": _links(
            link_to(request, own, "self"),
            link_to(request, f"{own}/items", "items", GEOJSON),
            *(_files(request, run) if POLYGONS in run.files() else ()),
        ),
    }


def _files(request: Request, run: FinishedRun) -> tuple[LinkTo, LinkTo]:
    """What a run with GeoParquet has besides."""
    return (
        link_to(request, f"/jobs/{run.id}/files/{POLYGONS}", "enclosure", "application/vnd.apache.parquet"),
        link_to(request, f"/runs/{run.id}/tiles/polygons/tilejson.json", "tilejson"),
    )


def _links(*links: LinkTo) -> list[dict[str, Any]]:
    return [link.model_dump(exclude_none=True) for link in links]


def _wish(query: FeaturesQuery, asked: Mapping[str, str]) -> Wish:
    """What a query means; parameters that are none of the standard's are attributes."""
    return Wish(
        area=None if query.bbox is None else text_bbox(query.bbox),
        interval=parse_interval(query.datetime or ""),
        values={name: text for name, text in asked.items() if name not in _NAMED},
    )


def _collection_text(request: Request, kept: Polygons, page: PolygonPage, matched: int | None) -> bytes:
    """A FeatureCollection as UTF-8."""
    path = f"{base_url(request)}{request.url.path}"
    query = f"?{request.url.query}" if request.url.query else ""
    links = [LinkTo(href=f"{path}{query}", rel="self", type=GEOJSON)]
    if page.token is not None:
        again = {**request.query_params, "token": page.token}
        links.append(LinkTo(href=f"{path}?{urlencode(again)}", rel="next", type=GEOJSON))
    about: dict[str, Any] = {
        "links": _links(*links),
        "timeStamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "numberReturned": page.count,
    } | ({} if matched is None else {"numberMatched": matched})
    texts = [feature_texts(table, shapes, kept.attributes, before=",\n") for table, shapes in page.tables]
    features = b"".join(texts)[2:]
    return b'{"type":"FeatureCollection","features":[' + features + b"]," + json.dumps(about).encode()[1:]
