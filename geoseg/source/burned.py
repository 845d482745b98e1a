"""Polygons as a raster of class values that is never held as a whole: each window is burned when it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import shapely
from affine import Affine
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from geoseg.errors import ConfigError, GridError
from geoseg.protocols import Source
from geoseg.scene import Band, BandSet
from geoseg.source.area import polygons_in_pixels
from geoseg.source.grids import bounds_text
from geoseg.source.outline import Features
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window, whole

__all__ = ["UNCOVERED", "BurnedSource", "burn"]

UNCOVERED = 65535
"""Value of a pixel that no polygon covers; values of polygons are smaller."""
_BLOCK = 512
"""Side of the blocks that are burned at once; always the same, so that a pixel has one value in any window."""
_KEPT = 32
"""Blocks that are kept: half a megabyte each."""


def burn(
    features: Features,
    values: Sequence[int],
    grid: GeoBox,
    *,
    name: str = "truth",
    all_touched: bool = False,
    background: int | None = None,
) -> BurnedSource:
    """The polygons of a file as class values on `grid`; of polygons that overlap, the last in the file counts.

    Args:
        features: The polygons.
        values: Class value of each, 0 to 65534.
        grid: Where they are burned; any CRS.
        name: The band's name.
        all_touched: Whether a pixel belongs to a polygon that touches it, or to the one that holds its centre.
        background: Class value of pixels that no polygon covers; None: these are not valid.

    Raises:
        ConfigError: A value is out of range.
        GridError: No polygon lies on the grid.
    """
    wrong = [value for value in [*values, *([] if background is None else [background])] if not 0 <= value < UNCOVERED]
    if wrong:
        raise ConfigError(f"class value {wrong[0]}: values are 0 to {UNCOVERED - 1}")
    placed = polygons_in_pixels(features.polygons, features.crs, grid)
    scene = shapely.box(0, 0, grid.shape[1], grid.shape[0])
    kept = [number for number, polygon in enumerate(placed) if polygon.intersects(scene)]
    if not kept:
        raise GridError(
            f"none of {len(placed)} polygons lies on the map ({bounds_text(grid)}): are they of this place?"
        )
    return BurnedSource(
        polygons=tuple(placed[number] for number in kept),
        values=tuple(int(values[number]) for number in kept),
        geobox=grid,
        name=name,
        all_touched=all_touched,
        background=background,
    )


@dataclass(frozen=True)
class BurnedSource:
    """Polygons, seen as one band of class values on a grid. Pickles as its constructor's arguments."""

    polygons: tuple[BaseGeometry, ...]
    """In pixels of the grid: x the column, y the row."""
    values: tuple[int, ...]
    """Class value of each."""
    geobox: GeoBox
    """The grid."""
    name: str
    """Of the band."""
    all_touched: bool = False
    """Whether a pixel belongs to a polygon that touches it."""
    background: int | None = None
    """Class value of what no polygon covers; None: not valid."""

    def __reduce__(self) -> tuple[type[BurnedSource], tuple[object, ...]]:
        return type(self), (
            self.polygons,
            self.values,
            self.geobox,
            self.name,
            self.all_touched,
            self.background,
        )

    @property
    def bands(self) -> BandSet:
        """One band, uint16."""
        return BandSet((Band(name=self.name, dtype="uint16", nodata=float(UNCOVERED)),))

    @property
    def block(self) -> tuple[int, int]:
        """(rows, cols) of what is burned at once."""
        return _BLOCK, _BLOCK

    def identity(self) -> Mapping[str, str]:
        """A hash of the polygons and their values."""
        content = b"".join(shapely.to_wkb(self.polygons)) + repr((self.values, self.all_touched)).encode()
        return {self.name: f"sha256:{hashlib.sha256(content).hexdigest()}"}

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.polygons)

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        """Class values (1, row, col), uint16, and pixels that have one (row, col)."""
        values = np.full((1, *window.shape), UNCOVERED, np.uint16)
        inside = window & whole(self.geobox)
        for block in _blocks(inside):
            part = block & inside
            values[0][part.within(window).slices] = self._kept(block)[part.within(block).slices]
        if self.background is not None:
            covered = values[0][inside.within(window).slices]
            covered[covered == UNCOVERED] = self.background
        return values, values[0] != UNCOVERED

    @cached_property
    def _kept(self) -> Callable[[Window], Pixels]:
        """A block, burned now or lately: small windows share one."""
        return lru_cache(maxsize=_KEPT)(self._burned)

    def _burned(self, block: Window) -> Pixels:
        """One block, (row, col); the same arithmetic every time."""
        box = shapely.box(block.col_off, block.row_off, block.col_stop, block.row_stop)
        # In the file's order, for the last one counts.
        found = np.sort(self._tree.query(box))
        if len(found) == 0:
            return np.full(block.shape, UNCOVERED, np.uint16)
        return np.asarray(
            rasterize(
                [(self.polygons[number], self.values[number]) for number in found],
                out_shape=block.shape,
                fill=UNCOVERED,
                transform=Affine.translation(block.col_off, block.row_off),
                all_touched=self.all_touched,
                dtype="uint16",
            )
        )


def _blocks(window: Window) -> Iterator[Window]:
    """The fixed blocks that share pixels with `window`, row by row."""
    row, col = (start // _BLOCK * _BLOCK for start in (window.row_off, window.col_off))
    yield from (
        Window(row_off=piece.row_off, col_off=piece.col_off, height=_BLOCK, width=_BLOCK)
        for piece in Window.from_bounds(row, col, window.row_stop, window.col_stop).pieces(_BLOCK, _BLOCK)
    )


if TYPE_CHECKING:
    _: type[Source] = BurnedSource
