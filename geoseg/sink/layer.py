"""Features on their way into files: numbered, in the order of their first pixel, with what all have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyproj
import shapely

from geoseg.earth import to_lonlat
from geoseg.errors import GridError, SinkError
from geoseg.sink.sorting import ROWS, Sorted, Table
from geoseg.sink.wkb import as_wkb

__all__ = ["Layer", "as_multipolygons", "gather"]

BOX = pa.struct([(side, pa.float64()) for side in ("xmin", "ymin", "xmax", "ymax")])
"""Type of the column ``bbox``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """Features that may be more than memory holds. Iterating gives tables, again and again the same.

    Columns: ``id`` from 1 on, those of the frames, ``geometry`` (WKB) and ``bbox``.
    """

    rows: Sorted
    """The features without their ids, by the column ``first``."""
    schema: Any
    """A pyarrow.Schema of what iterating gives."""
    crs: pyproj.CRS | None
    """Where the geometries lie."""
    count: int
    """Number of features."""
    vertices: int
    """Of all of them."""
    extent: tuple[float, float, float, float] | None
    """xmin, ymin, xmax, ymax of all of them; None where there is none."""
    middles: tuple[float, float, float, float]
    """The same of the middles of their boxes."""
    kinds: tuple[str, ...]
    """Types of geometry that occur, sorted."""
    least_area: float
    """Of the smallest feature that has one, in square metres; NaN where none has."""

    def __iter__(self) -> Iterator[Table]:
        """All features by id, in tables of at most `geoseg.sink.sorting.ROWS` rows."""
        done = 0
        for table in self.rows:
            ids = pa.array(np.arange(done + 1, done + 1 + len(table)))
            yield table.drop_columns(["first"]).add_column(0, "id", ids)
            done += len(table)

    def in_any_order(self) -> Iterator[Table]:
        """All features with their ids, for those who sort them anyway."""
        whole = self.rows.whole()
        if whole is None:
            yield from self
            return
        ids = np.empty(len(whole), np.int64)
        ids[np.argsort(whole["first"].to_numpy(), kind="stable")] = np.arange(1, len(whole) + 1)
        yield whole.drop_columns(["first"]).add_column(0, "id", pa.array(ids))

    @property
    def attributes(self) -> list[str]:
        """Names of the columns that are neither geometry nor box."""
        return [name for name in self.schema.names if name not in {"geometry", "bbox"}]

    @property
    def kind(self) -> str:
        """The one type of geometry that all features have or can be promoted to."""
        return "MultiPolygon" if "MultiPolygon" in self.kinds else "Polygon"

    def lonlat(self) -> Iterator[tuple[Table, npt.NDArray[np.object_]]]:
        """Each table with its polygons in WGS 84, cut at the antimeridian.

        Raises:
            SinkError: The features lie where there is no longitude and latitude.
        """
        self.demand_place()
        for table in self:
            try:
                shapes = to_lonlat(shapely.from_wkb(table["geometry"].to_numpy()), self.crs)
            except GridError as error:
                raise SinkError(f"{error}: write parquet, fgb or gpkg") from error
            yield table, np.where(shapely.is_empty(shapes), shapely.Polygon(), shapes)  # smaller than a centimetre

    def demand_place(self) -> None:
        """Refuses features without a CRS.

        Raises:
            SinkError: There is none.
        """
        if self.crs is None:
            raise SinkError("polygons without a CRS have no longitude and latitude: write parquet, fgb or gpkg")


def as_multipolygons(shapes: Any) -> Any:
    """An array of WKB (Arrow) with polygons as multipolygons of one."""
    single = pc.equal(pc.binary_slice(shapes, 1, 2), b"\x03")
    return pc.if_else(single, pc.binary_join_element_wise(_MULTI, shapes, b""), shapes)


def gather(frames: Iterable[geopandas.GeoDataFrame], folder: Path) -> Layer:
    """All features of `frames` as a layer, which keeps what memory cannot hold in `folder`.

    Frames have the same columns, come in any order and of any size. A column ``first`` of different integers gives the
    order; a single frame without it is in order.

    Raises:
        SinkError: There is no frame, or frames differ in columns or CRS.
    """
    rows = Sorted(folder, "first")
    schema, crs = None, None
    count = vertices = 0
    extent, middles, kinds, least = _NOTHING, _NOTHING, set[str](), np.nan
    for frame in frames:
        if "first" not in frame and count:
            raise SinkError("features that come in several frames need a column 'first' to be ordered by")
        for table, shapes in _tables(frame):
            if schema is not None and (table.schema != schema or frame.crs != crs):
                raise SinkError(f"features differ in columns or CRS: {table.schema.names} after {schema.names}")
            schema, crs = table.schema, frame.crs
            if not len(table):
                continue
            rows.add(table)
            count += len(table)
            vertices += int(shapely.get_num_coordinates(shapes).sum())
            bounds = shapely.bounds(shapes)
            extent = _wider(extent, bounds)
            middles = _wider(middles, np.tile((bounds[:, :2] + bounds[:, 2:]) / 2, 2))
            kinds |= {_KINDS.get(int(kind), "Unknown") for kind in np.unique(shapely.get_type_id(shapes))}
        if len(frame) and "area_m2" in frame:
            areas = frame["area_m2"]
            least = np.fmin(least, areas[areas > 0].min())
    if schema is None:
        raise SinkError("there is no frame of features, not even an empty one that names the columns")
    return Layer(
        rows=rows,
        schema=pa.schema([("id", pa.int64()), *(field for field in schema if field.name != "first")]),
        crs=None if crs is None else pyproj.CRS.from_user_input(crs),
        count=count,
        vertices=vertices,
        extent=extent if count else None,
        middles=middles,
        kinds=tuple(sorted(kinds)),
        least_area=float(least),
    )


_NOTHING = (np.inf, np.inf, -np.inf, -np.inf)
_MULTI = b"\x01\x06\x00\x00\x00\x01\x00\x00\x00"
_KINDS = {3: "Polygon", 6: "MultiPolygon"}


def _wider(extent: tuple[float, ...], bounds: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    low, high = bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)
    return (
        min(extent[0], float(low[0])),
        min(extent[1], float(low[1])),
        max(extent[2], float(high[0])),
        max(extent[3], float(high[1])),
    )


def _tables(frame: geopandas.GeoDataFrame) -> Iterator[tuple[Table, npt.NDArray[np.object_]]]:
    """`frame` as Arrow tables of a few thousand rows, each with its geometries; one at least."""
    shapes = np.asarray(frame.geometry.array, dtype=object)
    plain = pd.DataFrame(frame.drop(columns=[frame.geometry.name, "id"], errors="ignore"))  # ids are made anew
    if "first" not in plain:
        plain.insert(0, "first", np.arange(len(plain)))
    whole = pa.Table.from_pandas(plain, preserve_index=False).replace_schema_metadata(None)
    for at, field in enumerate(whole.schema):
        if pa.types.is_large_string(field.type) or pa.types.is_null(field.type):  # null: words of no row, in pandas 2
            whole = whole.set_column(at, field.name, whole[field.name].cast(pa.string()))
    for start in range(0, max(1, len(shapes)), ROWS):
        few = shapes[start : start + ROWS]
        table = whole.slice(start, ROWS)
        # A few thousand at a time: the bytes of all at once would be held twice, and cost twice the time.
        table = table.append_column("geometry", as_wkb(few))
        yield table.append_column("bbox", _boxes(few)), few


def _boxes(shapes: npt.NDArray[np.object_]) -> Any:
    columns = [pa.array(np.ascontiguousarray(side)) for side in shapely.bounds(shapes).reshape(-1, 4).T]
    return pa.StructArray.from_arrays(columns, fields=list(BOX))
