"""Geoseg's own nets, which the registry builds by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ThresholdNet"]

_LIMIT = 6.0
"""Largest score: nothing is ever more certain than these indices can be."""


class ThresholdNet(nn.Module):
    """Scores (n, class, row, col): for each class the smallest of a few linear functions of the pixel's channels."""

    def __init__(self, channels: int, classes: int, criteria: int, limit: float = _LIMIT) -> None:
        super().__init__()
        self.arguments = {"channels": channels, "classes": classes, "criteria": criteria, "limit": limit}
        self._classes = classes
        self._limit = limit
        self.margins = nn.Conv2d(channels, criteria * classes, 1)

    def forward(self, batch: Tensor) -> Tensor:
        """Scores of a batch (n, channel, row, col)."""
        margins: Tensor = self.margins(batch)  # (n, criterion * class, row, col)
        first, *others = margins.chunk(margins.shape[1] // self._classes, 1)  # each (n, class, row, col)
        for other in others:
            first = torch.minimum(first, other)
        return first.clamp(-self._limit, self._limit)
