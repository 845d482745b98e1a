"""The register of regions: those of scipy, whatever the chunks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import GridError
from geoseg.source.labels import ArrayLabels
from geoseg.tracing.register import BOTTOM, facing, register_regions
from geoseg.window import Window
from tests.blobs import components, label_readers

connectivities = st.sampled_from([4, 8])


@given(labels=label_readers(), connectivity=connectivities, chunk=st.integers(1, 30), workers=st.integers(1, 3))
def test_every_part_knows_its_region(labels: ArrayLabels, connectivity: int, chunk: int, workers: int) -> None:
    weights = np.arange(1, labels.array.size + 1).reshape(labels.shape)

    def measure(window: Window, padded: Any, sums: Any) -> None:
        np.add.at(sums, padded[1:-1, 1:-1][padded[1:-1, 1:-1] > 0] - 1, weights[window.slices][padded[1:-1, 1:-1] > 0])

    found = register_regions(labels, measure, connectivity=connectivity, chunk=chunk, workers=workers)
    numbers = components(labels.array, labels.nodata, connectivity)
    sums = np.bincount(numbers.ravel(), weights.ravel())
    firsts = dict(reversed([(number, first) for first, number in enumerate(numbers.ravel().tolist())]))
    assert found.largest == sums[1:].max(initial=0)
    for at, window in enumerate(found.chunks):
        parts, seen = found.look(at), numbers[window.slices]
        part = parts.padded[1:-1, 1:-1] - 1
        np.testing.assert_array_equal(part >= 0, seen > 0)
        for column, expected in ((parts.first, np.vectorize(firsts.get)(seen)), (parts.sums, sums[seen])):
            np.testing.assert_array_equal(column[part[part >= 0]], expected[seen > 0])
        np.testing.assert_array_equal(parts.values[part[part >= 0]], labels.array[window.slices][seen > 0])


@given(labels=label_readers(), chunk=st.integers(1, 30))
def test_without_a_measure_pixels_are_counted(labels: ArrayLabels, chunk: int) -> None:
    found = register_regions(labels, chunk=chunk)
    sizes = np.bincount(components(labels.array, labels.nodata).ravel())
    assert found.largest == sizes[1:].max(initial=0)


@given(labels=label_readers(), chunk=st.integers(1, 30))
def test_what_stays_off_the_edges_is_not_kept(labels: ArrayLabels, chunk: int) -> None:
    found = register_regions(labels, chunk=chunk)
    expected = 0
    for window in found.chunks:
        numbers = components(labels.array[window.slices], labels.nodata)
        inner = numbers[1:-1, 1:-1] if min(numbers.shape) > 2 else numbers[:0]
        outer = set(numbers.ravel()) - {0}
        rim = numbers.copy()
        if inner.size:
            rim[1:-1, 1:-1] = 0
        expected += len(outer & set(rim.ravel()))
    assert len(found.first) == len(found.sums) == expected


@given(labels=label_readers(), chunk=st.integers(1, 12), corners=st.booleans())
def test_pixels_face_each_other_once_across_borders(labels: ArrayLabels, chunk: int, corners: bool) -> None:
    height, width = labels.shape
    place = np.where(
        labels.array == (-1 if labels.nodata is None else labels.nodata),
        -1,
        np.arange(height * width).reshape(height, width),
    )
    above, found = np.full((width, 1), -1), Counter[tuple[int, int, int]]()
    for row_off in range(0, height, chunk):
        pieces = [place[row_off : row_off + chunk, col : col + chunk, None] for col in range(0, width, chunk)]
        row = [(each[0], each[-1], each[:, 0], each[:, -1]) for each in pieces]
        one, other, sides = facing(row, above, corners=corners)
        found.update((min(pair), max(pair), shared) for *pair, shared in np.column_stack([one, other, sides]).tolist())
        above = np.concatenate([sides[BOTTOM] for sides in row])
    assert found == Counter(across_borders(place, chunk, corners=corners))


def across_borders(place: Any, chunk: int, *, corners: bool) -> list[tuple[int, int, int]]:
    """Pairs of neighbouring pixels with labels in different chunks."""
    height, width = place.shape
    steps = [(0, 1, 1), (1, 0, 1), *([(1, 1, 0), (1, -1, 0)] if corners else [])]
    return [
        (int(place[row, col]), int(place[row + down, col + across]), shared)
        for row in range(height)
        for col in range(width)
        for down, across, shared in steps
        if row + down < height and 0 <= col + across < width
        if (row // chunk, col // chunk) != ((row + down) // chunk, (col + across) // chunk)
        if place[row, col] >= 0 and place[row + down, col + across] >= 0
    ]


@pytest.mark.parametrize(("connectivity", "chunk", "workers"), [(6, 10, 1), (4, 0, 1), (8, 10, 0)])
def test_what_makes_no_sense_is_refused(connectivity: int, chunk: int, workers: int) -> None:
    with pytest.raises(GridError, match=f"chunks of {chunk} pixels on {workers} threads, {connectivity} neighbours"):
        register_regions(
            ArrayLabels(np.ones((2, 2), np.uint8)), connectivity=connectivity, chunk=chunk, workers=workers
        )
