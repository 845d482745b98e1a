"""Overviews against plain counting, group by group."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from geoseg.sink.pyramid import halve_average, halve_mode

SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)


def groups(array: npt.NDArray[Any]) -> list[tuple[tuple[int, int], list[Any]]]:
    """Every 2 x 2 group in reading order, an odd last row or column repeated."""
    rows, cols = array.shape
    return [
        (
            (row, col),
            [array[min(2 * row + r, rows - 1), min(2 * col + c, cols - 1)] for r in (0, 1) for c in (0, 1)],
        )
        for row in range(-(-rows // 2))
        for col in range(-(-cols // 2))
    ]


@given(arrays.arrays(np.uint8, SHAPES, elements=st.sampled_from([0, 1, 2, 3, 255])))
def test_mode_is_the_commonest_class_and_never_nodata_beside_one(labels: npt.NDArray[np.uint8]) -> None:
    half = halve_mode(labels, 255)
    assert half.dtype == labels.dtype
    assert half.shape == tuple(-(-side // 2) for side in labels.shape)
    for place, group in groups(labels):
        classes = [value for value in group if value != 255]
        expected = max(classes, key=lambda value: (classes.count(value), -classes.index(value)), default=255)
        assert half[place] == expected


@given(arrays.arrays(np.uint16, SHAPES, elements=st.integers(0, 3)))
def test_mode_without_nodata_counts_every_value(labels: npt.NDArray[np.uint16]) -> None:
    half = halve_mode(labels, None)
    for place, group in groups(labels):
        assert half[place] == max(group, key=lambda value: (group.count(value), -group.index(value)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@given(data=st.data())
def test_average_is_the_rounded_mean_of_what_is_usable(
    dtype: type[np.unsignedinteger[Any]], data: st.DataObject
) -> None:
    nodata = int(np.iinfo(dtype).max)
    values = data.draw(arrays.arrays(dtype, SHAPES, elements=st.one_of(st.just(nodata), st.integers(0, nodata))))
    half = halve_average(values, nodata)
    for place, group in groups(values):
        usable = [int(value) for value in group if value != nodata]
        expected = int(sum(usable) / len(usable) + 0.5) if usable else nodata
        assert half[place] == expected


@given(arrays.arrays(np.float32, SHAPES, elements=st.one_of(st.just(np.nan), st.floats(0, 1, width=32))))
def test_average_of_floats_passes_nan_over(values: npt.NDArray[np.float32]) -> None:
    half = halve_average(values, np.nan)
    for place, group in groups(values):
        usable = [value for value in group if not np.isnan(value)]
        np.testing.assert_allclose(half[place], np.mean(usable) if usable else np.nan, rtol=1e-6)


def test_bands_are_halved_alike() -> None:
    bands = np.random.default_rng(0).integers(0, 4, (3, 5, 7)).astype(np.uint8)
    for halve in (halve_mode, halve_average):
        np.testing.assert_array_equal(halve(bands, 3), np.stack([halve(band, 3) for band in bands]))


@pytest.mark.parametrize("shape", [(1, 700, 9), (2, 513, 4)])
def test_a_tall_raster_is_halved_like_its_parts(shape: tuple[int, int, int]) -> None:
    tall = np.random.default_rng(1).choice(np.array([0, 1, 2, 255], np.uint8), shape)
    for halve in (halve_mode, halve_average):
        parts = [halve(tall[:, row : row + 2], 255) for row in range(0, shape[1], 2)]
        np.testing.assert_array_equal(halve(tall, 255), np.concatenate(parts, axis=1))
