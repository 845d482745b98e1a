"""The part of a scene that a person asked for: a bounding box, or polygons from a file.

A pixel belongs to an area if its centre lies inside. The area's outline is carried into the scene's own pixel
coordinates once (curved edges follow the projection to `TOLERANCE` pixels), and everything after that is plane
geometry, so rotated and south-up scenes need no care.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS, Transformer
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from geoseg.errors import GridError
from geoseg.source.outline import polygon_union, read_outline
from geoseg.source.projection import Points, ToPixels, crs_of, to_world
from geoseg.types import Valid
from geoseg.window import GeoBox, Window, whole

__all__ = ["TOLERANCE", "Area", "area_of_bbox", "area_of_file", "polygons_in_pixels"]

TOLERANCE = 0.01
"""Pixels that a straight edge may deviate from the true curve of a reprojected outline."""

_SPLITS = 20
"""An edge is halved at most so often: enough to follow any edge on the Earth to a millimetre."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """Polygons on a scene's pixel grid."""

    geometry: BaseGeometry
    """Polygons in `crs`, x before y."""
    crs: Any
    """Anything that pyproj takes as a CRS."""
    geobox: GeoBox
    """The scene's grid."""
    _edges: npt.NDArray[np.float64] = field(init=False, repr=False, compare=False)
    """(edge, 4): column and row of both ends of every edge, in the scene's pixel coordinates."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_edges", _edges_in_pixels(self.geometry, CRS.from_user_input(self.crs), self.geobox))
        if not self.window:
            raise GridError(_disjoint(self))

    @property
    def window(self) -> Window:
        """The smallest window of the scene that holds every pixel centre between the outline's extremes."""
        if not len(self._edges):
            return Window(row_off=0, col_off=0, height=0, width=0)
        cols, rows = self._edges[:, 0::2], self._edges[:, 1::2]
        # A centre lies at k + 0.5: the first at or after `low` is ceil(low - 0.5), and so is the first beyond `high`.
        low = np.ceil([rows.min() - 0.5, cols.min() - 0.5])
        high = np.ceil([rows.max() - 0.5, cols.max() - 0.5])
        limit = [self.geobox.shape[0], self.geobox.shape[1]]
        return Window.from_bounds(*np.clip([low, high], 0, limit).astype(int).ravel().tolist())

    def covers(self, window: Window) -> Valid:
        """(row, col), True where the pixel's centre lies inside; the answer for a pixel is the same in any window."""
        col0, row0, col1, row1 = self._edges[_near(self._edges, window)].T
        down = row0 <= row1
        top, bottom = np.where(down, row0, row1), np.where(down, row1, row0)
        left, slope = np.where(down, col0, col1), (col1 - col0) / np.where(row1 == row0, 1.0, row1 - row0)
        # Rows whose centre lies in [top, bottom): each is crossed once by this edge, horizontal edges by none.
        first = np.clip(np.ceil(top - 0.5), window.row_off, window.row_stop).astype(np.int64)
        stop = np.clip(np.ceil(bottom - 0.5), window.row_off, window.row_stop).astype(np.int64)
        count = stop - first
        edge = np.repeat(np.arange(len(count)), count)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        crossing = left[edge] + (row + 0.5 - top[edge]) * slope[edge]
        col = np.clip(np.ceil(crossing - 0.5), window.col_off, window.col_stop).astype(np.int64)
        # Even-odd rule: every centre right of a crossing changes sides; bytes may wrap, for only parity counts.
        turns = np.zeros((window.height, window.width + 1), np.uint8)
        np.add.at(turns, (row - window.row_off, col - window.col_off), 1)
        inside: Valid = (np.cumsum(turns, axis=1, dtype=np.uint8)[:, :-1] & 1).view(bool)
        return inside


def area_of_bbox(bbox: tuple[float, float, float, float], geobox: GeoBox) -> Window:
    """The window of `geobox` that holds a box of degrees: west, south, east, north in WGS 84.

    A box whose west lies beyond its east crosses the antimeridian (RFC 7946).

    Raises:
        GridError: The box is no box, or holds no pixel centre of the scene.

    >>> area_of_bbox((2, 1, 5, 3), GeoBox.from_bbox((0, 0, 10, 10), "EPSG:4326", resolution=1))
    Window(row_off=7, col_off=2, height=2, width=3)
    """
    west, south, east, north = bbox
    if not (np.isfinite(bbox).all() and -90 <= south < north <= 90 and max(abs(west), abs(east)) <= 360):
        raise GridError(f"bbox {west},{south},{east},{north} is no box: give west,south,east,north in degrees")
    if west == east:
        raise GridError(f"bbox {west},{south},{east},{north} has no width")
    box = shapely.box(west, south, east if east > west else east + 360, north)
    return Area(geometry=box, crs="OGC:CRS84", geobox=geobox).window


def area_of_file(path: str | Path, geobox: GeoBox) -> Area:
    """The polygons of a GeoJSON, GeoPackage or GeoParquet file on the grid of a scene.

    Raises:
        SourceError: The file cannot be read or holds no polygon.
        GridError: The polygons hold no pixel centre of the scene.
    """
    geometry, crs = read_outline(path)
    return Area(geometry=geometry, crs=crs, geobox=geobox)


def polygons_in_pixels(polygons: Sequence[BaseGeometry], crs: Any, geobox: GeoBox) -> list[BaseGeometry]:
    """Each polygon of `crs` on the grid of a scene, x the column and y the row; empty where it lies elsewhere.

    Raises:
        GridError: The scene has no place in `crs`.
    """
    crs = CRS.from_user_input(crs)
    to_pixels, near = ToPixels(crs, geobox), _near_scene(crs, geobox)
    return [_polygon_in_pixels(near(polygon), to_pixels) for polygon in polygons]


def _polygon_in_pixels(polygon: BaseGeometry, to_pixels: ToPixels) -> BaseGeometry:
    parts = []
    for part in shapely.get_parts(polygon):
        outer, *holes = [_follow(ring, to_pixels) for ring in _rings(part)] or [np.empty((0, 2))]
        if len(outer) > 3:
            parts.append(shapely.Polygon(outer, [hole for hole in holes if len(hole) > 3]))
    return shapely.MultiPolygon(parts)


def _disjoint(area: Area) -> str:
    """What to say of an area that holds no pixel of the scene: both bounds, in the area's CRS."""
    crs = CRS.from_user_input(area.crs)
    asked = ", ".join(f"{value:.6g}" for value in area.geometry.bounds)
    have = ", ".join(f"{value:.6g}" for value in _footprint(area.geobox, crs))
    return (
        f"the area ({asked}) holds no pixel of the scene ({have}); both as west, south, east, north in {crs.name}. "
        "Choose an area within the scene"
    )


def _near(edges: npt.NDArray[np.float64], window: Window) -> npt.NDArray[np.bool_]:
    """Which edges can matter to `window`: those that cross its rows, and do not lie entirely to its right."""
    cols, rows = edges[:, 0::2], edges[:, 1::2]
    in_rows = (rows.max(axis=1) >= window.row_off) & (rows.min(axis=1) <= window.row_stop)
    near: npt.NDArray[np.bool_] = in_rows & (cols.min(axis=1) <= window.col_stop)
    return near


def _edges_in_pixels(geometry: BaseGeometry, crs: CRS, geobox: GeoBox) -> npt.NDArray[np.float64]:
    if geobox.crs is None:
        raise GridError("the scene has no CRS, so no area can be placed on it; name it with --assume-crs")
    to_pixels = ToPixels(crs, geobox)
    parts = []
    for ring in _rings(_near_scene(crs, geobox)(geometry)):
        path = _follow(ring, to_pixels)
        parts.append(np.hstack([path[:-1], path[1:]]))
    return np.vstack(parts) if parts else np.empty((0, 4))


def _rings(geometry: BaseGeometry) -> list[Points]:
    rings = shapely.get_rings(shapely.get_parts(geometry))
    return [shapely.get_coordinates(ring) for ring in rings]


def _follow(ring: Points, project: ToPixels) -> Points:
    """The ring in pixels, with vertices added until no edge leaves its true curve by more than `TOLERANCE`.

    Edges are straight in the CRS that they come from, and halved until the middle of each falls where the middle of
    its image does. Four pieces to begin with, since the middle of an S-shaped edge lies on its chord.
    """
    if project.linear:
        return project(ring)
    for _ in range(2):
        ring = _halved(ring, np.ones(len(ring) - 1, bool))
    image = project(ring)
    for _ in range(_SPLITS):
        middle = project((ring[:-1] + ring[1:]) / 2)
        gap = np.abs(middle - (image[:-1] + image[1:]) / 2).max(axis=1)
        bent = np.isfinite(gap) & (gap > TOLERANCE)
        if not bent.any():
            break
        ring = _halved(ring, bent)
        image = np.insert(image, np.flatnonzero(bent) + 1, middle[bent], axis=0)
    return image[np.isfinite(image).all(axis=1)]


def _halved(ring: Points, chosen: npt.NDArray[np.bool_]) -> Points:
    middle = (ring[:-1] + ring[1:]) / 2
    return np.insert(ring, np.flatnonzero(chosen) + 1, middle[chosen], axis=0)


def _near_scene(crs: CRS, geobox: GeoBox) -> Callable[[BaseGeometry], BaseGeometry]:
    """What leaves of a geometry what lies near the scene, at the longitudes that the scene itself has.

    Far from a scene its projection may not be defined at all (the whole Earth in one UTM zone), so what cannot matter
    is cut away first; polygons on the far side of the antimeridian are moved by a full turn.
    """
    west, south, east, north = _footprint(geobox, crs)
    grow_x, grow_y = 0.05 * (east - west), 0.05 * (north - south)
    turns: tuple[int, ...] = (0,)
    if crs.is_geographic:
        turns = (-360, 0, 360)
        grow_x = max(0.0, min(grow_x, (360 - (east - west)) / 2))  # beyond a full turn the same place would come twice
    near = shapely.box(west - grow_x, south - grow_y, east + grow_x, north + grow_y)

    def clip(geometry: BaseGeometry) -> BaseGeometry:
        if shapely.covers(near, shapely.box(*geometry.bounds)):  # as most of many polygons do
            return polygon_union([geometry])
        shifted = [translate(polygon_union([geometry]), xoff=turn) for turn in turns]
        return polygon_union([shapely.intersection(part, near) for part in shifted])

    return clip


def _footprint(geobox: GeoBox, crs: CRS) -> tuple[float, float, float, float]:
    """Bounds of the scene in `crs`: west, south, east, north. Longitudes are continuous, so they may pass 180."""
    window = whole(geobox)
    cols, rows = np.meshgrid(np.linspace(0, window.width, 33), np.linspace(0, window.height, 33))
    own = crs_of(geobox)
    points = to_world(np.column_stack([cols.ravel(), rows.ravel()]), geobox)
    x, y = Transformer.from_crs(own, crs, always_xy=True).transform(points[:, 0], points[:, 1], errcheck=False)
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        raise GridError(f"the scene ({own.name}) has no place in {crs.name}")
    x, y = x[known], y[known]
    bounds = [x.min(), y.min(), x.max(), y.max()]
    if crs.is_geographic and not own.is_geographic:
        middle = x[len(x) // 2]
        turned = middle + (x - middle + 180) % 360 - 180
        bounds[0], bounds[2] = turned.min(), turned.max()
        for pole in (-90.0, 90.0):
            col, row = ToPixels(crs, geobox)(np.array([[0.0, pole]]))[0]
            if 0 <= col <= window.width and 0 <= row <= window.height:
                bounds = [-180.0, min(pole, bounds[1]), 180.0, max(pole, bounds[3])]
    return float(bounds[0]), float(bounds[1]), float(bounds[2]), float(bounds[3])
