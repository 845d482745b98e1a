"""Areas and accuracies of a map, estimated from a sample of the truth in each mapped class, with their intervals.

Counting the pixels of a map gives biased areas, for a map errs more in one direction than in the other. What the truth
says of each mapped class corrects them: Olofsson, Foody, Herold, Stehman, Woodcock and Wulder 2014,
doi:10.1016/j.rse.2014.02.015.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from geoseg.evaluation.confusion import Matrix, ratio

__all__ = ["Z95", "AreaEstimates", "estimate_areas"]

FloatArray: TypeAlias = npt.NDArray[np.float64]

Z95 = 1.96
"""Standard errors on either side of a 95 % confidence interval."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AreaEstimates:
    """Estimates and the standard errors of each; NaN where the sample does not say."""

    mapped: FloatArray
    """(class) area as mapped, in the unit given, of every class."""
    area: FloatArray
    """(class) area that the truth implies."""
    area_error: FloatArray
    """Its standard error."""
    users: FloatArray
    """(class) user's accuracy."""
    users_error: FloatArray
    """Its standard error."""
    producers: FloatArray
    """(class) producer's accuracy."""
    producers_error: FloatArray
    """Its standard error."""
    accuracy: float
    """Overall accuracy."""
    accuracy_error: float
    """Its standard error."""
    left_out: float
    """Share of the mapped area whose classes have no truth at all: the estimates do not cover it."""


def estimate_areas(matrix: Matrix, mapped: FloatArray) -> AreaEstimates:
    """What a sample of the truth, drawn at random within each mapped class, says of all of a map.

    Equations 1 to 12 of Olofsson et al. 2014. Intervals are `Z95` standard errors wide on either side, and hold for
    pixels that were drawn independently: neighbouring pixels of a region that is labelled in full are not.

    Args:
        matrix: Sampled pixels (truth, predicted), int64.
        mapped: (class) area of each mapped class on the whole map.

    >>> counts = np.array([[66, 0, 1, 2], [0, 55, 0, 1], [5, 8, 153, 9], [4, 12, 11, 313]])
    >>> found = estimate_areas(counts, np.array([200_000, 150_000, 3_200_000, 6_450_000]))
    >>> int(found.area[0].round()), int((Z95 * found.area_error[0]).round()), round(found.accuracy, 3)
    (235086, 68418, 0.947)
    """
    drawn = matrix.sum(axis=0)
    sampled = drawn > 0
    covered = float(mapped[sampled].sum())
    weights = ratio(np.where(sampled, mapped, 0.0), np.array(covered))  # W_i, by stratum
    share = np.where(sampled, ratio(matrix, drawn), 0.0)  # n_ij / n_i: (truth j, stratum i)
    spread = np.where(sampled, ratio(share * (1 - share), drawn - 1), 0.0)  # variance of each share
    right, right_spread = np.diagonal(share), np.diagonal(spread)
    proportion = (weights * share).sum(axis=1)  # p_.j
    users = np.where(sampled, right, np.nan)
    producers = ratio(weights * right, proportion)
    own = weights**2 * (1 - producers) ** 2 * right_spread
    others = producers**2 * ((weights**2 * spread).sum(axis=1) - weights**2 * right_spread)
    return AreaEstimates(
        mapped=np.asarray(mapped, np.float64),
        area=covered * proportion,
        area_error=covered * np.sqrt((weights**2 * spread).sum(axis=1)),
        users=users,
        users_error=np.where(sampled, np.sqrt(right_spread), np.nan),
        producers=producers,
        producers_error=ratio(np.sqrt(own + others), proportion),
        accuracy=float((weights * right).sum()) if covered else np.nan,
        accuracy_error=float(np.sqrt((weights**2 * right_spread).sum())) if covered else np.nan,
        left_out=float(ratio(mapped[~sampled].sum(), mapped.sum())),
    )
