"""Places along a Hilbert curve: what is near on it is near on the map, and mostly the other way round."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["LEVEL", "along_curve"]

LEVEL = 16
"""The curve passes through a lattice of 2^16 by 2^16 cells."""


def along_curve(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], extent: tuple[float, float, float, float]
) -> npt.NDArray[np.uint64]:
    """(n,) how many cells of a Hilbert curve lie before each point, from 0 to 4^`LEVEL` - 1.

    D. Hilbert 1891, Ueber die stetige Abbildung einer Linie auf ein Flaechenstueck, doi:10.1007/BF01199431.

    Args:
        x: (n,) coordinates within `extent`.
        y: The same.
        extent: xmin, ymin, xmax, ymax of the lattice.
    """
    distance = np.empty(len(x), np.uint64)
    _walk(_cells(x, extent[0], extent[2]), _cells(y, extent[1], extent[3]), distance)
    return distance


def _cells(places: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.int64]:
    """(n,) the column or row of the lattice in which each place lies."""
    if high <= low:
        return np.zeros(len(places), np.int64)
    last = 2**LEVEL - 1
    cells: npt.NDArray[np.int64] = np.clip((places - low) / (high - low) * last, 0, last).astype(np.int64)
    return cells


@numba.njit(cache=True, nogil=True)
def _walk(columns: Any, rows: Any, distance: Any) -> None:
    """Fills `distance`, from the largest quadrants to the smallest; each is turned to where the curve enters it."""
    for number in range(len(columns)):
        column, row, passed = columns[number], rows[number], 0
        for level in range(LEVEL - 1, -1, -1):
            right, upper = column >> level & 1, row >> level & 1
            passed = passed << 2 | (3 * right ^ upper)
            if upper == 0:
                if right == 1:
                    column, row = ~column, ~row
                column, row = row, column
        distance[number] = passed
