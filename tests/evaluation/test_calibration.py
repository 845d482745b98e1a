"""Reliability curve and calibration error; torchmetrics and numpy are the second opinion."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_calibration_error

from geoseg.evaluation.calibration import BINS, expected_calibration_error, reliability


@given(seed=st.integers(0, 10**6), bins=st.integers(1, 30))
def test_the_error_equals_that_of_torchmetrics(seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0, 1, 500)
    right = rng.random(500) < confidence ** rng.uniform(0.5, 2)
    curve = reliability(confidence, np.ones(500, int), right.astype(int), bins)
    second = binary_calibration_error(torch.from_numpy(confidence), torch.from_numpy(right.astype(int)), n_bins=bins)
    assert expected_calibration_error(curve) == pytest.approx(float(second), abs=1e-6)
    assert sum(each.pixels for each in curve) == 500


@given(seed=st.integers(0, 10**6))
def test_pixels_counted_by_level_have_the_curve_of_the_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stored = rng.integers(0, 251, 400)
    right = rng.random(400) < 0.7
    total = np.bincount(stored, minlength=251)
    levels = np.arange(251) * 0.004
    curve = reliability(levels, total, np.bincount(stored[right], minlength=251))
    for number, each in enumerate(curve):
        # In whole numbers: 250 * 15 steps, so that no end of a bin is rounded.
        inside = (stored * BINS > number * 250) & (stored * BINS <= (number + 1) * 250)
        inside |= (stored == 0) & (number == 0)
        assert each.pixels == inside.sum()
        if each.pixels:
            assert each.accuracy == pytest.approx(right[inside].mean(), abs=1e-12)
            assert each.confidence == pytest.approx(stored[inside].mean() * 0.004, abs=1e-12)


def test_what_is_as_sure_as_it_is_right_has_no_error() -> None:
    curve = reliability(np.array([0.25, 0.75]), np.array([400, 400]), np.array([100, 300]))
    assert expected_calibration_error(curve) == 0


def test_no_pixels_have_no_error() -> None:
    curve = reliability(np.zeros(0), np.zeros(0, int), np.zeros(0, int))
    assert len(curve) == BINS
    assert np.isnan(expected_calibration_error(curve))
