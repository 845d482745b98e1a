"""Polygons as well-known binary: shapely's bytes, whatever the shapes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Point, Polygon, box

from geoseg.sink.wkb import as_wkb

COORDINATE = st.floats(allow_nan=False, allow_infinity=False, width=64)
RINGS = st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=7)
PLAIN = RINGS.map(Polygon)
SHAPES = st.one_of(
    PLAIN,
    st.builds(Polygon, RINGS, st.lists(RINGS, max_size=2)),
    st.lists(PLAIN, max_size=3).map(MultiPolygon),
    st.just(Polygon()),
    st.just(Polygon([(0, 0, 1), (1, 0, 2), (0, 1, 3)])),
    st.just(Point(3, 4)),
)


@given(shapes=st.lists(SHAPES, max_size=12))
def test_the_bytes_are_shapelys(shapes: list[shapely.Geometry]) -> None:
    array = np.array([*shapes, None], object)[:-1]
    written = as_wkb(array)
    written.validate(full=True)
    assert written.type == pa.binary()
    assert written.to_pylist() == list(shapely.to_wkb(array, flavor="iso"))


def test_many_points_are_counted_in_all_bytes_of_the_number() -> None:
    angles = np.linspace(0, 2 * np.pi, 70_000)
    large = Polygon(np.column_stack([np.cos(angles), np.sin(angles)]))
    shapes = np.array([box(0, 0, 1, 1), large, box(2, 2, 3, 3)], object)
    assert as_wkb(shapes).to_pylist() == list(shapely.to_wkb(shapes, flavor="iso"))
