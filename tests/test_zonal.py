"""Means of an index over regions equal numpy's, and only windows that hold a region are read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.planes import KNOWN, STEP
from geoseg.scene import Scaling
from geoseg.sink.features import Mean
from geoseg.source.labels import ArrayLabels
from geoseg.testing import ArraySource
from geoseg.tracing.polygons import polygonize
from geoseg.tracing.regions import trace_regions
from geoseg.types import Labels
from geoseg.window import Window
from geoseg.zonal import PairIndex

NAMES = ("before.nir", "before.red", "after.nir", "after.red")


def means_of(index: PairIndex, labels: Labels, chunk: int = 2048) -> dict[str, npt.NDArray[np.float64]]:
    """(n,) per column, regions in the order of their first pixels."""
    batches = list(trace_regions(ArrayLabels(labels, 0), chunk=chunk, rasters=index.rasters()))
    order = np.argsort(np.concatenate([batch.first for batch in batches]))
    return {
        column: np.concatenate(
            [
                Mean(column=column, of=column, scaling=Scaling(scale=STEP), counted=KNOWN).over(batch)
                for batch in batches
            ]
        )[order]
        for column in index.columns
    }


@given(seed=st.integers(0, 2**32 - 1), side=st.integers(3, 40), top=st.integers(0, 9), left=st.integers(0, 9))
def test_means_equal_numpys_over_each_regions_pixels(seed: int, side: int, top: int, left: int) -> None:
    random = np.random.default_rng(seed)
    crop = Window(row_off=top, col_off=left, height=23, width=31)
    pixels = random.integers(0, 9999, (4, 40, 50), dtype=np.uint16)
    pixels[:, random.random((40, 50)) < 0.1] = 0  # no light: 0 of anything
    valid = random.random((40, 50)) < 0.8
    labels = np.kron(random.integers(0, 3, (8, 11)), np.ones((3, 3), int))[:23, :31].astype(np.uint8)
    components = polygonize(labels, nodata=0).components
    found = means_of(PairIndex(pair=ArraySource(pixels, valid, names=NAMES), crop=crop), labels, side)
    assert list(found) == ["ndvi_before", "ndvi_after"]
    for date, (nir, red) in zip(found, pixels[:, *crop.slices].astype(float).reshape(2, 2, 23, 31), strict=True):
        with np.errstate(invalid="ignore"):
            ndvi = np.nan_to_num((nir - red) / (nir + red))
        for region, mean in enumerate(found[date], 1):
            inside = (components == region) & valid[crop.slices]
            assert mean == pytest.approx(ndvi[inside].mean() if inside.any() else np.nan, abs=2e-5, nan_ok=True)


def test_what_is_assumed_counts_where_nothing_is_declared() -> None:
    pixels = np.array([4000, 2000, 3000, 2000], np.uint16)[:, None, None] * np.ones((1, 4, 5), np.uint16)
    source = ArraySource(pixels, names=NAMES, scaling=None)
    labels, crop = np.ones((4, 5), np.uint8), Window(row_off=0, col_off=0, height=4, width=5)
    plain = means_of(PairIndex(pair=source, crop=crop), labels)
    moved = means_of(PairIndex(pair=source, crop=crop, assumed=Scaling(scale=1e-4, offset=-0.1)), labels)
    assert [float(mean[0]) for mean in plain.values()] == pytest.approx([1 / 3, 0.2], abs=1e-5)
    assert [float(mean[0]) for mean in moved.values()] == pytest.approx([0.5, 1 / 3], abs=1e-5)


def test_only_windows_with_a_region_are_read_and_each_once() -> None:
    source = ArraySource(np.ones((4, 60, 60), np.uint16), names=NAMES)
    labels, crop = np.zeros((40, 40), np.uint8), Window(row_off=10, col_off=20, height=40, width=40)
    labels[12:15, 25:33] = 1
    index = PairIndex(pair=source, crop=crop)
    list(trace_regions(ArrayLabels(labels), chunk=10, rasters=index.rasters(), shown=lambda values: values != 0))
    assert sorted((window.row_off, window.col_off) for window in source.reads) == [(20, 40), (20, 50)]
    source.reads.clear()
    means = means_of(PairIndex(pair=source, crop=crop), np.zeros((40, 40), np.uint8))
    assert [len(mean) for mean in means.values()] == [0, 0]
    assert not source.reads
