"""SQL over the polygons of every run of a catalog.

``polygons`` holds those of all runs by the names of their columns, each with its run and item; what a run does not have
is null. Runs lie in CRSs of their own, so geometries are given in longitude and latitude (WGS 84), turned while they
are read and only where a query names them; ``area_m2`` was measured by the run. ``items`` holds what the catalog knows
of each item.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import shapely

from geoseg.catalog.functions import lonlat_shapes
from geoseg.catalog.sql import database
from geoseg.catalog.table import items_view, plain_schema, read_table, sql_table
from geoseg.catalog.tree import reached
from geoseg.errors import GridError, SourceError
from geoseg.source.outline import read_outline
from geoseg.store import Place, Store, open_store

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ask", "bounds_near", "box_shape", "outline_of"]

_ASSET = "polygons_parquet"
_FACTS = ("item", "collection", "run", "_crs")
_SIDES = ("_west", "_south", "_east", "_north")
"""Columns that are the same in every row of a run."""
_NEAR = 0.01
"""By which part of its size a footprint is grown, since its edges bend from one projection to another."""
_TURNS = 1080.0
"""Degrees of longitude within which files count theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """The polygons of one run."""

    path: Path
    facts: Mapping[str, str]
    """Columns that are the same in every row."""
    schema: pa.Schema
    crs: str
    near: tuple[float, float, float, float] | None
    """Bounds in `crs` of what is asked for; None: everything."""


@contextmanager
def ask(catalog: Place, sql: str, *, area: Any = None, spatial: bool = False) -> Iterator[pa.RecordBatchReader]:
    """The answer to one SELECT over the views ``polygons`` and ``items``, within the block.

    Args:
        catalog: A catalog that `geoseg.catalog.collection` made.
        sql: The query. ``$area`` stands for `area`.
        area: Polygon or multipolygon in longitude and latitude: ``polygons`` then holds only those that touch it, and
            ``inside_m2`` says how much of each lies in it, on the ellipsoid.
        spatial: As in `geoseg.catalog.sql.database`.

    Raises:
        ConfigError: It is no SELECT, or wrong.
        SourceError: The catalog has no table, or a file of a run is gone.
        MissingExtraError: DuckDB is not installed.
    """
    store = open_store(catalog)
    table = read_table(store)
    files = list(_files(store, table, area))
    dataset = _dataset(files)
    views = {"polygons": _polygons_view(area), "items": items_view(table.schema)}
    with database({"_polygons": dataset, "_items": sql_table(table)}, views, spatial=spatial) as opened:
        yield opened.select(sql, {} if area is None else {"area": area.wkt})


def box_shape(west: float, south: float, east: float, north: float) -> Any:
    """A box of degrees as a polygon, or as two where west lies beyond east: it crosses the antimeridian then.

    Raises:
        GridError: It is no box.

    >>> box_shape(179, 0, -179, 1).wkt
    'MULTIPOLYGON (((180 0, 180 1, 179 1, 179 0, 180 0)), ((-179 0, -179 1, -180 1, -180 0, -179 0)))'
    """
    if not (-90 <= south < north <= 90 and max(abs(west), abs(east)) <= 180 and west != east):
        raise GridError(f"bbox {west:g},{south:g},{east:g},{north:g} is no box: give west,south,east,north in degrees")
    if west < east:
        return shapely.box(west, south, east, north)
    return shapely.MultiPolygon([shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)])


def outline_of(path: str | Path) -> Any:
    """The polygons of a GeoJSON, GeoPackage or GeoParquet file in longitude and latitude.

    Raises:
        SourceError: The file cannot be read or holds no polygon.
    """
    outline, crs = read_outline(path)
    west, south, east, north = outline.bounds
    if not crs.is_geographic:  # its edges bend
        outline = shapely.segmentize(outline, max(east - west, north - south) / 500)
    return shapely.union_all(lonlat_shapes(np.array([outline], object), crs.to_wkt()))


def _files(store: Store, table: pa.Table, area: Any) -> Iterator[_File]:
    """The polygons of each run that can have some in `area`."""
    import pyarrow.parquet as pq

    shapes = shapely.from_wkb(table["geometry"].to_numpy())
    rows = sql_table(table).select(["id", "collection", "href", "assets"]).to_pylist()
    for row, shape in zip(rows, shapes, strict=True):
        asset = row["assets"].get(_ASSET)
        if not asset or (area is not None and not shapely.intersects(shape, area)):
            continue
        place = reached(asset["href"], reached(row["href"].rpartition("/")[0], store.href()))
        path = _local(place, asset)
        schema = pq.read_schema(path)
        crs = _crs(schema, place)
        facts = {"item": row["id"], "collection": row["collection"], "run": str(place).rpartition("/")[0]}
        near = None if area is None else bounds_near(shape, area, crs)
        yield _File(path=path, facts=facts, schema=plain_schema(schema), crs=crs, near=near)


def _local(place: Place, asset: Mapping[str, Any]) -> Path:
    """The file itself, or a copy of an object that was compared with its checksum."""
    folder, _, name = str(place).rpartition("/")
    facts = {"size": asset.get("file:size"), "sha256": str(asset.get("file:checksum"))[4:]}
    (path,) = open_store(folder).local({name: facts})
    if not path.exists():
        raise SourceError(
            f"{place}: is gone; geoseg catalog validate tells what else is, geoseg catalog remove takes a run out"
        )
    return path


def _crs(schema: pa.Schema, place: Place) -> str:
    """The CRS of a GeoParquet file, in as few words as possible."""
    try:
        column = json.loads(schema.metadata[b"geo"])["columns"]["geometry"]
        crs = pyproj.CRS.from_user_input(column.get("crs", "OGC:CRS84"))
    except (KeyError, TypeError, ValueError, pyproj.exceptions.CRSError) as error:
        raise SourceError(f"{place}: tells no CRS of its polygons; make the run anew") from error
    authority = crs.to_authority(min_confidence=100)
    return ":".join(authority) if authority else str(crs.to_json())


def bounds_near(footprint: Any, area: Any, crs: str) -> tuple[float, float, float, float]:
    """Bounds in `crs` of what of `area` lies on a footprint, both in longitude and latitude, and somewhat more.

    An area may be a point or a line; of what lies elsewhere the bounds hold nothing. In a CRS of longitudes they hold
    all of these: a file may count them beyond 180 degrees.
    """
    west, south, east, north = footprint.bounds
    size = max(east - west, north - south)
    there = shapely.intersection(footprint.buffer(_NEAR * size), shapely.make_valid(area))
    if there.is_empty:
        return math.inf, math.inf, -math.inf, -math.inf
    near = shapely.segmentize(there, size / 50)
    x, y = _from_lonlat(crs).transform(*shapely.get_coordinates(near).T)
    left, bottom, right, top = np.nanmin(x), np.nanmin(y), np.nanmax(x), np.nanmax(y)
    margin = _NEAR * max(right - left, top - bottom)
    if pyproj.CRS(crs).is_geographic:
        left, right = -_TURNS, _TURNS
    return float(left - margin), float(bottom - margin), float(right + margin), float(top + margin)


@lru_cache(maxsize=16)
def _from_lonlat(crs: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True)


def _dataset(files: Sequence[_File]) -> Any:
    """All files as one dataset with what is known of each as columns; row groups that lie elsewhere are left out."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import fs
    from pyarrow.dataset import FileSystemDataset, ParquetFileFormat

    local, form, fragments = fs.LocalFileSystem(), ParquetFileFormat(), []
    for file in files:
        known = {**file.facts, "_crs": file.crs, **dict(zip(_SIDES, file.near or (), strict=False))}
        is_known = reduce(and_, (pc.field(name) == value for name, value in known.items()))
        fragment = form.make_fragment(str(file.path), local, partition_expression=is_known)
        if file.near is not None and "bbox" in file.schema.names:
            left, bottom, right, top = file.near
            touches = (pc.field("bbox", "xmin") <= right) & (pc.field("bbox", "xmax") >= left)
            touches &= (pc.field("bbox", "ymin") <= top) & (pc.field("bbox", "ymax") >= bottom)
            fragment = fragment.subset(touches, schema=file.schema)
        fragments.append(fragment)
    known = pa.schema([*((name, pa.string()) for name in _FACTS), *((side, pa.float64()) for side in _SIDES)])
    schema = pa.unify_schemas([known, _least(), *(file.schema for file in files)], promote_options="permissive")
    return FileSystemDataset(fragments, schema, form, local)


def _least() -> pa.Schema:
    """Columns that queries may name even where no run has them."""
    import pyarrow as pa

    sides = [(side, pa.float64()) for side in ("xmin", "ymin", "xmax", "ymax")]
    moment = pa.timestamp("ms", "UTC")
    return pa.schema(
        [
            *[
                ("scene", pa.string()),
                ("model", pa.string()),
                ("datetime", moment),
                ("before", moment),
                ("after", moment),
            ],
            *[("class_id", pa.int32()), ("class_name", pa.string()), ("area_m2", pa.float64())],
            *[("geometry", pa.binary()), ("bbox", pa.struct(sides))],
        ]
    )


def _polygons_view(area: Any) -> str:
    """Polygons in longitude and latitude; those that touch `area`, by their boxes first."""
    hidden = ", ".join(["_crs", *_SIDES, "bbox", "geometry"])
    polygons = (
        f"SELECT * EXCLUDE ({hidden}) REPLACE (coalesce(datetime, after) AS datetime), "  # noqa: S608 - names of ours
        "ST_GeomFromWKB(_lonlat(geometry, _crs)) AS geometry FROM _polygons"
    )
    if area is None:
        return polygons
    near = "bbox.xmin <= _east AND bbox.xmax >= _west AND bbox.ymin <= _north AND bbox.ymax >= _south"
    asked = f"'{area.wkt}'::GEOMETRY"
    return (
        f"SELECT *, area_inside(geometry, {asked}) AS inside_m2 FROM ({polygons} WHERE bbox IS NULL OR ({near})) "  # noqa: S608
        f"WHERE ST_Intersects(geometry, {asked})"
    )
