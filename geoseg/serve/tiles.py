"""Web map tiles of finished runs: rasters as pictures, polygons as vector tiles, and TileJSON for both."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import shapely
from fastapi import APIRouter, BackgroundTasks, Path, Request, Response

import geoseg
from geoseg.earth import to_lonlat
from geoseg.serve.features import POLYGONS, RunId, polygons_of, run_of
from geoseg.serve.opened import Answers, fingerprint
from geoseg.serve.polygon_file import PolygonFile
from geoseg.serve.polygons import footprint_of
from geoseg.serve.problems import Problem, problem_responses
from geoseg.serve.raster_tiles import CLASSES, SHADES, SIDE, open_tiles
from geoseg.serve.records import base_url
from geoseg.serve.row_groups import ATTRIBUTES, Chosen, choose, read_ahead
from geoseg.serve.runs import FinishedRun
from geoseg.serve.service import Service
from geoseg.serve.tile_grid import Lattice, paint, trace
from geoseg.serve.vector_tiles import BUFFER, DEEPEST, EXTENT, LayerEncoder, TilePlace, valid
from geoseg.source.open import limit_cache

__all__ = ["layers_of", "router", "vector_tile"]

MVT = "application/vnd.mapbox-vector-tile"
MOST = 20_000
"""Polygons of a vector tile; of more the largest are shown."""
SEEN = 2.0
"""Side in pixels of the smallest square that a vector tile of a lower zoom shows."""
COARSE = 4
"""Grid of the corners at lower zooms, in units: half a pixel of 512."""

FARTHEST = 2
"""Zooms from the map's own pixels up to the first one with vector tiles."""

_ANSWERS = Answers(64 << 20)
_BLOCKS = 256 << 20  # bytes of decoded blocks that GDAL keeps
_HANDS = ThreadPoolExecutor(2, "geoseg-vector-tiles")  # for the row groups of a tile, of which there are one to four
_AT_WORK = threading.BoundedSemaphore(4)  # vector tiles that are made at once
_FRESH = "private, max-age=300"

_Zoom = Annotated[int, Path(ge=0, le=DEEPEST)]
_Number = Annotated[int, Path(ge=0, lt=1 << DEEPEST)]


def layers_of(run: FinishedRun) -> list[str]:
    """Names of what can be shown of a run."""
    files = run.files()
    rasters = [name for name in (*CLASSES, *SHADES) if f"{name}.tif" in files]
    return rasters + (["polygons"] if POLYGONS in files else [])


def router(service: Service) -> APIRouter:
    """``/runs/{run}/tiles``."""
    limit_cache(_BLOCKS)
    routes = APIRouter(tags=["tiles"])

    @routes.get("/runs/{run_id}/tiles/{layer}/tilejson.json", summary="TileJSON", responses=problem_responses(404))
    def tilejson(
        request: Request, run_id: RunId, layer: Annotated[str, Path(max_length=64)], afterwards: BackgroundTasks
    ) -> dict[str, Any]:
        run = _run_with(service, run_id, layer)
        if layer != "polygons":
            return _raster_json(request, run, layer)
        afterwards.add_task(read_ahead, polygons_of(run))
        return _vector_json(request, run)

    @routes.get(
        "/runs/{run_id}/tiles/polygons/{z}/{x}/{y}.mvt",
        summary="Vector tile",
        responses=_answers(MVT),
        response_class=Response,
    )
    def polygons(request: Request, run_id: RunId, z: _Zoom, x: _Number, y: _Number) -> Response:
        run, tile = _run_with(service, run_id, "polygons"), _existing(z, x, y)
        version = fingerprint(run.folder / POLYGONS)
        first, last = _vector_zooms(run)
        if z < first:
            raise Problem(
                404, "No such tile", f"vector tiles begin at zoom {first}; farther out pictures show the same"
            )

        def make() -> bytes:
            with _AT_WORK:
                return vector_tile(polygons_of(run), tile, exact=z >= last)

        return _answer(request, run, tile, ("polygons", version), make, MVT)

    @routes.get(
        "/runs/{run_id}/tiles/{layer}/{z}/{x}/{y}.png",
        summary="Tile of a raster",
        responses=_answers("image/png"),
        response_class=Response,
    )
    def picture(
        request: Request, run_id: RunId, layer: Annotated[str, Path(max_length=64)], z: _Zoom, x: _Number, y: _Number
    ) -> Response:
        run, tile = _run_with(service, run_id, layer), _existing(z, x, y)
        if layer == "polygons":
            raise Problem(404, "No such tile", "polygons come as vector tiles, .mvt")
        raster = open_tiles(run, layer)
        return _answer(request, run, tile, (layer, raster.examined.fingerprint), lambda: raster.png(tile), "image/png")

    return routes


def _answers(kind: str) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"description": "The tile.", "content": {kind: {}}},
        204: {"description": "There is nothing on this tile."},
        304: {"description": "The tile is as it was."},
        **problem_responses(404),
    }


def _run_with(service: Service, run_id: str, layer: str) -> FinishedRun:
    run = run_of(service, run_id)
    if layer not in layers_of(run):
        raise Problem(404, "No such layer", f"the run has {', '.join(layers_of(run))}")
    return run


def _existing(z: int, x: int, y: int) -> TilePlace:
    tile = TilePlace(z=z, x=x, y=y)
    if not tile.exists:
        raise Problem(404, "No such tile", f"at zoom {z} columns and rows are 0 to {2**z - 1}")
    return tile


def _answer(
    request: Request, run: FinishedRun, tile: TilePlace, version: tuple[str, str], make: Callable[[], bytes], kind: str
) -> Response:
    """A tile that is made, was kept, or is known to the client."""
    key = (str(run.folder), *version, tile, geoseg.__version__)
    tag = f'"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": _FRESH}
    if tag in {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}:
        return Response(status_code=304, headers=headers)
    body = b""
    if shapely.intersects(footprint_of(run.item["geometry"]), tile.area(BUFFER / EXTENT)):
        known = _ANSWERS.get(key)
        body = make() if known is None else known
        if known is None:
            _ANSWERS.keep(key, body)
    if not body:
        return Response(status_code=204, headers=headers)
    return Response(body, headers=headers, media_type=kind)


def vector_tile(file: PolygonFile, tile: TilePlace, *, exact: bool) -> bytes:
    """The polygons on a tile as MVT; nothing at all where there are none.

    Args:
        file: The polygons.
        tile: Where.
        exact: Whether every polygon is shown with all its corners; else small ones are left out and corners move by
            half a pixel at most.
    """
    layer = LayerEncoder(name="polygons")
    chosen = choose(file, tile.area(BUFFER / EXTENT), 0.0 if exact else _least_area(tile), MOST)
    if not chosen:
        return b""
    lattice = tile.cells(file.crs, chosen[0].reach, COARSE)
    if lattice is not None and not exact:
        _draw(layer, chosen, lattice)
        return layer.tile()
    place = partial(_placed, tile=tile, grid=1 if exact else COARSE, tame=lattice is not None)
    for rows, shapes in _HANDS.map(place, chosen):
        layer.add(*_told(rows), shapes)
    return layer.tile()


def _placed(chosen: Chosen, tile: TilePlace, grid: int, tame: bool) -> tuple[Any, npt.NDArray[np.object_]]:
    """Those polygons of which something is on a tile, and what of them is there; `tame` if the tile has a lattice."""
    rings, count = chosen.rings(whole=True).within(chosen.reach), len(chosen.places)
    if tame:
        placed = tile.place_rings(rings, chosen.crs, count)
    else:
        placed = valid(rings.polygons(count))
        left = ~shapely.is_empty(placed)
        placed[left] = tile.place(to_lonlat(placed[left], chosen.crs), grid)
    seen = np.flatnonzero(~shapely.is_empty(placed))
    return chosen.rows().take(seen), placed[seen]


def _draw(layer: LayerEncoder, chosen: Sequence[Chosen], lattice: Lattice) -> None:
    """Puts polygons into a layer as a grid of half pixels shows them."""
    import pyarrow as pa

    grid = np.zeros(((EXTENT + 2 * BUFFER) // COARSE,) * 2, np.int32)
    done = 1
    for some, rings in zip(chosen, _HANDS.map(partial(Chosen.rings, whole=False), chosen), strict=True):
        paint(grid, rings, np.arange(done, done + len(some.places)), lattice)
        done += len(some.places)
    seen = trace(grid)
    rows = pa.concat_tables(some.rows() for some in chosen).take(seen.owners - 1)
    layer.add_outlines(*_told(rows), seen.points * COARSE - BUFFER, seen.ends, seen.first_rings)


def _told(rows: Any) -> tuple[Any, dict[str, list[Any]]]:
    """Ids and attributes of polygons."""
    return rows["id"].to_numpy(), {name: rows[name].to_pylist() for name in rows.schema.names if name != "id"}


def _least_area(tile: TilePlace) -> float:
    return (SEEN * tile.metres()) ** 2


def _vector_zooms(run: FinishedRun) -> tuple[int, int]:
    """The first zoom with vector tiles, and that of the map's own pixels, at which all polygons are shown exactly."""
    first, last = open_tiles(run, layers_of(run)[0]).zooms
    return max(first, last - FARTHEST), last


def _raster_json(request: Request, run: FinishedRun, layer: str) -> dict[str, Any]:
    raster = open_tiles(run, layer)
    classes = [{"value": each.value, "name": each.name, "color": each.color} for each in raster.classes]
    about: Mapping[str, Any] = {"tileSize": SIDE, **({"classes": classes} if classes else {})}
    return _json(request, run, layer, "png", raster.zooms) | dict(about)


def _vector_json(request: Request, run: FinishedRun) -> dict[str, Any]:
    names = polygons_of(run).schema.names
    kinds = {name: "String" if name.endswith(("name", "_class")) else "Number" for name in ATTRIBUTES if name in names}
    first, last = _vector_zooms(run)
    text = (
        f"Below zoom {last} polygons smaller than {SEEN:g} x {SEEN:g} pixels (of 512 along a tile) are left out, "
        f"outlines follow half pixels, and of more polygons a tile holds the {MOST} largest."
    )
    return _json(request, run, "polygons", "mvt", (first, last)) | {
        "description": text,
        "vector_layers": [{"id": "polygons", "description": text, "fields": kinds, "minzoom": first, "maxzoom": last}],
    }


def _json(request: Request, run: FinishedRun, layer: str, suffix: str, zooms: tuple[int, int]) -> dict[str, Any]:
    """What all TileJSON has."""
    west, south, east, north = run.item["bbox"]
    if west > east:
        west, east = -180, 180
    return {
        "tilejson": "3.0.0",
        "name": f"{run.id}: {layer}",
        "scheme": "xyz",
        "tiles": [f"{base_url(request)}/runs/{run.id}/tiles/{layer}/{{z}}/{{x}}/{{y}}.{suffix}"],
        "bounds": [west, max(south, -85.0511), east, min(north, 85.0511)],
        "minzoom": zooms[0],
        "maxzoom": zooms[1],
    }
