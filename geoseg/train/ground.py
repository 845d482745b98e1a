"""The ground under chips: one plane in metres for all of them, and how true its distances are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS, Proj, Transformer

from geoseg.errors import GridError
from geoseg.source.projection import crs_of, to_world
from geoseg.window import GeoBox, Window

__all__ = ["Geometries", "Ground", "common_ground"]

Geometries: TypeAlias = npt.NDArray[np.object_]
"""(n,) shapely geometries."""

_TRUE = 0.01
"""Part by which metres of a scene's own CRS may differ from metres on the ground; Web Mercator's differ by far more."""
_SIDE_POINTS = 9
"""Points along each side of a window that is carried into another CRS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A plane on which distances are measured."""

    crs: CRS
    """Projected, in metres."""
    stretch: float
    """How many of its metres one metre on the ground is at most, within the scenes."""

    def place(self, geometries: Sequence[Any] | Geometries, crs: Any) -> Geometries:
        """Geometries (n,) of another CRS, vertex by vertex."""
        change = Transformer.from_crs(CRS.from_user_input(crs), self.crs, always_xy=True).transform
        placed: Geometries = np.atleast_1d(
            shapely.transform(np.asarray(geometries, object), lambda at: np.column_stack(change(*at.T)))
        )
        return placed

    def footprints(self, windows: Sequence[Window], geobox: GeoBox) -> Geometries:
        """The outline (n,) of each window of a scene."""
        same = self.crs.equals(crs_of(geobox), ignore_axis_order=True)
        unit = shapely.get_coordinates(shapely.segmentize(shapely.box(0, 0, 1, 1), 1 if same else 1 / _SIDE_POINTS))
        corners = np.array([(window.col_off, window.row_off) for window in windows], float).reshape(-1, 1, 2)
        sizes = np.array([(window.width, window.height) for window in windows], float).reshape(-1, 1, 2)
        rings = to_world((corners + sizes * unit).reshape(-1, 2), geobox).reshape(-1, len(unit), 2)
        polygons: Geometries = np.asarray(shapely.polygons(rings), object)
        return polygons if same else self.place(polygons, crs_of(geobox))


def common_ground(grids: Sequence[GeoBox]) -> Ground:
    """The scenes' own plane, where all share one whose metres are true within 1 %; else an equal-area one around them.

    Raises:
        GridError: A scene has no place on the Earth.
    """
    lon, lat = np.hstack([_lonlat(grid) for grid in grids])
    own = crs_of(grids[0])
    if all(crs_of(grid).equals(own) for grid in grids) and _in_metres(own):
        low, high = _scales(own, lon, lat)
        if low > 1 - _TRUE and high < 1 + _TRUE:
            return Ground(crs=own, stretch=high)
    angles = np.radians([lon, lat])
    x, y, z = (np.cos(angles[1]) * [np.cos(angles[0]), np.sin(angles[0]), np.tan(angles[1])]).mean(axis=1)
    middle = {"lon_0": np.degrees(np.arctan2(y, x)), "lat_0": np.degrees(np.arctan2(z, np.hypot(x, y)))}
    rounded = {name: round(float(angle), 1) for name, angle in middle.items()}
    crs = CRS.from_dict({"proj": "laea", "datum": "WGS84", "units": "m", **rounded})
    return Ground(crs=crs, stretch=_scales(crs, lon, lat)[1])


def _lonlat(grid: GeoBox) -> npt.NDArray[np.float64]:
    """(2, point): longitude and latitude of points all over a scene."""
    height, width = grid.shape
    cols, rows = np.meshgrid(np.linspace(0, width, 9), np.linspace(0, height, 9))
    points = to_world(np.column_stack([cols.ravel(), rows.ravel()]), grid)
    lonlat = np.array(Transformer.from_crs(crs_of(grid), "OGC:CRS84", always_xy=True).transform(*points.T))
    if not np.isfinite(lonlat).all():
        raise GridError(f"a scene in {crs_of(grid).name} reaches beyond the Earth; cut it, or read it in another --crs")
    return lonlat


def _in_metres(crs: CRS) -> bool:
    return crs.is_projected and all(axis.unit_conversion_factor == 1 for axis in crs.axis_info[:2])


def _scales(crs: CRS, lon: npt.NDArray[np.float64], lat: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The least and the largest of the plane's metres per metre on the ground, in any direction."""
    factors = Proj(crs).get_factors(lon, lat)
    return float(np.min(factors.tissot_semiminor)), float(np.max(factors.tissot_semimajor))
