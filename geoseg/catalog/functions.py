"""What SQL can ask of geometries, computed by shapely, column by column.

DuckDB knows a type for geometries and their text, but tests and areas come with an extension that has to be downloaded.
These are the few that matter here, under the same names; those that measure on the ellipsoid have names of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely

from geoseg.earth import to_lonlat

__all__ = ["FUNCTIONS", "MACROS", "SPATIAL_MACROS", "ellipsoid_area", "lonlat_shapes"]

Shapes = npt.NDArray[np.object_]

STEP = 0.01
"""Degrees between two points of a line that bends on the equal-area map."""


@lru_cache(maxsize=1)
def _equal_area() -> pyproj.Transformer:
    return pyproj.Transformer.from_crs("OGC:CRS84", "+proj=cea +ellps=WGS84", always_xy=True)


def ellipsoid_area(shapes: Shapes) -> npt.NDArray[np.float64]:
    """(n,) square metres on the WGS 84 ellipsoid of shapes (n,) whose edges are straight in longitude and latitude.

    >>> quarter = ellipsoid_area(np.array([shapely.box(0, 0, 90, 90)], object))[0]
    >>> round(8 * quarter / 1e6)  # of the whole Earth, in square kilometres
    510065622
    """
    forward = _equal_area().transform
    flat = shapely.transform(
        shapely.segmentize(shapes, STEP), lambda at: np.column_stack(forward(at[:, 0], np.clip(at[:, 1], -90, 90)))
    )
    return np.asarray(shapely.area(flat))


def lonlat_shapes(shapes: Shapes, crs: str) -> Shapes:
    """(n,) polygons and multipolygons of `crs` in WGS 84, as `geoseg.earth.to_lonlat` gives polygons.

    Raises:
        GridError: A vertex lies where `crs` has no longitude and latitude.
    """
    parts, owner = shapely.get_parts(shapes, return_index=True)
    placed = to_lonlat(parts, crs)
    if len(parts) == len(shapes):
        return placed
    starts = np.searchsorted(owner, np.arange(len(shapes) + 1))
    joined: Shapes = np.empty(len(shapes), object)
    for row, (start, stop) in enumerate(pairwise(starts)):
        pieces = placed[start:stop]
        joined[row] = pieces[0] if len(pieces) == 1 else shapely.multipolygons(shapely.get_parts(pieces))
    return joined


# DuckDB evaluates annotations, so those of its functions name no module that is imported late.


def _column(values: Any) -> tuple[Shapes, npt.NDArray[np.int64]]:
    """The different shapes of a column of WKB, prepared, and which of them each row has: a constant is parsed once."""
    coded = values.combine_chunks().dictionary_encode()
    shapes = shapely.from_wkb(coded.dictionary.to_numpy(zero_copy_only=False))
    shapely.prepare(shapes)
    return np.asarray(shapes), coded.indices.to_numpy()


def _of_one(measure: Callable[[Shapes], Any]) -> Callable[[Any], Any]:
    """An SQL function of one column of WKB."""

    def function(values: Any) -> Any:
        shapes, row = _column(values)
        return _answer(measure(shapes[row]))

    return function


def _of_two(measure: Callable[[Shapes, Shapes], Any]) -> Callable[[Any, Any], Any]:
    """An SQL function of two columns of WKB."""

    def function(values: Any, others: Any) -> Any:
        (shapes, row), (asked, which) = _column(values), _column(others)
        return _answer(measure(shapes[row], asked[which]))

    return function


def _answer(found: npt.NDArray[Any]) -> Any:
    import pyarrow as pa

    return pa.array(shapely.to_wkb(found) if found.dtype == object else found)


def _area_inside(shapes: Shapes, areas: Shapes) -> npt.NDArray[np.float64]:
    """Only what crosses the outline is cut."""
    inside, meets = shapely.contains_properly(areas, shapes), shapely.intersects(areas, shapes)
    found = np.where(inside, shapes, shapely.Polygon())
    cut = meets & ~inside
    found[cut] = shapely.intersection(shapes[cut], areas[cut])
    return ellipsoid_area(found)


def _lonlat(values: Any, systems: Any) -> Any:
    import pyarrow as pa

    shapes = shapely.from_wkb(values.to_numpy(zero_copy_only=False))
    names = np.asarray(systems.to_numpy(zero_copy_only=False), dtype=object)
    for name in set(names):
        rows = names == name
        shapes[rows] = lonlat_shapes(shapes[rows], name)
    return pa.array(shapely.to_wkb(shapes))


# Tests ask the second shape, which is prepared: it is the one that is often a constant.
FUNCTIONS: dict[str, tuple[Callable[..., Any], list[Any], str]] = {
    "_lonlat": (_lonlat, ["BLOB", "VARCHAR"], "BLOB"),
    "_intersects": (_of_two(lambda shapes, asked: shapely.intersects(asked, shapes)), ["BLOB", "BLOB"], "BOOLEAN"),
    "_within": (_of_two(lambda shapes, asked: shapely.contains(asked, shapes)), ["BLOB", "BLOB"], "BOOLEAN"),
    "_contains": (_of_two(lambda shapes, asked: shapely.within(asked, shapes)), ["BLOB", "BLOB"], "BOOLEAN"),
    "_intersection": (_of_two(shapely.intersection), ["BLOB", "BLOB"], "BLOB"),
    "_centroid": (_of_one(shapely.centroid), ["BLOB"], "BLOB"),
    "_area": (_of_one(shapely.area), ["BLOB"], "DOUBLE"),
    "_ellipsoid_area": (_of_one(ellipsoid_area), ["BLOB"], "DOUBLE"),
    "_area_inside": (_of_two(_area_inside), ["BLOB", "BLOB"], "DOUBLE"),
}
"""Name -> function of Arrow columns, types of its arguments, type of its answer."""

_ONE, _TWO = "ST_AsWKB(a::GEOMETRY)", "ST_AsWKB(a::GEOMETRY), ST_AsWKB(b::GEOMETRY)"
MACROS = {
    "area_on_ellipsoid(a)": f"_ellipsoid_area({_ONE})",
    "area_inside(a, b)": f"_area_inside({_TWO})",
}
"""What SQL calls -> what it stands for; geometries may be given as text."""
SPATIAL_MACROS = {
    "ST_GeomFromText(a)": "a::GEOMETRY",
    "ST_Intersects(a, b)": f"_intersects({_TWO})",
    "ST_Within(a, b)": f"_within({_TWO})",
    "ST_Contains(a, b)": f"_contains({_TWO})",
    "ST_Intersection(a, b)": f"ST_GeomFromWKB(_intersection({_TWO}))",
    "ST_Centroid(a)": f"ST_GeomFromWKB(_centroid({_ONE}))",
    "ST_Area(a)": f"_area({_ONE})",
}
"""Likewise, what DuckDB's spatial extension has too."""
