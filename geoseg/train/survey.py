"""Where chips can be cut, and which of them are: counted on the labels alone, parted by geography, chosen by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely

from geoseg.errors import ConfigError, GridError
from geoseg.source.outline import read_features
from geoseg.train import IGNORE
from geoseg.train.ground import Geometries, Ground
from geoseg.train.labels import Labels, LabelsOn
from geoseg.train.split import (
    SPLITS,
    SplitRule,
    Splits,
    assign,
    block_names,
    check_apart,
    too_close,
)
from geoseg.window import Window

__all__ = ["DROPPED", "Division", "LabelClass", "Survey", "choose", "divide", "survey"]

DROPPED = {
    "no_split": "lie in no split",
    "two_splits": "hold labels of two splits",
    "too_close": "lie too close to a chip of another split",
    "not_chosen": "were not needed for --per-class",
    "unusable": "have no usable labelled pixel",
}
"""Why a chip is not written -> the same for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelClass:
    """A class of the labels; its number on chips is its place in the list."""

    name: str
    """For people and for model cards."""
    value: int
    """In the labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Every place (n,) where a chip with labels can be cut."""

    scenes: npt.NDArray[np.int64]
    """(n,) which scene."""
    windows: tuple[Window, ...]
    """Where in it."""
    pixels: npt.NDArray[np.int64]
    """(n, class) labelled pixels."""
    groups: tuple[frozenset[str], ...]
    """What the files of labels say its labels belong to."""
    classes: tuple[LabelClass, ...]
    """By value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """To which split each chip (n,) goes."""

    splits: Splits
    """(n,) index into `SPLITS`; -1: none."""
    groups: tuple[str, ...]
    """What it belongs to: a block, a region, a file, an area."""
    dropped: Mapping[str, int]
    """Reason, as in `DROPPED` -> how many chips have no split for it."""


def survey(placed: Sequence[LabelsOn], size: int, labels: Labels) -> Survey:
    """Counts the labels of every active window of every scene; no pixel of a scene is read.

    Raises:
        SourceError: Labels cannot be read.
        GridError: No label lies on any scene.
        ConfigError: There are more classes than a chip can hold.
    """
    scenes: list[int] = []
    windows: list[Window] = []
    counts: list[dict[int, int]] = []
    groups: list[frozenset[str]] = []
    for number, on in enumerate(placed):
        for window in on.active(size):
            codes, belongs = on.read(window)
            values, pixels = np.unique(codes[codes >= 0], return_counts=True)
            if len(values):
                scenes.append(number)
                windows.append(window)
                counts.append(dict(zip(values.tolist(), pixels.tolist(), strict=True)))
                groups.append(belongs)
    if not windows:
        raise GridError(
            f"no label lies on a scene where a chip of {size} x {size} pixels fits; choose a smaller --size"
        )
    classes = _classes(set().union(*counts), labels)
    table = [[count.get(each.value, 0) for each in classes] for count in counts]
    return Survey(
        scenes=np.array(scenes),
        windows=tuple(windows),
        pixels=np.array(table, np.int64),
        groups=tuple(groups),
        classes=classes,
    )


def _classes(found: set[int], labels: Labels) -> tuple[LabelClass, ...]:
    """Those that are wanted, else those that there are."""
    values = sorted(set(labels.options.classes.values()) or found | set(labels.names))
    if labels.background is not None and labels.background not in values:
        values = sorted([*values, labels.background])
    if len(values) > IGNORE:
        raise ConfigError(f"labels hold {len(values)} classes; chips hold {IGNORE} at most: choose with --classes")
    return tuple(LabelClass(name=labels.names.get(value, f"class_{value}"), value=value) for value in values)


# --- splits ---


def divide(
    surveyed: Survey,
    footprints: Geometries,
    *,
    rule: SplitRule,
    ground: Ground,
    labels: Labels,
    block_metres: float,
    fractions: Mapping[str, float],
    buffer: float,
    seed: int,
) -> Division:
    """Gives each chip to a split, and drops those that lie too close to one of another.

    Args:
        surveyed: The chips.
        footprints: (n,) where each lies, on `ground`.
        rule: What belongs together.
        ground: Where distances are measured.
        labels: Where groups come from.
        block_metres: Side of a block, where the rule names none.
        fractions: Split -> its part of the labelled pixels, where nobody said which group goes where.
        buffer: Metres between chips of different splits.
        seed: Decides which group goes where.

    Raises:
        ConfigError: A split by hand does not keep the buffer, or a split would be empty.
    """
    parts = _areas(rule.place, ground) if rule.kind == "areas" else _by_hand(rule, labels, ground)
    groups = list(surveyed.groups)
    if rule.kind == "blocks":
        groups = [frozenset([name]) for name in block_names(footprints, rule.metres or block_metres)]
    elif rule.kind == "areas" and parts is not None:
        groups = _groups_of_areas(footprints, parts)
    named = sorted({name for group in groups for name in group if name})
    if parts is not None:
        check_apart(parts.polygons, parts.splits, parts.called, buffer, ground)
        chosen = {name: number for number, name in enumerate(SPLITS)}
    else:
        dealt = assign(_pixels_of(named, groups, surveyed.pixels), fractions, seed)
        chosen = dict(zip(named, dealt.tolist(), strict=True))
    if not set(named) & set(chosen):
        raise ConfigError(f"none of {len(groups)} labelled chips lies in a split: is the split of this place?")
    splits, dropped = _splits_of(groups, chosen)
    placed = np.flatnonzero(splits >= 0)
    worth = _worth(splits[placed], surveyed.pixels[placed])
    close = placed[too_close(footprints[placed], splits[placed], worth, buffer, ground)]
    splits[close] = -1
    dropped["too_close"] += len(close)
    return Division(splits=splits, groups=tuple("+".join(sorted(names)) for names in groups), dropped=dropped)


def _splits_of(groups: Sequence[frozenset[str]], chosen: Mapping[str, int]) -> tuple[Splits, Counter[str]]:
    """The split (n,) of all groups of a chip, -1 where they have none or several; and how many have not."""
    dropped: Counter[str] = Counter()
    splits: Splits = np.full(len(groups), -1, np.int64)
    for chip, names in enumerate(groups):
        possible = {chosen.get(name, -1) for name in names}
        if len(possible) == 1 and -1 not in possible:
            splits[chip] = possible.pop()
        else:
            dropped["two_splits" if len(possible - {-1}) > 1 else "no_split"] += 1
    return splits, dropped


def _worth(splits: Splits, pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """What each chip (n,) is of its split: the sum, over classes, of its part of the split's pixels."""
    worth = np.zeros(len(splits))
    for split in np.unique(splits):
        own = splits == split
        totals = pixels[own].sum(axis=0)
        worth[own] = (pixels[own] / np.maximum(totals, 1)).sum(axis=1)
    return worth


def _pixels_of(
    named: Sequence[str], groups: Sequence[frozenset[str]], pixels: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """(group, class); chips of several groups are left out, for they may belong to none in the end."""
    table = np.zeros((len(named), pixels.shape[1]), np.int64)
    places = {name: place for place, name in enumerate(named)}
    for names, counts in zip(groups, pixels, strict=True):
        if len(names) == 1 and (name := next(iter(names))):
            table[places[name]] += counts
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What a person gave to a split by hand, (n,) each."""

    polygons: Geometries
    splits: Splits
    called: list[str]


def _by_hand(rule: SplitRule, labels: Labels, ground: Ground) -> _Parts | None:
    """What was labelled, where its files or its column name splits; None where they name groups instead."""
    if rule.kind == "blocks" or (rule.kind == "file" and not any(file.split for file in labels.order)):
        return None
    given = [part for part in labels.parts() if part.group in SPLITS]
    if not given:
        return None
    placed = np.concatenate([ground.place([part.polygon], part.crs) for part in given])
    near = np.isfinite(shapely.bounds(placed)).all(axis=1)  # the plane ends far from the scenes
    kept = [part for part, is_near in zip(given, near, strict=True) if is_near]
    return _Parts(
        polygons=placed[near],
        splits=np.array([SPLITS.index(part.group) for part in kept], np.int64),
        called=[part.called for part in kept],
    )


def _areas(path: str, ground: Ground) -> _Parts:
    features = read_features(path, "split")
    named = [(polygon, str(value)) for polygon, value in zip(features.polygons, features.values, strict=True)]
    wrong = sorted({value for _, value in named} - set(SPLITS))
    if wrong:
        raise ConfigError(f"{path}: split {wrong[0]!r} is none of {', '.join(SPLITS)}")
    return _Parts(
        polygons=ground.place([polygon for polygon, _ in named], features.crs),
        splits=np.array([SPLITS.index(value) for _, value in named], np.int64),
        called=[f"polygon {number} of {path}" for number in range(1, len(named) + 1)],
    )


def _groups_of_areas(footprints: Geometries, parts: _Parts) -> list[frozenset[str]]:
    """The splits whose polygons hold the middle of each chip."""
    groups: list[set[str]] = [set() for _ in footprints]
    chips, areas = shapely.STRtree(parts.polygons).query(shapely.centroid(footprints), predicate="intersects")
    for chip, area in zip(chips.tolist(), areas.tolist(), strict=True):
        groups[chip].add(SPLITS[parts.splits[area]])
    return [frozenset(group) for group in groups]


# --- classes ---


def choose(splits: Splits, pixels: npt.NDArray[np.int64], per_class: int | None, seed: int) -> npt.NDArray[np.bool_]:
    """Which chips (n,) to cut: of train so many that each class is on `per_class` of them, of val and test all.

    Rare classes choose first. A chip's chance grows with how many pixels of the class it holds (Efraimidis and
    Spirakis 2006, doi:10.1016/j.ipl.2005.11.003).

    Args:
        splits: (n,) index into `SPLITS`, -1 for none.
        pixels: (n, class) labelled pixels.
        per_class: How many chips of each class, as far as there are; None: all.
        seed: Decides which.
    """
    if per_class is None:
        chosen: npt.NDArray[np.bool_] = splits >= 0
        return chosen
    train = splits == 0
    taken = splits > 0
    luck = np.random.default_rng(seed).random(len(splits))
    totals = pixels[train].sum(axis=0)
    for rare in np.argsort(totals, kind="stable"):
        holds = train & (pixels[:, rare] > 0)
        missing = per_class - int((holds & taken).sum())
        candidates = np.flatnonzero(holds & ~taken)
        if missing > 0 and len(candidates):
            # log(u) / w orders as u ** (1 / w) does, and stays apart from 0 where w is small
            keys = np.log(np.maximum(luck[candidates], np.finfo(float).tiny)) / pixels[candidates, rare]
            taken[candidates[np.argsort(-keys, kind="stable")[:missing]]] = True
    return taken
