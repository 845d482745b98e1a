"""Noise that depends on absolute pixel coordinates only, so that any cut of a raster gives the same numbers.

Per pixel nothing but ``+ - * / sqrt`` and integer arithmetic is used: their results are the same bits on every
processor and for every array layout, which library sines and exponentials are not.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Integers", "bell", "bent_noise", "fractal", "hashed", "smooth", "uniform", "value_noise"]

Integers: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float32]


def hashed(first: npt.NDArray[np.integer], second: npt.NDArray[np.integer], key: int) -> npt.NDArray[np.uint32]:
    """32 well-mixed bits for each pair of integers (broadcast together); `key` separates uses.

    >>> hashed(np.arange(2)[:, None], np.arange(2)[None], 7).shape
    (2, 2)
    """
    bits = first.astype(np.uint32) * np.uint32(0x9E3779B1) ^ second.astype(np.uint32) * np.uint32(0x85EBCA77)
    bits ^= np.uint32((key * 0xC2B2AE3D + 0x27D4EB2F) & 0xFFFFFFFF)
    for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39)):
        bits ^= bits >> np.uint32(shift)
        bits *= np.uint32(factor)
    bits ^= bits >> np.uint32(15)
    return bits


def uniform(first: npt.NDArray[np.integer], second: npt.NDArray[np.integer], key: int) -> Floats:
    """Uniform numbers in [0, 1) for each pair of integers."""
    return (hashed(first, second, key) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def bell(first: npt.NDArray[np.integer], second: npt.NDArray[np.integer], key: int) -> Floats:
    """Nearly normal numbers of mean 0 and standard deviation 1: the four bytes of one hash, added up."""
    bits = hashed(first, second, key)
    total = bits & np.uint32(0x00FF00FF)
    bits >>= np.uint32(8)
    bits &= np.uint32(0x00FF00FF)
    total += bits
    total += total >> np.uint32(16)
    total &= np.uint32(0xFFFF)
    return (total.astype(np.float32) - np.float32(510.0)) * np.float32(1 / 147.8)


def smooth(x: Floats) -> Floats:
    """0 below 0, 1 above 1, a smooth rise between."""
    x = np.clip(x, np.float32(0), np.float32(1))
    return x * x * (np.float32(3) - np.float32(2) * x)


def _lattice(axis: Integers, period: int) -> tuple[Integers, Integers, Floats]:
    """Lattice points that the axis needs, each pixel's index into them, and its smoothed fraction of a period."""
    cell = axis // period
    points = np.arange(cell[0], cell[-1] + 2)
    return points, cell - cell[0], smooth(((axis - cell * period) / period).astype(np.float32))


def value_noise(rows: Integers, cols: Integers, period: int, key: int) -> Floats:
    """Smooth noise in [0, 1) with one random value every `period` pixels: (row, col) for ascending rows and cols."""
    row_points, row, down = _lattice(rows, period)
    col_points, col, along = _lattice(cols, period)
    values = uniform(row_points[:, None], col_points[None, :], key)
    lines = values[row] + (values[row + 1] - values[row]) * down[:, None]  # (row, lattice col)
    slopes = lines[:, 1:] - lines[:, :-1]
    out = slopes.take(col, axis=1)
    out *= along
    out += lines.take(col, axis=1)
    return out


def bent_noise(y: Floats, x: Floats, period: float, key: int) -> Floats:
    """`value_noise` at any places (row, col), not only on a raster: for lattices that are turned or bent."""
    down, along = y * np.float32(1 / period), x * np.float32(1 / period)
    row, col = np.floor(down), np.floor(along)
    down, along = smooth(down - row), smooth(along - col)
    i, j = row.astype(np.int32), col.astype(np.int32)
    edges = []
    for step in (0, 1):
        left, right = uniform(i + step, j, key), uniform(i + step, j + 1, key)
        edges.append(left + (right - left) * along)
    return edges[0] + (edges[1] - edges[0]) * down


def fractal(rows: Integers, cols: Integers, period: int, key: int, octaves: int) -> Floats:
    """Noise in [0, 1) on `octaves` scales from `period` down, each half as long and as strong as the last."""
    total = value_noise(rows, cols, period, key)
    for octave in range(1, octaves):
        layer = value_noise(rows, cols, max(1, period >> octave), key + 101 * octave)
        layer *= np.float32(0.5**octave)
        total += layer
    total *= np.float32(1 / (2 - 0.5 ** (octaves - 1)))
    return total
