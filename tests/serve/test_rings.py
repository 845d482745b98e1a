"""Rings: a cut leaves on each side what GEOS would leave, and rings make the polygons that they are of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoseg.serve.packed_rings import read_wkb
from geoseg.serve.rings import Rings, pieces

PLACES = st.floats(0, 9).map(lambda at: round(at, 6))
"""GEOS goes astray where numbers are next to nothing."""


@st.composite
def shapes(draw: st.DrawFn) -> Any:
    """Circles, and what is left of them where others were cut out: several parts, holes, islands in holes."""
    found = shapely.Polygon()
    for _ in range(draw(st.integers(1, 8))):
        x, y = draw(st.tuples(PLACES, PLACES))
        circle = shapely.Point(x, y).buffer(draw(st.floats(0.3, 4)), quad_segs=draw(st.integers(2, 6)))
        found = shapely.difference(found, circle) if draw(st.booleans()) else shapely.union(found, circle)
    if found.is_empty:
        found = shapely.box(0, 0, 1, 1)
    return shapely.orient_polygons(found)


def rings_of(*some: Any) -> Rings:
    return read_wkb(pa.array([shapely.to_wkb(shape) for shape in some], pa.binary()), np.arange(len(some)))


def area_apart(rings: Rings, shape: Any) -> float:
    """Of what either has and the other has not."""
    one = shapely.make_valid(rings.polygons(1)[0])
    return float(shapely.symmetric_difference(one, shape).area)


@given(shape=shapes(), axis=st.integers(0, 1), at=st.floats(0.0123, 9.9))
def test_halves_are_what_lies_on_each_side(shape: Any, axis: int, at: float) -> None:
    west = shapely.box(-99, -99, *((at, 99) if axis == 0 else (99, at)))
    low, high = rings_of(shape).halves(axis, at)
    assert area_apart(low, shapely.intersection(shape, west)) == pytest.approx(0, abs=1e-6)
    assert area_apart(high, shapely.difference(shape, west)) == pytest.approx(0, abs=1e-6)


@given(shape=shapes(), corner=st.tuples(PLACES, PLACES), side=st.floats(0.5, 5))
def test_what_lies_within_a_box(shape: Any, corner: tuple[float, float], side: float) -> None:
    box = (*corner, corner[0] + side, corner[1] + side)
    cut = shapely.intersection(shape, shapely.box(*box))
    assert area_apart(rings_of(shape).within(box), cut) == pytest.approx(0, abs=1e-6)


@given(shape=shapes(), size=st.integers(5, 60))
def test_pieces_make_the_whole_and_do_not_overlap(shape: Any, size: int) -> None:
    found = [piece.polygons(1)[0] for piece in pieces(rings_of(shape), size)]
    assert sum(piece.area for piece in found) == pytest.approx(shape.area)
    whole = shapely.union_all(shapely.make_valid(np.array(found, dtype=object)))
    assert shapely.symmetric_difference(whole, shape).area == pytest.approx(0, abs=1e-6)


@given(some=st.lists(shapes(), max_size=4), empty=st.integers(0, 4))
def test_each_owner_has_its_polygon(some: list[Any], empty: int) -> None:
    some.insert(empty, shapely.Polygon())
    for one, other in zip(rings_of(*some).polygons(len(some)), some, strict=True):
        assert one.normalize().equals_exact(other.normalize())
