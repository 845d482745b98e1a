"""Polygons from a file, to say where to look or what is there: GeoJSON, GeoPackage or GeoParquet.

Each format is read by its own small parser, so that no file is ever handed to a library that guesses its format.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely.geometry.base import BaseGeometry

from geoseg.errors import ConfigError, SourceError

__all__ = ["Features", "is_vector", "polygon_union", "read_features", "read_outline"]

_READ = {".geojson", ".geojsonl", ".json", ".gpkg", ".parquet", ".geoparquet"}
_ELSEWHERE = {".fgb", ".gdb", ".gml", ".kml", ".kmz", ".pmtiles", ".shp"}
"""Where others keep polygons."""
_LON_LAT = "OGC:CRS84"
_ENVELOPE_BYTES = (0, 32, 48, 48, 64)
"""Bytes of the envelope in a GeoPackage geometry header, by its indicator (GeoPackage 1.3, 2.1.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The polygons of a file."""

    polygons: tuple[BaseGeometry, ...]
    """Polygons and multipolygons with an area, in the file's order; x (longitude) comes first."""
    values: tuple[Any, ...]
    """What the column that was asked for says of each; None without a column, or where it says nothing."""
    crs: CRS
    """Of the coordinates."""

    def only(self, numbers: Sequence[int]) -> Features:
        """Those at `numbers`, in that order."""
        return replace(
            self,
            polygons=tuple(self.polygons[number] for number in numbers),
            values=tuple(self.values[number] for number in numbers),
        )


def is_vector(place: str | Path) -> bool:
    """Whether a file of this name holds polygons; else it is one of pixels.

    Raises:
        SourceError: It is there and holds polygons, in a format that is not read.

    >>> is_vector("https://example.org/fields.GeoJSON"), is_vector("fields.tif")
    (True, False)
    """
    suffix = PurePosixPath(str(place)).suffix.lower()
    if suffix in _ELSEWHERE and Path(place).exists():
        raise SourceError(
            f"{place}: polygons are read from GeoJSON, GeoPackage and GeoParquet, not from {suffix}; convert it, "
            f"with ogr2ogr {Path(place).stem}.gpkg {Path(place).name} for instance"
        )
    return suffix in _READ


def read_outline(path: str | Path) -> tuple[BaseGeometry, CRS]:
    """Union of every polygon in a GeoJSON, GeoPackage or GeoParquet file, and its CRS; x (longitude) comes first.

    Raises:
        SourceError: The file cannot be read, is of another format, or holds no polygon.
    """
    geometries, _, crs = _read(Path(path), None, "the area")
    outline = polygon_union(geometries)
    if outline.is_empty:
        raise SourceError(f"{path}: holds {len(geometries)} geometries but no polygon with an area")
    return outline, crs


def read_features(path: str | Path, column: str | None = None) -> Features:
    """The polygons of a GeoJSON, GeoPackage or GeoParquet file, each with its value of `column`.

    Raises:
        SourceError: The file cannot be read, is of another format, or holds no polygon.
        ConfigError: It has no such column; the message names those that are there.
    """
    geometries, values, crs = _read(Path(path), column, "the polygons")
    mended = [polygon_union([geometry]) for geometry in geometries]
    kept = [number for number, polygon in enumerate(mended) if not polygon.is_empty]
    if not kept:
        raise SourceError(f"{path}: holds {len(geometries)} geometries but no polygon with an area")
    return Features(
        polygons=tuple(mended[number] for number in kept), values=tuple(values[number] for number in kept), crs=crs
    )


_Found: TypeAlias = tuple[list[BaseGeometry], list[Any], CRS]
"""Geometries, their values of a column (None without one), CRS."""


def _read(path: Path, column: str | None, what: str) -> _Found:
    try:
        with path.open("rb") as file:
            head = file.read(72)
        if head.startswith(b"PAR1"):
            return _read_parquet(path, column)
        if head.startswith(b"SQLite format 3\0") and head[68:72] == b"GPKG":
            return _read_geopackage(path, column)
        return _read_geojson(path, column)
    except OSError as error:
        raise SourceError(f"{path}: cannot read {what}: {error.strerror or _one_line(error)}") from error
    except ConfigError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, sqlite3.Error, CRSError, shapely.GEOSException) as error:
        raise SourceError(
            f"{path}: not an area that can be read ({_one_line(error)}). Give GeoJSON, GeoPackage or GeoParquet"
        ) from error


def _check_column(path: Path, column: str | None, columns: Iterable[str]) -> None:
    known = list(dict.fromkeys(columns))
    if column is not None and column not in known:
        shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
        raise ConfigError(f"{path}: no column is named {column!r}; it has {shown or 'none'}")


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


def _read_geojson(path: Path, column: str | None) -> _Found:
    document = _geojson_document(path)
    # RFC 7946 knows WGS 84 only, but the `crs` member of its predecessor is still written and must not be ignored.
    crs = document.get("crs")
    name = crs["properties"]["name"] if crs else _LON_LAT
    parts = list(_geojson_parts(document))
    _check_column(path, column, (name for _, properties in parts for name in properties))
    geometries = [shapely.from_geojson(json.dumps(geometry)) for geometry, _ in parts]
    values = [None if column is None else properties.get(column) for _, properties in parts]
    return geometries, values, CRS.from_user_input(name)


def _geojson_document(path: Path) -> dict[str, Any]:
    text = path.read_bytes()
    if path.suffix.lower() != ".geojsonl":
        document: dict[str, Any] = json.loads(text)
        return document
    return {"type": "FeatureCollection", "features": [json.loads(line) for line in text.splitlines() if line.strip()]}


def _geojson_parts(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Geometries that are there, with the properties of their features."""
    if document["type"] not in {"FeatureCollection", "Feature"}:
        yield document, {}
        return
    for feature in document["features"] if document["type"] == "FeatureCollection" else [document]:
        if feature.get("geometry"):
            yield feature["geometry"], feature.get("properties") or {}


def _read_parquet(path: Path, column: str | None) -> _Found:
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    geo = json.loads((file.schema_arrow.metadata or {})[b"geo"])
    name = geo["primary_column"]
    declared = geo["columns"][name]
    if declared["encoding"] != "WKB":
        raise ValueError(f"geometry encoding {declared['encoding']!r}; WKB is read")
    crs = declared.get("crs", _LON_LAT)  # absent means longitude and latitude, null means unknown (GeoParquet 1.1)
    if crs is None:
        raise ValueError("no CRS is declared")
    _check_column(path, column, (other for other in file.schema_arrow.names if other != name))
    table = file.read([name] if column is None else [name, column])
    blobs = table[name].to_pylist()
    values = [None] * len(blobs) if column is None else table[column].to_pylist()
    rows = [(shapely.from_wkb(blob), value) for blob, value in zip(blobs, values, strict=True) if blob is not None]
    return [geometry for geometry, _ in rows], [value for _, value in rows], CRS.from_user_input(crs)


def _read_geopackage(path: Path, column: str | None) -> _Found:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        layers = database.execute(
            "SELECT table_name, column_name, definition FROM gpkg_geometry_columns NATURAL JOIN gpkg_spatial_ref_sys"
        ).fetchall()
        if len(layers) != 1:
            names = ", ".join(layer[0] for layer in layers)
            raise ValueError(f"{len(layers)} layers ({names}); a file with exactly one is read")
        table, geometry = (str(part) for part in layers[0][:2])
        columns = [name for (name,) in database.execute("SELECT name FROM pragma_table_info(?)", (table,))]
        _check_column(path, column, (name for name in columns if name != geometry))
        # Names cannot be parameters; doubled quotes keep them names.
        place, blob, value = (
            '"' + name.replace('"', '""') + '"' for name in (table, geometry, geometry if column is None else column)
        )
        query = f"SELECT {blob}, {value} FROM {place} WHERE {blob} IS NOT NULL"  # noqa: S608
        rows = database.execute(query).fetchall()
    values = [None if column is None else value for _, value in rows]
    return [_geopackage_geometry(blob) for blob, _ in rows], values, CRS.from_wkt(layers[0][2])


def _geopackage_geometry(blob: bytes) -> BaseGeometry:
    """The geometry in one GeoPackage blob: a header whose length depends on its flags, then plain WKB."""
    if blob[:2] != b"GP":
        raise ValueError("a geometry without the GeoPackage header")
    start = 8 + _ENVELOPE_BYTES[(blob[3] >> 1) & 0b111]
    geometry: BaseGeometry = shapely.from_wkb(blob[start:])
    return geometry
