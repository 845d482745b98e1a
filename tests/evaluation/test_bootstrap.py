"""Bootstrap over regions: seeded, the same however much is held at once, and as wide as theory says."""

from __future__ import annotations

import numpy as np
import pytest

from geoseg.evaluation import bootstrap
from geoseg.evaluation.bootstrap import draw_sums
from geoseg.evaluation.confusion import Matrix, accuracy, count_confusion


def regions(count: int, seed: int = 0) -> Matrix:
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, 2, (count, 2, 50))
    return np.stack([count_confusion(truth, predicted, 2) for truth, predicted in pairs])


def test_a_seed_gives_the_same_draws_however_many_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    first = draw_sums(regions(20), accuracy, draws=100, seed=3)
    monkeypatch.setattr(bootstrap, "_CELLS", 60)
    np.testing.assert_array_equal(draw_sums(regions(20), accuracy, draws=100, seed=3), first)
    assert (draw_sums(regions(20), accuracy, draws=100, seed=4) != first).any()


def test_equal_regions_leave_no_doubt() -> None:
    same = np.repeat(regions(1), 7, axis=0)
    assert np.ptp(draw_sums(same, accuracy, draws=50, seed=0)) == 0


def test_the_spread_is_that_of_the_mean_of_regions() -> None:
    found = regions(200)
    drawn = draw_sums(found, accuracy, draws=4000, seed=1)
    assert drawn.mean() == pytest.approx(float(accuracy(found.sum(axis=0))), abs=2e-3)
    assert drawn.std() == pytest.approx(accuracy(found).std() / np.sqrt(200), rel=0.06)
