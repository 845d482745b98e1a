"""Grids compared and chosen: which are the same, which meet, and what covers a scene at another pixel size."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from affine import Affine
from odc.geo.geom import BoundingBox
from odc.geo.overlap import compute_output_geobox

from geoseg.errors import GridError
from geoseg.source.info import parse_crs
from geoseg.source.projection import Points, ToPixels, crs_of, to_world
from geoseg.window import GeoBox

__all__ = ["bounds_text", "overlaps", "same_grid", "target_grid"]

_SAME = 0.01
"""Pixels by which grids may differ and still be one."""
_MAX_PIXELS = 5 * 10**11
_GROWTH = 20
"""Times the pixels that an auto-sized grid may have of a square around the scene, at the scale of the place itself."""
_LOSS = 50
"""Times fewer pixels than the scene, from which on an auto-sized grid shows nothing of it."""
_UTM_REACH = 84
"""Degrees of latitude to which UTM is made."""
_WIDE = 12
"""Degrees of longitude that one UTM zone may be asked to hold: two zones."""
_FEW = 16
"""Pixels of a scene up to which any grid is small."""


def target_grid(geobox: GeoBox, resolution: float | None = None, crs: str | None = None) -> GeoBox:
    """The grid that covers `geobox` at another pixel size (in units of the CRS) or in another CRS, as odc-geo lays it.

    In its own CRS a scene keeps its corner; in another one, pixel edges lie on multiples of the pixel size.

    Raises:
        GridError: The resolution is not positive, the CRS unknown, the grid too large, or the scene torn apart by the
            edge of the CRS, such as the antimeridian.

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
    if target != geobox.crs and resolution is None:
        _demand_whole(geobox, grid)
    return grid


def _demand_whole(scene: GeoBox, grid: GeoBox) -> None:
    """An antimeridian or a pole amid the scene makes its bounds a belt around the Earth, mostly empty.

    Raises:
        GridError: The grid has far more, or far fewer pixels than the scene.
    """
    (height, width), (rows, cols) = scene.shape, grid.shape
    if height * width <= _FEW:
        return
    allowed = _GROWTH * max(height, width) ** 2 * max(1.0, _pixels_per_pixel(scene, grid))
    if rows * cols > allowed or rows * cols * _LOSS < height * width:
        raise GridError(
            f"the scene's {height} x {width} pixels would become {rows} x {cols} in {grid.crs}, whose edge (the "
            f"antimeridian, a pole) lies there: choose a CRS that suits the place, such as {_crs_near(scene)}, or give "
            "--resolution"
        )


def _pixels_per_pixel(scene: GeoBox, grid: GeoBox) -> float:
    """Pixels of `grid` that one of `scene` covers: the median of places all over it."""
    height, width = scene.shape
    places = np.stack(np.meshgrid(np.linspace(0, width, 7), np.linspace(0, height, 7)), axis=-1).reshape(-1, 2)
    to_pixels = ToPixels(crs_of(scene), grid)
    at, right, down = (to_pixels(to_world(places + step, scene)) for step in ((0, 0), (1, 0), (0, 1)))
    with np.errstate(invalid="ignore"):
        (a, b), (c, d) = (right - at).T, (down - at).T
        areas = np.abs(a * d - b * c)
    return float(np.median(areas[np.isfinite(areas)])) if np.isfinite(areas).any() else 1.0


def _crs_near(scene: GeoBox) -> str:
    """A CRS without an edge where the middle of `scene` is: its UTM zone, or polar stereographic.

    >>> _crs_near(GeoBox.from_bbox((-180, 9, -179, 10), "EPSG:4326", resolution=0.1))
    'EPSG:32601'
    """
    height, width = scene.shape
    middle = to_world(np.array([[width / 2, height / 2]]), scene)
    ((lon, lat),) = ToPixels(crs_of(scene), GeoBox((1, 1), Affine.identity(), "EPSG:4326"))(middle)
    if not np.isfinite(lon) or abs(lat) > _UTM_REACH:
        return "EPSG:3031" if lat < 0 else "EPSG:3995"
    return f"EPSG:{326 if lat >= 0 else 327}{int((lon + 180) % 360 // 6) + 1:02d}"


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

    Raises:
        GridError: One has longitudes beyond 180 degrees for what the other has a full turn away.

    >>> here = GeoBox.from_bbox((0, 0, 100, 60), "EPSG:32633", resolution=10)
    >>> overlaps(here, GeoBox.from_bbox((90, 50, 190, 110), "EPSG:32633", resolution=10))
    True
    """
    _demand_one_turn(one, other)
    _demand_one_turn(other, one)
    if one.crs == other.crs and _lie_apart(one.boundingbox, other.boundingbox):  # of many files, nearly all do
        return False
    places = _outline(other, one)
    if not np.isfinite(places).all():
        return True
    scene = shapely.box(0, 0, one.shape[1], one.shape[0])
    return bool(shapely.intersection(shapely.make_valid(shapely.Polygon(places)), scene).area > 0)


def _outline(grid: GeoBox, on: GeoBox) -> Points:
    """(Column, row) on the grid `on` of points all along the rim of `grid`."""
    height, width = grid.shape
    steps = np.linspace(0, 1, 65)
    sides = [(steps, 0 * steps), (0 * steps + 1, steps), (1 - steps, 0 * steps + 1), (0 * steps, 1 - steps)]
    outline = np.vstack([np.column_stack([x * width, y * height]) for x, y in sides])
    return ToPixels(crs_of(grid), on)(to_world(outline, grid))


def _demand_one_turn(one: GeoBox, other: GeoBox) -> None:
    """PROJ tells longitudes from -180 to 180; pixels of `one` beyond them would not be found, and count as no data."""
    box, degrees = one.boundingbox, GeoBox((1, 1), Affine.identity(), one.crs)
    if one.crs is None or not one.crs.geographic or max(box.right, -box.left) <= 180 + abs(one.transform.a):
        return
    outline = _outline(other, degrees)
    outline = outline[np.isfinite(outline).all(axis=1)]
    if not len(outline):
        return
    (west, south), (east, north) = outline.min(axis=0), outline.max(axis=0)
    meet = south < box.top and box.bottom < north
    for turn in (-360, 360):
        if meet and west < box.right + turn and box.left + turn < east:
            raise GridError(
                f"the longitudes of a raster ({bounds_text(one)}) go beyond 180 degrees, so it cannot be brought onto "
                f"another grid ({bounds_text(other)}): {_turned(one, turn)}"
            )


def _turned(geobox: GeoBox, turn: int) -> str:
    """What to do with a raster whose longitudes are to be moved by a full turn."""
    west, south, east, north = geobox.boundingbox.bbox
    if west + turn >= -180 and east + turn <= 180:
        corners = " ".join(f"{value:.10g}" for value in (west + turn, north, east + turn, south))
        return f"shift them by {turn}: gdal_translate -a_ullr {corners} IN OUT"
    if east - west > _WIDE:
        return f"turn it first: gdalwarp -te -180 {south:.10g} 180 {north:.10g} IN OUT"
    return f"warp it first: gdalwarp -t_srs {_crs_near(geobox)} IN OUT"


def _lie_apart(one: BoundingBox, other: BoundingBox) -> bool:
    return bool(one.right < other.left or other.right < one.left or one.top < other.bottom or other.top < one.bottom)


def bounds_text(geobox: GeoBox) -> str:
    """Bounds and CRS of a grid, for messages.

    >>> bounds_text(GeoBox.from_bbox((0, 0, 10, 20), "EPSG:32633", resolution=10))
    '0, 0, 10, 20 in WGS 84 / UTM zone 33N'
    """
    return f"{', '.join(f'{value:.8g}' for value in geobox.boundingbox.bbox)} in {crs_of(geobox).name}"
