"""Which chips train a net, which choose it and which judge it: parted by geography, never at random.

Neighbouring pixels resemble each other, so a net that is judged on the neighbours of what it learned looks better than
it is (Roberts et al. 2017, doi:10.1111/ecog.02881). Chips therefore go to a split in groups: all of a block of ground,
of a region, of a file. Chips of different splits that touch, or lie nearer than a buffer, are dropped.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import shapely

from geoseg.errors import ConfigError
from geoseg.train.ground import Geometries, Ground

__all__ = [
    "SPLITS",
    "SplitRule",
    "assign",
    "block_names",
    "check_apart",
    "closest",
    "parse_rule",
    "too_close",
]

SPLITS = ("train", "val", "test")
"""To train on, to choose the best epoch with, to judge the chosen net."""

Counts: TypeAlias = npt.NDArray[np.int64]
"""(group, class) labelled pixels."""
Splits: TypeAlias = npt.NDArray[np.int64]
"""Index into `SPLITS`."""

_TOUCHING = 0.01
"""Metres below which two chips touch: what the way from one projection to another may move them."""
_ROUNDING = 0.1
"""Metres by which polygons given by hand may miss the buffer: a file's coordinates are rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """What makes chips belong together."""

    kind: Literal["blocks", "column", "file", "areas"]
    """Blocks of ground, values of a column of the labels, files of labels, or polygons with a `split`."""
    metres: float | None = None
    """Side of a block; None: ten chips."""
    place: str = ""
    """Name of the column, or path of the polygons."""


def parse_rule(text: str) -> SplitRule:
    """The rule that a text means: ``blocks``, ``blocks:METRES``, ``column:NAME``, ``file``, ``areas:FILE``.

    Raises:
        ConfigError: It means none.

    >>> parse_rule("blocks:5000").metres, parse_rule("column:region").place
    (5000.0, 'region')
    """
    kind, _, rest = text.partition(":")
    if kind == "blocks":
        try:
            metres = float(rest) if rest else None
        except ValueError:
            metres = -1.0
        if metres is None or 0 < metres < np.inf:
            return SplitRule(kind="blocks", metres=metres)
        raise ConfigError(f"split {text!r}: a block needs a side in metres, like blocks:5000")
    if kind == "column" and rest:
        return SplitRule(kind="column", place=rest)
    if kind == "areas" and rest:
        return SplitRule(kind="areas", place=rest)
    if text == "file":
        return SplitRule(kind="file")
    raise ConfigError(f"split {text!r} is none of blocks:METRES, column:NAME, file, areas:FILE")


def block_names(footprints: Geometries, metres: float) -> list[str]:
    """The block that the middle of each footprint lies in, as ``EAST_NORTH``, counted in blocks of `metres`.

    >>> block_names(np.array([shapely.box(0, 0, 20, 20), shapely.box(90, -30, 130, -10)]), 100)
    ['0_0', '1_-1']
    """
    middle = shapely.get_coordinates(shapely.centroid(footprints))
    return [f"{east}_{north}" for east, north in np.floor(middle / metres).astype(int).tolist()]


def assign(pixels: Counts, fractions: Mapping[str, float], seed: int) -> Splits:
    """The split of each group (group,), so that each split gets its part of the labelled pixels of every class.

    Every class is given to train first. Then groups of rare classes are dealt before those of frequent ones, in an
    order that `seed` decides, each to the split that lacks most of its rarest class (after Sechidis et al. 2011,
    doi:10.1007/978-3-642-23808-6_10), but to none that has its part already: val and test exceed theirs by less than
    one group.

    Args:
        pixels: (group, class) labelled pixels.
        fractions: Split -> its part; they are scaled to a sum of 1.
        seed: Decides the order.

    Raises:
        ConfigError: A split would be left without a group, or there is nothing to train on.
    """
    wanted = _parts(fractions)
    totals = pixels.sum(axis=0)
    by_rarity = [number for number in np.argsort(totals, kind="stable") if totals[number]]
    order = np.random.default_rng(seed).permutation(len(pixels))
    chosen: Splits = np.full(len(pixels), -1, np.int64)
    got = np.zeros((len(SPLITS), pixels.shape[1]))

    def give(group: int, split: int) -> None:
        chosen[group] = split
        got[split] += pixels[group]

    for rare in by_rarity:
        if not got[0, rare]:
            give(int(order[np.argmax(pixels[order, rare])]), 0)
    for rare in by_rarity:
        for group in order:
            if chosen[group] < 0 and pixels[group, rare]:
                give(int(group), _neediest(wanted, got, totals, int(rare)))
    return _demand_all(chosen, wanted)


def _parts(fractions: Mapping[str, float]) -> npt.NDArray[np.float64]:
    parts = np.array([fractions.get(name, 0.0) for name in SPLITS], float)
    if set(fractions) - set(SPLITS) or not np.isfinite(parts).all() or parts.min() < 0 or parts[0] <= 0:
        given = ", ".join(f"{name} {part:g}" for name, part in fractions.items())
        raise ConfigError(f"fractions {given}: give train, val and test a part each, train's above 0")
    whole: npt.NDArray[np.float64] = parts / parts.sum()
    return whole


def _neediest(
    wanted: npt.NDArray[np.float64], got: npt.NDArray[np.float64], totals: npt.NDArray[np.int64], rare: int
) -> int:
    """The split that lacks the largest part of what it should have of a class; of several, of all pixels."""
    with np.errstate(divide="ignore", invalid="ignore"):
        of_class = np.nan_to_num(got[:, rare] / (wanted * totals[rare]), nan=np.inf)
        of_all = np.nan_to_num(got.sum(axis=1) / (wanted * totals.sum()), nan=np.inf)
    open_splits = [split for split in range(len(wanted)) if of_all[split] < 1]
    return min(open_splits or [0], key=lambda split: (of_class[split], of_all[split]))


def _demand_all(chosen: Splits, wanted: npt.NDArray[np.float64]) -> Splits:
    """Refuses what leaves a split without anything."""
    empty = [name for number, name in enumerate(SPLITS) if wanted[number] and not (chosen == number).any()]
    if empty:
        raise ConfigError(
            f"{len(chosen)} groups of labelled chips leave nothing for {' and '.join(empty)}: "
            "choose smaller blocks, or fewer splits with --fractions 0.8,0.2"
        )
    return chosen


def too_close(
    footprints: Geometries, splits: Splits, worth: npt.NDArray[np.float64], buffer: float, ground: Ground
) -> npt.NDArray[np.bool_]:
    """Which chips (n,) to drop, so that no two of different splits touch or lie within `buffer` metres of each other.

    Chips go one by one: first that which stands in the way of most others for what it is worth (a greedy vertex cover:
    Chvatal 1979, doi:10.1287/moor.4.3.233).

    Args:
        footprints: (n,) on `ground`.
        splits: (n,).
        worth: (n,) above 0; how much its split would miss it.
        buffer: Metres on the ground.
        ground: Where distances are measured.
    """
    near = _neighbours(footprints, splits, buffer * ground.stretch + _TOUCHING)
    values = worth.tolist()
    degrees = [len(others) for others in near]
    queue = [(-degree / values[chip], -degree, chip) for chip, degree in enumerate(degrees) if degree]
    heapq.heapify(queue)
    dropped = np.zeros(len(splits), bool)
    while queue:
        _, degree, chip = heapq.heappop(queue)
        if dropped[chip] or not degrees[chip]:
            continue
        if -degree != degrees[chip]:  # it stood in the way of more when it was queued
            heapq.heappush(queue, (-degrees[chip] / values[chip], -degrees[chip], chip))
            continue
        dropped[chip] = True
        for other in near[chip]:
            degrees[other] -= 1
    return dropped


def _neighbours(footprints: Geometries, splits: Splits, gap: float) -> list[list[int]]:
    """Chips of other splits within `gap`, for each chip."""
    near: list[list[int]] = [[] for _ in footprints]
    for one in range(len(SPLITS)):
        mine = np.flatnonzero(splits == one)
        others = np.flatnonzero(splits > one)
        if not (len(mine) and len(others)):
            continue
        here, there = shapely.STRtree(footprints[others]).query(footprints[mine], predicate="dwithin", distance=gap)
        for chip, other in zip(mine[here].tolist(), others[there].tolist(), strict=True):
            near[chip].append(other)
            near[other].append(chip)
    return near


def check_apart(polygons: Geometries, splits: Splits, names: Sequence[str], buffer: float, ground: Ground) -> None:
    """Refuses a split given by hand whose parts overlap, touch, or lie within the buffer.

    Args:
        polygons: (n,) on `ground`.
        splits: (n,).
        names: What to call each.
        buffer: Metres on the ground.
        ground: Where distances are measured.

    Raises:
        ConfigError: They do; the message names the nearest two and their distance.
    """
    gap = max(buffer * ground.stretch - _ROUNDING, 0) + _TOUCHING
    pairs = [(one, other) for one, others in enumerate(_neighbours(polygons, splits, gap)) for other in others]
    if not pairs:
        return
    ones, others = np.array(pairs).T
    distances = shapely.distance(polygons[ones], polygons[others])
    nearest = int(np.argmin(distances))
    one, other = ones[nearest], others[nearest]
    metres = float(distances[nearest])
    apart = f"lie {metres:.1f} m apart" if metres > _TOUCHING else _contact(polygons[one], polygons[other])
    raise ConfigError(
        f"{names[one]} ({SPLITS[splits[one]]}) and {names[other]} ({SPLITS[splits[other]]}) {apart}, where "
        f"{f'{buffer:g} m' if buffer else 'a gap'} must lie between splits: part them by --split blocks:METRES instead"
    )


def _contact(one: shapely.Geometry, other: shapely.Geometry) -> str:
    return "overlap" if shapely.intersection(one, other).area > 0 else "touch"


def closest(footprints: Geometries, splits: Splits) -> dict[tuple[str, str], float]:
    """The least distance between chips of every two splits that have some, in metres of the plane."""
    found = {}
    for one, other in combinations(range(len(SPLITS)), 2):
        mine, others = footprints[splits == one], footprints[splits == other]
        if len(mine) and len(others):
            _, metres = shapely.STRtree(others).query_nearest(mine, return_distance=True, all_matches=False)
            found[SPLITS[one], SPLITS[other]] = float(metres.min())
    return found
