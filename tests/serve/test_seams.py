"""Seams: pieces make the polygon that was cut, and rings that touch themselves become rings that do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st

from geoseg.serve.rings import joined, pieces
from geoseg.serve.seams import parted, united
from tests.serve.test_rings import rings_of, shapes

TOUCHING = shapely.Polygon(
    [(0, 0), (6, 0), (6, 6), (0, 6), (0, 4)], [[(2, 2), (0, 4), (2, 4)], [(4, 2), (2, 4), (4, 4)]]
)
"""Its holes touch each other, and one of them the exterior, all in corners."""


@given(shape=shapes(), size=st.integers(5, 60))
@example(shape=TOUCHING, size=5)
def test_pieces_make_the_polygon_that_was_cut(shape: Any, size: int) -> None:
    rings = rings_of(shape)
    whole = united(joined(list(pieces(rings, size))))
    assert len(whole.owners) == len(rings.owners)
    polygon = whole.polygons(1)[0]
    assert polygon.is_valid
    assert shapely.symmetric_difference(polygon, shape).area == pytest.approx(0, abs=1e-6)
    assert set(map(tuple, rings.points)) <= set(map(tuple, whole.points))  # every corner is there


@given(shape=shapes(), line=st.integers(0, 6), axis=st.integers(0, 1))
@example(shape=TOUCHING, line=1, axis=0)
def test_parted_rings_come_to_no_point_twice(shape: Any, line: int, axis: int) -> None:
    rings = rings_of(shape)
    rings = replace(rings, points=np.rint(rings.points))
    for half in rings.halves(axis, line + 0.5):
        cut = replace(half, points=np.rint(half.points))
        apart = parted(cut)
        for low, high in zip(apart.ends[:-1], apart.ends[1:], strict=True):
            own = apart.points[low:high]
            assert (own[0] == own[-1]).all()
            assert len(own) > 3
            assert len(np.unique(own, axis=0)) == len(own) - 1
        assert area(apart) == area(cut)


def area(rings: Any) -> float:
    """Of exteriors less holes, or the other way round."""
    x, y = rings.points.T
    turned = x[:-1] * y[1:] - x[1:] * y[:-1]
    turned[rings.ends[1:-1] - 1] = 0
    return float(turned.sum())


def test_where_a_hole_that_touches_is_cut_open_both_sides_are_valid() -> None:
    halves = rings_of(TOUCHING).halves(0, 1.5)
    assert not all(half.polygons(1)[0].is_valid for half in halves)
    assert all(parted(half).polygons(1)[0].is_valid for half in halves)
