"""Confusion matrices and their scores; torchmetrics is the second opinion."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional import classification as other

from geoseg.evaluation.confusion import (
    BY_CLASS,
    OVERALL,
    accuracy,
    count_confusion,
    frequency_weighted_iou,
    iou,
    mean_defined,
    padded,
)

SEEDS = st.integers(0, 10**6)


def maps(seed: int, classes: int, pixels: int = 300) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Truth and map that agree on about half of the pixels; classes may be absent."""
    rng = np.random.default_rng(seed)
    present = rng.permutation(classes)[: rng.integers(1, classes + 1)]
    truth, noise = rng.choice(present, (2, pixels)).astype(np.int16)
    return truth, np.where(rng.random(pixels) < 0.5, truth, noise).astype(np.int16)


@given(seed=SEEDS, classes=st.integers(2, 9))
def test_scores_of_classes_equal_those_of_torchmetrics(seed: int, classes: int) -> None:
    truth, predicted = maps(seed, classes)
    matrix = count_confusion(truth, predicted, classes)
    pair = torch.from_numpy(predicted.astype(np.int64)), torch.from_numpy(truth.astype(np.int64))
    np.testing.assert_array_equal(matrix, other.multiclass_confusion_matrix(*pair, classes).numpy())
    seconds: dict[str, Callable[..., torch.Tensor]] = {
        "iou": other.multiclass_jaccard_index,
        "dice": other.multiclass_f1_score,
        "precision": other.multiclass_precision,
        "recall": other.multiclass_recall,
    }
    for name, second in seconds.items():
        expected = second(*pair, classes, average="none").double().numpy()
        found = BY_CLASS[name](matrix)
        # What is not defined is 0 there, and NaN here.
        np.testing.assert_allclose(np.nan_to_num(found), expected, atol=1e-7)
    assert float(accuracy(matrix)) == pytest.approx((truth == predicted).mean(), abs=1e-15)


@given(seed=SEEDS, classes=st.integers(2, 6), cut=st.integers(0, 300))
def test_matrices_of_parts_add_up_to_that_of_the_whole(seed: int, classes: int, cut: int) -> None:
    truth, predicted = maps(seed, classes)
    parts = [count_confusion(truth[part], predicted[part], classes) for part in (slice(cut), slice(cut, None))]
    np.testing.assert_array_equal(parts[0] + parts[1], count_confusion(truth, predicted, classes))


@given(seed=SEEDS, classes=st.integers(2, 6))
def test_scores_of_a_stack_are_those_of_each_matrix(seed: int, classes: int) -> None:
    matrices = np.stack([count_confusion(*maps(seed + step, classes), classes) for step in range(3)])
    for score in (*OVERALL.values(), *BY_CLASS.values()):
        np.testing.assert_array_equal(score(matrices), np.stack([score(matrix) for matrix in matrices]))


def test_a_class_that_nobody_has_is_undefined_and_in_no_mean() -> None:
    matrix = np.array([[6, 2, 0], [0, 4, 0], [0, 0, 0]])
    np.testing.assert_allclose(iou(matrix), [6 / 8, 4 / 6, np.nan])
    assert float(OVERALL["miou"](matrix)) == pytest.approx((6 / 8 + 4 / 6) / 2)
    assert float(frequency_weighted_iou(matrix)) == pytest.approx((8 * 6 / 8 + 4 * 4 / 6) / 12)


def test_a_class_that_is_missed_counts_as_zero_and_its_precision_as_nothing() -> None:
    matrix = np.array([[5, 0], [3, 0]])
    assert iou(matrix)[1] == BY_CLASS["dice"](matrix)[1] == BY_CLASS["recall"](matrix)[1] == 0
    assert np.isnan(BY_CLASS["precision"](matrix)[1])


def test_nothing_at_all_is_undefined_without_a_warning() -> None:
    empty = np.zeros((3, 3), np.int64)
    assert all(np.isnan(score(empty)).all() for score in (*OVERALL.values(), *BY_CLASS.values()))
    assert np.isnan(mean_defined(np.array([np.nan, np.nan])))


def test_counts_beyond_32_bits_are_exact() -> None:
    matrix = np.array([[2**40 + 1, 1], [0, 2**40]])
    assert padded(matrix, 3)[0, 0] + 2**40 == 2**41 + 1
    assert float(accuracy(matrix)) == 1 - 1 / (2**41 + 2)
