"""The formats that GDAL writes: FlatGeobuf, GeoPackage, PMTiles."""

from __future__ import annotations

import math
import sqlite3
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyogrio
import shapely

from geoseg.errors import GeosegError, MissingExtraError
from geoseg.sink.layer import Layer, as_multipolygons
from geoseg.sink.pmtiles import empty_pmtiles
from geoseg.sink.sorting import Table

__all__ = ["NAME", "write_fgb", "write_gpkg", "write_pmtiles"]

NAME = "polygons"
"""Of the layer."""

EQUATOR = 40075016.7
"""Length of the equator, in metres."""

TILE_STEPS = 4096
"""Steps of a vector tile's coordinates along one side."""


def write_fgb(layer: Layer, path: Path) -> None:
    """FlatGeobuf in the layer's CRS, with its spatial index."""
    _write(layer, _promoted(layer), path, "FlatGeobuf")


def write_gpkg(layer: Layer, path: Path, style: str = "") -> None:
    """GeoPackage in the layer's CRS; its time of change is the epoch, so that the same features are the same bytes.

    QGIS draws the layer by `style`, a document of its style language (QML), which is in the file.
    """
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "1970-01-01T00:00:00.000Z"})
    try:
        _write(layer, _promoted(layer), path, "GPKG", dataset_options={"VERSION": "1.3"})  # of GDAL 3.6 and QGIS 3.22
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
    if style:
        _add_style(path, style)


def write_pmtiles(layer: Layer, path: Path) -> None:
    """Vector tiles for a browser: seven zoom levels, the deepest with at least two steps per pixel.

    Raises:
        MissingExtraError: This GDAL has no PMTiles.
        SinkError: The features lie where there is no longitude and latitude.
    """
    if "w" not in pyogrio.list_drivers().get("PMTiles", ""):
        raise MissingExtraError("this GDAL cannot write PMTiles: pip install 'pyogrio>=0.10', or choose another format")
    layer.demand_place()
    if layer.count == 0:
        path.write_bytes(empty_pmtiles(NAME))
        return
    zoom = _deepest(layer.least_area)
    options = {"NAME": NAME, "MAXZOOM": zoom, "MINZOOM": max(0, zoom - 6), "EXTENT": TILE_STEPS}
    options |= {"SIMPLIFICATION": 1, "SIMPLIFICATION_MAX_ZOOM": 0}
    placed = (_with_geometry(table, pa.array(shapely.to_wkb(shapes), pa.binary())) for table, shapes in layer.lonlat())
    _write(layer, placed, path, "PMTiles", kind="Unknown", crs="EPSG:4326", dataset_options=options)


def _deepest(area: float) -> int:
    """The zoom level at which a square of `area` m2 is two steps wide; the seventh where the area is not known."""
    if not area > 0:
        return 6
    return min(16, max(0, math.ceil(math.log2(EQUATOR / TILE_STEPS / math.sqrt(area) * 2))))


def _write(
    layer: Layer, tables: Iterable[Table], path: Path, driver: str, kind: str = "", crs: str = "", **options: Any
) -> None:
    """Streams `tables` into a file; what fails while they are made is raised as it is, not as GDAL's."""
    schema = pa.schema([*(layer.schema.field(name) for name in layer.attributes), ("geometry", pa.binary())])
    failures: list[GeosegError] = []
    batches = _batches(tables, failures)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
            pyogrio.write_arrow(
                pa.RecordBatchReader.from_batches(schema, batches),
                path,
                driver=driver,
                layer=NAME,
                geometry_name="geometry",
                geometry_type=kind or layer.kind,
                crs=crs or (layer.crs.to_wkt() if layer.crs else None),
                **options,
            )
    finally:
        if failures:
            raise failures[0]


def _batches(tables: Iterable[Table], failures: list[GeosegError]) -> Iterator[Any]:
    try:
        for table in tables:
            yield from table.drop_columns(["bbox"]).combine_chunks().to_batches()
    except GeosegError as error:
        failures.append(error)
        raise


def _promoted(layer: Layer) -> Iterator[Table]:
    """The features of `layer`, polygons as multipolygons of one where there are multipolygons too."""
    for table in layer:
        if len(layer.kinds) < 2:
            yield table
            continue
        yield _with_geometry(table, as_multipolygons(table["geometry"].combine_chunks()))


def _with_geometry(table: Table, shapes: Any) -> Table:
    return table.set_column(table.schema.get_field_index("geometry"), "geometry", shapes)


def _add_style(path: Path, style: str) -> None:
    """The table in which QGIS looks for the style of a layer that it opens."""
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(
            "CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256),"
            " f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30),"
            " styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),"
            " update_time DATETIME)"
        )
        file.execute(
            "INSERT INTO layer_styles VALUES (1, '', '', ?, 'geom', ?, ?, '', 1, ?, '', NULL, ?)",
            (NAME, NAME, style, "colours of the classes", "1970-01-01T00:00:00.000Z"),
        )
