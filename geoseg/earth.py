"""Where pixels lie on the Earth: longitude and latitude cut at the antimeridian, and areas on the ellipsoid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely

from geoseg.errors import GridError
from geoseg.window import GeoBox, Window, whole

__all__ = ["PixelAreas", "crs_of", "footprint", "longest_line", "lonlat_bbox", "pixel_areas", "radians_of", "to_lonlat"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Geometries = npt.NDArray[np.object_]

GRID = 1e-7
"""Spacing of the lattice on which longitudes and latitudes lie, in degrees: about a centimetre."""

EARTH_RADIUS = 6371008.8
"""Mean radius, in metres."""


@lru_cache(maxsize=16)
def _transformer(source: str, target: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def crs_of(geobox: GeoBox) -> pyproj.CRS:
    """The CRS of `geobox`.

    Raises:
        GridError: There is none.
    """
    if geobox.crs is None:
        raise GridError("a grid without a CRS has no place on the Earth: name one with --assume-crs")
    return pyproj.CRS.from_wkt(geobox.crs.to_wkt())


def to_lonlat(polygons: Geometries, crs: Any) -> Geometries:
    """Polygons of `crs` as WGS 84 longitude and latitude (n,), to 7 decimals, exteriors counter-clockwise.

    What crosses the antimeridian is cut there into a multipolygon; what holds a pole reaches up to latitude 90
    (RFC 7946, section 3.1.9). Vertices move one by one, so neighbours with the same vertices stay neighbours.

    Raises:
        GridError: A vertex lies where `crs` has no longitude and latitude.

    >>> square = np.array([shapely.box(179, 0, 181, 1)], object)
    >>> [part.bounds for part in to_lonlat(square, "EPSG:4326")[0].geoms]
    [(-180.0, 0.0, -179.0, 1.0), (179.0, 0.0, 180.0, 1.0)]
    """
    if len(polygons) == 0:
        return polygons
    crs = _named(crs) if isinstance(crs, str) else pyproj.CRS.from_user_input(crs)
    several = shapely.get_type_id(polygons) == shapely.GeometryType.MULTIPOLYGON
    if several.any():
        placed = np.where(several, shapely.MultiPolygon(), polygons)
        placed[~several] = to_lonlat(polygons[~several], crs)
        parts, of = shapely.get_parts(polygons, return_index=True)
        parts, of = parts[several[of]], of[several[of]]
        parts, at = shapely.get_parts(to_lonlat(parts, crs), return_index=True)
        return _gathered(parts, of[at], placed)
    kind, coords, (ring_offsets, polygon_offsets) = shapely.to_ragged_array(polygons)
    lonlat = _project(coords[:, :2], crs)
    starts = ring_offsets[polygon_offsets[:-1]]
    turn = np.floor((np.minimum.reduceat(lonlat[:, 0], starts) + 180) / 360)
    astray = np.maximum.reduceat(lonlat[:, 0], starts) > 360 * turn + 180
    if not crs.is_geographic:
        astray |= np.logical_or.reduceat(_jumps(lonlat, ring_offsets), starts)
    shift = np.repeat(np.where(astray, 0, 360 * turn), np.diff(starts, append=len(lonlat)))
    placed = np.column_stack([lonlat[:, 0] - shift, lonlat[:, 1]])
    plain = np.asarray(shapely.from_ragged_array(kind, placed, (ring_offsets, polygon_offsets)), dtype=object)
    for index in np.flatnonzero(astray):
        rings = range(polygon_offsets[index], polygon_offsets[index + 1])
        parts = [_wrapped(lonlat[ring_offsets[ring] : ring_offsets[ring + 1]], crs.is_geographic) for ring in rings]
        plain[index] = _areal(shapely.difference(parts[0], shapely.union_all(parts[1:]), grid_size=GRID))
    _mend(plain, np.minimum.reduceat(_lengths(lonlat, ring_offsets), starts) < 4 * GRID)
    return np.asarray(shapely.orient_polygons(plain), dtype=object)


def _gathered(parts: Geometries, of: IntArray, placed: Geometries) -> Geometries:
    """`placed` with multipolygons of `parts`, valid even where rounding lets parts overlap that touched at a corner."""
    parts, of = parts[~shapely.is_empty(parts)], of[~shapely.is_empty(parts)]
    if len(parts) == 0:
        return placed
    whole = np.asarray(shapely.multipolygons(parts, indices=of, out=placed), dtype=object)
    _, coords, (rings, offsets) = shapely.to_ragged_array(parts)
    suspects = np.unique(of[np.minimum.reduceat(_lengths(coords, rings), rings[offsets[:-1]]) < 4 * GRID])
    for index in suspects[~shapely.is_valid(whole[suspects])]:
        united = shapely.union_all(shapely.get_parts(whole[index]), grid_size=GRID)
        whole[index] = shapely.orient_polygons(_areal(united))
    return whole


@lru_cache(maxsize=16)
def _named(crs: str) -> pyproj.CRS:
    return pyproj.CRS.from_user_input(crs)


def _lengths(lonlat: FloatArray, ring_offsets: Any) -> FloatArray:
    """(vertex,) length of the line to the next vertex, in degrees along the longer axis; infinite where a ring ends."""
    lengths = np.abs(np.diff(lonlat, axis=0, append=0)).max(axis=1)
    lengths[ring_offsets[1:] - 1] = np.inf
    return np.asarray(lengths)


def _mend(polygons: Geometries, suspects: npt.NDArray[np.bool_]) -> None:
    """Makes polygons valid that rounding has bent: those of pixels of a few centimetres. They may become empty."""
    for index in np.flatnonzero(suspects)[~shapely.is_valid(polygons[suspects])]:
        polygons[index] = _areal(shapely.set_precision(shapely.make_valid(polygons[index]), GRID))


def _project(coords: FloatArray, crs: pyproj.CRS) -> FloatArray:
    """(vertex, xy) of `crs` to (vertex, lon lat) of WGS 84; of a geographic CRS longitudes stay beyond 180."""
    try:
        lon, lat = _transformer(crs.to_wkt(), "EPSG:4326").transform(coords[:, 0], coords[:, 1])
    except pyproj.exceptions.ProjError as error:
        raise GridError(f"{crs.name} has no longitude and latitude") from error
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        name = "their CRS" if crs.name == "unknown" else crs.name
        raise GridError(f"polygons reach beyond where {name} has a longitude and latitude; keep them in its own CRS")
    if crs.is_geographic:
        lon = lon + 360 * np.round((coords[:, 0] - lon) / 360)
    return np.asarray(np.round(np.column_stack([lon, np.clip(lat, -90, 90)]), 7) + 0.0)  # + 0.0: no -0.0


def _jumps(lonlat: FloatArray, ring_offsets: Any) -> npt.NDArray[np.bool_]:
    """(vertex,) where a ring crosses the antimeridian on its way to the next vertex, or is at a pole."""
    jumps = np.abs(np.diff(lonlat[:, 0], append=0)) >= 180 - 1e-6
    jumps[ring_offsets[1:] - 1] = False
    return np.asarray(jumps | (np.abs(lonlat[:, 1]) == 90))


def _wrapped(ring: FloatArray, geographic: bool) -> Any:
    """The area within `ring`, between longitude -180 and 180."""
    area = _areal(shapely.make_valid(shapely.Polygon(ring if geographic else _unrolled(ring))))
    west, _, east, _ = area.bounds
    parts = []
    for turn in range(math.floor((west + 180) / 360), math.ceil((east + 180) / 360)):
        band = shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90)
        parts.append(
            shapely.transform(shapely.intersection(area, band, grid_size=GRID), lambda at, by=360 * turn: at - [by, 0])
        )
    return shapely.union_all([_areal(part) for part in parts], grid_size=GRID)


def _unrolled(ring: FloatArray) -> FloatArray:
    """A closed ring with longitudes that never jump; one that goes around a pole is closed along its latitude."""
    path = _with_poles(ring[:-1])
    path = np.concatenate([path, path[:1]])
    step = (np.diff(path[:, 0]) + 180) % 360 - 180
    at_pole = np.flatnonzero((np.abs(path[:-1, 1]) == 90) & (np.abs(path[1:, 1]) == 90))
    if at_pole.size:  # the pole is on the ring, so the ring goes around nothing: its turn there undoes the others
        step[at_pole[0]] -= step.sum()
    path[1:, 0] += 360 * np.round((path[0, 0] + np.cumsum(step) - path[1:, 0]) / 360)
    if abs(step.sum()) < 180:
        return path
    pole = math.copysign(90, path[:, 1].mean())
    return np.concatenate([path, [[path[-1, 0], pole], [path[0, 0], pole], path[0]]])


def _with_poles(path: FloatArray) -> FloatArray:
    """An open ring in which every visit of a pole has the longitudes of arrival and departure."""
    start = int(np.argmin(np.abs(path[:, 1])))
    path = np.roll(path, -start, axis=0)
    out: list[tuple[float, float]] = []
    for (lon, lat), (next_lon, next_lat) in zip(path, np.roll(path, -1, axis=0), strict=True):
        pole = math.copysign(90, lat)
        if abs(lat) == 90:
            out += [(out[-1][0], pole), (next_lon, pole)]
            continue
        out.append((lon, lat))
        across = abs(abs(next_lon - lon) - 180) < 1e-6 and abs(lat) > 89 and abs(next_lat) < 90
        if across:
            out += [(lon, pole), (next_lon, pole)]
    return np.array(out)


def _areal(geometry: Any) -> Any:
    """The polygons among the parts of `geometry`."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.union_all(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON])


def footprint(geobox: GeoBox) -> Any:
    """The outline of `geobox` in WGS 84: a polygon, or a multipolygon at the antimeridian.

    Raises:
        GridError: There is no CRS, or a corner has no longitude and latitude.
    """
    return to_lonlat(_outline(geobox), crs_of(geobox))[0]


def _outline(geobox: GeoBox, pieces: int = 32) -> Geometries:
    """(1,) the outline in the CRS of `geobox`, each side in `pieces`."""
    height, width = geobox.shape
    ring = shapely.segmentize(shapely.box(0, 0, 1, 1), 1 / pieces)
    a, b, c, d, e, f = geobox.transform[:6]
    placed = shapely.transform(
        ring,
        lambda at: np.column_stack(
            [at[:, 0] * width * a + at[:, 1] * height * b + c, at[:, 0] * width * d + at[:, 1] * height * e + f]
        ),
    )
    return np.array([placed], dtype=object)


def lonlat_bbox(geometry: Any) -> list[float]:
    """[west, south, east, north] of a geometry from `to_lonlat`; west > east where it crosses the antimeridian.

    >>> lonlat_bbox(to_lonlat(np.array([shapely.box(179, 0, 181, 1)], object), "EPSG:4326")[0])
    [179.0, 0.0, -179.0, 1.0]
    """
    west, south, east, north = shapely.bounds(geometry).tolist()
    if (west, east) == (-180.0, 180.0):
        spans = sorted(shapely.bounds(shapely.get_parts(geometry))[:, [0, 2]].tolist())
        reach, gap = spans[0][1], 0.0
        for low, high in spans[1:]:
            if low - reach > gap:
                west, east, gap = low, reach, low - reach
            reach = max(reach, high)
    return [west, south, east, north]


def longest_line(geobox: GeoBox) -> int:
    """How many pixels of a straight pixel edge may become one straight line in longitude and latitude.

    A line that is straight on a map of the scene bends in longitude and latitude by about ``length^2 tan(lat) / 8R``;
    the answer keeps that below a twentieth of a pixel. 0 where lines stay straight (geographic CRS). It is the
    argument `joints` of `geoseg.tracing.polygons.polygonize`.
    """
    if geobox.crs is None or geobox.crs.geographic:
        return 0
    try:
        top = float(np.abs(shapely.bounds(footprint(geobox))[[1, 3]]).max())
    except GridError:
        return 0
    pixel = math.sqrt(abs(geobox.transform.determinant)) * crs_of(geobox).axis_info[0].unit_conversion_factor
    bend = math.sqrt(0.4 * EARTH_RADIUS / (pixel * max(0.01, math.tan(math.radians(min(top, 89.9999))))))
    return int(min(256, max(1, min(bend, EARTH_RADIUS / (2 * pixel)))))


@dataclass(frozen=True, slots=True)
class PixelAreas:
    """Area of every pixel of a grid on the ellipsoid, for any window of it.

    Exact where the CRS is geographic; elsewhere exact on a lattice of up to 257 x 257 pixels and linear between them.
    0 where a corner lies off the Earth, as beside the disk that a satellite sees; NaN without a CRS.
    """

    geobox: GeoBox
    """The grid."""
    _rows: IntArray = field(init=False, repr=False, compare=False)
    _cols: IntArray = field(init=False, repr=False, compare=False)
    _nodes: FloatArray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rows, cols = (_nodes(size) for size in self.geobox.shape)
        if self.geobox.crs is not None and self.geobox.crs.geographic and self.geobox.transform.is_rectilinear:
            rows, cols = np.arange(self.geobox.shape[0]), np.zeros(1, np.int64)
        object.__setattr__(self, "_rows", rows)
        object.__setattr__(self, "_cols", cols)
        object.__setattr__(self, "_nodes", _areas_at(self.geobox, rows, cols))

    def read(self, window: Window) -> FloatArray:
        """Square metres (row, col) of the pixels of `window`, which lies within the grid."""
        tall = _between(self._nodes, self._rows, np.arange(window.row_off, window.row_stop))
        return _between(tall.T, self._cols, np.arange(window.col_off, window.col_stop)).T

    def along(self, row_off: int, row_stop: int) -> tuple[IntArray, FloatArray]:
        """Columns (node,), and square metres (row, node) of their pixels; areas between are linear in the column."""
        return self._cols, _between(self._nodes, self._rows, np.arange(row_off, row_stop))

    def of_rows(self, rows: int) -> FloatArray:
        """Square metres (row,) of the pixels of the first rows, in the mean over the nodes that lie on the Earth.

        A row that has none is given what the nearest has.
        """
        counts = (self._nodes > 0).sum(axis=1)
        seen = counts > 0
        if not seen.any():
            return np.full(rows, np.nan)
        return np.asarray(np.interp(np.arange(rows), self._rows[seen], self._nodes[seen].sum(axis=1) / counts[seen]))

    @property
    def largest(self) -> float:
        """Square metres of the largest pixel."""
        return float(self._nodes.max(initial=0))


def pixel_areas(geobox: GeoBox, rows: int = 256) -> Iterator[tuple[slice, FloatArray]]:
    """`PixelAreas` of the whole grid: (rows, (row, col)) from top to bottom, `rows` at a time."""
    areas = PixelAreas(geobox)
    width = whole(geobox).width
    for window in whole(geobox).pieces(rows, max(1, width)):
        yield window.slices[0], areas.read(window)


def _nodes(size: int, most: int = 257) -> IntArray:
    """Up to `most` positions from 0 to size - 1, both included."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(np.int64))


def _between(values: FloatArray, nodes: IntArray, at: IntArray) -> FloatArray:
    """`values` (node, any) linearly at the positions `at` (at, any)."""
    if len(nodes) == 1:
        return np.broadcast_to(values, (len(at), values.shape[1]))
    low = np.clip(np.searchsorted(nodes, at, side="right") - 1, 0, len(nodes) - 2)
    share = ((at - nodes[low]) / (nodes[low + 1] - nodes[low]))[:, None]
    return np.asarray(values[low] * (1 - share) + values[low + 1] * share)


def _areas_at(geobox: GeoBox, rows: IntArray, cols: IntArray) -> FloatArray:
    """(row, col) area of the pixels where `rows` and `cols` meet, by their corners on an equal-area map."""
    if geobox.crs is None:
        return np.full((len(rows), len(cols)), np.nan)
    a, b, c, d, e, f = geobox.transform[:6]
    row = rows[:, None, None] + np.array([0, 0, 1, 1])
    col = cols[None, :, None] + np.array([0, 1, 1, 0])
    x, y = _equal_area(crs_of(geobox), a * col + b * row + c, d * col + e * row + f)
    areas = np.abs((x * np.roll(y, -1, -1) - np.roll(x, -1, -1) * y).sum(-1)) / 2
    on_earth = np.isfinite(areas)
    return np.where(on_earth, areas, 0.0) if on_earth.any() else areas


def _equal_area(crs: pyproj.CRS, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coordinates (..., corner) of `crs` on equal-area maps of its ellipsoid, in metres from the first corner.

    Cylindrical for longitude and latitude, where pixel edges stay straight on it, and for whatever begins below
    latitude 45; azimuthal around the pole for the rest (Snyder 1987, doi:10.3133/pp1395, chapters 10 and 24).
    """
    if crs.ellipsoid is None or crs.geodetic_crs is None:
        return np.full(x.shape, np.nan), np.full(x.shape, np.nan)
    axis = crs.ellipsoid.semi_major_metre
    flattening = 1 / crs.ellipsoid.inverse_flattening if crs.ellipsoid.inverse_flattening else 0.0
    lon, lat = radians_of(crs, x, y)
    lat = np.clip(lat, -math.pi / 2, math.pi / 2)
    east = lon - lon[..., :1]
    if not crs.is_geographic:
        east = (east + math.pi) % (2 * math.pi) - math.pi
    height = _authalic(lat, flattening)
    top = _authalic(np.array(math.pi / 2), flattening)
    radius = np.sqrt(np.maximum(0, 2 * (top - np.abs(height))))
    polar = (np.abs(lat[..., :1]) > math.pi / 4) & (not crs.is_geographic)
    # From the axis of the first corner's meridian, so that the differences that matter are not lost in large numbers.
    x = np.where(polar, radius * np.sin(east), east)
    y = np.where(polar, radius * np.cos(east), height)
    return axis * x, axis * (y - y[..., :1])


def radians_of(crs: pyproj.CRS, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Longitude and latitude in radians, on the ellipsoid of `crs`; NaN where there is none. Degrees may pass poles."""
    if crs.is_geographic:
        unit = crs.axis_info[0].unit_conversion_factor
        return x * unit, y * unit
    if crs.geodetic_crs is None:
        return np.full(x.shape, np.nan), np.full(x.shape, np.nan)
    lon, lat = _transformer(crs.to_wkt(), crs.geodetic_crs.to_wkt()).transform(x, y)
    on_earth = np.isfinite(lon) & np.isfinite(lat)
    return np.radians(np.where(on_earth, lon, np.nan)), np.radians(np.where(on_earth, lat, np.nan))


def _authalic(lat: FloatArray, flattening: float) -> FloatArray:
    """Area between the equator and `lat`, per radian of longitude, in units of the squared semi-major axis."""
    ecc2 = flattening * (2 - flattening)
    ecc, sine = math.sqrt(ecc2), np.sin(lat)
    curve = np.arctanh(ecc * sine) / ecc if ecc else sine
    return np.asarray((1 - ecc2) / 2 * (sine / (1 - ecc2 * sine**2) + curve))
