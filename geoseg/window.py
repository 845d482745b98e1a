"""Integer pixel rectangles, and their place on the Earth.

`Window` knows no geography; `GeoBox` (odc-geo) carries shape, transform and CRS. This module is the only one that
re-exports it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from affine import Affine
from odc.geo.geobox import GeoBox

from geoseg.errors import GridError

__all__ = ["GeoBox", "Window", "crop_geobox", "whole"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A rectangle of pixels: rows ``[row_off, row_stop)`` and columns ``[col_off, col_stop)``.

    The order is always row before column. Offsets may be negative or beyond a scene's edge; height and width may be
    0 (an empty window) but never negative.

    >>> Window(row_off=2, col_off=3, height=4, width=5).col_stop
    8
    """

    row_off: int
    """First row."""
    col_off: int
    """First column."""
    height: int
    """Number of rows."""
    width: int
    """Number of columns."""

    def __post_init__(self) -> None:
        if self.height < 0 or self.width < 0:
            raise GridError(f"a window cannot have {self.height} rows and {self.width} columns")

    @classmethod
    def from_bounds(cls, row_off: int, col_off: int, row_stop: int, col_stop: int) -> Window:
        """The window between two corners; empty where the second does not lie beyond the first."""
        return cls(
            row_off=row_off, col_off=col_off, height=max(0, row_stop - row_off), width=max(0, col_stop - col_off)
        )

    @property
    def row_stop(self) -> int:
        """Row just beyond the last."""
        return self.row_off + self.height

    @property
    def col_stop(self) -> int:
        """Column just beyond the last."""
        return self.col_off + self.width

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices, for an array whose (0, 0) is the scene's."""
        return slice(self.row_off, self.row_stop), slice(self.col_off, self.col_stop)

    def __bool__(self) -> bool:
        return self.size > 0

    def __and__(self, other: Window) -> Window:
        """What both cover; empty where they do not meet."""
        return Window.from_bounds(
            max(self.row_off, other.row_off),
            max(self.col_off, other.col_off),
            min(self.row_stop, other.row_stop),
            min(self.col_stop, other.col_stop),
        )

    def __contains__(self, other: Window) -> bool:
        return (self & other) == other

    def within(self, outer: Window) -> Window:
        """The same pixels, counted from the first pixel of `outer`."""
        return Window(
            row_off=self.row_off - outer.row_off,
            col_off=self.col_off - outer.col_off,
            height=self.height,
            width=self.width,
        )

    def pieces(self, height: int, width: int) -> Iterable[Window]:
        """The window cut into pieces of at most `height` x `width`, row by row."""
        for row in range(self.row_off, self.row_stop, height):
            for col in range(self.col_off, self.col_stop, width):
                yield Window.from_bounds(row, col, row + height, col + width) & self

    def __str__(self) -> str:
        return f"rows {self.row_off}:{self.row_stop}, columns {self.col_off}:{self.col_stop}"


def whole(geobox: GeoBox) -> Window:
    """The window of every pixel of `geobox`."""
    height, width = geobox.shape
    return Window(row_off=0, col_off=0, height=int(height), width=int(width))


def crop_geobox(geobox: GeoBox, window: Window) -> GeoBox:
    """The georeference of `window`, counted from the first pixel of `geobox`; it may reach beyond it."""
    transform = geobox.transform @ Affine.translation(window.col_off, window.row_off)
    return GeoBox(window.shape, transform, geobox.crs)
