"""Rings joined where pieces of a polygon meet, and parted where they touch themselves."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from geoseg.serve.rings import Rings

__all__ = ["parted", "united"]

Points = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

_MIX = 0x9E3779B97F4A7C1  # spreads the bits of coordinates


def united(pieces: Rings) -> Rings:
    """One polygon without the lines along which it was cut, for its pieces go along them both ways."""
    twins = _twins(pieces.points.view(np.int64), pieces.ends)
    points, ends = _without(pieces.points, pieces.ends, twins)
    return Rings(points=points, ends=ends, owners=np.zeros(len(ends) - 1, np.int64))


def parted(rings: Rings) -> Rings:
    """Rings that come to no point twice: what one draws between two visits of a point becomes a ring of its own."""
    points = rings.points + 0.0  # no -0.0
    points, ends, owners = _parted(points, points.view(np.int64), rings.ends, rings.owners)
    return Rings(points=points, ends=ends, owners=owners)


@numba.njit(cache=True, nogil=True)
def _twins(words: Any, ends: Any) -> Numbers:
    """(point,) where the edge begins that goes between the same two points the other way; -1 where none does."""
    mask = 1
    while mask < 2 * len(words):
        mask *= 2
    mask -= 1
    slots = np.full(mask + 1, -1, np.int64)
    twins = np.full(len(words), -1, np.int64)
    for ring in range(len(ends) - 1):
        for edge in range(ends[ring], ends[ring + 1] - 1):
            if words[edge, 0] == words[edge + 1, 0] and words[edge, 1] == words[edge + 1, 1]:
                continue
            sums = (words[edge, 0] + words[edge + 1, 0]) * 31 + words[edge, 1] + words[edge + 1, 1]
            slot = ((sums * _MIX) >> 40) & mask
            while slots[slot] >= 0 and twins[edge] < 0:
                other = slots[slot]
                if (
                    twins[other] < 0
                    and words[other, 0] == words[edge + 1, 0]
                    and words[other, 1] == words[edge + 1, 1]
                    and words[other + 1, 0] == words[edge, 0]
                    and words[other + 1, 1] == words[edge, 1]
                ):
                    twins[edge], twins[other] = other, edge
                slot = (slot + 1) & mask
            if twins[edge] < 0:
                slots[slot] = edge
    return twins


@numba.njit(cache=True, nogil=True)
def _without(points: Any, ends: Any, twins: Any) -> tuple[Points, Numbers]:
    """Rings without the edges that have twins: who comes to one goes on where its twin has led."""
    after = np.arange(1, len(points) + 1)
    for ring in range(len(ends) - 1):
        if ends[ring + 1] - ends[ring] > 1:
            after[ends[ring + 1] - 2] = ends[ring]
    done = twins >= 0
    for end in ends[1:]:
        done[end - 1] = True  # where a ring closes
    drawn, stops = np.empty((2 * len(points), 2)), np.zeros(len(points) + 1, np.int64)
    at = ring = 0
    for first in range(len(points)):
        if done[first]:
            continue
        edge, start = first, at
        while not done[edge]:
            done[edge] = True
            drawn[at] = points[edge]
            at += 1
            edge = after[edge]
            while twins[edge] >= 0:
                edge = after[twins[edge]]
        drawn[at] = drawn[start]
        at += 1
        ring += 1
        stops[ring] = at
    return drawn[:at].copy(), stops[: ring + 1].copy()


@numba.njit(cache=True, nogil=True)
def _parted(points: Any, words: Any, ends: Any, owners: Any) -> tuple[Points, Numbers, Numbers]:
    mask = 1
    while mask < 2 * len(points):
        mask *= 2
    mask -= 1
    slots = np.full(mask + 1, -1, np.int64)  # of a ring before, as good as free
    place = np.full(len(points), -1, np.int64)  # where in the walk a point is
    walk = np.empty(len(points) + 1, np.int64)
    drawn, stops = np.empty((2 * len(points), 2)), np.zeros(len(points) + 1, np.int64)
    whose = np.empty(len(points), np.int64)
    at = found = 0
    for ring in range(len(owners)):
        length = 0
        for point in range(ends[ring], ends[ring + 1]):
            x, y = words[point, 0], words[point, 1]
            slot = (((x * 31 + y) * _MIX) >> 40) & mask
            while slots[slot] >= ends[ring] and (words[slots[slot], 0] != x or words[slots[slot], 1] != y):
                slot = (slot + 1) & mask
            if slots[slot] < ends[ring]:
                slots[slot] = point
            here = slots[slot]
            if place[here] >= 0:
                begin = place[here]
                at = _closed(points, walk[begin:length], place, drawn, at)
                length = begin
                if at > stops[found]:
                    whose[found] = owners[ring]
                    found += 1
                    stops[found] = at
            walk[length] = here
            place[here] = length
            length += 1
    return drawn[:at].copy(), stops[: found + 1].copy(), whose[:found].copy()


@numba.njit(cache=True, nogil=True)
def _closed(points: Any, walk: Any, place: Any, drawn: Any, at: int) -> int:
    """Draws a ring, if it is one, and forgets where its points are."""
    for step in range(len(walk)):
        place[walk[step]] = -1
        if len(walk) > 2:
            drawn[at] = points[walk[step]]
            at += 1
    if len(walk) > 2:
        drawn[at] = points[walk[0]]
        at += 1
    return at
