"""Whether a map is right as often as its confidence says: reliability curve and expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BINS", "ReliabilityBin", "expected_calibration_error", "reliability"]

BINS = 15
"""Bins of equal width between 0 and 1, as Guo et al. 2017 use them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """The pixels whose confidence lies in (low, high]; 0 itself lies in the first bin."""

    low: float
    """Where it begins."""
    high: float
    """Where it ends."""
    pixels: int
    """How many there are."""
    confidence: float
    """Their mean confidence; NaN where there are none."""
    accuracy: float
    """Share of them that is right; NaN where there are none."""


def reliability(
    levels: npt.NDArray[np.floating[Any]], total: npt.NDArray[Any], right: npt.NDArray[Any], bins: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """The reliability curve of pixels that are counted by their confidence.

    Args:
        levels: Confidences (level,) in [0, 1].
        total: Pixels of each level, integers.
        right: Those of them whose class is right.
        bins: How many bins of equal width.

    >>> [(bin.pixels, bin.accuracy) for bin in reliability(np.array([0.4, 0.9]), np.array([5, 10]), [2, 8], 2)]
    [(5, 0.4), (10, 0.8)]
    """
    total, right = np.asarray(total, np.int64), np.asarray(right, np.int64)
    # Levels that are decimal fractions (0.004 x 50 = 0.2) must not pass a bin's end by their last bit.
    place = np.clip(np.ceil(np.round(levels * bins, 9)) - 1, 0, bins - 1).astype(np.intp)
    found = []
    for number in range(bins):
        of = place == number
        pixels, sum_of = int(total[of].sum()), float((levels[of] * total[of]).sum())
        found.append(
            ReliabilityBin(
                low=number / bins,
                high=(number + 1) / bins,
                pixels=pixels,
                confidence=sum_of / pixels if pixels else np.nan,
                accuracy=int(right[of].sum()) / pixels if pixels else np.nan,
            )
        )
    return tuple(found)


def expected_calibration_error(curve: Sequence[ReliabilityBin]) -> float:
    """Mean distance between confidence and accuracy of the bins, weighted by their pixels; NaN without pixels.

    Naeini, Cooper and Hauskrecht 2015 (doi:10.1609/aaai.v29i1.9602); Guo, Pleiss, Sun and Weinberger 2017
    (arXiv:1706.04599).
    """
    pixels = sum(each.pixels for each in curve)
    if pixels == 0:
        return float("nan")
    return sum(each.pixels * abs(each.confidence - each.accuracy) for each in curve if each.pixels) / pixels
