"""Lengths on the ellipsoid of lines that are straight on a pixel grid."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from geoseg.earth import EARTH_RADIUS, crs_of, radians_of
from geoseg.window import GeoBox

__all__ = ["PixelLengths"]

FloatArray = npt.NDArray[np.float64]

STEP = 250.0
"""Metres to either side of a node over which distances are measured: long beside rounding, short beside the Earth."""

LATTICE = 256
"""Most cells of the lattice of nodes along one side; along the meridian of a geographic grid 16 times as many."""


@dataclass(frozen=True, slots=True)
class PixelLengths:
    """How long a pixel's sides and diagonals are on the ellipsoid, anywhere on a grid.

    Squared lengths (the metric tensor of the map) are exact to 1e-9 on a lattice of nodes and linear in between; a line
    is the integral of their root. That is within 1e-6 for a scene in a projected CRS, at the cost of a few additions
    per vertex, where a geodesic takes a microsecond. A line is the one that is straight in the CRS: in a geographic CRS
    the parallel, not the great circle. 0 where a line lies off the Earth; NaN without a CRS.
    """

    geobox: GeoBox
    """The grid."""
    _metric: FloatArray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_metric", _metric_of(self.geobox))

    def perimeters(self, coords: FloatArray, counts: npt.NDArray[np.int64]) -> FloatArray:
        """(n,) metres around polygons, holes included, to a ten-thousandth of a pixel.

        Args:
            coords: (vertex, xy) of all polygons in the grid's CRS, ring after ring; a ring ends where it began.
            counts: (n,) vertices of each polygon.
        """
        inverse = ~self.geobox.transform
        height, width = self.geobox.shape
        metres = _around(coords, np.asarray(counts, np.int64), inverse[:6], self._metric, height, width)
        pixel = math.sqrt(self._metric[..., ::2].max())
        return np.asarray(np.round(metres, 4 - math.floor(math.log10(pixel))) if pixel > 0 else metres)


def _metric_of(geobox: GeoBox) -> FloatArray:
    """(row node, col node, 3) squared metres per pixel: along columns, mixed, along rows."""
    height, width = geobox.shape
    if geobox.crs is None:
        return np.full((2, 2, 3), np.nan)
    crs = crs_of(geobox)
    along = crs.is_geographic and geobox.transform.is_rectilinear
    rows = np.linspace(0, height, 1 + max(1, min(height, 16 * LATTICE if along else LATTICE)))
    cols = np.linspace(0, width, 1 + (1 if along else max(1, min(width, LATTICE))))
    unit = crs.axis_info[0].unit_conversion_factor * (EARTH_RADIUS if crs.is_geographic else 1.0)
    step = STEP / (unit * math.sqrt(abs(geobox.transform.determinant)))
    across = _places(geobox, rows, cols + step) - _places(geobox, rows, cols - step)
    down = _places(geobox, rows + step, cols) - _places(geobox, rows - step, cols)
    products = [(across * across).sum(-1), (across * down).sum(-1), (down * down).sum(-1)]
    metric = np.stack(products, axis=-1) / (2 * step) ** 2
    on_earth = np.isfinite(metric).all(axis=-1, keepdims=True)
    return np.where(on_earth, metric, 0.0) if on_earth.any() else metric


def _places(geobox: GeoBox, rows: FloatArray, cols: FloatArray) -> FloatArray:
    """(row, col, 3) geocentric coordinates in metres of the pixel corners where `rows` and `cols` meet."""
    crs = crs_of(geobox)
    if crs.ellipsoid is None:
        return np.full((len(rows), len(cols), 3), np.nan)
    a, b, c, d, e, f = geobox.transform[:6]
    row, col = rows[:, None], cols[None, :]
    lon, lat = radians_of(crs, a * col + b * row + c, d * col + e * row + f)
    flattening = 1 / crs.ellipsoid.inverse_flattening if crs.ellipsoid.inverse_flattening else 0.0
    ecc2 = flattening * (2 - flattening)
    normal = crs.ellipsoid.semi_major_metre / np.sqrt(1 - ecc2 * np.sin(lat) ** 2)
    parallel = normal * np.cos(lat)
    return np.stack([parallel * np.cos(lon), parallel * np.sin(lon), normal * (1 - ecc2) * np.sin(lat)], axis=-1)


@numba.njit(cache=True, nogil=True)
def _speed(metric: FloatArray, v: float, u: float, dv: float, du: float) -> float:
    """Metres of a step of `dv` rows and `du` columns at node position (`v`, `u`), by the metric there."""
    low_v = min(max(int(v), 0), metric.shape[0] - 2)
    low_u = min(max(int(u), 0), metric.shape[1] - 2)
    v, u = v - low_v, u - low_u
    squared = 0.0
    for part in range(3):
        upper = metric[low_v, low_u, part] * (1 - u) + metric[low_v, low_u + 1, part] * u
        lower = metric[low_v + 1, low_u, part] * (1 - u) + metric[low_v + 1, low_u + 1, part] * u
        weight = du * du if part == 0 else 2 * du * dv if part == 1 else dv * dv
        squared += (upper * (1 - v) + lower * v) * weight
    return math.sqrt(squared) if squared > 0 else 0 * squared  # NaN stays NaN


@numba.njit(cache=True, nogil=True)
def _line(metric: FloatArray, v: float, u: float, dv: float, du: float, step_v: float, step_u: float) -> float:
    """Metres of a line from (`v`, `u`) by (`dv`, `du`) nodes, each node being `step_v` rows and `step_u` columns.

    Within a cell by the metric in the middle; beyond by Simpson's rule, in pieces of up to 8 cells.
    """
    rows, cols, cells = dv * step_v, du * step_u, max(abs(dv), abs(du))
    if cells <= 1:
        return _speed(metric, v + dv / 2, u + du / 2, rows, cols)
    count = 2 * math.ceil(cells / 8)
    total = _speed(metric, v, u, rows, cols) + _speed(metric, v + dv, u + du, rows, cols)
    for place in range(1, count):
        weight = 4 if place % 2 else 2
        total += weight * _speed(metric, v + dv * place / count, u + du * place / count, rows, cols)
    return total / (3 * count)


@numba.njit(cache=True, nogil=True)
def _around(
    coords: FloatArray, counts: Any, inverse: tuple[float, ...], metric: FloatArray, height: int, width: int
) -> FloatArray:
    """(n,) length of the rings of each polygon."""
    a, b, c, d, e, f = inverse
    step_v, step_u = height / (metric.shape[0] - 1), width / (metric.shape[1] - 1)
    lengths = np.zeros(len(counts), np.float64)
    start = 0
    for polygon in range(len(counts)):
        first, v, u = start, 0.0, 0.0
        for at in range(start, start + counts[polygon]):
            x, y = coords[at]
            to_u, to_v = (a * x + b * y + c) / step_u, (d * x + e * y + f) / step_v
            if at > first:
                lengths[polygon] += _line(metric, v, u, to_v - v, to_u - u, step_v, step_u)
                if (
                    x == coords[first, 0] and y == coords[first, 1]
                ):  # the ring is closed, the next vertex begins another
                    first = at + 1
            v, u = to_v, to_u
        start += counts[polygon]
    return lengths
