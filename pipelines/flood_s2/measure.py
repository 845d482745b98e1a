"""How well a net maps the floods of a split: pixels pooled over its pairs, at the more probable class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.flood_s2.chips import Chips, channels_of

__all__ = ["Counts", "counts_of", "counts_per_pair"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Valid pixels by truth and map; two of them add up."""

    hit: int = 0
    """Flood in both."""
    false: int = 0
    """Flood in the map only."""
    missed: int = 0
    """Flood in the truth only."""
    dry: int = 0
    """Flood in neither."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            hit=self.hit + other.hit,
            false=self.false + other.false,
            missed=self.missed + other.missed,
            dry=self.dry + other.dry,
        )

    @property
    def iou(self) -> float:
        """Of the class flood."""
        return self.hit / max(1, self.hit + self.false + self.missed)

    @property
    def precision(self) -> float:
        """Share of the mapped flood that is true."""
        return self.hit / max(1, self.hit + self.false)

    @property
    def recall(self) -> float:
        """Share of the true flood that is mapped."""
        return self.hit / max(1, self.hit + self.missed)


def counts_per_pair(predict: Callable[[Tensor], Tensor], chips: Chips, batch: int = 8) -> list[Counts]:
    """What `predict`, which gives scores (n, class, row, col) of (n, date, channel, row, col), finds in each pair."""
    found = []
    for first in range(0, len(chips), batch):
        pairs = torch.arange(first, min(first + batch, len(chips)))
        valid = chips.valid[pairs]
        with torch.inference_mode():
            mapped = predict(channels_of(chips.reflectance(pairs), valid)).argmax(1) == 1
        for flood, truth, usable in zip(mapped, chips.flood[pairs], valid, strict=True):
            sure = {"hit": flood & truth, "false": flood & ~truth, "missed": ~flood & truth, "dry": ~flood & ~truth}
            found.append(Counts(**{name: int((where & usable).sum()) for name, where in sure.items()}))
    return found


def counts_of(predict: Callable[[Tensor], Tensor], chips: Chips) -> Counts:
    """The same of all pairs together."""
    return sum(counts_per_pair(predict, chips), Counts())
