"""Regions cut into pieces: none has too many vertices, and put together they are what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import GridError
from geoseg.source.labels import ArrayLabels
from geoseg.testing.strategies import windows
from geoseg.tracing.pieces import split
from geoseg.tracing.polygons import polygonize
from geoseg.tracing.regions import trace_regions
from tests.blobs import components, label_readers, read_all, whole_of

limits = st.integers(16, 60)


def vertices_of(polygons: Any) -> Any:
    """Without the points that close rings."""
    parts, owner = shapely.get_parts(polygons, return_index=True)
    open_points = shapely.get_num_coordinates(parts) - 1 - shapely.get_num_interior_rings(parts)
    return np.bincount(owner, open_points, minlength=len(polygons)).astype(int)


@given(labels=label_readers(max_side=60), most=limits, connectivity=st.sampled_from([4, 8]))
def test_no_polygon_has_more_vertices_and_no_more_is_cut_than_needed(
    labels: ArrayLabels, most: int, connectivity: Literal[4, 8]
) -> None:
    divided = split(labels, most, connectivity=connectivity)
    batches = list(trace_regions(divided, joints=0, connectivity=connectivity))
    for batch in batches:
        assert (vertices_of(batch.polygons) <= most).all()
    whole = next(iter(trace_regions(labels, joints=0, connectivity=connectivity)))
    _, parts = divided.decode(read_all(divided))
    numbers = components(labels.array, labels.nodata, connectivity)
    cut = np.unique(numbers[parts > 0])
    assert set(numbers.ravel()[whole.first[vertices_of(whole.polygons) > most]]) <= set(cut)
    if (vertices_of(whole.polygons) <= most).all():
        assert not len(cut)
    assert all((parts[numbers == number] > 0).all() for number in cut)


@given(data=st.data(), labels=label_readers(max_side=60), most=limits, chunk=st.integers(7, 70))
def test_pieces_are_the_same_for_every_chunk(data: st.DataObject, labels: ArrayLabels, most: int, chunk: int) -> None:
    divided = split(labels, most, chunk=chunk, workers=2)
    codes = read_all(divided)
    np.testing.assert_array_equal(codes, read_all(split(labels, most)), strict=True)
    window = data.draw(windows(whole_of(labels)))
    np.testing.assert_array_equal(divided.read(window), codes[window.slices])
    values, parts = divided.decode(codes)
    np.testing.assert_array_equal(values, labels.array, strict=True)
    assert parts.any() == (vertices_of(polygonize(labels.array, nodata=labels.nodata, joints=0).polygons) > most).any()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32])
def test_values_at_the_ends_of_their_range_come_back(dtype: Any) -> None:
    info = np.iinfo(dtype)
    labels = np.where(np.indices((64, 64)).sum(axis=0) % 3 > 0, info.min, info.max).astype(dtype)
    labels[5] = 7
    divided = split(ArrayLabels(labels, 7), 16)
    codes = read_all(divided)
    assert codes.dtype == divided.dtype
    assert divided.nodata == 7
    values, parts = divided.decode(codes)
    np.testing.assert_array_equal(values, labels, strict=True)
    assert parts.any()
    assert not parts[5].any()


def test_a_plain_square_is_left_alone(tmp_path: Path) -> None:
    divided = split(ArrayLabels(np.ones((300, 300), np.uint8)), 16, directory=tmp_path)
    assert not divided.parts.array.any()
    assert not list(tmp_path.iterdir())


def test_a_large_region_falls_into_squares_of_a_fixed_lattice() -> None:
    labels = np.ones((150, 200), np.uint8)
    labels[1::2, 1::2] = 0
    divided = split(ArrayLabels(labels), 100)
    _, parts = divided.decode(read_all(divided))
    for batch in trace_regions(divided, joints=0):
        pieces = batch.values > 255
        low = shapely.bounds(batch.polygons[pieces])[:, :2]
        assert (low % 4 == 0).all()
    assert parts[labels == 1].all()
    assert not parts[labels == 0].any()


@pytest.mark.parametrize(("most", "dtype"), [(15, np.uint8), (100, np.int64)])
def test_what_cannot_be_is_refused(most: int, dtype: Any) -> None:
    with pytest.raises(GridError, match=f"at most {most} vertices"):
        split(ArrayLabels(np.ones((2, 2), dtype)), most)


def test_of_nothing_there_are_no_pieces() -> None:
    assert read_all(split(ArrayLabels(np.empty((0, 3), np.uint8)), 100)).shape == (0, 3)
