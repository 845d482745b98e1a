"""How well the borders between classes fit: boundary IoU and boundary F1, from counts that add up.

A pixel lies on a border where a known pixel nearby has another class; what lies beyond the edge of the known pixels
makes no border. All classes are counted in one pass. A count needs the pixels around it (`reach`): windows that overlap
by that much have, together, exactly the counts of the whole.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt

from geoseg.evaluation.confusion import Matrix, ratio
from geoseg.types import Valid
from geoseg.window import Window

__all__ = ["boundary_f1", "boundary_iou", "count_boundaries", "edge_band", "reach"]

_Classes: TypeAlias = npt.NDArray[np.int16]
_Offsets: TypeAlias = npt.NDArray[np.int64]

_COMMON_BAND, _TRUE_BAND, _MAPPED_BAND, _TRUE_NEAR, _TRUE_LINE, _MAPPED_NEAR, _MAPPED_LINE = range(7)
_HIGHEST = np.iinfo(np.int16).max


def reach(width: int) -> int:
    """Pixels around a window that its counts depend on, for a band of `width` pixels."""
    return width + 1


def edge_band(classes: _Classes, known: Valid, width: int) -> Valid:
    """(row, col), True where a known pixel of another class lies within `width` pixels, diagonals counted as one.

    Of the pixels of one class these are the inner boundary region of Cheng et al. 2021: the class without what is left
    of it after `width` erosions by 3 x 3 pixels.

    Args:
        classes: Class numbers (row, col), int16, from 0.
        known: Pixels that count (row, col).
        width: Pixels, at least 1.

    >>> edge_band(np.array([[0, 0, 0, 1]], np.int16), np.ones((1, 4), bool), 2).tolist()
    [[False, True, True, True]]
    """
    highest = _running(np.where(known, classes, np.int16(-1)), width, np.maximum)
    lowest = _running(np.where(known, classes, np.int16(_HIGHEST)), width, np.minimum)
    band: Valid = known & (highest != lowest)
    return band


def _running(values: _Classes, radius: int, pick: Any) -> _Classes:
    """Maximum or minimum over the square of 2 x `radius` + 1 pixels around each, in steps of doubled length."""
    length = 2 * radius + 1
    for axis in (0, 1):
        beyond = [(radius, radius) if each == axis else (0, 0) for each in (0, 1)]
        line, span = np.moveaxis(np.pad(values, beyond, mode="edge"), axis, 0), 1
        while 2 * span <= length:
            line, span = pick(line[:-span], line[span:]), 2 * span
        rest = length - span
        values = np.moveaxis(pick(line[: len(line) - rest], line[rest:]), 0, axis)
    return values


def count_boundaries(
    truth: _Classes, predicted: _Classes, known: Valid, core: Window, *, width: int, classes: int
) -> Matrix:
    """(7, class) pixels of one window, int64, for `boundary_iou` and `boundary_f1`; those of windows add up.

    Args:
        truth: Class numbers (row, col), int16, from 0.
        predicted: The same of the map.
        known: Pixels that count (row, col).
        core: The pixels of these arrays that are counted; what surrounds them, by `reach` at least, is only looked at.
        width: Pixels of the band, and by which the lines of both maps may lie apart.
        classes: How many there are.
    """
    counts = np.zeros((7, classes), np.int64)
    here = core.slices
    true_band, mapped_band = (edge_band(each, known, width)[here] for each in (truth, predicted))
    common = true_band & mapped_band & (truth == predicted)[here]
    for number, (each, band) in enumerate([(truth, common), (truth, true_band), (predicted, mapped_band)]):
        counts[number] = np.bincount(each[here][band], minlength=classes)
    true_line, mapped_line = (_line(each, known) for each in (truth, predicted))
    corners = (core.row_off, core.row_stop, core.col_off, core.col_stop)
    nearby = _disc(width)
    _count_near(true_line, mapped_line, corners, *nearby, counts[_TRUE_NEAR], counts[_TRUE_LINE])
    _count_near(mapped_line, true_line, corners, *nearby, counts[_MAPPED_NEAR], counts[_MAPPED_LINE])
    return counts


def _line(classes: _Classes, known: Valid) -> _Classes:
    """Class numbers on the borders, -1 elsewhere."""
    return np.where(edge_band(classes, known, 1), classes, np.int16(-1))


def _disc(radius: int) -> tuple[_Offsets, _Offsets]:
    """Rows and columns of the pixels within `radius` of one, the nearest first."""
    rows, cols = (each.ravel() for each in np.mgrid[-radius : radius + 1, -radius : radius + 1])
    square = rows**2 + cols**2
    order = np.argsort(square, kind="stable")[: int((square <= radius**2).sum())]
    return rows[order], cols[order]


@numba.njit(cache=True, nogil=True)
def _count_near(
    line: _Classes,
    other: _Classes,
    core: tuple[int, int, int, int],
    rows: _Offsets,
    cols: _Offsets,
    near: npt.NDArray[np.int64],
    total: npt.NDArray[np.int64],
) -> None:
    """Counts the pixels of `line` by class, and those with a pixel of the class in `other` at one of the offsets."""
    height, width = line.shape
    for row in range(core[0], core[1]):
        for col in range(core[2], core[3]):
            number = line[row, col]
            if number < 0:
                continue
            total[number] += 1
            for k in range(len(rows)):
                y, x = row + rows[k], col + cols[k]
                if 0 <= y < height and 0 <= x < width and other[y, x] == number:
                    near[number] += 1
                    break


def boundary_iou(counts: Matrix) -> npt.NDArray[np.float64]:
    """(class) intersection over union of the bands along the borders; NaN for a class without a border.

    Cheng, Girshick, Dollar, Berg and Kirillov 2021, doi:10.1109/CVPR46437.2021.01508. The edge of the map is no border
    here, for what lies beyond is not known.
    """
    common = counts[_COMMON_BAND]
    return ratio(common, counts[_TRUE_BAND] + counts[_MAPPED_BAND] - common)


def boundary_f1(counts: Matrix) -> npt.NDArray[np.float64]:
    """(class) F1 of the lines along the borders; NaN for a class without a border.

    A pixel of a line is found where the other map has a line of the class no further (Euclidean) than the band is wide:
    Csurka, Larlus and Perronnin 2013, doi:10.5244/C.27.32.
    """
    found, right = (
        ratio(counts[near], counts[line]) for near, line in ((_TRUE_NEAR, _TRUE_LINE), (_MAPPED_NEAR, _MAPPED_LINE))
    )
    none = (counts[_TRUE_LINE] == 0) != (counts[_MAPPED_LINE] == 0)
    return np.where(none, 0.0, np.where(found + right == 0, 0.0, ratio(2 * found * right, found + right)))
