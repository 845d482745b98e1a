"""Loops over pixels, compiled for the processor: one pass over memory where tensor arithmetic would take several.

Bit for bit what the tensor arithmetic gives that runs on other devices; no multiplication and addition are fused.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from geoseg.types import Scores

__all__ = ["add_weighted", "first_maximum"]

_Flat = npt.NDArray[np.float32]


def add_weighted(sums: Scores, probs: Scores, weights: npt.NDArray[np.float32], rounder: float) -> None:
    """Adds ``probs * weights``, rounded by adding and subtracting `rounder`, to `sums` (class, row, col)."""
    _add_weighted(_flat(sums), _steps(sums), probs, weights, np.float32(rounder))


def first_maximum(sums: Scores, best: npt.NDArray[np.float32], index: npt.NDArray[Any]) -> None:
    """Puts the maximum over classes of `sums` into `best` (row, col), and the first class that has it into `index`."""
    _first_maximum(_flat(sums), _steps(sums), len(sums), best, index)


def _flat(view: Scores) -> _Flat:
    """The memory from a view's first number to its last, where rows are contiguous.

    Loops over views of unknown steps would not be vectorised.
    """
    length = 1 + sum((count - 1) * step for count, step in zip(view.shape, view.strides, strict=True)) // view.itemsize
    return as_strided(view, (length,), (view.itemsize,))


def _steps(view: Scores) -> tuple[int, int]:
    """Numbers from one class to the next, and from one row to the next."""
    return view.strides[0] // view.itemsize, view.strides[1] // view.itemsize


@numba.njit(cache=True, nogil=True)
def _add_weighted(sums: _Flat, steps: tuple[int, int], probs: Scores, weights: _Flat, rounder: np.float32) -> None:
    classes, height, width = probs.shape
    for number in range(classes):
        for row in range(height):
            start = np.uintp(number * steps[0] + row * steps[1])  # unsigned: no test for indices from the end
            for col in range(width):
                sums[start + np.uintp(col)] += (probs[number, row, col] * weights[row, col] + rounder) - rounder


@numba.njit(cache=True, nogil=True)
def _first_maximum(sums: _Flat, steps: tuple[int, int], classes: int, best: _Flat, index: npt.NDArray[Any]) -> None:
    height, width = best.shape
    for row in range(height):
        first = sums[row * steps[1] : row * steps[1] + width]
        for col in range(width):
            best[row, col] = first[col]
            index[row, col] = 0
        for number in range(1, classes):
            start = number * steps[0] + row * steps[1]
            rival, winner = sums[start : start + width], index.dtype.type(number)
            for col in range(width):
                score, highest = rival[col], best[row, col]
                index[row, col] = winner if score > highest else index[row, col]
                best[row, col] = max(highest, score)
