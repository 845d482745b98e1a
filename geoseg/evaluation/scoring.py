"""Scores of a map against the truth, window by window: memory does not know how large the map is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from geoseg.errors import ConfigError, SourceError
from geoseg.evaluation.bootstrap import draw_sums
from geoseg.evaluation.boundary import boundary_f1, boundary_iou
from geoseg.evaluation.calibration import expected_calibration_error, reliability
from geoseg.evaluation.confusion import BY_CLASS, OVERALL, Matrix, mean_defined, padded
from geoseg.evaluation.reference import Comparison, Join, TruthOptions, compared, value_of
from geoseg.evaluation.regions import NumberedRegions, regions_by
from geoseg.evaluation.scores import ClassScores, Interval, RegionScores, Scores
from geoseg.evaluation.stratified import estimate_areas
from geoseg.evaluation.tally import ScoreTally
from geoseg.source.open import limit_cache
from geoseg.window import whole

__all__ = ["DRAWS", "WIDTH", "evaluate"]

DRAWS = 1000
"""Bootstrap samples of the regions."""
WIDTH = 3
"""Pixels of the band along borders."""
_WINDOW = 2048
_LOWEST = 64
"""Rows of a window, at least, where blocks as wide as the map (strips) ask for wide windows."""
_CACHE = 64 * 2**20
"""Bytes that GDAL keeps of decoded blocks, for those that two windows need."""
_FEW = 10
"""Regions below which intervals are no more than a hint."""

OnPixels: TypeAlias = Callable[[int, int], None]


def evaluate(
    predicted: str | PathLike[str],
    truth: str | PathLike[str],
    *,
    class_column: str | None = None,
    class_value: int | None = None,
    background: int | None = None,
    all_touched: bool = False,
    ignore: Sequence[int | str] = (),
    join: Join | None = None,
    names: Mapping[int, str] | None = None,
    confidence: str | PathLike[str] | None = None,
    boundary: int = WIDTH,
    by: str | float | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    window: int = _WINDOW,
    on_pixels: OnPixels | None = None,
) -> Scores:
    """The scores of a map against the truth, on the map's grid.

    Pixels count where the map has a class and the truth is known. All counts are integers that add up, so the scores do
    not depend on `window`.

    Args:
        predicted: A raster of class values, or the directory of a run, which brings names and confidence with it.
        truth: A raster of class values (on another grid: the nearest pixel), or polygons in GeoJSON, GeoPackage or
            GeoParquet.
        class_column: Column of the polygons that holds class values, or names of the map's classes.
        class_value: Class of every polygon, where no column tells it.
        background: Class of what no polygon covers; None: nothing is known there.
        all_touched: Whether a pixel belongs to every polygon that touches it, or to the one that holds its centre.
        ignore: Values of the truth that mean "not known".
        join: Class of the truth -> class of the map that it counts as.
        names: Class names by value; None: those of the run.
        confidence: A raster of probabilities on the map's grid; None: that of the run, if there is one.
        boundary: Pixels of the band along borders for boundary IoU and F1; 0: borders are not looked at.
        by: Regions that get scores of their own: the side of grid cells in metres, or FILE:COLUMN with polygons.
        draws: Bootstrap samples of the regions for intervals; 0: no intervals.
        seed: Of the bootstrap.
        window: Side of the windows that are read at once, in pixels.
        on_pixels: Called after each window with the pixels that are done, and those of all.

    Raises:
        SourceError: An input cannot be read, holds no class values, or nothing is known of any pixel.
        GridError: Map and truth do not meet.
        ConfigError: An argument makes no sense.
    """
    if boundary < 0 or draws < 0 or window < 1:
        raise ConfigError(f"boundary {boundary}, draws {draws}, window {window}: none may be negative, or the window 0")
    places = [None if each is None else str(each) for each in (predicted, truth, confidence)]
    found = compared(
        str(places[0]),
        str(places[1]),
        options=TruthOptions(
            class_column=class_column,
            class_value=class_value,
            background=background,
            all_touched=all_touched,
            join=join,
        ),
        confidence=places[2],
        names=names,
    )
    grid = found.predicted.geobox
    regions = None if by is None else regions_by(by, grid)
    tally = ScoreTally(
        found, boundary=boundary, ignore=[value_of(each, found.names) for each in ignore], regions=regions
    )
    scene, done = whole(grid), 0
    limit_cache(_CACHE)
    for core in scene.pieces(*_window_shape(found, window)):
        tally.add(core)
        done += core.size
        if on_pixels is not None:
            on_pixels(done, scene.size)
    if tally.confusion.sum() == 0:
        raise SourceError(f"{places[1]}: nothing is known of any pixel of {places[0]}; is it the truth of this map?")
    return _scores(_Sorted(tally, found), places, boundary=boundary, regions=regions, draws=draws, seed=seed)


def _window_shape(found: Comparison, side: int) -> tuple[int, int]:
    """(rows, cols) of windows with about `side` x `side` pixels, no narrower than a block of either raster."""
    width = max(side, *(min(each.block[1], found.predicted.geobox.shape[1]) for each in (found.predicted, found.truth)))
    return max(side * side // width, min(side, _LOWEST)), width


class _Sorted:
    """The counts of a tally with classes in the order of their values, and without those that never occur."""

    def __init__(self, tally: ScoreTally, found: Comparison) -> None:
        count = len(tally.values)
        confusion = padded(tally.confusion, count)
        borders = np.pad(tally.borders, [(0, 0), (0, count - tally.borders.shape[1])])
        self.order = np.argsort(tally.values)
        self.values = [tally.values[at] for at in self.order]
        self.names = _apart([found.names.get(value, str(value)) for value in self.values], self.values)
        self.found, self.tally = found, tally
        self.confusion = confusion[np.ix_(self.order, self.order)]
        self.borders = borders[:, self.order]
        self.km2 = np.pad(tally.m2, (0, count - len(tally.m2)))[self.order] / 1e6

    def by_region(self) -> dict[int, Matrix]:
        """Matrices of the regions, by number."""
        count = len(self.values)
        return {
            number: padded(matrix, count)[np.ix_(self.order, self.order)]
            for number, matrix in sorted(self.tally.by_region.items())
        }


def _scores(
    counts: _Sorted,
    places: Sequence[str | None],
    *,
    boundary: int,
    regions: NumberedRegions | None,
    draws: int,
    seed: int,
) -> Scores:
    borders = {
        "boundary_iou": boundary_iou(counts.borders) if boundary else np.full(len(counts.values), np.nan),
        "boundary_f1": boundary_f1(counts.borders) if boundary else np.full(len(counts.values), np.nan),
    }
    overall = {name: float(score(counts.confusion)) for name, score in OVERALL.items()}
    overall |= {name: float(mean_defined(score)) for name, score in borders.items() if boundary}
    curve = reliability(*counts.tally.levels()) if counts.found.confidence is not None else ()
    if curve:
        overall["ece"] = expected_calibration_error(curve)
    matrices = counts.by_region()
    estimates = estimate_areas(counts.confusion, counts.km2)
    return Scores(
        predicted=str(places[0]),
        truth=str(places[1]),
        pixels=int(counts.confusion.sum()),
        unmapped_pixels=counts.tally.unmapped,
        boundary_width=boundary,
        classes=_classes(counts, borders),
        confusion=counts.confusion,
        overall=overall,
        reliability=curve,
        estimates=estimates,
        regions=tuple(
            _region(regions.name(number), matrix, counts.names) for number, matrix in matrices.items() if regions
        ),
        intervals=_intervals(list(matrices.values()), counts.names, draws, seed),
        notes=(*counts.found.notes, *_notes(counts, len(matrices), estimates.left_out)),
    )


def _classes(counts: _Sorted, borders: Mapping[str, npt.NDArray[np.float64]]) -> tuple[ClassScores, ...]:
    columns = {name: score(counts.confusion) for name, score in BY_CLASS.items()} | dict(borders)
    return tuple(
        ClassScores(
            value=value,
            name=counts.names[at],
            truth_pixels=int(counts.confusion[at].sum()),
            predicted_pixels=int(counts.confusion[:, at].sum()),
            **{name: float(column[at]) for name, column in columns.items()},
        )
        for at, value in enumerate(counts.values)
    )


def _region(name: str, matrix: Matrix, names: Sequence[str]) -> RegionScores:
    return RegionScores(
        name=name,
        pixels=int(matrix.sum()),
        overall={key: float(score(matrix)) for key, score in OVERALL.items()},
        iou=dict(zip(names, BY_CLASS["iou"](matrix).tolist(), strict=True)),
    )


def _intervals(matrices: Sequence[Matrix], names: Sequence[str], draws: int, seed: int) -> dict[str, Interval]:
    """2.5 and 97.5 % of what regions drawn again give; a score that half of the draws leave undefined has none."""
    if draws == 0 or len(matrices) < 2:
        return {}
    keys = [*OVERALL, *(f"{score}.{name}" for score in BY_CLASS for name in names)]

    def every(matrix: Matrix) -> npt.NDArray[np.float64]:
        of_all = [score(matrix)[:, None] for score in OVERALL.values()]
        return np.concatenate([*of_all, *(score(matrix) for score in BY_CLASS.values())], axis=1)

    drawn = draw_sums(np.stack(matrices), every, draws=draws, seed=seed)
    found = {}
    for key, column in zip(keys, drawn.T, strict=True):
        known = column[~np.isnan(column)]
        if 2 * len(known) >= draws:
            low, high = np.percentile(known, [2.5, 97.5])
            found[key] = Interval(low=float(low), high=float(high))
    return found


def _notes(counts: _Sorted, regions: int, left_out: float) -> list[str]:
    """What has to be known to read the scores."""
    true, mapped = counts.confusion.sum(axis=1), counts.confusion.sum(axis=0)
    notes = []
    if absent := _listed(counts.names, (true + mapped) == 0):
        notes.append(f"in neither map nor truth: {absent}; their scores are not defined (-), and no mean counts them")
    if only_true := _listed(counts.names, (true > 0) & (mapped == 0)):
        notes.append(f"in the truth only: {only_true}; --map joins classes of the truth to those of the map")
    if counts.tally.unmapped:
        notes.append(f"{counts.tally.unmapped:,} pixels with a truth have no class in the map; no score counts them")
    if left_out > 0:
        notes.append(
            f"{100 * left_out:.2g} % of the mapped area is of classes without truth; area estimates leave it out"
        )
    if 0 < regions < _FEW:
        notes.append(f"intervals from {regions} regions are no more than a hint; {_FEW} or more are better")
    return notes


def _apart(names: Sequence[str], values: Sequence[int]) -> list[str]:
    """Names, with the value behind those that several classes have.

    >>> _apart(["water", "field", "field"], [0, 1, 2])
    ['water', 'field (1)', 'field (2)']
    """
    often = Counter(names)
    return [name if often[name] == 1 else f"{name} ({value})" for name, value in zip(names, values, strict=True)]


def _listed(names: Sequence[str], chosen: npt.NDArray[Any]) -> str:
    return ", ".join(name for name, is_chosen in zip(names, chosen, strict=True) if is_chosen)
