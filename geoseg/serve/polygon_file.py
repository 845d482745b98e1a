"""The polygons of a finished run, read from its GeoParquet: only the row groups and columns that a question needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely

from geoseg.catalog.query import bounds_near
from geoseg.earth import to_lonlat
from geoseg.errors import SourceError
from geoseg.serve.polygons import (
    PageInTheMaking,
    PolygonPage,
    Polygons,
    Wish,
    crs_uri,
    footprint_of,
    not_told,
    range_of,
)
from geoseg.serve.problems import Problem

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

__all__ = ["PolygonFile", "areal", "open_polygons"]

Shapes = npt.NDArray[np.object_]
"""(n,) polygons and multipolygons."""


_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolygonFile:
    """A GeoParquet file of polygons that geoseg wrote; any number of threads may ask it."""

    path: Path
    """Where it is."""
    crs: str
    """Of its coordinates, as PROJJSON."""
    footprint: Any
    """Around all polygons, in longitude and latitude."""
    fragment: Any
    """The file as a pyarrow.dataset.Fragment."""
    schema: Any
    """Its columns (a pyarrow.Schema)."""
    count: int
    """Number of its polygons."""

    @property
    def stored_crs(self) -> str:
        """The CRS as a URI where it has one, else as WKT."""
        return crs_uri(self.crs)

    @property
    def attributes(self) -> list[str]:
        """Names of the columns that are neither geometry nor box."""
        return [name for name in self.schema.names if name not in {"geometry", "bbox"}]

    def page(self, wish: Wish, limit: int, token: str | None = None) -> PolygonPage:
        """The first `limit` polygons that are meant, or those after the page that gave the `token`.

        Memory is that of one row group and of the page.

        Raises:
            Problem: The wish or the token makes no sense.
        """
        group, skip = _parsed(token)
        expression = self._expression(wish)
        found = PageInTheMaking(area=wish.area, room=limit)
        for index, table in self._groups(expression, group):
            start = skip if index == group else 0
            while start < len(table):
                if found.is_full:
                    return found.page(f"{index}-{start}")
                few = table.slice(start, found.step)
                found.take(few, self._lonlat(few))
                start += len(few)
        return found.page(None)

    def matched(self, wish: Wish) -> int | None:
        """How many polygons are meant; None where only their shapes could tell."""
        if wish.area is not None:
            return None
        expression = self._expression(wish)
        return self.count if expression is None else int(self.fragment.count_rows(filter=expression))

    def find(self, polygon_id: int) -> tuple[pa.Table, Shapes] | None:
        """The row of one polygon; None where there is none."""
        import pyarrow.compute as pc

        for _, table in self._groups(pc.field("id") == polygon_id, 0):
            if len(table):
                return table, self._lonlat(table)
        return None

    def parts(self) -> tuple[Sequence[Any], npt.NDArray[np.float64]]:
        """The row groups, each a pyarrow.dataset.Fragment, and boxes (row group, side) around what they hold."""
        found: Sequence[Any] = self.fragment.split_by_row_group(schema=self.schema)
        boxes = np.tile([-np.inf, -np.inf, np.inf, np.inf], (len(found), 1))
        about = self.fragment.metadata
        for column in range(about.num_columns):
            _, _, side = about.schema.column(column).path.partition("bbox.")
            for part, box in zip(found, boxes, strict=True):
                told = about.row_group(part.row_groups[0].id).column(column).statistics if side in _SIDES else None
                if told is not None and told.has_min_max:
                    box[_SIDES.index(side)] = told.min if side.endswith("min") else told.max
        return found, boxes

    def _lonlat(self, table: pa.Table) -> Shapes:
        shapes = to_lonlat(_shapes(table), self.crs)
        return np.where(shapely.is_empty(shapes), shapely.Polygon(), shapes)  # smaller than a centimetre

    def _groups(self, expression: pc.Expression | None, first: int) -> Iterator[tuple[int, pa.Table]]:
        """From the row group `first` on: number of each that may hold such rows, and the rows."""
        columns = [name for name in self.schema.names if name != "bbox"]
        for part in self.fragment.split_by_row_group(filter=expression, schema=self.schema):
            index = part.row_groups[0].id
            if index >= first:
                yield index, part.to_table(schema=self.schema, columns=columns, filter=expression, use_threads=False)

    def _expression(self, wish: Wish) -> pc.Expression | None:
        """What the columns alone can tell."""
        told: list[Any] = []
        if wish.area is not None:
            told.append(self._touches(wish.area))
        if wish.interval is not None:
            told.append(self._at(*wish.interval))
        told += [_has(self.schema, name, text) for name, text in wish.values.items()]
        return reduce(and_, told) if told else None

    def _touches(self, area: Any) -> pc.Expression:
        import pyarrow.compute as pc

        meets = shapely.intersects(self.footprint, area)
        if not meets or "bbox" not in self.schema.names:
            return pc.scalar(bool(meets))
        left, bottom, right, top = bounds_near(self.footprint, area, self.crs)
        touches = (pc.field("bbox", "xmin") <= right) & (pc.field("bbox", "xmax") >= left)
        return touches & (pc.field("bbox", "ymin") <= top) & (pc.field("bbox", "ymax") >= bottom)

    def _at(self, first: datetime, last: datetime) -> pc.Expression:
        import pyarrow.compute as pc

        names = ("before", "after") if "before" in self.schema.names else ("datetime", "datetime")
        if names[0] not in self.schema.names:
            return pc.scalar(False)
        low, high = (when.replace(microsecond=when.microsecond // 1000 * 1000) for when in (first, last))
        return (pc.field(names[1]) >= low) & (pc.field(names[0]) <= high)


def _shapes(rows: Any) -> Shapes:
    return np.asarray(shapely.from_wkb(np.asarray(rows["geometry"])), dtype=object)


def areal(shapes: Shapes) -> Shapes:
    """Geometries without the points and lines that cutting may leave; empty polygons where nothing else was."""
    kinds = shapely.get_type_id(shapes)
    for index in np.flatnonzero(kinds == shapely.GeometryType.GEOMETRYCOLLECTION):
        parts = shapely.get_parts(shapely.get_parts(shapes[index]))
        shapes[index] = shapely.multipolygons(parts[shapely.get_dimensions(parts) == 2])
    return np.where((shapely.get_dimensions(shapes) == 2) & ~shapely.is_empty(shapes), shapes, shapely.Polygon())


def open_polygons(path: Path, outline: Mapping[str, Any]) -> PolygonFile:
    """A file of polygons whose run has an `outline`, a GeoJSON geometry.

    Raises:
        SourceError: It cannot be read, or its polygons have no place on the Earth.
    """
    import pyarrow as pa
    from pyarrow.dataset import ParquetFileFormat
    from pyarrow.fs import LocalFileSystem

    try:
        fragment = ParquetFileFormat().make_fragment(str(path), LocalFileSystem())
        schema, count = fragment.physical_schema, fragment.count_rows()
        crs = json.loads(schema.metadata[b"geo"])["columns"]["geometry"]["crs"]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read as GeoParquet; make the run anew") from error
    if crs is None:
        raise SourceError(f"{path}: has no CRS, so its polygons have no place on the Earth; make the run anew")
    return PolygonFile(
        path=path,
        crs=pyproj.CRS.from_user_input(crs).to_json(),
        footprint=footprint_of(outline),
        fragment=fragment,
        schema=schema,
        count=count,
    )


def _parsed(token: str | None) -> tuple[int, int]:
    """Row group, and rows to leave out of those in it that are meant."""
    if token is None:
        return 0, 0
    found = re.fullmatch(r"(\d{1,9})-(\d{1,9})", token, re.ASCII)
    if found is None:
        raise Problem(400, "Bad Request", "token: take it from the link to the next page")
    return int(found[1]), int(found[2])


def _has(schema: pa.Schema, name: str, text: str) -> pc.Expression:
    """What a row must be where a client asks for a value of one attribute."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = schema.field(name).type if name in schema.names else pa.null()
    if pa.types.is_string(kind):
        return pc.field(name) == text
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise not_told(name)
    low, high = range_of(name, text)
    bounds = [] if low is None else [pc.field(name) >= low]
    bounds += [] if high is None else [pc.field(name) <= high]
    return reduce(and_, bounds, pc.is_valid(pc.field(name)))


_: type[Polygons] = PolygonFile
