"""Intervals of scores from the spread between regions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from geoseg.evaluation.confusion import Matrix

__all__ = ["draw_sums"]

_CELLS = 2**22
"""Numbers of drawn matrices, or of draws by regions, that are held at once."""


def draw_sums(
    matrices: Matrix,
    score: Callable[[Matrix], npt.NDArray[np.float64]],
    *,
    draws: int,
    seed: int,
) -> npt.NDArray[np.float64]:
    """(draw, ...) scores of regions drawn again, as many as there are, with replacement (Efron 1979).

    Regions are the units because pixels beside each other err together: a bootstrap over pixels would be far too sure.

    Args:
        matrices: (region, truth, predicted) pixels.
        score: What to compute of matrices (draw, truth, predicted).
        draws: How often to draw.
        seed: The same seed gives the same numbers, however much is held at once.
    """
    regions, cells = len(matrices), matrices[0].size
    random = np.random.default_rng(seed)
    at_once = max(1, _CELLS // max(regions, cells))
    flat = matrices.reshape(regions, cells)
    parts = []
    for start in range(0, draws, at_once):
        count = min(at_once, draws - start)
        often = random.multinomial(regions, np.full(regions, 1 / regions), size=count)
        parts.append(score((often @ flat).reshape(count, *matrices.shape[1:])))
    return np.concatenate(parts)
