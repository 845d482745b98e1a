"""Which region a pixel of a map belongs to: a cell of a grid in metres, or polygons that share a value of a column."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from pyproj import CRS, Geod

from geoseg.earth import crs_of
from geoseg.errors import ConfigError
from geoseg.source.burned import UNCOVERED, BurnedSource, burn
from geoseg.source.outline import read_features
from geoseg.window import GeoBox, Window

__all__ = ["NOWHERE", "GridRegions", "NumberedRegions", "PolygonRegions", "regions_by"]

Numbers: TypeAlias = npt.NDArray[np.int64]

NOWHERE = -1
"""Number of a pixel that belongs to no region."""


class NumberedRegions(Protocol):
    """Regions of a map by number."""

    def read(self, window: Window) -> Numbers:
        """(row, col) numbers of the regions, `NOWHERE` where there is none."""
        ...

    def name(self, number: int) -> str:
        """What people call a region."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRegions:
    """Cells of one size, the first at the map's first pixel; a pixel belongs to the cell that holds its centre."""

    rows: float
    """Height of a cell in pixels."""
    cols: float
    """Width of a cell in pixels."""
    across: int
    """Cells side by side."""

    def read(self, window: Window) -> Numbers:
        """(row, col) numbers, row by row."""
        # A centre on the line between two cells belongs to the second, also where the division falls short by a bit.
        down = ((np.arange(window.row_off, window.row_stop) + 0.5) / self.rows + 1e-9).astype(np.int64)
        across = ((np.arange(window.col_off, window.col_stop) + 0.5) / self.cols + 1e-9).astype(np.int64)
        numbers: Numbers = down[:, None] * self.across + across
        return numbers

    def name(self, number: int) -> str:
        """Row and column of the cell, from 0.

        >>> GridRegions(rows=2.0, cols=2.0, across=100).name(312)
        'row 3, column 12'
        """
        return f"row {number // self.across}, column {number % self.across}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolygonRegions:
    """Polygons of a file; those with one value of the column are one region."""

    source: BurnedSource
    """Numbers of the regions as class values."""
    names: tuple[str, ...]
    """By number."""

    def read(self, window: Window) -> Numbers:
        """(row, col) numbers of the polygons that hold the pixels' centres."""
        numbers: Numbers = self.source.read(window)[0][0].astype(np.int64)
        numbers[numbers == UNCOVERED] = NOWHERE
        return numbers

    def name(self, number: int) -> str:
        """The column's value."""
        return self.names[number]


def regions_by(by: str | float, geobox: GeoBox) -> NumberedRegions:
    """The regions that a person means.

    Args:
        by: The side of grid cells in metres, or FILE:COLUMN with polygons (GeoJSON, GeoPackage, GeoParquet).
        geobox: The map's grid.

    Raises:
        ConfigError: It is neither, or the file has no such column.
        SourceError: The file cannot be read.
        GridError: No polygon lies on the map.

    >>> grid = GeoBox.from_bbox((0, 0, 1000, 600), "EPSG:32633", resolution=10)
    >>> regions_by(500, grid)
    GridRegions(rows=50.0, cols=50.0, across=2)
    """
    try:
        side = float(by)
    except ValueError:
        return _polygons(str(by), geobox)
    down, across = _metres_per_pixel(geobox)
    if not np.isfinite(side) or side < max(down, across):
        raise ConfigError(f"regions of {by} m: give at least a pixel ({max(down, across):.3g} m)")
    cols = side / across
    return GridRegions(rows=side / down, cols=cols, across=math.ceil(geobox.shape[1] / cols))


def _polygons(by: str, geobox: GeoBox) -> PolygonRegions:
    path, _, column = by.rpartition(":")
    if not path or not column:
        raise ConfigError(f"regions by {by!r}: give the side of a grid in metres, or FILE:COLUMN")
    features = read_features(Path(path), column)
    texts = ["none" if value is None else str(value) for value in features.values]
    names = tuple(dict.fromkeys(texts))
    if len(names) >= UNCOVERED:
        raise ConfigError(f"{path}: column {column!r} has {len(names)} values; at most {UNCOVERED - 1} can be regions")
    number = {name: place for place, name in enumerate(names)}
    return PolygonRegions(source=burn(features, [number[text] for text in texts], geobox, name="region"), names=names)


def _metres_per_pixel(geobox: GeoBox) -> tuple[float, float]:
    """(down, across): of a projected CRS in its own units, else on the ground in the middle of the map."""
    crs: CRS = crs_of(geobox)
    move = geobox.transform
    if crs.is_projected:
        unit = float(crs.axis_info[0].unit_conversion_factor)
        return float(np.hypot(move.b, move.e)) * unit, float(np.hypot(move.a, move.d)) * unit
    col, row = geobox.shape[1] / 2, geobox.shape[0] / 2
    geod = crs.get_geod() or Geod(ellps="WGS84")
    (x0, y0), *others = [move @ place for place in ((col, row), (col, row + 1), (col + 1, row))]
    down, across = (float(geod.inv(x0, y0, x, y)[2]) for x, y in others)
    return down, across
