"""Which neighbour takes which small region: decided on a graph, whatever the raster looks like.

Small regions that touch each other are a *clump*, and each clump settles by itself, among regions that are large
enough and as large as they were found. So it can settle as soon as it is seen whole.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from geoseg.tracing.components import joined, root_of

__all__ = ["FIRST", "SUM", "VALUE", "Clumps", "Verdict", "settle"]

IntArray = npt.NDArray[np.int64]
Chosen = npt.NDArray[np.bool_]

FIRST, VALUE, SUM = range(3)
"""Columns of a table of regions: first pixel, class value, what was measured."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clumps:
    """Small regions, and the large ones around them."""

    regions: IntArray
    """(n, 3) first pixel, class value and sum; a region may come several times."""
    contacts: IntArray
    """(n, 3) the first pixels of two regions of which one is small, and how many pixel sides they share; 0 if they
    touch by corners only."""

    @classmethod
    def none(cls) -> Clumps:
        """No region."""
        return cls(regions=np.empty((0, 3), np.int64), contacts=np.empty((0, 3), np.int64))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Verdict:
    """What becomes of regions."""

    first: IntArray
    """(region,) first pixels, in order."""
    values: IntArray
    """(region,) the class value that each ends with."""
    waits: Chosen
    """(region,) whether a small one has yet to be decided on."""
    waiting: Clumps
    """The clumps of these."""

    def of(self, first: IntArray) -> tuple[IntArray, Chosen]:
        """Values and whether they wait (n,) of the regions with these first pixels (n,)."""
        at = np.searchsorted(self.first, first)
        return self.values[at], self.waits[at]


def settle(clumps: Clumps, leaving: IntArray, below: int) -> Verdict:
    """Settles the clumps that are seen whole.

    Args:
        clumps: Regions and their neighbours, as far as they are seen.
        leaving: (n,) first pixels of regions that may go on where nobody has looked yet.
        below: Regions with a smaller sum are small.
    """
    first, at = np.unique(clumps.regions[:, FIRST], return_index=True)
    regions, contacts = clumps.regions[at], clumps.contacts.copy()
    contacts[:, :2] = np.searchsorted(first, contacts[:, :2])
    small = regions[:, SUM] < below
    clump, count = joined(len(first), contacts[small[contacts[:, :2]].all(axis=1), :2])
    goes_on = np.zeros(count, np.bool_)
    goes_on[clump[small & np.isin(first, leaving)]] = True
    waits = small & goes_on[clump]
    wait = waits[contacts[:, :2]].any(axis=1)
    around = waits.copy()
    around[contacts[wait, :2]] = True
    return Verdict(
        first=first,
        values=_new_values(regions, clump, contacts[~wait], below),
        waits=waits,
        waiting=Clumps(regions=regions[around], contacts=clumps.contacts[wait]),
    )


def _new_values(regions: IntArray, clump: IntArray, contacts: IntArray, below: int) -> IntArray:
    """(region,) the value that each of the `regions` (region, 3) ends with, by their `contacts` (n, 3)."""
    count, small = len(regions), regions[:, SUM] < below
    ways = np.concatenate([contacts, contacts[:, [1, 0, 2]]])
    one, other, shared = ways[small[ways[:, 0]]].T.copy()
    # A large region is another one for each clump: what one clump gives to it is nothing to the next.
    large = ~small[other]
    copies, place = np.unique(clump[one[large]] * count + other[large], return_inverse=True)
    other[large] = count + place
    nodes = np.concatenate([regions, regions[copies % max(1, count)]])
    pairs, place = np.unique(one * len(nodes) + other, return_inverse=True)
    sides = np.zeros(len(pairs), np.int64)
    np.add.at(sides, place, shared)
    one, other = np.divmod(pairs, max(1, len(nodes)))
    starts = np.searchsorted(one, np.arange(len(nodes) + 1))
    parent, values = np.arange(len(nodes)), nodes[:, VALUE].copy()
    contacts = np.column_stack([other, sides])
    _absorb(parent, values, nodes[:, FIRST].copy(), nodes[:, SUM].copy(), starts, contacts, below)
    return np.asarray(values[parent][:count])


@numba.njit(cache=True, nogil=True)
def _absorb(parent: Any, values: Any, first: Any, sums: Any, neighbours: Any, contacts: Any, below: int) -> None:
    """Merges regions until all that have a neighbour are large enough; `parent` ends as the region that each is in.

    `neighbours` tells where the `contacts` (neighbour, sides) of each region begin; only small ones have any, and only
    they are asked for any. What a region has taken in follows it in a chain, so lists are never copied.
    """
    following = np.full(len(parent), -1, np.int64)
    last = np.arange(len(parent))
    border = np.full(len(parent), -1, np.int64)
    near = np.empty(len(parent), np.int64)
    heap = [(sums[region], first[region], region) for region in range(len(parent)) if sums[region] < below]
    heapq.heapify(heap)
    while heap:
        size, _, region = heapq.heappop(heap)
        if parent[region] != region or sums[region] != size:
            continue
        found = _look_around(region, parent, following, neighbours, contacts, border, near)
        best = _choice(near[:found], border, sums, first)
        if best < 0:
            continue
        value = values[best]
        for at in range(found):
            other = near[at]
            if values[other] == value:
                parent[other] = region
                following[last[region]] = other
                last[region] = last[other]
                sums[region] += sums[other]
                first[region] = min(first[region], first[other])
        values[region] = value
        if sums[region] < below:
            heapq.heappush(heap, (sums[region], first[region], region))
    for region in range(len(parent)):
        parent[region] = root_of(parent, region)


@numba.njit(cache=True, nogil=True)
def _look_around(
    region: int, parent: Any, following: Any, neighbours: Any, contacts: Any, border: Any, near: Any
) -> int:
    """Lists the neighbours of a region in `near`, and the sides that it shares with them in `border`; how many."""
    found = 0
    member = region
    while member >= 0:
        for at in range(neighbours[member], neighbours[member + 1]):
            other = root_of(parent, contacts[at, 0])
            if other == region:
                continue
            if border[other] < 0:
                near[found] = other
                found += 1
                border[other] = 0
            border[other] += contacts[at, 1]
        member = following[member]
    return found


@numba.njit(cache=True, nogil=True)
def _choice(near: Any, border: Any, sums: Any, first: Any) -> int:
    """Which of the regions around a small one it goes to, -1 for none; forgets what `border` has of them."""
    best, most, largest = -1, 0, 0
    for other in near:
        sides, size = border[other], sums[other]
        border[other] = -1
        if sides > most or (sides == most > 0 and (size > largest or (size == largest and first[other] < first[best]))):
            best, most, largest = other, sides, size
    return best
