"""GeoJSON as RFC 7946 asks, put together as text, a few thousand features at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from geoseg.sink.layer import Layer
from geoseg.sink.lines import as_bytes, joined, texts
from geoseg.sink.sorting import Table

__all__ = ["feature_texts", "geojson_bytes", "write_geojson", "write_geojson_lines"]

UNITS = 10**7
"""Steps per degree: seven decimals, about a centimetre."""

LONGEST = 28
"""Bytes of a vertex at most: ``[-179.1234567,-89.1234567],``."""

Bytes = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]

OPEN, SHUT, COMMA, POINT, MINUS, ZERO = b"[],.-0"


def geojson_bytes(layer: Layer) -> int:
    """About how large the GeoJSON of a layer will be."""
    return 24 * layer.vertices + 250 * layer.count


def write_geojson(layer: Layer, path: Path) -> None:
    """One FeatureCollection: WGS 84, counter-clockwise exteriors, cut at the antimeridian, 7 decimals.

    Raises:
        SinkError: The features lie where there is no longitude and latitude.
    """
    with path.open("wb") as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        for number, text in enumerate(_features(layer, ",\n", "")):
            file.write(text if number else text[1:])  # no comma before the first
        file.write(b"\n]}\n")


def write_geojson_lines(layer: Layer, path: Path) -> None:
    """The same features without a collection, each on a line of its own.

    Raises:
        SinkError: The features lie where there is no longitude and latitude.
    """
    with path.open("wb") as file:
        for text in _features(layer, "", "\n"):
            file.write(text)


def _features(layer: Layer, before: str, after: str) -> Iterator[memoryview]:
    """All features, some thousand at a time, with `before` and `after` around each."""
    for table, shapes in layer.lonlat():
        yield feature_texts(table, shapes, layer.attributes, before, after)


def feature_texts(
    table: Table, shapes: npt.NDArray[np.object_], attributes: Sequence[str], before: str = "", after: str = ""
) -> memoryview:
    """GeoJSON features as UTF-8, with `before` and `after` around each.

    Args:
        table: One row at least; a column ``id``, which is the features' own, and `attributes`.
        shapes: Its polygons and multipolygons in longitude and latitude.
        attributes: Columns that become properties.
        before: Stands before each feature.
        after: Stands behind each.
    """
    names = [name for name in attributes if name != "id"]
    ids, *values = texts(table, ["id", *names], quote=_quoted, null="null")
    parts: list[Any] = [before + '{"type":"Feature","id":', ids, ',"properties":{']
    for number, (name, value) in enumerate(zip(names, values, strict=True)):
        parts += [("," if number else "") + json.dumps(name, ensure_ascii=False) + ":", value]
    return as_bytes(joined(*parts, '},"geometry":', _geometries(shapes), "}" + after))


def _quoted(value: Any) -> str:
    """A word or a time as JSON."""
    if isinstance(value, datetime):
        value = value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps(value, ensure_ascii=False)


def _geometries(shapes: npt.NDArray[np.object_]) -> Any:
    """GeoJSON geometries of polygons and multipolygons in longitude and latitude, as an array of strings."""
    _, coords, offsets = shapely.to_ragged_array(shapes)
    rings, polygons = (np.asarray(each, np.int64) for each in offsets[:2])
    parts = np.asarray(offsets[2], np.int64) if len(offsets) == 3 else np.arange(len(shapes) + 1)
    several = shapely.get_type_id(shapes) == shapely.GeometryType.MULTIPOLYGON
    units = np.rint(coords * UNITS).astype(np.int64)
    text, ends = _nested(units, rings, polygons, parts, several)
    nested = pa.StringArray.from_buffers(len(shapes), pa.py_buffer(ends), pa.py_buffer(text))
    names = pa.array(np.where(several, "MultiPolygon", "Polygon").tolist(), pa.string())
    return joined('{"type":"', names, '","coordinates":', nested, "}")


@numba.njit(cache=True, nogil=True)
def _number(text: Bytes, at: int, units: int) -> int:
    """Writes a number of `UNITS` as a decimal without trailing zeros at `at`; returns where it ends."""
    if units < 0:
        text[at] = MINUS
        at, units = at + 1, -units
    whole, part = units // UNITS, units % UNITS
    step = 100 if whole >= 100 else 10 if whole >= 10 else 1
    while step:
        text[at] = ZERO + whole // step % 10
        at, step = at + 1, step // 10
    if part:
        text[at] = POINT
        at, step = at + 1, UNITS // 10
        while part:
            text[at] = ZERO + part // step
            at, part, step = at + 1, part % step, step // 10
    return at


@numba.njit(cache=True, nogil=True)
def _nested(units: IntArray, rings: IntArray, polygons: IntArray, parts: IntArray, several: Any) -> Any:
    """(text, ends): the member ``coordinates`` of each geometry, and where each begins and the last ends.

    Args:
        units: (vertex, lon lat) in `UNITS` per degree.
        rings: Where each ring begins among the vertices.
        polygons: Where each polygon begins among the rings.
        parts: (n + 1,) where each geometry begins among the polygons.
        several: (n,) whether the geometry is a multipolygon.
    """
    text = np.empty(LONGEST * len(units) + 3 * len(rings) + 3 * len(polygons) + 3 * len(parts), np.uint8)
    ends = np.zeros(len(parts), np.int32)
    at = 0
    for geometry in range(len(parts) - 1):
        if several[geometry]:
            text[at] = OPEN
            at += 1
        for polygon in range(parts[geometry], parts[geometry + 1]):
            text[at] = OPEN
            at += 1
            for ring in range(polygons[polygon], polygons[polygon + 1]):
                text[at] = OPEN
                at += 1
                for vertex in range(rings[ring], rings[ring + 1]):
                    text[at] = OPEN
                    at = _number(text, at + 1, units[vertex, 0])
                    text[at] = COMMA
                    at = _number(text, at + 1, units[vertex, 1])
                    text[at], text[at + 1] = SHUT, COMMA
                    at += 2
                text[at - 1], text[at] = SHUT, COMMA
                at += 1
            if text[at - 1] == COMMA:
                at -= 1
            text[at], text[at + 1] = SHUT, COMMA
            at += 2
        if several[geometry]:
            text[at - 1], text[at] = SHUT, COMMA
            at += 1
        at -= 1
        ends[geometry + 1] = at
    return text[:at], ends
