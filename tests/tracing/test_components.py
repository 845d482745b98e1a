"""Components and their sums, with scipy as the second opinion."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geoseg.tracing.components import add_areas, add_up, census, corner_groups, joined, label_components
from geoseg.types import Labels
from tests.tracing.test_polygons import NODATA, rasters

links = st.integers(1, 12).flatmap(
    lambda count: st.tuples(
        st.just(count), st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=20)
    )
)


def scipys(labels: Labels, structure: Any = None) -> Any:
    """Components (row, col), numbered from 1 by first pixel; 0 for none."""
    numbers = np.zeros(labels.shape, np.int64)
    for value in set(np.unique(labels)) - {NODATA}:
        found, _ = ndimage.label(labels == value, structure)
        numbers += np.where(found > 0, found + numbers.max(), 0)
    values, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(np.where(values == 0, -1, first)))
    return order[inverse].reshape(labels.shape) + (0 not in values)


@given(labels=rasters)
def test_components_are_those_of_scipy_in_the_order_of_their_first_pixels(labels: Labels) -> None:
    padded, count = label_components(labels, NODATA)
    np.testing.assert_array_equal(padded, np.pad(scipys(labels), 1))
    pixels, first = census(padded, count)
    numbers = padded[1:-1, 1:-1].ravel()
    np.testing.assert_array_equal(pixels, np.bincount(numbers, minlength=count + 1)[1:])
    np.testing.assert_array_equal(first, [np.flatnonzero(numbers == number)[0] for number in range(1, count + 1)])


@given(labels=rasters)
def test_groups_that_hold_together_at_corners_are_those_of_scipy(labels: Labels) -> None:
    padded, count = label_components(labels, NODATA)
    core = padded[1:-1, 1:-1]
    first = census(padded, count)[1]
    leaders = corner_groups(padded, labels.ravel()[first])
    assert (leaders <= np.arange(count)).all()
    groups = np.unique(leaders, return_inverse=True)[1]
    expected = scipys(labels, np.ones((3, 3)))
    np.testing.assert_array_equal(np.append(groups + 1, 0)[core - 1], expected)


@given(drawn=links)
def test_sets_are_those_of_scipy(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    count, pairs = drawn
    table = np.array(pairs, np.int64).reshape(-1, 2)
    sets, many = joined(count, table[: len(table) // 2], table[len(table) // 2 :])
    graph = coo_array((np.ones(len(table)), (table[:, 0], table[:, 1])), shape=(count, count))
    theirs = connected_components(graph, directed=False)[1]
    assert many == len(set(zip(sets.tolist(), theirs.tolist(), strict=True))) == theirs.max() + 1
    firsts = np.unique(sets, return_index=True)[1]
    assert firsts.tolist() == sorted(firsts)


@given(labels=rasters, split=st.integers(0, 12))
def test_sums_of_a_row_do_not_depend_on_where_it_is_cut(labels: Labels, split: int) -> None:
    """Labels count as one component here, so that a cut makes no other components."""
    whole = np.pad((labels != NODATA).astype(np.int32), 1)
    height, width = labels.shape
    nodes = np.unique([0, width // 3, width - 1])
    lines = np.random.default_rng(0).uniform(90, 110, (height, len(nodes)))
    pixel = np.array([np.interp(np.arange(width), nodes, line) for line in lines])
    together, apart = np.zeros(1, np.int64), np.zeros(1, np.int64)
    scale = 2.0**40
    add_areas(whole, nodes, lines, 0, scale, together)
    at = min(split, width)
    add_areas(np.pad(whole[1:-1, 1 : 1 + at], 1), nodes, lines, 0, scale, apart)
    add_areas(np.pad(whole[1:-1, 1 + at : -1], 1), nodes, lines, at, scale, apart)
    assert together == apart
    np.testing.assert_allclose(together[0] / scale, pixel[labels != NODATA].sum(), rtol=1e-11)


@given(labels=rasters)
def test_numbers_are_added_to_their_component(labels: Labels) -> None:
    padded, count = label_components(labels, NODATA)
    raster = np.random.default_rng(0).integers(-9, 9, labels.shape)
    sums = np.zeros(count, np.int64)
    add_up(padded, raster, sums)
    expected = ndimage.sum_labels(raster, padded[1:-1, 1:-1], np.arange(1, count + 1))
    np.testing.assert_array_equal(sums, expected)
