"""Finished maps on one grid: which pixels of a target grid each covers, and their values there.

A pixel of the target has the value of the map's pixel in which its centre lies. On a grid of the same CRS and pixel
size that is a shift by whole pixels, elsewhere a warp to the nearest; nothing is ever mixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geoseg.errors import GridError
from geoseg.protocols import Source
from geoseg.scene import BandSet
from geoseg.source.bands import declare_band
from geoseg.source.grids import bounds_text
from geoseg.source.header import MAX_PIXELS
from geoseg.source.info import inspect
from geoseg.source.projection import ToPixels, crs_of, to_world
from geoseg.source.raster import RasterSource, join_rasters
from geoseg.source.warp import WarpedSource, bad_blocks_of
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window, crop_geobox, whole

__all__ = ["FinishedMap", "ShiftedSource", "covering_grid", "extent_on", "on_grid", "open_map"]

_EDGE_POINTS = 257
"""Points along each side of a map whose places say what it covers of another grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedMap:
    """Rasters of one map on one grid, by name; pickles small."""

    places: tuple[tuple[str, str], ...]
    """Raster name -> path or URL; the first band of each counts."""
    geobox: GeoBox
    """The grid of all of them."""

    def open(self) -> RasterSource:
        """What reads the rasters as bands, in their order.

        Raises:
            SourceError: One of them cannot be opened.
        """
        return _joined(self.places)


def open_map(places: Mapping[str, str]) -> FinishedMap:
    """A map whose rasters are at `places`; only headers are read.

    Raises:
        SourceError: One of them cannot be opened.
        GridError: They do not lie on one grid.
    """
    listed = tuple(places.items())
    return FinishedMap(places=listed, geobox=_joined(listed).geobox)


def _joined(places: Sequence[tuple[str, str]]) -> RasterSource:
    headers = [(inspect(place), name) for name, place in places]
    return join_rasters([(info, 1, declare_band(info, 1, name)) for info, name in headers])


def extent_on(grid: GeoBox, other: GeoBox) -> Window:
    """The window of `grid` (which may reach beyond it) that holds every pixel whose centre lies on `other`.

    Raises:
        GridError: `other` has no place in the CRS of `grid`.

    >>> grid = GeoBox.from_bbox((0, 0, 100, 60), "EPSG:32633", resolution=10)
    >>> str(extent_on(grid, GeoBox.from_bbox((96, -20, 126, 20), "EPSG:32633", resolution=10, tight=True)))
    'rows 4:8, columns 10:13'
    """
    height, width = other.shape
    steps = np.linspace(0, 1, _EDGE_POINTS)
    sides = [(steps, 0 * steps), (0 * steps + 1, steps), (steps, 0 * steps + 1), (0 * steps, steps)]
    outline = np.vstack([np.column_stack([x * width, y * height]) for x, y in sides])
    to_grid = ToPixels(crs_of(other), grid)
    places = to_grid(to_world(outline, other))
    if not np.isfinite(places).all():
        raise GridError(
            f"a map ({bounds_text(other)}) has no place in {crs_of(grid).name}; name a --crs that suits all scenes"
        )
    # Between two points a curved edge bulges by far less than the points are apart.
    bulge = 0.0 if to_grid.linear else float(np.abs(np.diff(places.reshape(4, -1, 2), n=2, axis=1)).max())
    low, high = np.ceil(places.min(0) - 0.5 - bulge - 1e-6), np.floor(places.max(0) - 0.5 + bulge + 1e-6)
    return Window.from_bounds(int(low[1]), int(low[0]), int(high[1]) + 1, int(high[0]) + 1)


def covering_grid(grids: Sequence[GeoBox]) -> GeoBox:
    """The first grid, grown or cut so that it just covers all of them; its pixels stay where they are.

    Raises:
        GridError: One of them has no place in its CRS, or they lie too far apart.

    >>> one = GeoBox.from_bbox((0, 0, 100, 60), "EPSG:32633", resolution=10)
    >>> covering_grid([one, GeoBox.from_bbox((90, 50, 190, 110), "EPSG:32633", resolution=10)]).shape
    Shape2d(x=19, y=11)
    """
    extents = [extent_on(grids[0], grid) for grid in grids]
    union = Window.from_bounds(
        min(extent.row_off for extent in extents),
        min(extent.col_off for extent in extents),
        max(extent.row_stop for extent in extents),
        max(extent.col_stop for extent in extents),
    )
    if not 0 < union.size <= MAX_PIXELS:
        raise GridError(
            f"one map of all scenes would have {union.height} x {union.width} pixels; choose a coarser --resolution, "
            "or fewer scenes that lie closer together"
        )
    return crop_geobox(grids[0], union)


def on_grid(source: Source, grid: GeoBox) -> Source:
    """`source`, read on `grid`: shifted where that is exact, warped to the nearest pixel elsewhere."""
    one, other = source.geobox, grid
    if one.crs == other.crs and one.transform[:2] + one.transform[3:5] == other.transform[:2] + other.transform[3:5]:
        # The centre of the first pixel decides for all: (0.5, 0.5) + shift, rounded down.
        place = to_world(to_world(np.array([[0.5, 0.5]]), other), GeoBox(one.shape, ~one.transform, None))[0]
        col, row = np.floor(place + 1e-9).astype(int)
        return ShiftedSource(source=source, geobox=grid, rows=int(row), cols=int(col))
    return WarpedSource(source, grid, "nearest")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftedSource:
    """Another source on a grid of the same pixels that begins elsewhere."""

    source: Source
    """What is read."""
    geobox: GeoBox
    """The grid that it is read on."""
    rows: int
    """Row of the source at row 0 of the grid; may be negative."""
    cols: int
    """Column of the source at column 0 of the grid."""

    @property
    def bands(self) -> BandSet:
        """The other source's bands."""
        return self.source.bands

    @property
    def block(self) -> tuple[int, int]:
        """The other source's blocks."""
        return self.source.block

    def identity(self) -> Mapping[str, str]:
        """The other source's identity."""
        return self.source.identity()

    @property
    def bad_blocks(self) -> int:
        """Storage blocks that were filled because they cannot be decoded."""
        return bad_blocks_of(self.source)

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        """Stored numbers (band, row, col) and usable pixels (row, col) of `window`; none beyond the grid.

        Raises:
            SourceError: The other source cannot be read.
        """
        pixels, valid = self.source.read(
            Window(
                row_off=window.row_off + self.rows,
                col_off=window.col_off + self.cols,
                height=window.height,
                width=window.width,
            )
        )
        inner = (window & whole(self.geobox)).within(window).slices
        usable = np.zeros(window.shape, bool)
        usable[inner] = valid[inner]
        return pixels, usable


if TYPE_CHECKING:
    _: type[Source] = ShiftedSource
