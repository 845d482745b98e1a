"""Counts of a map against its truth, summed over windows: all that the scores are made of, and nothing larger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from geoseg.earth import PixelAreas
from geoseg.errors import ConfigError, SourceError
from geoseg.evaluation.boundary import count_boundaries, reach
from geoseg.evaluation.confusion import Matrix, count_confusion, padded
from geoseg.evaluation.reference import Comparison
from geoseg.evaluation.regions import NOWHERE, NumberedRegions
from geoseg.types import Pixels, Valid
from geoseg.window import Window, whole

__all__ = ["ScoreTally"]

Classes: TypeAlias = npt.NDArray[np.int16]

_VALUES = 65536
"""Class values are below that."""
_MOST_CLASSES = 1024
_MOST_COUNTS = 2**26
"""Numbers in the matrices of all regions."""
_SQUARE = 256
"""Pixels: areas are looked up for so many rows and columns at a time; they stay in the processor's cache."""
_LEVELS = 65536
"""Confidences that are told apart, where they are no small integers."""


class ScoreTally:
    """What is counted; `add` each window of the map once, in any order."""

    def __init__(
        self,
        compared: Comparison,
        *,
        boundary: int,
        ignore: Sequence[int] = (),
        regions: NumberedRegions | None = None,
    ) -> None:
        self._compared = compared
        self._ignore = np.array(sorted(set(ignore)), np.int64)
        self._regions = regions
        self._boundary = boundary
        self._areas = PixelAreas(compared.predicted.geobox)
        self._joined = np.arange(_VALUES, dtype=np.int64)
        for old, new in compared.join.items():
            if not (0 <= old < _VALUES and 0 <= new < _VALUES):
                raise ConfigError(f"{old}={new}: class values are 0 to {_VALUES - 1}")
            self._joined[old] = new
        self._number = np.full(_VALUES, -1, np.int16)
        self.values: list[int] = []
        """Class values, in the order of all counts."""
        self.by_region: dict[int, Matrix] = {}
        """Region -> (truth, predicted) pixels; the one region is 0 where none were asked for."""
        self.confusion: Matrix = np.zeros((0, 0), np.int64)
        """(truth, predicted) pixels."""
        self.unmapped = 0
        """Pixels whose truth is known and that the map leaves out."""
        self.borders: Matrix = np.zeros((7, 0), np.int64)
        """(7, class) pixels, of `geoseg.evaluation.boundary.count_boundaries`."""
        self.m2 = np.zeros(0)
        """(class) square metres as mapped, whether or not the truth is known."""
        self._levels: dict[str, Matrix] = {}
        for value in sorted(compared.names):
            self._learn(np.array([value]))

    def add(self, core: Window) -> None:
        """Counts the pixels of a window.

        Raises:
            SourceError: Map or truth cannot be read, or hold no class values.
        """
        around = reach(self._boundary) if self._boundary else 0
        scene = whole(self._compared.predicted.geobox)
        window = Window.from_bounds(
            core.row_off - around, core.col_off - around, core.row_stop + around, core.col_stop + around
        )
        window &= scene
        predicted, mapped = self._read_map(window)
        truth, told = self._read_truth(window)
        inner = core.within(window)
        here = inner.slices
        known = mapped & told
        self._grow()
        self.unmapped += int((told & ~mapped)[here].sum())
        self._add_areas(core, predicted[here], mapped[here])
        self._add_confusion(core, truth[here], predicted[here], known[here])
        if self._compared.confidence is not None:
            self._add_levels(core, truth[here], predicted[here], known[here])
        if self._boundary:
            self.borders += count_boundaries(
                truth, predicted, known, inner, width=self._boundary, classes=len(self.values)
            )

    def _read_map(self, window: Window) -> tuple[Classes, Valid]:
        pixels, valid = self._compared.predicted.read(window)
        return self._numbered(_whole_numbers(pixels[0], valid, "the map"), valid, "the map")

    def _read_truth(self, window: Window) -> tuple[Classes, Valid]:
        pixels, valid = self._compared.truth.read(window)
        values = _whole_numbers(pixels[0], valid, "the truth")
        if self._ignore.size:
            valid = valid & ~np.isin(values, self._ignore)
        if self._compared.join:
            _check_range(values, valid, "the truth")
            values = self._joined[np.where(valid, values, 0)]
        return self._numbered(values, valid, "the truth")

    def _numbered(self, values: npt.NDArray[Any], valid: Valid, what: str) -> tuple[Classes, Valid]:
        """Class numbers (row, col), 0 where not valid; classes that are new get a number."""
        _check_range(values, valid, what)
        places = np.where(valid, values, 0).astype(np.intp)
        present = np.bincount(places.ravel(), weights=None if valid.all() else valid.ravel(), minlength=_VALUES)
        self._learn(np.flatnonzero(present))
        return np.where(valid, self._number[places], np.int16(0)), valid

    def _learn(self, values: npt.NDArray[np.integer]) -> None:
        new = values[self._number[values] < 0]
        if len(self.values) + len(new) > _MOST_CLASSES:
            raise SourceError(
                f"map and truth hold more than {_MOST_CLASSES} class values; are both maps of classes? "
                "Leave values out with --ignore"
            )
        self._number[new] = np.arange(len(self.values), len(self.values) + len(new))
        self.values += new.tolist()

    def _grow(self) -> None:
        """Makes room for the classes that are known by now."""
        count = len(self.values)
        self.confusion = padded(self.confusion, count)
        self.borders = np.pad(self.borders, [(0, 0), (0, count - self.borders.shape[1])])
        self.m2 = np.pad(self.m2, (0, count - len(self.m2)))

    def _add_areas(self, core: Window, predicted: Classes, mapped: Valid) -> None:
        count = len(self.values)
        for piece in core.pieces(_SQUARE, _SQUARE):
            here = piece.within(core).slices
            weights = np.where(mapped[here], self._areas.read(piece), 0.0)
            self.m2 += np.bincount(predicted[here].ravel(), weights.ravel(), minlength=count)

    def _add_confusion(self, core: Window, truth: Classes, predicted: Classes, known: Valid) -> None:
        count = len(self.values)
        true, mapped = truth[known], predicted[known]
        if self._regions is None:
            self.confusion += count_confusion(true, mapped, count)
            return
        for number, matrix in _by_region(self._regions.read(core)[known], true, mapped, count):
            self.confusion += matrix
            if number != NOWHERE:
                earlier = padded(self.by_region.get(number, np.zeros((0, 0), np.int64)), count)
                self.by_region[number] = earlier + matrix
        if len(self.by_region) * count * count > _MOST_COUNTS:
            raise ConfigError(f"{len(self.by_region)} regions of {count} classes are too many; choose larger ones")

    def _add_levels(self, core: Window, truth: Classes, predicted: Classes, known: Valid) -> None:
        source = self._compared.confidence
        assert source is not None  # noqa: S101 - `add` looked
        pixels, valid = source.read(core)
        usable = known & valid
        stored, true, mapped = pixels[0][usable], truth[usable], predicted[usable]
        is_small = stored.dtype.kind == "u" and stored.dtype.itemsize <= 2
        places = stored if is_small else self._as_levels(stored)
        unchanged = self._number[0] if self._compared.is_change else -1
        is_kept = mapped == unchanged
        right = (true == unchanged) == is_kept if self._compared.is_change else true == mapped
        for name, of in (("total", slice(None)), ("right", right)):
            counts = np.bincount(places[of] + _LEVELS * is_kept[of], minlength=2 * _LEVELS)
            self._levels[name] = self._levels.get(name, np.zeros(2 * _LEVELS, np.int64)) + counts

    def _as_levels(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
        """The nearest of 65,536 levels from 0 to 1."""
        probability = self._probability(stored)
        return np.rint(probability * (_LEVELS - 1)).astype(np.intp)

    def _probability(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        source = self._compared.confidence
        assert source is not None  # noqa: S101 - the callers looked
        scaling = source.bands[0].scaling
        found = stored.astype(np.float64)
        if scaling is not None:
            found = found * scaling.scale + scaling.offset
        if found.size and not (found.min() >= -1e-6 and found.max() <= 1 + 1e-6):
            worst = found.max() if found.max() > 1 else found.min()
            raise SourceError(
                f"the confidence holds {worst:g}, which is no probability: give a raster from 0 to 1, or one with a "
                "scale (gdal_edit.py -scale 0.01)"
            )
        return np.clip(found, 0.0, 1.0)

    def levels(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(level) confidences that occur, the pixels with each, and those of them that are right."""
        source = self._compared.confidence
        assert source is not None  # noqa: S101 - as above
        total = self._levels.get("total", np.zeros(2 * _LEVELS, np.int64))
        right = self._levels.get("right", np.zeros(2 * _LEVELS, np.int64))
        seen = np.flatnonzero(total)
        dtype = np.dtype(source.bands[0].dtype)
        is_small = dtype.kind == "u" and dtype.itemsize <= 2
        place = seen % _LEVELS
        found = self._probability(place) if is_small else place / (_LEVELS - 1)
        # What is mapped as unchanged is right with 1 - P(change).
        return np.where(seen >= _LEVELS, 1 - found, found), total[seen], right[seen]


def _by_region(
    numbers: npt.NDArray[np.int64], truth: Classes, predicted: Classes, classes: int
) -> Iterator[tuple[int, Matrix]]:
    """Each region that occurs, with its matrix."""
    if not numbers.size:
        return
    low, cells = int(numbers.min()), classes * classes
    present = np.bincount(numbers - low) > 0
    place = (np.cumsum(present) - 1)[numbers - low]
    found = np.flatnonzero(present)
    at_once = max(1, _MOST_COUNTS // 16 // cells)
    for start in range(0, len(found), at_once):
        here = slice(None) if len(found) <= at_once else (place >= start) & (place < start + at_once)
        codes = ((place[here] - start) * classes + truth[here]) * classes + predicted[here]
        size = min(at_once, len(found) - start)
        counts = np.bincount(codes, minlength=size * cells).reshape(size, classes, classes)
        yield from zip((found[start : start + size] + low).tolist(), counts.astype(np.int64), strict=True)


def _whole_numbers(values: Pixels, valid: Valid, what: str) -> npt.NDArray[Any]:
    """Values as integers.

    Raises:
        SourceError: A valid one is no whole number.
    """
    if values.dtype.kind in "iu":
        return values
    numbers = np.where(valid, values, 0)
    if (numbers != np.rint(numbers)).any():
        raise SourceError(f"{what} holds {numbers[numbers != np.rint(numbers)][0]:g}; class values are whole numbers")
    return np.clip(numbers, -(2**53), 2**53).astype(np.int64)


def _check_range(values: npt.NDArray[Any], valid: Valid, what: str) -> None:
    if values.dtype in (np.uint8, np.uint16):
        return
    wrong = valid & ((values < 0) | (values >= _VALUES))
    if wrong.any():
        raise SourceError(
            f"{what} holds the value {values[wrong][0]}; class values are 0 to {_VALUES - 1}, leave others out of the "
            "truth with --ignore"
        )
