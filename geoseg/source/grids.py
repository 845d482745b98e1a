"""Grids compared and chosen: which are the same, which meet, and what covers a scene at another pixel size."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from odc.geo.geom import BoundingBox
from odc.geo.overlap import compute_output_geobox

from geoseg.errors import GridError
from geoseg.source.info import parse_crs
from geoseg.source.projection import ToPixels, crs_of, to_world
from geoseg.window import GeoBox

__all__ = ["bounds_text", "overlaps", "same_grid", "target_grid"]

_SAME = 0.01
"""Pixels by which grids may differ and still be one."""
_MAX_PIXELS = 5 * 10**11


def target_grid(geobox: GeoBox, resolution: float | None = None, crs: str | None = None) -> GeoBox:
    """The grid that covers `geobox` at another pixel size (in units of the CRS) or in another CRS, as odc-geo lays it.

    In its own CRS a scene keeps its corner; in another one, pixel edges lie on multiples of the pixel size.

    Raises:
        GridError: The resolution is not positive, the CRS unknown, or the grid too large.

    >>> scene = GeoBox.from_bbox((0, 0, 100, 60), "EPSG:32633", resolution=10)
    >>> target_grid(scene, resolution=20).shape
    Shape2d(x=5, y=3)
    """
    if resolution is not None and not (np.isfinite(resolution) and resolution > 0):
        raise GridError(f"resolution {resolution} is no pixel size: give a positive number in units of the CRS")
    target = geobox.crs if crs is None else parse_crs(crs)
    try:
        if target != geobox.crs:
            pixel: Any = "auto" if resolution is None else resolution
            grid = compute_output_geobox(geobox, str(target), resolution=pixel)
        else:
            grid = geobox if resolution is None else geobox.zoom_to(resolution=resolution)
    except (ValueError, RuntimeError, ArithmeticError, AssertionError) as error:  # pyproj's errors are RuntimeErrors
        what = " ".join(str(error).split()) or "part of it has no place there"
        raise GridError(f"no grid in {target} covers the scene ({what}): choose another CRS") from error
    height, width = grid.shape
    if not 0 < height * width <= _MAX_PIXELS:
        raise GridError(f"the scene would have {height} x {width} pixels in {target}: choose a coarser resolution")
    return grid


def same_grid(one: GeoBox, other: GeoBox) -> bool:
    """Whether two grids have the same pixels: no corner further apart than a hundredth of a pixel."""
    if one.shape != other.shape or one.crs != other.crs:
        return False
    height, width = one.shape
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], float)
    inverse = GeoBox(one.shape, ~one.transform, None)
    return bool(np.abs(to_world(to_world(corners, other), inverse) - corners).max() <= _SAME)


def overlaps(one: GeoBox, other: GeoBox) -> bool:
    """Whether `other` lies on `one` with more than its rim; True where its outline has no place on `one`'s plane.

    >>> here = GeoBox.from_bbox((0, 0, 100, 60), "EPSG:32633", resolution=10)
    >>> overlaps(here, GeoBox.from_bbox((90, 50, 190, 110), "EPSG:32633", resolution=10))
    True
    """
    if one.crs == other.crs and _lie_apart(one.boundingbox, other.boundingbox):  # of many files, nearly all do
        return False
    height, width = other.shape
    steps = np.linspace(0, 1, 65)
    sides = [(steps, 0 * steps), (0 * steps + 1, steps), (1 - steps, 0 * steps + 1), (0 * steps, 1 - steps)]
    outline = np.vstack([np.column_stack([x * width, y * height]) for x, y in sides])
    places = ToPixels(crs_of(other), one)(to_world(outline, other))
    if not np.isfinite(places).all():
        return True
    scene = shapely.box(0, 0, one.shape[1], one.shape[0])
    return bool(shapely.intersection(shapely.make_valid(shapely.Polygon(places)), scene).area > 0)


def _lie_apart(one: BoundingBox, other: BoundingBox) -> bool:
    return bool(one.right < other.left or other.right < one.left or one.top < other.bottom or other.top < one.bottom)


def bounds_text(geobox: GeoBox) -> str:
    """Bounds and CRS of a grid, for messages.

    >>> bounds_text(GeoBox.from_bbox((0, 0, 10, 20), "EPSG:32633", resolution=10))
    '0, 0, 10, 20 in WGS 84 / UTM zone 33N'
    """
    return f"{', '.join(f'{value:.8g}' for value in geobox.boundingbox.bbox)} in {crs_of(geobox).name}"
