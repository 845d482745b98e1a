"""Polygons from a file that says where to look: GeoJSON, GeoPackage or GeoParquet.

Each format is read by its own small parser, so that no file is ever handed to a library that guesses its format.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely.geometry.base import BaseGeometry

from geoseg.errors import SourceError

__all__ = ["polygon_union", "read_outline"]

_LON_LAT = "OGC:CRS84"
_ENVELOPE_BYTES = (0, 32, 48, 48, 64)
"""Bytes of the envelope in a GeoPackage geometry header, by its indicator (GeoPackage 1.3, 2.1.3)."""


def read_outline(path: str | Path) -> tuple[BaseGeometry, CRS]:
    """Union of every polygon in a GeoJSON, GeoPackage or GeoParquet file, and its CRS; x (longitude) comes first.

    Raises:
        SourceError: The file cannot be read, is of another format, or holds no polygon.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(72)
        if head.startswith(b"PAR1"):
            geometries, crs = _read_parquet(path)
        elif head.startswith(b"SQLite format 3\0") and head[68:72] == b"GPKG":
            geometries, crs = _read_geopackage(path)
        else:
            geometries, crs = _read_geojson(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot read the area: {error.strerror or _one_line(error)}") from error
    except (ValueError, TypeError, KeyError, AttributeError, sqlite3.Error, CRSError, shapely.GEOSException) as error:
        raise SourceError(
            f"{path}: not an area that can be read ({_one_line(error)}). Give GeoJSON, GeoPackage or GeoParquet"
        ) from error
    outline = polygon_union(geometries)
    if outline.is_empty:
        raise SourceError(f"{path}: holds {len(geometries)} geometries but no polygon with an area")
    return outline, crs


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def polygon_union(geometries: Sequence[BaseGeometry]) -> BaseGeometry:
    """Every polygon in `geometries`, mended where invalid, as one; what has no area drops out.

    >>> polygon_union([shapely.box(0, 0, 1, 1), shapely.box(1, 0, 2, 1), shapely.Point(9, 9)]).bounds
    (0.0, 0.0, 2.0, 1.0)
    """
    valid = shapely.make_valid(shapely.force_2d(geometries))
    parts = shapely.get_parts(shapely.get_parts(valid))  # make_valid may nest a MultiPolygon in a collection
    polygons = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    union: BaseGeometry = shapely.union_all(polygons)
    return union


def _read_geojson(path: Path) -> tuple[list[BaseGeometry], CRS]:
    document = json.loads(path.read_bytes())
    # RFC 7946 knows WGS 84 only, but the `crs` member of its predecessor is still written and must not be ignored.
    crs = document.get("crs")
    name = crs["properties"]["name"] if crs else _LON_LAT
    return [shapely.from_geojson(json.dumps(part)) for part in _geojson_geometries(document)], CRS.from_user_input(name)


def _geojson_geometries(document: dict[str, Any]) -> list[dict[str, Any]]:
    if document["type"] == "FeatureCollection":
        return [feature["geometry"] for feature in document["features"] if feature.get("geometry")]
    if document["type"] == "Feature":
        return [document["geometry"]] if document.get("geometry") else []
    return [document]


def _read_parquet(path: Path) -> tuple[list[BaseGeometry], CRS]:
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    geo = json.loads((file.schema_arrow.metadata or {})[b"geo"])
    name = geo["primary_column"]
    column = geo["columns"][name]
    if column["encoding"] != "WKB":
        raise ValueError(f"geometry encoding {column['encoding']!r}; WKB is read")
    crs = column.get("crs", _LON_LAT)  # absent means longitude and latitude, null means unknown (GeoParquet 1.1)
    if crs is None:
        raise ValueError("no CRS is declared")
    blobs = file.read([name])[name].to_pylist()
    return [shapely.from_wkb(blob) for blob in blobs if blob is not None], CRS.from_user_input(crs)


def _read_geopackage(path: Path) -> tuple[list[BaseGeometry], CRS]:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        layers = database.execute(
            "SELECT table_name, column_name, definition FROM gpkg_geometry_columns NATURAL JOIN gpkg_spatial_ref_sys"
        ).fetchall()
        if len(layers) != 1:
            names = ", ".join(layer[0] for layer in layers)
            raise ValueError(f"{len(layers)} layers ({names}); a file with exactly one is read")
        table, column = (str(part).replace('"', '""') for part in layers[0][:2])
        # Names cannot be parameters; doubled quotes keep them names.
        query = f'SELECT "{column}" FROM "{table}" WHERE "{column}" IS NOT NULL'  # noqa: S608
        blobs = database.execute(query).fetchall()
    return [_geopackage_geometry(blob) for (blob,) in blobs], CRS.from_wkt(layers[0][2])


def _geopackage_geometry(blob: bytes) -> BaseGeometry:
    """The geometry in one GeoPackage blob: a header whose length depends on its flags, then plain WKB."""
    if blob[:2] != b"GP":
        raise ValueError("a geometry without the GeoPackage header")
    start = 8 + _ENVELOPE_BYTES[(blob[3] >> 1) & 0b111]
    geometry: BaseGeometry = shapely.from_wkb(blob[start:])
    return geometry
