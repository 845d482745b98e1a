"""Small regions merged: what an oracle in memory does pixel by pixel, whatever the chunks and windows."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from geoseg.earth import PixelAreas
from geoseg.errors import GridError
from geoseg.source.labels import ArrayLabels
from geoseg.testing.strategies import windows
from geoseg.tracing.components import add_areas
from geoseg.tracing.regions import area_units, trace_regions
from geoseg.tracing.sieve import sieve
from geoseg.types import Labels
from geoseg.window import GeoBox
from tests.blobs import blobs, components, label_readers, read_all, whole_of

Connectivity = Literal[4, 8]
connectivities = st.sampled_from([4, 8])


def merged(labels: Labels, nodata: int | None, below: float, connectivity: int, weights: Any = None) -> Labels:
    """Settles every clump of small regions on a copy of its own, and relabels all pixels for every single merge."""
    weights = np.ones(labels.shape) if weights is None else weights
    numbers = components(labels, nodata, connectivity)
    small = (np.bincount(numbers.ravel(), weights.ravel())[numbers] < below) & (numbers > 0)
    structure = ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)
    clumps, count = ndimage.label(small, structure)
    result = labels.copy()
    for clump in range(1, count + 1):
        mine = clumps == clump
        result[mine] = settled(labels, mine, nodata, below, connectivity, weights)[mine]
    return result


def settled(labels: Labels, mine: Any, nodata: int | None, below: float, connectivity: int, weights: Any) -> Labels:
    labels = labels.copy()
    while True:
        numbers = components(labels, nodata, connectivity)
        areas = np.bincount(numbers.ravel(), weights.ravel())
        firsts = {number: first for first, number in reversed(list(enumerate(numbers.ravel().tolist())))}
        sides = shared_sides(numbers)
        small = [(areas[one], firsts[one], one) for one in np.unique(numbers[mine]) if one in sides]
        if not small or min(small)[0] >= below:
            return labels
        region = min(small)[2]
        around = sides[region]
        target = max(around, key=lambda other: (around[other], areas[other], -firsts[other]))
        labels[numbers == region] = labels.ravel()[firsts[target]]


def shared_sides(numbers: npt.NDArray[Any]) -> dict[int, dict[int, int]]:
    sides: dict[int, dict[int, int]] = {}
    for some, others in ((numbers[:, :-1], numbers[:, 1:]), (numbers[:-1], numbers[1:])):
        apart = (some != others) & (some > 0) & (others > 0)
        for one, other in zip(some[apart].tolist(), others[apart].tolist(), strict=True):
            for near, far in ((one, other), (other, one)):
                sides.setdefault(near, {})[far] = sides.setdefault(near, {}).get(far, 0) + 1
    return sides


@given(
    labels=label_readers(max_side=14),
    min_area=st.integers(0, 30),
    connectivity=connectivities,
    chunk=st.integers(1, 20),
    workers=st.integers(1, 3),
)
def test_small_regions_go_where_the_oracle_sends_them(
    labels: ArrayLabels, min_area: int, connectivity: Connectivity, chunk: int, workers: int
) -> None:
    sieved = sieve(labels, min_area, connectivity=connectivity, chunk=chunk, workers=workers)
    np.testing.assert_array_equal(
        read_all(sieved), merged(labels.array, labels.nodata, min_area, connectivity), strict=True
    )


@given(data=st.data(), labels=label_readers(), min_area=st.integers(0, 30), chunk=st.integers(1, 30))
def test_any_window_reads_as_the_whole(data: st.DataObject, labels: ArrayLabels, min_area: int, chunk: int) -> None:
    sieved = sieve(labels, min_area, chunk=chunk)
    window = data.draw(windows(whole_of(labels)))
    assert (sieved.shape, sieved.dtype, sieved.nodata) == (labels.shape, labels.dtype, labels.nodata)
    np.testing.assert_array_equal(sieved.read(window), read_all(sieved)[window.slices])


@given(labels=label_readers(), min_area=st.integers(1, 60), connectivity=connectivities)
def test_what_is_small_in_the_end_has_no_neighbour(
    labels: ArrayLabels, min_area: int, connectivity: Connectivity
) -> None:
    before = labels.array.copy()
    sieved = read_all(sieve(labels, min_area, connectivity=connectivity))
    numbers = components(sieved, labels.nodata, connectivity)
    sizes = np.bincount(numbers.ravel())
    assert all(sizes[number] >= min_area for number in shared_sides(numbers))
    np.testing.assert_array_equal(labels.array, before)
    if labels.nodata is not None:
        np.testing.assert_array_equal(sieved == labels.nodata, before == labels.nodata)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32633"])
def test_areas_are_those_that_polygons_are_given(crs: str) -> None:
    step = 0.05 if crs == "EPSG:4326" else 1000.0
    origin = (10.0, 70.0) if crs == "EPSG:4326" else (3e5, 7.7e6)
    labels = ArrayLabels(np.random.default_rng(1).integers(0, 4, (24, 16)).astype(np.uint8))
    areas = PixelAreas(GeoBox(labels.shape, Affine(step, 0, origin[0], 0, -step, origin[1]), crs))
    pixels = np.zeros(labels.shape, np.int64)
    each = np.pad(np.arange(1, pixels.size + 1).reshape(pixels.shape), 1)
    units = area_units(areas, labels.shape)
    add_areas(each, *areas.along(0, 24), 0, units, pixels.reshape(-1))
    np.testing.assert_allclose(pixels / units, areas.read(whole_of(labels)), rtol=1e-9)
    least = 8 * float(pixels.mean())
    sieved = sieve(labels, least / units, areas=areas, chunk=7)
    np.testing.assert_array_equal(read_all(sieved), merged(labels.array, None, least, 4, pixels))
    assert min(batch.areas.min(initial=math.inf) for batch in trace_regions(sieved, areas=areas)) >= least / units


def test_an_island_of_few_pixels_stays() -> None:
    labels = np.full((5, 5), 255, np.uint8)
    labels[2, 2] = 3
    assert read_all(sieve(ArrayLabels(labels, 255), 9)).tolist() == labels.tolist()


def test_with_nothing_to_do_the_labels_are_as_they_were() -> None:
    labels = ArrayLabels(np.eye(3, dtype=np.uint8))
    assert sieve(labels, 0) is labels
    empty = ArrayLabels(np.empty((0, 4), np.uint8))
    assert sieve(empty, 5) is empty


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.int64])
def test_any_integers_are_labels(dtype: Any) -> None:
    labels = blobs((40, 40), np.random.default_rng(0), 4, 1.0)
    shift = -2 if np.iinfo(dtype).min < 0 else 1000
    sieved = read_all(sieve(ArrayLabels((labels + shift).astype(dtype)), 20))
    assert sieved.dtype == dtype
    np.testing.assert_array_equal(sieved - shift, read_all(sieve(ArrayLabels(labels.astype(np.uint8)), 20)))


@pytest.mark.parametrize("min_area", [-1, math.nan, math.inf])
def test_an_area_that_is_none_is_refused(min_area: float) -> None:
    with pytest.raises(GridError, match="a least area of"):
        sieve(ArrayLabels(np.ones((2, 2), np.uint8)), min_area)


def test_pixels_without_a_place_have_no_square_metres() -> None:
    areas = PixelAreas(GeoBox((2, 2), Affine.identity(), None))
    with pytest.raises(GridError, match="on a grid with a CRS"):
        sieve(ArrayLabels(np.ones((2, 2), np.uint8)), 5, areas=areas)
