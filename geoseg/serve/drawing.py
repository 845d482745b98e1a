"""The commands with which a vector tile (MVT 2.1) draws polygons: moves from corner to corner, as varints."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["drawn"]

Numbers = npt.NDArray[np.int64]

_MOVE, _LINE, _CLOSE = 9, 2, 15
_WORD = 5  # bytes of the longest varint of 32 bits


def drawn(points: Numbers, ends: Numbers, first_rings: Numbers) -> Iterator[bytes]:
    """The commands of each polygon, without corners that repeat or lie on a line.

    Args:
        points: (point, xy) of closed rings in whole units, exteriors before their holes.
        ends: (ring + 1,) where each ring begins and ends.
        first_rings: (polygon + 1,) where the rings of each polygon begin and end.

    >>> ring = np.array([[0, 0], [0, 0], [1, 0], [3, 0], [3, 3], [0, 0]])
    >>> [commands.hex(" ") for commands in drawn(ring, np.array([0, 6]), np.array([0, 1]))]
    ['09 00 00 12 06 00 00 06 0f']
    """
    coded = np.empty(_WORD * (2 * len(points) + 3 * len(ends)), np.uint8)
    longest = int(np.diff(ends).max(initial=0))
    stops = _draw(points, ends, first_rings, coded, np.empty((longest, 2), np.int64), np.empty((longest, 2), np.int64))
    whole = coded[: stops[-1]].tobytes()
    return (whole[start:stop] for start, stop in pairwise(stops.tolist()))


@numba.njit(cache=True, nogil=True)
def _draw(points: Any, ends: Any, first_rings: Any, coded: Any, apart: Any, corners: Any) -> Numbers:
    stops = np.zeros(len(first_rings), np.int64)
    at: Any = np.int64(0)
    for polygon in range(len(first_rings) - 1):
        x: Any = np.int64(0)
        y: Any = np.int64(0)
        for ring in range(first_rings[polygon], first_rings[polygon + 1]):
            count: Any = _bends(points, ends[ring], ends[ring + 1], apart, corners)
            if count < 3:
                continue
            at = _put(coded, at, _MOVE)
            for corner in range(count):
                if corner == 1:
                    at = _put(coded, at, (count - 1) << 3 | _LINE)
                across, down = corners[corner, 0] - x, corners[corner, 1] - y
                at = _put(coded, at, across << 1 ^ across >> 63)
                at = _put(coded, at, down << 1 ^ down >> 63)
                x, y = corners[corner, 0], corners[corner, 1]
            at = _put(coded, at, _CLOSE)
        stops[polygon + 1] = at
    return stops


@numba.njit(cache=True, nogil=True)
def _bends(points: Any, low: int, high: int, apart: Any, corners: Any) -> int:
    """Puts the points of a closed ring where it turns into `corners`, and says how many they are."""
    count = 0
    for point in range(low, high - 1):
        if points[point, 0] != points[point + 1, 0] or points[point, 1] != points[point + 1, 1]:
            apart[count] = points[point]
            count += 1
    bends = 0
    for place in range(count):
        here, before, after = apart[place], apart[place - 1 if place else count - 1], apart[(place + 1) % count]
        if (here[0] - before[0]) * (after[1] - here[1]) != (here[1] - before[1]) * (after[0] - here[0]):
            corners[bends] = here
            bends += 1
    return bends


@numba.njit(cache=True, nogil=True)
def _put(coded: Any, at: Any, value: Any) -> Any:
    """Writes a varint, and says where the next one stands."""
    while value > 127:
        coded[at] = value & 127 | 128
        value >>= 7
        at += 1
    coded[at] = value
    return at + 1
