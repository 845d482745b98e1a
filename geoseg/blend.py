"""Blending of overlapping tiles: weights that add up to one, and sums that do not depend on their order.

The blended probability of a pixel is ``sum_p P_p w_p`` over the (at most four) tiles that cover it. The weights are a
partition of unity over the whole lattice, so nothing has to be divided afterwards, and they are products of two
one-dimensional tapers.

Two roundings make the sums exact. Tapers are multiples of 2^-11, so a weight is a multiple of 2^-22; and every
contribution ``P w`` is rounded to a multiple of 2^-22. Sums of such numbers below 4 are exact in float32, and exact
addition is associative: neither the order of tiles nor chunks nor workers can change a bit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geoseg.errors import GridError, ModelError
from geoseg.grid import Axis, TileGrid
from geoseg.spec import ModelSpec

__all__ = ["BLENDS", "Blend", "TileWeights", "add_weighted", "axis_weights", "exactness", "to_probs"]

Blend = Literal["ramp", "linear", "gaussian", "crop"]
BLENDS: tuple[Blend, ...] = get_args(Blend)

_TAPER_STEPS = 2048.0  # tapers are multiples of 1 / 2048, so that products of two are multiples of 2^-22
_ROUNDER = 3.0  # between 2 and 4 float32 is spaced by 2^-22: adding and subtracting 3 rounds to that


def _rise(blend: Blend, tile: int, overlap: int) -> npt.NDArray[np.float64]:
    """Weight (overlap,) that a tile takes over its first `overlap` pixels; its predecessor has the rest of 1."""
    position = (np.arange(overlap) + 0.5) / max(overlap, 1)
    if blend == "linear":
        rise = position
    elif blend == "ramp":  # nothing over the outer 3/8, a cosine over the middle quarter
        rise = 0.5 - 0.5 * np.cos(np.pi * np.clip(4.0 * position - 1.5, 0.0, 1.0))
    elif blend == "crop":
        rise = (position >= 0.5).astype(np.float64)
    elif blend == "gaussian":  # sd tile / 8, as in MONAI's sliding window
        own = tile / 2 - (np.arange(overlap) + 0.5)
        before = tile / 2 - overlap + np.arange(overlap) + 0.5
        rise = 1.0 / (1.0 + np.exp((own**2 - before**2) / (2.0 * (tile / 8) ** 2)))
    else:
        raise GridError(f"unknown blend {blend!r}; choose one of {', '.join(BLENDS)}")
    return np.round(rise * _TAPER_STEPS) / _TAPER_STEPS


def axis_weights(axis: Axis, index: int, blend: Blend) -> npt.NDArray[np.float32]:
    """Weights (tile,) of tile `index` along one axis; full weight where it has no neighbour.

    >>> from geoseg.grid import Axis
    >>> axis_weights(Axis(length=6, tile=4, overlap=2), 0, "linear").tolist()
    [1.0, 1.0, 0.75, 0.25]
    """
    weights = np.ones(axis.tile)
    rise = _rise(blend, axis.tile, axis.overlap)
    if index > 0:
        weights[: axis.overlap] = rise
    if index < axis.tiles - 1:
        weights[axis.tile - axis.overlap :] = 1.0 - rise
    return weights.astype(np.float32)


class TileWeights:
    """Weights (row, col) of the tiles of one lattice on one device; only the nine kinds of tile are held."""

    def __init__(self, grid: TileGrid, blend: Blend, device: torch.device | str = "cpu") -> None:
        self._grid, self._blend, self._device = grid, blend, device
        self._of_kind = lru_cache(maxsize=9)(self._make)

    def __call__(self, row: int, col: int) -> Tensor:
        """Weights of the tile at a lattice position: float32 (tile, tile), multiples of 2^-22."""
        rows, cols = self._grid.shape
        return self._of_kind(_kind(row, rows), _kind(col, cols))

    def _make(self, row: int, col: int) -> Tensor:
        rows = axis_weights(self._grid.rows, row, self._blend)
        cols = axis_weights(self._grid.cols, col, self._blend)
        return torch.from_numpy(np.outer(rows, cols)).to(self._device)


def _kind(index: int, count: int) -> int:
    """A representative of all tiles with the same neighbours: the first, the last, or the second."""
    return index if index == 0 or index == count - 1 else 1


def to_probs(scores: Tensor, spec: ModelSpec) -> Tensor:
    """Scores (n, map * class, row, col) as values in [0, 1], float32; a single score for two classes is split in two.

    Raises:
        ModelError: The number of classes differs from the card's.
    """
    scores = scores.float()
    if spec.temperature != 1.0:
        scores = scores / spec.temperature
    if spec.activation == "softmax":
        maps = [torch.softmax(each, dim=1) for each in scores.chunk(spec.maps, dim=1)]
        probs = torch.cat(maps, dim=1) if len(maps) > 1 else maps[0]
    elif spec.activation == "sigmoid":
        probs = torch.sigmoid(scores)
    else:
        low, high = spec.output_range
        probs = ((scores - low) / (high - low)).clamp_(0.0, 1.0)
    if probs.shape[1] == 1 and spec.outputs == 2:
        probs = torch.cat([1.0 - probs, probs], dim=1)
    if probs.shape[1] != spec.outputs:
        raise ModelError(f"model {spec.name!r} gave {probs.shape[1]} classes, its card lists {spec.outputs}")
    return probs


def add_weighted(sums: Tensor, probs: Tensor, weights: Tensor) -> None:
    """Adds the contribution of one tile, ``probs * weights`` (class, row, col) rounded to multiples of 2^-22.

    Args:
        sums: What is added to, float32 (class, row, col); a view of a larger tensor will do.
        probs: Of the tile; destroyed.
        weights: Of the tile (row, col).
    """
    if sums.device.type == "cpu":  # one compiled pass in place of four
        from geoseg import kernels

        kernels.add_weighted(sums.numpy(), probs.numpy(), weights.numpy(), _ROUNDER)
    else:
        sums.add_(probs.mul_(weights).add_(_ROUNDER).sub_(_ROUNDER))


def exactness(blend: Blend, overlap: int, halo: int | None) -> str:
    """What the overlap means for a net whose influence reaches `halo` pixels, in one sentence.

    >>> exactness("crop", 128, 32)
    'exact: the net sees 32 pixels far, crop with overlap 128 covers up to 64'
    """
    reach = {"crop": overlap // 2, "ramp": 3 * overlap // 8}.get(blend, 0)
    sees, covers = f"the net sees {halo} pixels far", f"{blend} with overlap {overlap} covers up to {reach}"
    if halo is None:
        return f"unknown: the model's card does not say how far the net sees; {covers}"
    if halo == 0:
        return "exact: every pixel is judged by itself"
    if blend not in ("crop", "ramp"):
        return f"approximate: {sees}, and {blend} mixes in the tiles' rims, where it misses context"
    if reach >= halo:
        return f"exact: {sees}, {covers}"
    return f"approximate: {sees}, {covers}; exact from overlap {2 * halo if blend == 'crop' else -(-8 * halo // 3)}"
