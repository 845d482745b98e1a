"""Confusion matrices of class maps, and the scores that they hold.

A matrix is (truth, predicted), int64: how many pixels of a true class were mapped to each class. Matrices of windows,
regions or scenes add up exactly, so a map that is read in pieces has the scores of the whole. Every score takes
matrices (..., truth, predicted) and gives one number for each; what is not defined (0 / 0) is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "BY_CLASS",
    "OVERALL",
    "Matrix",
    "accuracy",
    "count_confusion",
    "dice",
    "frequency_weighted_iou",
    "iou",
    "mean_defined",
    "padded",
    "precision",
    "ratio",
    "recall",
]

Matrix: TypeAlias = npt.NDArray[np.int64]
"""(..., truth, predicted) pixels."""

FloatArray: TypeAlias = npt.NDArray[np.float64]


def count_confusion(truth: npt.NDArray[Any], predicted: npt.NDArray[Any], classes: int) -> Matrix:
    """(truth, predicted) pixels of two maps of class numbers 0 to `classes` - 1, of one shape.

    >>> count_confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    codes = truth.astype(np.intp).ravel() * classes + predicted.ravel()
    counts: Matrix = np.bincount(codes, minlength=classes * classes).reshape(classes, classes).astype(np.int64)
    return counts


def padded(matrix: Matrix, classes: int) -> Matrix:
    """A matrix or row of counts with zeros for the classes that it does not know, along its axes of classes.

    >>> padded(np.array([[5]]), 2).tolist()
    [[5, 0], [0, 0]]
    """
    return np.pad(matrix, [(0, classes - length) for length in matrix.shape])


def ratio(part: npt.NDArray[Any], total: npt.NDArray[Any]) -> FloatArray:
    """`part` / `total` in float64, NaN where `total` is 0."""
    shape = np.broadcast_shapes(np.shape(part), np.shape(total))
    whole = np.broadcast_to(np.asarray(total, np.float64), shape)
    found: FloatArray = np.divide(part, whole, out=np.full(shape, np.nan), where=whole != 0)
    return found


def mean_defined(scores: FloatArray) -> FloatArray:
    """Mean over the last axis of what is defined; NaN where nothing is.

    >>> float(mean_defined(np.array([0.5, np.nan, 1.0])))
    0.75
    """
    known = ~np.isnan(scores)
    return ratio(np.where(known, scores, 0).sum(axis=-1), known.sum(axis=-1))


def _hits(matrix: Matrix) -> Matrix:
    return np.diagonal(matrix, axis1=-2, axis2=-1)


def iou(matrix: Matrix) -> FloatArray:
    """(..., class) intersection over union (Jaccard 1912); NaN for a class that neither map has.

    >>> iou(np.array([[2, 1], [1, 0]])).tolist()
    [0.5, 0.0]
    """
    return ratio(_hits(matrix), matrix.sum(axis=-1) + matrix.sum(axis=-2) - _hits(matrix))


def dice(matrix: Matrix) -> FloatArray:
    """(..., class) Dice coefficient, which is F1 (Dice 1945, doi:10.2307/1932409); NaN as for `iou`."""
    return ratio(2 * _hits(matrix), matrix.sum(axis=-1) + matrix.sum(axis=-2))


def precision(matrix: Matrix) -> FloatArray:
    """(..., class) share of a mapped class that is true (user's accuracy); NaN for a class that is never mapped."""
    return ratio(_hits(matrix), matrix.sum(axis=-2))


def recall(matrix: Matrix) -> FloatArray:
    """(..., class) share of a true class that is mapped (producer's accuracy); NaN for a class that is never true."""
    return ratio(_hits(matrix), matrix.sum(axis=-1))


def accuracy(matrix: Matrix) -> FloatArray:
    """(...) share of pixels whose class is right."""
    return ratio(_hits(matrix).sum(axis=-1), matrix.sum(axis=(-2, -1)))


def frequency_weighted_iou(matrix: Matrix) -> FloatArray:
    """(...) mean of `iou`, each class weighted by its true pixels (Long et al. 2015, doi:10.1109/CVPR.2015.7298965)."""
    weights = matrix.sum(axis=-1)
    return ratio((weights * np.nan_to_num(iou(matrix))).sum(axis=-1), weights.sum(axis=-1))


BY_CLASS: Final[Mapping[str, Callable[[Matrix], FloatArray]]] = {
    "iou": iou,
    "dice": dice,
    "precision": precision,
    "recall": recall,
}
"""Scores of each class, by name."""

OVERALL: Final[Mapping[str, Callable[[Matrix], FloatArray]]] = {
    "accuracy": accuracy,
    "miou": lambda matrix: mean_defined(iou(matrix)),
    "fwiou": frequency_weighted_iou,
    "dice": lambda matrix: mean_defined(dice(matrix)),
    "precision": lambda matrix: mean_defined(precision(matrix)),
    "recall": lambda matrix: mean_defined(recall(matrix)),
}
"""Scores of all classes together, by name; means are over the classes for which the score is defined."""
