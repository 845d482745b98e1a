"""Borders between classes: scipy's morphology and distances are the second opinion, the whole is that of windows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from geoseg.evaluation.boundary import boundary_f1, boundary_iou, count_boundaries, edge_band, reach
from geoseg.evaluation.confusion import Matrix
from geoseg.window import Window

CLASSES = 4
SEEDS = st.integers(0, 10**6)
WIDTHS = st.integers(1, 5)

Classes = npt.NDArray[np.int16]
Flags = npt.NDArray[np.bool_]


def blobs(seed: int, height: int = 40, width: int = 50) -> tuple[Classes, Classes, Flags]:
    """Truth and map with a few soft-edged classes, and which pixels are known."""
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.normal(size=(CLASSES, height, width)), (0, 3, 3))
    truth = fields.argmax(axis=0).astype(np.int16)
    moved = fields + ndimage.gaussian_filter(rng.normal(size=fields.shape), (0, 2, 2)) * rng.uniform(0, 1)
    known = ndimage.gaussian_filter(rng.normal(size=(height, width)), 2) > rng.choice([-9.0, -0.15])
    return truth, moved.argmax(axis=0).astype(np.int16), known


def all_of(truth: Classes, predicted: Classes, known: Flags, width: int) -> Matrix:
    core = Window(row_off=0, col_off=0, height=truth.shape[0], width=truth.shape[1])
    return count_boundaries(truth, predicted, known, core, width=width, classes=CLASSES)


def eroded_band(classes: Classes, known: Flags, number: int, width: int) -> Flags:
    """A class without what erosion leaves of it; what is not known, or beyond the edge, erodes nothing."""
    square = np.ones((3, 3), bool)
    inner = ndimage.binary_erosion((classes == number) | ~known, square, iterations=width, border_value=1)
    return np.asarray((classes == number) & known & ~inner)


@given(seed=SEEDS, width=WIDTHS)
def test_the_band_is_what_erosion_takes_from_each_class(seed: int, width: int) -> None:
    truth, _, known = blobs(seed)
    band = edge_band(truth, known, width)
    for number in range(CLASSES):
        np.testing.assert_array_equal(band & (truth == number), eroded_band(truth, known, number, width))


@given(seed=SEEDS, width=WIDTHS)
def test_boundary_iou_is_the_iou_of_the_bands(seed: int, width: int) -> None:
    truth, predicted, known = blobs(seed)
    found = boundary_iou(all_of(truth, predicted, known, width))
    for number in range(CLASSES):
        one, other = (eroded_band(each, known, number, width) for each in (truth, predicted))
        union = (one | other).sum()
        assert found[number] == pytest.approx((one & other).sum() / union if union else np.nan, abs=1e-12, nan_ok=True)


@given(seed=SEEDS, width=WIDTHS)
def test_boundary_f1_is_that_of_euclidean_distances(seed: int, width: int) -> None:
    truth, predicted, known = blobs(seed)
    found = boundary_f1(all_of(truth, predicted, known, width))
    for number in range(CLASSES):
        lines = [eroded_band(each, known, number, 1) for each in (truth, predicted)]
        if not lines[0].any() or not lines[1].any():
            expected = 0.0 if lines[0].any() or lines[1].any() else np.nan
        else:
            near = [ndimage.distance_transform_edt(~line) <= width for line in lines]
            recall, precision = near[1][lines[0]].mean(), near[0][lines[1]].mean()
            expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        assert found[number] == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(seed=SEEDS, width=WIDTHS, rows=st.integers(4, 30), cols=st.integers(4, 35))
def test_windows_that_overlap_by_the_reach_count_what_the_whole_counts(
    seed: int, width: int, rows: int, cols: int
) -> None:
    truth, predicted, known = blobs(seed, 28, 33)
    scene = Window(row_off=0, col_off=0, height=truth.shape[0], width=truth.shape[1])
    around = reach(width)
    total = np.zeros((7, CLASSES), np.int64)
    for core in scene.pieces(rows, cols):
        window = scene & Window.from_bounds(
            core.row_off - around, core.col_off - around, core.row_stop + around, core.col_stop + around
        )
        here = window.slices
        total += count_boundaries(
            truth[here], predicted[here], known[here], core.within(window), width=width, classes=CLASSES
        )
    np.testing.assert_array_equal(total, all_of(truth, predicted, known, width))


def test_equal_maps_have_equal_borders_and_one_class_has_none() -> None:
    truth, _, known = blobs(1)
    counts = all_of(truth, truth, known, 3)
    np.testing.assert_array_equal(boundary_iou(counts), 1)
    np.testing.assert_array_equal(boundary_f1(counts), 1)
    alone = all_of(np.zeros_like(truth), np.zeros_like(truth), known, 3)
    assert not alone.any()
    assert np.isnan(boundary_iou(alone)).all()
    assert np.isnan(boundary_f1(alone)).all()


def test_a_border_that_only_one_map_has_is_zero() -> None:
    truth = np.zeros((10, 10), np.int16)
    predicted = truth.copy()
    predicted[4:6, 4:6] = 1
    counts = all_of(truth, predicted, np.ones((10, 10), bool), 2)
    np.testing.assert_array_equal(boundary_f1(counts)[:2], 0)
    assert boundary_iou(counts)[1] == 0
