"""Components that reach beyond their chunk, joined row of chunks by row of chunks.

What is kept are the components that still touch the front, the lower edge of the last row of chunks: a line of a table
for each, and their runs, eight bytes a vertex. Which parts are one component is decided by the pixels on both sides of
the borders of chunks; in which order runs follow one another, by their keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from geoseg.tracing.components import joined
from geoseg.tracing.rings import chain

__all__ = ["Beyond", "Joiner", "Parts", "Rings", "Runs"]

IntArray = npt.NDArray[np.int64]
Chosen = npt.NDArray[np.bool_]

TOP, BOTTOM, LEFT, RIGHT = range(4)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """Components, or parts of them: a table."""

    values: IntArray
    """(n,) class value."""
    first: IntArray
    """(n,) first pixel, as row * width + col of the raster."""
    group: IntArray
    """(n,) the part that stands for all of one region; itself, unless regions hold together at corners."""
    sums: IntArray
    """(n, k) what is added up over the pixels."""

    def __len__(self) -> int:
        return len(self.values)

    def take(self, chosen: Chosen) -> Parts:
        """Some of the parts: whole regions."""
        number = np.cumsum(chosen) - 1
        return Parts(
            values=self.values[chosen],
            first=self.first[chosen],
            group=number[self.group[chosen]],
            sums=self.sums[chosen],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rings:
    """The boundaries of parts."""

    vertices: npt.NDArray[np.int32]
    """(vertex, 2) row and column."""
    starts: IntArray
    """(ring,) where its vertices start."""
    sizes: IntArray
    """(ring,) how many they are; none comes twice."""
    owner: IntArray
    """(ring,) the part that it bounds; the first ring of a part is its exterior, the others are holes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Runs:
    """Pieces of boundaries; vertices lie one run after the other."""

    vertices: npt.NDArray[np.int32]
    """(vertex, 2) row and column."""
    sizes: IntArray
    """(run,) number of vertices."""
    owner: IntArray
    """(run,) the part that it bounds; -1 for nobody's."""
    keys: IntArray
    """(run, 2) the edge before it, and its own last edge."""

    def take(self, chosen: Chosen) -> Runs:
        """Some of the runs."""
        return Runs(
            vertices=self.vertices[np.repeat(chosen, self.sizes)],
            sizes=self.sizes[chosen],
            owner=self.owner[chosen],
            keys=self.keys[chosen],
        )

    def given_to(self, owners: IntArray) -> Runs:
        """The same runs, those of part n now of part ``owners[n]``."""
        return replace(self, owner=_looked_up(owners, self.owner))

    def without_waste(self) -> Runs:
        """The same runs; without those of nobody, if these have half of the vertices."""
        kept = self.owner >= 0
        return self.take(kept) if 2 * int(self.sizes[kept].sum()) < len(self.vertices) else self


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Beyond:
    """What of a chunk reaches beyond it."""

    parts: Parts
    runs: Runs
    sides: Sequence[IntArray]
    """Along top, bottom, left and right: the part of each pixel that has its like beyond, -1 for the others."""

    def counted_from(self, number: int) -> Beyond:
        """The same, part n now being part ``number + n``."""
        numbers = number + np.arange(len(self.parts))
        return Beyond(
            parts=replace(self.parts, group=numbers[self.parts.group]),
            runs=self.runs.given_to(numbers),
            sides=[_looked_up(numbers, side) for side in self.sides],
        )


class Joiner:
    """Takes what reaches beyond its chunk, and gives what is complete.

    Args:
        width: Columns of the raster.
        columns: How many sums a part has.
        corners: Whether regions hold together at corners.
    """

    def __init__(self, width: int, columns: int, *, corners: bool) -> None:
        nothing = np.empty(0, np.int64)
        self._corners = corners
        self._parts = Parts(values=nothing, first=nothing, group=nothing, sums=np.empty((0, columns), np.int64))
        self._strips: list[Runs] = []
        self._front = np.full(width, -1)

    def add(self, row: Sequence[Beyond]) -> tuple[Parts, Rings]:
        """The parts of all regions that end in this row of chunks, the next one below the last, and their rings."""
        numbers = np.cumsum([len(self._parts), *(len(chunk.parts) for chunk in row)])
        row = [chunk.counted_from(int(number)) for chunk, number in zip(row, numbers[:-1], strict=True)]
        top, bottom = (np.concatenate([chunk.sides[side] for chunk in row]) for side in (TOP, BOTTOM))
        borders = [(self._front, top), *((one.sides[RIGHT], other.sides[LEFT]) for one, other in pairwise(row))]
        parts, part_of = _united([self._parts, *(chunk.parts for chunk in row)], borders, corners=self._corners)
        front = _looked_up(part_of, bottom)
        open_groups = np.zeros(len(parts), np.bool_)
        open_groups[parts.group[front[front >= 0]]] = True
        stays = open_groups[parts.group]
        self._strips.append(_together([chunk.runs for chunk in row]))
        runs = self._taken(part_of, stays)
        self._parts, self._front = parts.take(stays), _looked_up(np.cumsum(stays) - 1, front)
        return parts.take(~stays), _ringed(runs)

    def _taken(self, part_of: IntArray, stays: Chosen) -> Runs:
        """The runs of parts that do not stay, taken from the strips; all get the new numbers of their parts."""
        kept, done = (np.where(chosen, np.cumsum(chosen) - 1, -1) for chosen in (stays, ~stays))
        strips, taken = [strip.given_to(part_of) for strip in self._strips], []
        for strip in strips:
            out = strip.given_to(done)
            taken.append(out.take(out.owner >= 0))
        left = (strip.given_to(kept).without_waste() for strip in strips)
        self._strips = [strip for strip in left if len(strip.sizes)]
        return _together(taken)


def _looked_up(table: IntArray, numbers: IntArray) -> IntArray:
    """``table[numbers]``, and -1 where a number is -1."""
    return np.append(table, -1)[numbers]


def _united(
    several: Sequence[Parts], borders: Sequence[tuple[IntArray, IntArray]], *, corners: bool
) -> tuple[Parts, IntArray]:
    """Parts that are one across a border are united: the table, and (n,) where each part of `several` is in it now."""
    values, first, group, sums = (
        np.concatenate([getattr(parts, name) for parts in several]) for name in ("values", "first", "group", "sums")
    )
    straight = [_alike(values, one, other) for one, other in borders]
    part_of, count = joined(len(values), *straight)
    group_of = part_of
    if corners:
        across = [
            _alike(values, *pair) for one, other in borders for pair in ((one[1:], other[:-1]), (one[:-1], other[1:]))
        ]
        group_of, _ = joined(len(values), *straight, *across, np.column_stack([np.arange(len(values)), group]))
    united = Parts(
        values=np.empty(count, np.int64),
        first=np.full(count, np.iinfo(np.int64).max),
        group=np.empty(count, np.int64),
        sums=np.zeros((count, sums.shape[1]), np.int64),
    )
    united.values[part_of] = values
    np.minimum.at(united.first, part_of, first)
    np.add.at(united.sums, part_of, sums)
    leaders = np.empty(len(values), np.int64)
    leaders[group_of] = part_of
    united.group[part_of] = leaders[group_of]
    return united, part_of


def _alike(values: IntArray, one: IntArray, other: IntArray) -> IntArray:
    """Pairs (n, 2) of parts with the same value that face each other."""
    pairs = np.column_stack([one, other])[(one >= 0) & (other >= 0)]
    return np.asarray(pairs[values[pairs[:, 0]] == values[pairs[:, 1]]])


def _together(several: Sequence[Runs]) -> Runs:
    """All runs of several."""
    return Runs(
        vertices=np.concatenate([runs.vertices for runs in several]),
        sizes=np.concatenate([runs.sizes for runs in several]),
        owner=np.concatenate([runs.owner for runs in several]),
        keys=np.concatenate([runs.keys for runs in several]),
    )


def _ringed(runs: Runs) -> Rings:
    """The rings that complete runs make, sorted by part and by where they start."""
    before, after = runs.keys[:, 0], runs.keys[:, 1]
    by_end = np.argsort(after)
    # Two ends with opposite headings at one vertex face each other across a corner. If they are of one part, the
    # boundary turns from the one to what would have followed the other.
    facing = after ^ 2
    twin = by_end[np.minimum(np.searchsorted(after, facing, sorter=by_end), len(after) - 1)]
    crosses = (after[twin] == facing) & (runs.owner[twin] == runs.owner)
    by_start = np.argsort(before)
    following = by_start[np.searchsorted(before, np.where(crosses, facing, after), sorter=by_start)]
    vertices, sizes, members = chain(following, np.cumsum(runs.sizes) - runs.sizes, runs.sizes, runs.vertices)
    owner, starts = runs.owner[members], np.cumsum(sizes) - sizes
    heads = vertices[starts]
    order = np.lexsort((heads[:, 1], heads[:, 0], owner))
    return Rings(vertices=vertices, starts=starts[order], sizes=sizes[order], owner=owner[order])
