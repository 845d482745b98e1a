"""Polygons with fewer or rounder corners that still share their edges: each shared line is drawn once, by one rule.

A ring is cut where three or more regions meet, or where pixels touch by their corners. What lies between is an arc,
the common line of two regions, and both come to the same result on their own, because all that counts is the arc
itself (walked in a direction of its own) and the map of corners: no polygon knows its neighbours, and none has to be
in memory with them.

A vertex b between a and c goes only if no corner of the raster's boundaries, other than those of this arc between a
and c, lies in the closed triangle a, b, c. The corners of the raster stand for whatever other arcs have kept of them,
so lines never cross or touch, in whatever order and however far they are simplified.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import shapely

from geoseg.errors import GridError
from geoseg.tracing.corners import Corners
from geoseg.tracing.polygons import PIXELS
from geoseg.tracing.thinning import LARGEST, draw, place

__all__ = ["simplify"]

Geometries = npt.NDArray[np.object_]
FloatArray = npt.NDArray[np.float64]

SLACK = 1.005
"""Triangles between pixel corners come in halves of a pixel, and a map's scale (0.2 % in area within a UTM zone) must
not decide whether 20 m take out four pixels of 10 m or three and a half."""

AT_ONCE = 256
"""Polygons that are redrawn before the pages of corners that it has looked at leave memory."""


def simplify(
    polygons: Geometries,
    corners: Corners,
    tolerance: float,
    *,
    pixel_area: float | FloatArray = 1.0,
    smooth: bool = False,
    transform: Sequence[float] = PIXELS,
) -> Geometries:
    """`polygons` (n,) with fewer vertices, the same edges still shared, every one of them still there and valid.

    Arcs lose vertices as long as the triangle of a vertex and its neighbours is at most `tolerance` squared, the
    smallest first (Visvalingam and Whyatt 1993, doi:10.1179/000870493786962263), which is how
    `shapely.coverage_simplify` takes its tolerance. Where arcs meet, and where a region borders on no label, nothing
    moves: the area of all together stays what it is.

    Args:
        polygons: Polygons or multipolygons whose vertices are pixel corners (x = column, y = row), all of those at
            which the boundary of either neighbour turns or ends (`joints=0` of `geoseg.tracing.polygons.polygonize`).
        corners: Of the raster that they come from.
        tolerance: In metres. 0 takes out nothing.
        pixel_area: m2 of a pixel, or of the pixels of each row (rows,).
        smooth: Rounds what corners are left: each becomes a quadratic Bezier curve from the middle of one line to the
            middle of the next, where that brings it no nearer to a line that is not its own.
        transform: As for `polygonize`: where the vertices go.

    Raises:
        GridError: `tolerance` or an area is no usable number.

    >>> from geoseg.tracing.corners import map_corners
    >>> from geoseg.tracing.polygons import polygonize
    >>> from geoseg.source.labels import ArrayLabels
    >>> labels = np.array([[1, 1, 1], [1, 1, 2], [1, 2, 2], [2, 2, 2]], np.uint8)
    >>> stairs = polygonize(labels, nodata=None, joints=0).polygons
    >>> for polygon in simplify(stairs, map_corners(ArrayLabels(labels)), 1.0):
    ...     print(polygon)
    POLYGON ((0 0, 3 0, 3 1, 0 3, 0 0))
    POLYGON ((3 1, 3 4, 0 4, 0 3, 3 1))
    """
    limits = _limits(tolerance, pixel_area, corners.shape[0])
    if len(polygons) == 0:
        return polygons
    parts, owner = shapely.get_parts(polygons, return_index=True)
    move = tuple(map(float, transform[:6]))

    def redraw(some: Geometries) -> Geometries:
        kind, coords, (rings, offsets) = shapely.to_ragged_array(some)
        drawn, ends = draw(np.rint(coords).astype(np.int64), rings.astype(np.int64), corners.pages, limits, smooth)
        corners.release()
        place(drawn, ends, move)
        return np.asarray(shapely.from_ragged_array(kind, drawn, (ends, offsets)), dtype=object)

    groups = np.array_split(parts, -(-len(parts) // AT_ONCE))
    drawn = np.concatenate([redraw(group) for group in groups])
    several = shapely.get_type_id(polygons) == shapely.GeometryType.MULTIPOLYGON
    result = np.empty(len(polygons), object)
    result[~several] = drawn[~several[owner]]
    number = (np.cumsum(several) - 1)[owner]
    result[several] = shapely.multipolygons(drawn[several[owner]], indices=number[several[owner]])
    return result


def _limits(tolerance: float, pixel_area: float | FloatArray, rows: int) -> npt.NDArray[np.int64]:
    """(corner row,) twice the area of the largest triangle that may be cut off, in pixels; -1 for none."""
    areas = np.append(pixel_area, np.ravel(pixel_area)[-1:]) if np.ndim(pixel_area) else np.full(rows, pixel_area)
    if not (0 <= tolerance < np.inf and len(areas) == rows and (areas > 0).all() and np.isfinite(areas).all()):
        raise GridError(
            f"a tolerance of {tolerance} m with {len(areas) - 1} pixel areas for {rows - 1} rows: give metres from 0 "
            "on, and one area for all or one for each row, in m2 and above 0"
        )
    most = np.minimum(2 * SLACK * tolerance**2 / areas, LARGEST).astype(np.int64)
    return np.where(tolerance > 0, most, -1)
