"""Points of any CRS to pixel coordinates of a grid, and the way there along curved edges."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pyproj import CRS, Transformer

from geoseg.window import GeoBox

__all__ = ["Points", "ToPixels", "crs_of", "to_world"]

Points: TypeAlias = npt.NDArray[np.float64]
"""(point, 2): x and y of a CRS, or column and row of a grid; infinite where a projection is not defined."""


class ToPixels:
    """Points of `crs` to (column, row) of `geobox`, exactly (nothing is approximated between points)."""

    def __init__(self, crs: Any, geobox: GeoBox) -> None:
        origin, target = CRS.from_user_input(crs), crs_of(geobox)
        self.linear = target.equals(origin, ignore_axis_order=True)
        """Whether straight lines stay straight."""
        self._transformer = None if self.linear else Transformer.from_crs(origin, target, always_xy=True)
        self._geobox = geobox

    def __call__(self, points: Points) -> Points:
        """(Column, row) of points."""
        x, y = points.T
        if self._transformer is not None:
            x, y = self._transformer.transform(x, y, errcheck=False)
        inverse = ~self._geobox.transform
        with np.errstate(invalid="ignore"):
            cols = inverse.a * x + inverse.b * y + inverse.c
            rows = inverse.d * x + inverse.e * y + inverse.f
        return np.column_stack([cols, rows])


def to_world(points: Points, geobox: GeoBox) -> Points:
    """(Column, row) of a grid to x and y of its CRS."""
    cols, rows = points.T
    move = geobox.transform
    return np.column_stack([move.a * cols + move.b * rows + move.c, move.d * cols + move.e * rows + move.f])


def crs_of(geobox: GeoBox) -> CRS:
    """The grid's CRS, as pyproj has it."""
    return CRS.from_user_input(str(geobox.crs))
