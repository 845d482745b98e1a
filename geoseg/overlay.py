"""Labels of several scenes laid over one another, pixel by pixel: pure functions on arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from geoseg.settings import MosaicRule
from geoseg.spec import ClassInfo
from geoseg.types import Valid
from geoseg.window import Window

__all__ = ["Overlay", "cloud_like", "in_order"]

_WORDS = re.compile(r"[a-z]+")
_CLOUDS = frozenset({"cloud", "clouds", "cloudy", "cirrus", "haze", "hazy", "fog"})
_SHADOWS = frozenset({"shadow", "shadows"})
_NEGATIONS = frozenset({"no", "non", "not", "free", "without"})

_HIDDEN, _CLEAR = 1, 2
_BEST = _CLEAR + 250  # the confidence of what is certain


def cloud_like(classes: Sequence[ClassInfo]) -> frozenset[int]:
    """Values of the classes whose names say that they hide the ground: clouds, cirrus, haze, and their shadows.

    >>> names = ["clear", "cloud", "thin-cloud", "Cloud_Shadow", "shadow", "no cloud"]
    >>> sorted(cloud_like([ClassInfo(value=value, name=name) for value, name in enumerate(names)]))
    [1, 2, 3, 4]
    >>> cloud_like([ClassInfo(value=0, name="shadow"), ClassInfo(value=1, name="building")])
    frozenset()
    """
    told = {info.value: frozenset(_WORDS.findall(info.name.lower())) for info in classes}
    told = {value: words for value, words in told.items() if not words & _NEGATIONS}
    clouds = {value for value, words in told.items() if words & _CLOUDS}
    # A shadow may be a building's; beside a class of clouds it is theirs.
    return frozenset(clouds | {value for value, words in told.items() if clouds and words & _SHADOWS})


def in_order(times: Sequence[datetime | None], rule: MosaicRule) -> list[int]:
    """Positions of scenes with these times, the first to be laid first; a time that is not known comes last.

    >>> in_order([None, datetime(2024, 5, 1), datetime(2024, 6, 1), datetime(2024, 5, 1)], "newest")
    [2, 1, 3, 0]
    """
    if rule == "first":
        return list(range(len(times)))
    return sorted(range(len(times)), key=lambda at: math.inf if (when := times[at]) is None else -when.timestamp())


class Overlay:
    """One window of a mosaic; scenes are laid on it one after the other, and none covers an equal one below it."""

    def __init__(
        self, shape: tuple[int, int], *, nodata: int, dtype: str, hidden: frozenset[int] | None, nowhere: int
    ) -> None:
        """An empty window.

        Args:
            shape: (rows, columns).
            nodata: Label where there is none.
            dtype: Of the labels.
            hidden: Labels that give way to others (`cloud_like`), of which the most confident wins; None: the first
                label stays, whatever it is.
            nowhere: Number of no scene.
        """
        self.labels: npt.NDArray[Any] = np.full(shape, nodata, dtype)
        """(row, col) class values."""
        self.confidence: npt.NDArray[np.uint8] = np.full(shape, 255, np.uint8)
        """(row, col) stored confidence of those, 255 where there is none."""
        self.scene: npt.NDArray[np.uint16] = np.full(shape, nowhere, np.uint16)
        """(row, col) number of the scene that each is from."""
        self._hidden = None if hidden is None else np.array(sorted(hidden), dtype)
        self._rank = np.zeros(shape, np.int16)

    @property
    def is_settled(self) -> bool:
        """Whether no further scene can change a pixel."""
        return bool((self._rank >= (_HIDDEN if self._hidden is None else _BEST)).all())

    def lay(
        self,
        window: Window,
        number: int,
        labels: npt.NDArray[Any],
        confidence: npt.NDArray[Any] | None,
        valid: Valid,
    ) -> None:
        """Lays a scene on a part of the window.

        Args:
            window: Which part; counts from this window's first pixel.
            number: The scene's.
            labels: (row, col) class values.
            confidence: (row, col) stored confidence, larger is surer; None where the scene has none.
            valid: (row, col) where it has a label.
        """
        rank = valid.astype(np.int16)
        if self._hidden is not None:
            clear = valid & ~np.isin(labels, self._hidden)
            rank[clear] = _CLEAR if confidence is None else _CLEAR + confidence[clear].astype(np.int16)
        better = rank > self._rank[window.slices]
        for raster, values in ((self._rank, rank), (self.labels, labels), (self.confidence, confidence)):
            if values is not None:
                raster[window.slices][better] = values[better]
        self.scene[window.slices][better] = number
