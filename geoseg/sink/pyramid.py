"""Halving a raster for its overviews: pure functions on arrays of (..., row, col)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["halve_average", "halve_mode"]

Array = npt.NDArray[Any]

_ROWS = 256  # even; halved at a time: where neighbours all differ, the arithmetic takes ten times the pixels' memory


def _by_rows(halve: Callable[[Array, float | None], Array], array: Array, nodata: float | None) -> Array:
    """What `halve` gives, a few rows at a time."""
    rows, cols = array.shape[-2:]
    halved = np.empty((*array.shape[:-2], -(-rows // 2), -(-cols // 2)), array.dtype)
    for row in range(0, rows, _ROWS):
        halved[..., row // 2 : (row + _ROWS) // 2, :] = halve(array[..., row : row + _ROWS, :], nodata)
    return halved


def _corners(array: Array) -> list[Array]:
    """The four pixels of each 2 x 2 group, in reading order; an odd last row or column counts twice."""
    odd = [(0, 0)] * (array.ndim - 2) + [(0, side % 2) for side in array.shape[-2:]]
    if any(after for _, after in odd):
        array = np.pad(array, odd, mode="edge")
    return [np.ascontiguousarray(array[..., row::2, col::2]) for row in (0, 1) for col in (0, 1)]


def _usable(values: Array, nodata: float | None) -> npt.NDArray[np.bool_]:
    """Which values are observations: not `nodata`, which may be NaN."""
    if nodata is None:
        return np.ones(values.shape, bool)
    return ~np.isnan(values) if np.isnan(nodata) else values != nodata


def _vote(a: Array, b: Array, c: Array, d: Array, nodata: float | None) -> Array:
    """The commonest usable value of each a, b, c, d; of several the first."""
    has_a, has_b, has_c = (_usable(values, nodata) for values in (a, b, c))
    twice = [((a == b) | (a == c) | (a == d)) & has_a, ((b == c) | (b == d)) & has_b, (c == d) & has_c]
    return np.select([*twice, has_a, has_b, has_c], [a, b, c, a, b, c], d)


def halve_mode(array: Array, nodata: float | None) -> Array:
    """The commonest value of each 2 x 2 group, ``ceil`` of half the size; of several the first in reading order.

    Nodata never wins against a value: only a group without any value becomes nodata.

    Args:
        array: (..., row, col), integers.
        nodata: Number that is no value, or None.

    >>> halve_mode(np.array([[1, 2, 255], [2, 1, 255], [255, 255, 3]]), 255)
    array([[  1, 255],
           [255,   3]])
    """
    return _by_rows(_mode, array, nodata)


def _mode(array: Array, nodata: float | None) -> Array:
    a, b, c, d = _corners(array)
    # Maps are mostly uniform, and comparing is six times cheaper than voting: only mixed groups vote.
    mixed = np.nonzero((a != b) | (a != c) | (a != d))
    a[mixed] = _vote(a[mixed], b[mixed], c[mixed], d[mixed], nodata)
    return a


def halve_average(array: Array, nodata: float | None) -> Array:
    """The mean of the usable values of each 2 x 2 group, integers rounded to the nearest (halves up).

    Args:
        array: (..., row, col), unsigned integers of at most 16 bits, or floats.
        nodata: Number that is no value (may be NaN), or None; it stays where a group has no value.

    >>> halve_average(np.array([[10, 21], [255, 255]], np.uint8), 255)
    array([[16]], dtype=uint8)
    """
    return _by_rows(_average, array, nodata)


def _average(array: Array, nodata: float | None) -> Array:
    whole = array.dtype.kind == "u"
    wide = np.dtype(f"u{2 * array.dtype.itemsize}") if whole else array.dtype
    corners = _corners(array)
    total, count = np.zeros(corners[0].shape, wide), np.zeros(corners[0].shape, wide)
    for values in corners:
        usable = _usable(values, nodata)
        np.add(total, values, out=total, where=usable)
        count += usable
    some = np.maximum(count, 1)
    mean = (2 * total + some) // (2 * some) if whole else total / some
    if nodata is not None:
        mean[count == 0] = nodata
    return mean.astype(array.dtype)
