"""The register of regions: those of scipy, with their neighbours, whatever the chunks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import GridError
from geoseg.source.labels import ArrayLabels
from geoseg.tracing.register import chunks_of, register_regions
from geoseg.window import Window
from tests.blobs import components, label_readers

connectivities = st.sampled_from([4, 8])


@given(labels=label_readers(), connectivity=connectivities, chunk=st.integers(1, 30), below=st.integers(0, 9))
def test_regions_and_neighbours_are_those_of_scipy(
    labels: ArrayLabels, connectivity: int, chunk: int, below: int
) -> None:
    found = register_regions(labels, connectivity=connectivity, chunk=chunk, below=below)
    numbers = components(labels.array, labels.nodata, connectivity)
    pixels = dict(zip(*np.unique(numbers[numbers > 0], return_counts=True), strict=True))
    flat = numbers.ravel()
    number_of = flat[found.first]
    assert sorted(number_of) == sorted(pixels)
    assert [pixels[number] for number in number_of] == found.sums.tolist()
    assert (labels.array.ravel()[found.first] == found.values).all()
    assert all(np.flatnonzero(flat == number)[0] == first for number, first in zip(number_of, found.first, strict=True))
    small = {number for number, size in pixels.items() if size < below}
    assert contacts_of(numbers, small, connectivity) == {
        (int(number_of[one]), int(number_of[other])): sides for one, other, sides in found.contacts.tolist()
    }
    painted = np.zeros_like(numbers)
    for (row, start, stop), owner in zip(found.stretches.tolist(), found.owners, strict=True):
        painted[row, start:stop] += number_of[owner]
    np.testing.assert_array_equal(painted, np.where(np.isin(numbers, list(small)), numbers, 0))


def contacts_of(numbers: Any, small: set[int], connectivity: int) -> dict[tuple[int, int], int]:
    """Sides that small regions share with each neighbour; 0 with those that they touch at corners only."""
    sides: Counter[tuple[int, int]] = Counter()
    steps = [(numbers[:, :-1], numbers[:, 1:], 1), (numbers[:-1], numbers[1:], 1)]
    if connectivity == 8:
        steps += [(numbers[:-1, :-1], numbers[1:, 1:], 0), (numbers[:-1, 1:], numbers[1:, :-1], 0)]
    for some, others, shared in steps:
        for one, other in zip(some.ravel().tolist(), others.ravel().tolist(), strict=True):
            for pair in ((one, other), (other, one)):
                if one != other and one and other and pair[0] in small:
                    sides[pair] += shared
    return dict(sides)


@given(labels=label_readers(), chunk=st.integers(1, 30), workers=st.integers(1, 3))
def test_sums_are_of_what_is_measured(labels: ArrayLabels, chunk: int, workers: int) -> None:
    weights = np.random.default_rng(0).integers(-5, 50, labels.shape)

    def measure(window: Window, padded: Any, sums: Any) -> None:
        for part, weight in zip(padded[1:-1, 1:-1].ravel(), weights[window.slices].ravel(), strict=True):
            if part:
                sums[part - 1] += weight

    found = register_regions(labels, measure, chunk=chunk, workers=workers)
    numbers = components(labels.array, labels.nodata)
    expected = [int(weights[numbers == numbers.ravel()[first]].sum()) for first in found.first]
    assert found.sums.tolist() == expected


def test_parts_are_counted_through_chunk_by_chunk() -> None:
    labels = ArrayLabels(np.array([[1, 1, 1, 2]], np.uint8))
    found = register_regions(labels, chunk=2)
    assert [window.col_off for window in chunks_of(labels, 2)] == [0, 2]
    assert found.starts.tolist() == [0, 1, 3]
    assert found.region[0] == found.region[1] != found.region[2]


@pytest.mark.parametrize(("connectivity", "chunk", "workers"), [(6, 10, 1), (4, 0, 1), (8, 10, 0)])
def test_what_makes_no_sense_is_refused(connectivity: int, chunk: int, workers: int) -> None:
    with pytest.raises(GridError, match=f"chunks of {chunk} pixels on {workers} threads, {connectivity} neighbours"):
        register_regions(
            ArrayLabels(np.ones((2, 2), np.uint8)), connectivity=connectivity, chunk=chunk, workers=workers
        )
