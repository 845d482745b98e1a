"""Rings: what WKB holds comes back, and a cut leaves on each side what GEOS would leave."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import SourceError
from geoseg.serve.rings import Rings, pieces, read_wkb


@st.composite
def shapes(draw: st.DrawFn) -> Any:
    """Circles, and what is left of them where others were cut out: several parts, holes, islands in holes."""
    found = shapely.Polygon()
    for _ in range(draw(st.integers(1, 8))):
        x, y = draw(st.tuples(st.floats(0, 10), st.floats(0, 10)))
        circle = shapely.Point(x, y).buffer(draw(st.floats(0.3, 4)), quad_segs=draw(st.integers(2, 6)))
        found = shapely.difference(found, circle) if draw(st.booleans()) else shapely.union(found, circle)
    if found.is_empty:
        found = shapely.box(0, 0, 1, 1)
    return shapely.orient_polygons(found)


def rings_of(*some: Any) -> Rings:
    return read_wkb(pa.array([shapely.to_wkb(shape) for shape in some], pa.binary()), np.arange(len(some)))


def area_apart(rings: Rings, shape: Any) -> float:
    """Of what either has and the other has not."""
    one = shapely.make_valid(rings.polygon() if len(rings.points) else shapely.Polygon())
    return float(shapely.symmetric_difference(one, shape).area)


@given(first=shapes(), second=shapes())
def test_wkb_comes_back(first: Any, second: Any) -> None:
    rings = rings_of(first, shapely.Polygon(), second)
    assert set(rings.owners.tolist()) == {0, 2}
    for owner, shape in ((0, first), (2, second)):
        own = np.flatnonzero(rings.owners == owner)
        low, high = rings.ends[own[0]], rings.ends[own[-1] + 1]
        alone = Rings(points=rings.points[low:high], ends=rings.ends[own[0] : own[-1] + 2] - low, owners=own * 0)
        assert alone.polygon().normalize().equals_exact(shape.normalize())


@given(shape=shapes(), axis=st.integers(0, 1), at=st.floats(0.0123, 9.9))
def test_halves_are_what_lies_on_each_side(shape: Any, axis: int, at: float) -> None:
    west = shapely.box(-99, -99, *((at, 99) if axis == 0 else (99, at)))
    low, high = rings_of(shape).halves(axis, at)
    assert area_apart(low, shapely.intersection(shape, west)) == pytest.approx(0, abs=1e-6)
    assert area_apart(high, shapely.difference(shape, west)) == pytest.approx(0, abs=1e-6)


@given(shape=shapes(), corner=st.tuples(st.floats(0, 9), st.floats(0, 9)), side=st.floats(0.5, 5))
def test_what_lies_within_a_box(shape: Any, corner: tuple[float, float], side: float) -> None:
    box = (*corner, corner[0] + side, corner[1] + side)
    cut = shapely.intersection(shape, shapely.box(*box))
    assert area_apart(rings_of(shape).within(box), cut) == pytest.approx(0, abs=1e-6)


@given(shape=shapes(), size=st.integers(5, 60))
def test_pieces_make_the_whole_and_do_not_overlap(shape: Any, size: int) -> None:
    found = [piece.polygon() for piece in pieces(rings_of(shape), size)]
    assert sum(piece.area for piece in found) == pytest.approx(shape.area)
    whole = shapely.union_all(shapely.make_valid(np.array(found, dtype=object)))
    assert shapely.symmetric_difference(whole, shape).area == pytest.approx(0, abs=1e-6)


@given(shape=shapes(), data=st.data())
def test_damaged_bytes_are_refused_or_read_within_their_bounds(shape: Any, data: st.DataObject) -> None:
    written = bytearray(shapely.to_wkb(shape))
    kept = data.draw(st.integers(0, len(written)))
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(written) - 1))
        written[place] = data.draw(st.integers(0, 255))
    whole = shapely.to_wkb(shapely.box(0, 0, 1, 1))
    with suppress(SourceError):
        rings = read_wkb(pa.array([whole, bytes(written[:kept]), whole], pa.binary()), np.arange(3))
        assert 16 * len(rings.points) <= 2 * len(whole) + kept


def test_a_polygon_that_is_cut_short_is_refused_by_its_number() -> None:
    whole = shapely.to_wkb(shapely.box(0, 0, 1, 1))
    with pytest.raises(SourceError, match="polygon 2 of"):
        read_wkb(pa.array([whole, whole[:-1], whole], pa.binary()), np.arange(3))
