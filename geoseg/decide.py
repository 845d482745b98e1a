"""Blended probabilities to bytes: labels, confidence and, on request, the probabilities themselves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geoseg.errors import ModelError
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
    """Whether the probability of the chosen class is kept; of a change run, the probability of change."""
    probabilities: bool = False
    """Whether the probability of every class is kept."""
    change: bool = False
    """Whether the classes are kinds of change, 0 for none."""
    maps: int = 1
    """Class maps per input: of two, labels say from which class to which (`geoseg.spec.from_to_value`)."""

    @property
    def label(self) -> str:
        """Name of the raster of class values."""
        return "change" if self.change else "labels"

    @property
    def certainty(self) -> str:
        """Name of the raster that `confidence` asks for."""
        return "change_probability" if self.change else "confidence"

    @property
    def depth(self) -> int:
        """Blended probabilities per pixel."""
        return self.maps * len(self.values)

    @property
    def counts(self) -> dict[str, int]:
        """Bands per raster, in a fixed order."""
        counts = {self.label: 1}
        if self.confidence:
            counts[self.certainty] = 1
        if self.probabilities:
            counts["probabilities"] = self.depth
        return counts

    def dtype(self, layer: str) -> str:
        """Numpy dtype of a raster."""
        return self.label_dtype if layer == self.label else "uint8"

    def nodata(self, layer: str) -> int:
        """Nodata value of a raster."""
        return self.label_nodata if layer == self.label else PROBABILITY_NODATA


Decision = dict[str, Tensor]
"""Raster name -> (band, row, col) on the device, in the dtype that is written."""


def layers_of(spec: ModelSpec, *, confidence: bool = True, probabilities: bool = False) -> Layers:
    """The rasters that a model's classes ask for.

    Raises:
        ModelError: A model of changes has no class of value 0, for what did not change.
    """
    if spec.dates > 1 and spec.maps == 1 and 0 not in spec.values:
        raise ModelError(f"model {spec.name!r} compares dates, but has no class of value 0 for what did not change")
    written = spec.written
    return Layers(
        values=spec.values,
        label_dtype=written.label_dtype,
        label_nodata=written.label_nodata,
        confidence=confidence,
        probabilities=probabilities,
        change=spec.dates > 1,
        maps=spec.maps,
    )


def decide(sums: Tensor, usable: Tensor | None, layers: Layers) -> Decision:
    """Labels, confidence and probabilities of blended probabilities (map * class, row, col).

    The class with the highest probability wins, the first of them where several are equal. The probability of change
    is 1 - P(unchanged); of two maps it is the total variation distance of their probabilities, the least that fits
    both maps (0 where they are equal, 1 where they share no class).

    Args:
        sums: Blended probabilities, float32 (map * class, row, col).
        usable: Pixels that get a label (row, col), bool; None where all do.
        layers: What to make.
    """
    labels, certainty = _of_two_maps(sums, layers) if layers.maps > 1 else _of_one_map(sums, layers)
    decision = {layers.label: labels[None]}
    if layers.confidence:
        decision[layers.certainty] = _as_bytes(certainty)[None]
    if layers.probabilities:
        decision["probabilities"] = _as_bytes(sums)
    if usable is not None:
        unusable = ~usable
        for layer, band in decision.items():
            band.masked_fill_(unusable, layers.nodata(layer))
    decision[layers.label] = decision[layers.label].to(getattr(torch, layers.label_dtype))
    return decision


def _of_one_map(sums: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
    """Class values, and how certain they are (row, col)."""
    best, index = _first_maximum(sums)
    certainty = 1.0 - sums[layers.values.index(0)] if layers.change else best
    return _as_values(index, layers), certainty


def _of_two_maps(sums: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
    """From which class to which, and the probability of change (row, col)."""
    before, after = sums.chunk(2)
    (_, was), (_, is_now) = _first_maximum(before), _first_maximum(after)
    many = len(layers.values)
    codes = 1 + was.int() * many + is_now.int()
    codes[was == is_now] = 0
    certainty = 0.5 * (before - after).abs().sum(dim=0)
    return codes.to(torch.uint8) if layers.label_dtype == "uint8" else codes, certainty


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
