"""What the training chips hold: mean, spread and histogram of bands and channels, over usable pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geoseg.train.samples import Chip, ChipReader

__all__ = ["Statistics", "measure"]

_MOST = 1000
"""Chips that are looked at; of more, every so many-th."""
_BINS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Of bands or channels, by name."""

    values: Mapping[str, Mapping[str, Any]]
    """Name -> mean, sd, and histogram: low, high, counts."""

    def column(self, key: str) -> Tensor:
        """float32 (band): ``mean`` or ``sd`` of each, or ``low`` or ``high`` of its histogram."""
        return torch.tensor(
            [float(each[key] if key in each else each["histogram"][key]) for each in self.values.values()]
        )

    @property
    def z_scores(self) -> tuple[dict[str, Any], ...]:
        """MLM value scalings that give each mean 0 and spread 1; what does not vary is only moved."""
        return tuple(
            {"type": "z-score", "mean": each["mean"], "stddev": each["sd"] or 1.0} for each in self.values.values()
        )


def measure(
    names: Sequence[str], chips: ChipReader, chosen: Sequence[Chip], show: Callable[[Tensor, Tensor], Tensor]
) -> Statistics:
    """Figures of what `show` makes of chips.

    Args:
        names: Of what `show` gives.
        chips: Reads them.
        chosen: Which.
        show: From (1, date, band, row, col) and usable (1, row, col) to (date, name, row, col).

    Raises:
        SourceError: A chip cannot be read.
    """
    seen = chosen[:: -(-len(chosen) // _MOST)]
    count, total, squares = 0, torch.zeros(len(names)).double(), torch.zeros(len(names)).double()
    low, high = torch.full((len(names),), torch.inf), torch.full((len(names),), -torch.inf)
    for values in (_usable(chips, chip, show) for chip in seen):
        if values.shape[1]:
            exact = values.double()
            count, total, squares = count + values.shape[1], total + exact.sum(1), squares + (exact**2).sum(1)
            low, high = torch.minimum(low, values.amin(1)), torch.maximum(high, values.amax(1))
    if not count:
        return Statistics(values={name: _entry(0.0, 0.0, 0.0, 1.0, [0] * _BINS) for name in names})
    counts = torch.zeros(len(names), _BINS).double()
    for values in (_usable(chips, chip, show) for chip in seen):
        for number, (channel, least, most) in enumerate(zip(values, low.tolist(), high.tolist(), strict=True)):
            if least < most:
                counts[number] += torch.histc(channel, _BINS, least, most)
    mean = total / count
    spread = (squares / count - mean**2).clamp(min=0).sqrt()
    figures = zip(mean.tolist(), spread.tolist(), low.tolist(), high.tolist(), counts.long().tolist(), strict=True)
    return Statistics(values={name: _entry(*each) for name, each in zip(names, figures, strict=True)})


def _usable(chips: ChipReader, chip: Chip, show: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(name, pixel) over all dates."""
    sample = chips.read(chip)
    return show(sample.bands[None], sample.valid[None])[:, :, sample.valid].movedim(1, 0).flatten(1)


def _entry(mean: float, spread: float, low: float, high: float, counts: list[int]) -> dict[str, Any]:
    mean, spread, low, high = (float(f"{number:.6g}") for number in (mean, spread, low, high))
    return {"mean": mean, "sd": spread, "histogram": {"low": low, "high": high, "counts": counts}}
