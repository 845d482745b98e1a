"""Blended probabilities to bytes: labels, confidence and, on request, the probabilities themselves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geoseg.spec import ModelSpec

__all__ = ["PROBABILITY_NODATA", "PROBABILITY_SCALE", "Decision", "Layers", "decide", "layers_of"]

PROBABILITY_SCALE = 0.004
"""Probability per stored unit: 250 stands for 1.0."""
PROBABILITY_NODATA = 255
"""Stored where there is no probability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Which rasters a run makes, and how their numbers are to be read."""

    values: tuple[int, ...]
    """Class values, in the net's order."""
    label_dtype: str
    """``uint8``, or ``uint16`` where a value needs it."""
    label_nodata: int
    """Label where there is none."""
    confidence: bool = True
    """Whether the probability of the chosen class is kept."""
    probabilities: bool = False
    """Whether the probability of every class is kept."""

    @property
    def counts(self) -> dict[str, int]:
        """Bands per raster, in a fixed order."""
        counts = {"labels": 1}
        if self.confidence:
            counts["confidence"] = 1
        if self.probabilities:
            counts["probabilities"] = len(self.values)
        return counts

    def dtype(self, layer: str) -> str:
        """Numpy dtype of a raster."""
        return self.label_dtype if layer == "labels" else "uint8"

    def nodata(self, layer: str) -> int:
        """Nodata value of a raster."""
        return self.label_nodata if layer == "labels" else PROBABILITY_NODATA


Decision = dict[str, Tensor]
"""Raster name -> (band, row, col) on the device, in the dtype that is written."""


def layers_of(spec: ModelSpec, *, confidence: bool = True, probabilities: bool = False) -> Layers:
    """The rasters that a model's classes ask for."""
    return Layers(
        values=spec.values,
        label_dtype=spec.label_dtype,
        label_nodata=spec.label_nodata,
        confidence=confidence,
        probabilities=probabilities,
    )


def decide(sums: Tensor, usable: Tensor | None, layers: Layers) -> Decision:
    """Labels, confidence and probabilities of blended probabilities (class, row, col).

    The class with the highest probability wins, the first of them where several are equal.

    Args:
        sums: Blended probabilities, float32 (class, row, col).
        usable: Pixels that get a label (row, col), bool; None where all do.
        layers: What to make.
    """
    best, index = _first_maximum(sums)
    decision = {"labels": _as_values(index, layers)[None]}
    if layers.confidence:
        decision["confidence"] = _as_bytes(best)[None]
    if layers.probabilities:
        decision["probabilities"] = _as_bytes(sums)
    if usable is not None:
        unusable = ~usable
        for layer, band in decision.items():
            band.masked_fill_(unusable, layers.nodata(layer))
    decision["labels"] = decision["labels"].to(getattr(torch, layers.label_dtype))
    return decision


def _first_maximum(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum over classes and the first index that has it."""
    dtype = torch.uint8 if len(sums) <= 256 else torch.int32
    if sums.device.type != "cpu":
        best, first = sums.max(dim=0)
        return best, first.to(dtype)
    from geoseg import kernels

    best, index = torch.empty(sums.shape[1:]), torch.empty(sums.shape[1:], dtype=dtype)
    kernels.first_maximum(sums.numpy(), best.numpy(), index.numpy())
    return best, index


def _as_values(index: Tensor, layers: Layers) -> Tensor:
    """Class values of class indices; int32 where a byte is too small, because uint16 tensors cannot be masked."""
    if layers.values == tuple(range(len(layers.values))) and layers.label_dtype == "uint8":
        return index
    dtype = torch.uint8 if layers.label_dtype == "uint8" else torch.int32
    return torch.tensor(layers.values, dtype=dtype, device=index.device)[index.int()]


def _as_bytes(probs: Tensor) -> Tensor:
    return (probs / PROBABILITY_SCALE).round_().clamp_(0.0, 250.0).to(torch.uint8)
