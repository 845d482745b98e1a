"""Area-adjusted estimates: the worked example of the paper, its formulas written out, and draws from a known map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.evaluation.stratified import Z95, estimate_areas

# Olofsson et al. 2014, table 8: deforestation, forest gain, stable forest, stable non-forest; rows are the map there.
SAMPLE = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]).T
MAPPED = np.array([200_000.0, 150_000.0, 3_200_000.0, 6_450_000.0])


def test_the_worked_example_of_the_paper() -> None:
    found = estimate_areas(SAMPLE, MAPPED)
    assert found.accuracy == pytest.approx(0.947, abs=5e-4)
    assert Z95 * found.accuracy_error == pytest.approx(0.018, abs=5e-4)
    np.testing.assert_allclose(found.users, [0.88, 0.73, 0.93, 0.96], atol=5e-3)
    np.testing.assert_allclose(Z95 * found.users_error, [0.07, 0.10, 0.04, 0.02], atol=5e-3)
    np.testing.assert_allclose(found.producers, [0.75, 0.85, 0.93, 0.96], atol=5e-3)
    hectares = found.area * 0.09
    assert hectares[0] == pytest.approx(21_158, abs=1)
    assert Z95 * found.area_error[0] * 0.09 == pytest.approx(6_158, abs=1)
    assert found.left_out == 0


@given(seed=st.integers(0, 10**6), classes=st.integers(2, 5))
def test_the_formulas_written_out(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 40, (classes, classes)) + 2 * np.eye(classes, dtype=int)
    mapped = rng.uniform(1, 100, classes)
    found = estimate_areas(counts, mapped)
    weight, drawn = mapped / mapped.sum(), counts.sum(axis=0)
    for k in range(classes):
        shares = [counts[k, i] / drawn[i] for i in range(classes)]
        spread = [share * (1 - share) / (drawn[i] - 1) for i, share in enumerate(shares)]
        total = sum(weight[i] * shares[i] for i in range(classes))
        assert found.area[k] == pytest.approx(mapped.sum() * total)
        assert found.area_error[k] == pytest.approx(
            mapped.sum() * np.sqrt(sum(weight[i] ** 2 * spread[i] for i in range(classes)))
        )
        own = weight[k] * shares[k] / total
        rest = sum(mapped[i] ** 2 * spread[i] for i in range(classes) if i != k)
        variance = (mapped[k] ** 2 * (1 - own) ** 2 * spread[k] + own**2 * rest) / (mapped.sum() * total) ** 2
        assert found.producers[k] == pytest.approx(own)
        assert found.producers_error[k] == pytest.approx(np.sqrt(variance))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    true_share = np.array([[0.9, 0.05], [0.1, 0.95]])  # (truth, stratum)
    mapped = np.array([100.0, 900.0])
    truth = true_share @ mapped
    producers = np.diagonal(true_share) * mapped / truth
    areas = accuracies = 0
    for _ in range(400):
        counts = np.column_stack([rng.multinomial(200, true_share[:, stratum]) for stratum in range(2)])
        found = estimate_areas(counts, mapped)
        areas += abs(found.area[0] - truth[0]) <= Z95 * found.area_error[0]
        accuracies += abs(found.producers[0] - producers[0]) <= Z95 * found.producers_error[0]
    assert 0.91 <= areas / 400 <= 0.98
    assert 0.91 <= accuracies / 400 <= 0.98


def test_a_mapped_class_without_truth_is_left_out_and_said() -> None:
    counts = np.array([[10, 0, 2], [0, 0, 0], [1, 0, 12]])
    found = estimate_areas(counts, np.array([30.0, 10.0, 60.0]))
    assert found.left_out == pytest.approx(0.1)
    assert found.area.sum() == pytest.approx(90)
    assert np.isnan(found.users[1])
    assert found.accuracy == pytest.approx((30 * 10 / 11 + 60 * 12 / 14) / 90)


def test_one_pixel_of_a_class_says_nothing_of_its_spread() -> None:
    found = estimate_areas(np.array([[1, 0], [0, 50]]), np.array([1.0, 9.0]))
    assert found.users[0] == 1
    assert np.isnan(found.users_error[0])
    assert np.isnan(found.accuracy_error)
