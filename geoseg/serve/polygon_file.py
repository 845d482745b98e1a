"""The polygons of a finished run, read from its GeoParquet: only the row groups and columns that a question needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial, reduce
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
from geoseg.serve.opened import Opened
from geoseg.serve.problems import Problem

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

__all__ = ["PolygonFile", "PolygonPage", "Wish", "areal", "open_polygons"]

Shapes = npt.NDArray[np.object_]
"""(n,) polygons and multipolygons."""

_LARGE = 16 << 20  # bytes of a row group that holds very large polygons, which every tile would read as a whole
_PARTS = 32  # areas of which their parts are kept
_AT_ONCE = 256
"""Polygons that are placed on the Earth at once."""
_MOST_VERTICES = 1_000_000
"""Of a page; one with larger polygons ends early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which polygons a client means: those that meet all of it."""

    area: Any = None
    """What they touch, in longitude and latitude; None: anything."""
    interval: tuple[datetime, datetime] | None = None
    """When; None: at any time."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Attribute -> its value, or of numbers ``LEAST/LARGEST`` with ``..`` for an open end."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolygonPage:
    """Some of the polygons that were meant, in the order of the file."""

    tables: Sequence[tuple[pa.Table, Shapes]]
    """Rows with their polygons in longitude and latitude."""
    token: str | None
    """Of the next page; None: this was the last."""

    @property
    def count(self) -> int:
        """How many polygons."""
        return sum(len(shapes) for _, shapes in self.tables)


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
    _kept: Opened[tuple[Any, Shapes]] = field(default_factory=lambda: Opened(most=_PARTS))

    @property
    def stored_crs(self) -> str:
        """The CRS as a URI where it has one, else as WKT."""
        crs = pyproj.CRS.from_user_input(self.crs)
        authority = crs.to_authority(min_confidence=100)
        return f"http://www.opengis.net/def/crs/{authority[0]}/0/{authority[1]}" if authority else crs.to_wkt()

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
        found: list[tuple[pa.Table, Shapes]] = []
        room, vertices = limit, 0
        for index, table in self._groups(expression, group):
            start = skip if index == group else 0
            while start < len(table):
                if room <= 0 or vertices > _MOST_VERTICES:
                    return PolygonPage(tables=found, token=f"{index}-{start}")
                few = table.slice(start, min(room, _AT_ONCE))
                shapes = self._lonlat(few)
                start += len(few)
                if wish.area is not None:
                    touching = shapely.intersects(shapes, wish.area)
                    few, shapes = few.filter(touching), shapes[touching]
                if len(few):
                    found.append((few, shapes))
                    room -= len(few)
                    vertices += int(shapely.get_num_coordinates(shapes).sum())
        return PolygonPage(tables=found, token=None)

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

    def near(
        self, area: Any, columns: Sequence[str], least_area: float, most: int, around: Any
    ) -> Iterator[tuple[pa.RecordBatch | pa.Table, Shapes]]:
        """Polygons whose boxes touch an area in longitude and latitude; of more than `most` the largest.

        Rows, with what lies near the area of their polygons, in longitude and latitude. It may touch itself where it
        was cut.

        Args:
            area: Where.
            columns: Names of those to give; those that the file lacks are left out.
            least_area: Of a polygon, in square metres.
            most: Number of polygons, as far as areas differ.
            around: Holds the area, and others that will be asked for; what lies in it of very large polygons is kept.
        """
        if not shapely.intersects(self.footprint, area):
            return
        expression, reach = self._touches(area), bounds_near(self.footprint, area, self.crs)
        names = [name for name in columns if name in self.schema.names]
        if "area_m2" in self.schema.names:
            expression &= self._large_enough(expression, least_area, most)
        groups = [part.row_groups[0] for part in self.fragment.split_by_row_group(expression, schema=self.schema)]
        large = [group.id for group in groups if group.total_byte_size > _LARGE]
        others = [group.id for group in groups if group.id not in large]
        for group in large:
            rows, shapes = self._kept.get((group, around.bounds), partial(self._cut, group, around))
            yield self._reached(rows.select(names), shapes, reach)
        if others:
            for batch in self.fragment.subset(row_group_ids=others).to_batches(
                schema=self.schema, columns=[*names, "geometry"], filter=expression, batch_readahead=2
            ):
                yield self._reached(batch.select(names), _shapes(batch), reach)

    def _large_enough(self, expression: pc.Expression, least_area: float, most: int) -> pc.Expression:
        import pyarrow.compute as pc

        expression &= pc.field("area_m2") >= least_area
        areas = self.fragment.to_table(schema=self.schema, columns=["area_m2"], filter=expression)["area_m2"]
        crowded = len(areas) > most
        return pc.field("area_m2") >= (float(np.partition(areas.to_numpy(), -most)[-most]) if crowded else least_area)

    def _cut(self, group: int, around: Any) -> tuple[pa.Table, Shapes]:
        """The rows of a group of very large polygons, with what of them lies in an area."""
        table = self.fragment.subset(row_group_ids=[group]).to_table(schema=self.schema)
        reach = bounds_near(self.footprint, around, self.crs)
        return table.drop_columns(["geometry"]), areal(shapely.clip_by_rect(_shapes(table), *reach))

    def _reached(self, rows: Any, shapes: Shapes, reach: tuple[float, ...]) -> tuple[Any, Shapes]:
        """The rows that reach into a box of the file's CRS, with what lies in it, in longitude and latitude."""
        inside = areal(shapely.clip_by_rect(shapes, *reach))
        left = np.flatnonzero(~shapely.is_empty(inside))
        return rows.take(left), to_lonlat(inside[left], self.crs)

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
    footprint = shapely.geometry.shape(outline)
    west, south, east, north = footprint.bounds
    return PolygonFile(
        path=path,
        crs=pyproj.CRS.from_user_input(crs).to_json(),
        footprint=footprint.buffer(max(east - west, north - south) / 1000),  # its sides are straight, those of CRS bend
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
        raise Problem(400, "Bad Request", f"{name}: these polygons have no such attribute to choose by")
    words = text.split("/") if "/" in text else [text, text]
    try:
        low, high = (None if word == ".." else float(word) for word in words)
    except ValueError:
        raise Problem(400, "Bad Request", f"{name}: a number, or LEAST/LARGEST with .. for an open end") from None
    bounds = [] if low is None else [pc.field(name) >= low]
    bounds += [] if high is None else [pc.field(name) <= high]
    return reduce(and_, bounds, pc.is_valid(pc.field(name)))
