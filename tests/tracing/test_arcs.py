"""Simplified and smoothed polygons: a coverage without gaps and overlaps, the same for every chunk."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import GridError
from geoseg.protocols import LabelReader
from geoseg.source.labels import ArrayLabels
from geoseg.tracing.arcs import simplify
from geoseg.tracing.corners import EAST, Corners, flag_at, map_corners
from geoseg.tracing.pieces import split
from geoseg.tracing.polygons import polygonize
from geoseg.tracing.regions import trace_regions
from geoseg.tracing.sieve import sieve
from tests.blobs import NODATA, blobs, label_readers, read_all

Geometries = npt.NDArray[np.object_]

tolerances = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 7.0, 100.0])


def traced(labels: LabelReader) -> Geometries:
    return polygonize(read_all(labels), nodata=labels.nodata, joints=0).polygons


def redrawn(labels: LabelReader, tolerance: float, **options: Any) -> tuple[Geometries, Geometries]:
    polygons = traced(labels)
    return polygons, simplify(polygons, map_corners(labels), tolerance, **options)


def neighbours(polygons: Geometries) -> set[tuple[int, int]]:
    """Pairs that share a line."""
    one, other = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    lines = shapely.length(shapely.intersection(polygons[one], polygons[other])) > 0
    return {(a, b) for a, b in zip(one[lines].tolist(), other[lines].tolist(), strict=True) if a < b}


def assert_covers_the_same(before: Geometries, after: Geometries) -> None:
    """No gap, no overlap, nobody lost, the outline as it was, neighbours still side by side."""
    assert len(before) == len(after)
    assert shapely.is_valid(after).all(), shapely.is_valid_reason(after)
    assert (shapely.area(after) > 0).all()
    assert shapely.coverage_is_valid(after)
    np.testing.assert_allclose(shapely.area(after).sum(), shapely.area(before).sum(), rtol=1e-9)
    assert shapely.equals(shapely.coverage_union_all(after), shapely.coverage_union_all(before))
    assert neighbours(after) == neighbours(before)


@given(labels=label_readers(), tolerance=tolerances, smooth=st.booleans())
def test_a_coverage_stays_a_coverage(labels: ArrayLabels, tolerance: float, smooth: bool) -> None:
    assert_covers_the_same(*redrawn(labels, tolerance, smooth=smooth))


@given(
    labels=label_readers(),
    min_area=st.integers(0, 9),
    most=st.sampled_from([16, 40, 1000]),
    tolerance=tolerances,
    smooth=st.booleans(),
)
def test_sieved_and_split_labels_are_a_coverage_too(
    labels: ArrayLabels, min_area: int, most: int, tolerance: float, smooth: bool
) -> None:
    assert_covers_the_same(*redrawn(split(sieve(labels, min_area), most), tolerance, smooth=smooth))


@pytest.mark.parametrize("tolerance", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("reach", [1.0, 3.0])
def test_about_as_many_vertices_are_left_as_by_geos(tolerance: float, reach: float) -> None:
    labels = sieve(ArrayLabels(blobs((150, 150), np.random.default_rng(0), 4, reach).astype(np.uint8)), 5)
    before, after = redrawn(labels, tolerance)
    assert_covers_the_same(before, after)
    geos = shapely.coverage_simplify(before, tolerance, simplify_boundary=False)
    ours, theirs, all_of = (shapely.get_num_coordinates(some).sum() for some in (after, geos, before))
    assert ours < 1.1 * theirs
    assert ours < 0.9 * all_of


def features(labels: LabelReader, corners: Corners, tolerance: float, **options: Any) -> Iterator[tuple[int, bytes]]:
    work = {"chunk": options.pop("chunk", 1000), "connectivity": options.pop("connectivity", 4)}
    redraw = partial(simplify, corners=corners, tolerance=tolerance, **options)
    for batch in trace_regions(labels, joints=0, redraw=redraw, **work):
        yield from zip(batch.first.tolist(), shapely.to_wkb(batch.polygons), strict=True)


@given(
    labels=label_readers(max_side=16),
    chunk=st.integers(3, 20),
    tolerance=tolerances,
    smooth=st.booleans(),
    connectivity=st.sampled_from([4, 8]),
)
def test_every_chunking_gives_the_same_features_bit_for_bit(
    labels: ArrayLabels, chunk: int, tolerance: float, smooth: bool, connectivity: Literal[4, 8]
) -> None:
    options = {"smooth": smooth, "transform": (10, 0, 5e5, 0, -10, 5e6)}
    whole = dict(features(labels, map_corners(labels), tolerance, connectivity=connectivity, **options))
    corners = map_corners(labels, chunk=chunk)
    pieces = features(labels, corners, tolerance, chunk=chunk, connectivity=connectivity, **options)
    assert dict(pieces) == whole


@given(
    labels=label_readers(),
    connectivity=st.sampled_from([4, 8]),
    transform=st.sampled_from([(1, 0, 0, 0, 1, 0), (10, 0, 5e5, 0, -10, 5e6), (0, 3, 1, 3, 0, 2)]),
)
def test_without_a_tolerance_they_are_placed_as_the_tracer_places_them(
    labels: ArrayLabels, connectivity: Literal[4, 8], transform: tuple[float, ...]
) -> None:
    kept = dict(features(labels, map_corners(labels), 0, transform=transform, connectivity=connectivity))
    for batch in trace_regions(labels, joints=0, transform=transform, connectivity=connectivity):
        assert [kept[first] for first in batch.first.tolist()] == shapely.to_wkb(batch.polygons).tolist()


@given(labels=label_readers(), tolerance=tolerances)
def test_parts_that_touch_at_corners_are_valid_multipolygons(labels: ArrayLabels, tolerance: float) -> None:
    corners = map_corners(labels)
    for batch in trace_regions(labels, joints=0, connectivity=8):
        shapes = simplify(batch.polygons, corners, tolerance)
        assert shapely.is_valid(shapes).all()
        np.testing.assert_array_equal(shapely.get_type_id(shapes), shapely.get_type_id(batch.polygons))
        np.testing.assert_array_equal(shapely.get_num_geometries(shapes), shapely.get_num_geometries(batch.polygons))


def test_smaller_triangles_go_first_and_larger_ones_stay() -> None:
    labels = np.zeros((12, 12), np.uint8)
    labels[:, 6:] = 1
    labels[3, 5] = 1  # a dent of one pixel: triangles of half a pixel
    labels[7:10, 3:6] = 1  # a dent of nine
    _, after = redrawn(ArrayLabels(labels), 1.0)
    line = shapely.intersection(*after)
    assert shapely.length(line) == pytest.approx(18)
    dent = {(6.0, 7.0), (3.0, 7.0), (3.0, 10.0), (6.0, 10.0)}
    assert dent <= {(x, y) for x, y in shapely.get_coordinates(line).tolist()}


def test_tolerance_is_in_metres_on_pixels_of_any_size() -> None:
    labels = ArrayLabels(blobs((80, 80), np.random.default_rng(3), 3, 2.0).astype(np.uint8))
    _, in_pixels = redrawn(labels, 2.0)
    _, in_metres = redrawn(labels, 20.0, pixel_area=100.3)
    assert shapely.equals_exact(in_pixels, in_metres).all()
    before, after = redrawn(labels, 2.0, pixel_area=np.where(np.arange(80) < 40, 1.0, 1e6))
    kept, all_of = ({(x, y) for x, y in shapely.get_coordinates(some).tolist()} for some in (after, before))
    assert {at for at in all_of - kept if at[1] >= 40} == set()
    assert len([at for at in all_of - kept if at[1] < 40]) > 100


@pytest.mark.parametrize("smooth", [False, True])
def test_a_lens_between_two_nodes_keeps_its_area(smooth: bool) -> None:
    """Both its arcs have the same ends; either alone might become straight."""
    for flip in (1, -1):
        labels = np.zeros((10, 12), np.uint8)
        labels[5:] = 1
        labels[4, 3:9] = labels[5, 4:8] = 2
        before, after = redrawn(ArrayLabels(labels[::flip].copy()), 50.0, smooth=smooth)
        assert_covers_the_same(before, after)


def test_a_curve_never_crosses_the_straight_line_between_its_ends() -> None:
    labels = np.zeros((6, 8), np.uint8)
    labels[3:] = 1
    labels[1:3, 2:6] = 2  # its lower side is a straight arc between the ends of the upper one
    corners = map_corners(ArrayLabels(labels))
    assert flag_at(corners.pages, 2, 3) & EAST
    assert_covers_the_same(*redrawn(ArrayLabels(labels), 50.0))


def test_smoothing_rounds_what_is_free_and_moves_nothing_else() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[5:15, 5:15] = 1
    before, after = redrawn(ArrayLabels(labels), 0.0, smooth=True)
    assert_covers_the_same(before, after)
    round_one = after[1]
    assert before[1].area > round_one.area > 0.8 * before[1].area
    assert shapely.get_num_coordinates(round_one) == 17
    assert shapely.covers(before[1], round_one)
    assert shapely.equals(shapely.Polygon(after[0].exterior), shapely.box(0, 0, 20, 20))


def test_the_outline_keeps_every_step() -> None:
    labels = np.tri(30, dtype=np.uint8)
    labels[labels == 0] = NODATA
    before, after = redrawn(ArrayLabels(labels, NODATA), 100.0, smooth=True)
    assert shapely.equals_exact(before, after).all()


def test_of_nothing_there_is_nothing() -> None:
    labels = ArrayLabels(np.full((3, 3), NODATA, np.uint8), NODATA)
    assert simplify(traced(labels), map_corners(labels), 3.0).shape == (0,)


@pytest.mark.parametrize(
    ("tolerance", "area"), [(-1.0, 1.0), (np.nan, 1.0), (np.inf, 1.0), (1.0, 0.0), (1.0, np.nan), (1.0, np.ones(2))]
)
def test_numbers_that_are_none_are_refused(tolerance: float, area: Any) -> None:
    with pytest.raises(GridError, match=f"a tolerance of {tolerance} m with . pixel areas for 3 rows"):
        redrawn(ArrayLabels(np.ones((3, 3), np.uint8)), tolerance, pixel_area=area)
