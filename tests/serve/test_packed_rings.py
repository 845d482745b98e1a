"""Rings as they are kept: what WKB holds comes back, packed or not, to the last bit."""

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
from geoseg.serve import packed_rings
from geoseg.serve.packed_rings import pack, read_wkb
from geoseg.serve.rings import Rings
from tests.serve.test_rings import rings_of, shapes


@given(first=shapes(), second=shapes())
def test_wkb_comes_back(first: Any, second: Any) -> None:
    rings = rings_of(first, shapely.Polygon(), second)
    assert set(rings.owners.tolist()) == {0, 2}
    for owner, shape in ((0, first), (2, second)):
        assert rings.polygons(3)[owner].normalize().equals_exact(shape.normalize())


@pytest.mark.parametrize("most", [8, 1 << 16])
@given(some=st.lists(shapes(), min_size=1, max_size=4), data=st.data())
def test_what_is_packed_comes_back_to_the_last_bit(most: int, some: list[Any], data: st.DataObject) -> None:
    some.insert(data.draw(st.integers(0, len(some))), shapely.Polygon())
    picked = np.array(data.draw(st.lists(st.integers(0, len(some) - 1), max_size=6)), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_rings, "_MOST_VALUES", most)
        packed = pack(rings_of(*some), len(some))
    assert all((axis.codes is None) == (len(np.unique(axis.values)) > most) for axis in packed.axes)
    read, wanted = packed.rings(picked), rings_of(*(some[index] for index in picked))
    assert read.points.tobytes() == wanted.points.tobytes()
    assert read.ends.tolist() == wanted.ends.tolist()
    assert read.owners.tolist() == wanted.owners.tolist()


def test_zeros_of_either_sign_and_no_numbers_come_back() -> None:
    points = np.array([(0.0, 1), (-0.0, 2), (3, np.nan), (0.0, 1)])
    rings = Rings(points=points, ends=np.array([0, 4]), owners=np.array([0]))
    assert pack(rings, 1).rings(np.array([0])).points.tobytes() == rings.points.tobytes()


def test_polygons_of_pixels_take_a_third_of_the_room() -> None:
    rng = np.random.default_rng(0)
    squares = [shapely.box(x, y, x + 1, y + 1) for x, y in rng.integers(0, 300, (20_000, 2)) * 10.0]
    rings = rings_of(*squares)
    assert pack(rings, len(squares)).nbytes < len(shapely.to_wkb(squares[0])) * len(squares) / 3


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
