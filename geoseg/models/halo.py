"""How far a net sees: the radius beyond which what lies around a pixel does not move its probabilities.

Measured twice, because either way can miss something. By perturbation: one pixel of a tile changes by 1 in every
channel, up or down, and the farthest output is looked for that moves by more than 1e-3. By gradient: the derivatives of
one output pixel's probabilities with respect to the tile, summed over channels, and the farthest input whose sum is
above 1e-3 (the effective receptive field: Luo, Li, Urtasun and Zemel 2016, arXiv:1701.04128).

A net with strides treats pixels differently by their place in its stride, so several places are tried, on tiles that
are smooth and tiles that are noise, in the range of normalised channels and in that of reflectance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geoseg.errors import ModelError
from geoseg.models.loading import model_of, sample_of
from geoseg.models.package import Package
from geoseg.settings import Settings
from geoseg.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MOVED", "Halo", "measure_halo"]

MOVED = 1e-3
"""Change of a probability that counts."""
_PLACES = 8
"""Places within the net's stride that are tried, at most, spread evenly."""
_FIRST, _LARGEST = 256, 1024
"""Sides of the tile, in pixels: it grows as long as the net sees as far as its rim."""

Predict = Callable[["Tensor"], "Tensor"]
"""Scores (n, map * class, row, col) of a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Halo:
    """What was measured; radii in pixels, the larger of rows and columns."""

    perturbation: int
    """Farthest output that a changed pixel moved."""
    gradient: int | None
    """Farthest input that an output's gradient feels; None for graphs that give no gradients."""
    reach: int | None
    """Farthest input of which anything at all arrives: any gradient but 0."""
    tile: int
    """Side of the tile that was used."""
    bounded: bool
    """Whether the net sees less far than that tile let it; else it sees all of any tile that was tried."""
    multiple_of: int
    """The net's total stride, of which an overlap is a multiple."""

    @property
    def radius(self) -> int:
        """What the card says: the larger of both ways; the whole tile where the net sees as far as its rim."""
        return max(self.perturbation, self.gradient or 0) if self.bounded else self.tile

    @property
    def overlap_for_crop(self) -> int:
        """Least overlap of which a half covers the halo: ``--blend crop`` is then exact."""
        return self._rounded(2 * self.radius)

    @property
    def overlap_for_ramp(self) -> int:
        """Least overlap of which 3/8 cover the halo: ``--blend ramp`` is then exact."""
        return self._rounded(-(-8 * self.radius // 3))

    def _rounded(self, overlap: int) -> int:
        return -(-overlap // self.multiple_of) * self.multiple_of


def measure_halo(package: Package, *, places: int = _PLACES, largest: int = _LARGEST) -> Halo:
    """How far the net of a verified package sees.

    Args:
        package: Its graph may be of any format; an ONNX graph is measured by perturbation only.
        places: Places within the net's stride that are tried, at most.
        largest: Side of the largest tile that is tried.

    Raises:
        ModelError: The net does not run.
    """
    spec = package.spec
    if package.format == "onnx":
        predict, differentiable = model_of(package, Settings(backend="onnxruntime")).predict, False
    else:
        from geoseg.models.torch_model import load_net

        predict, differentiable = load_net(package), True
    side = spec.static_tile or -(-_FIRST // spec.multiple_of) * spec.multiple_of
    while True:
        found = _measured(package, predict, side, places, differentiable=differentiable)
        if found.bounded or spec.static_tile is not None or 2 * side > largest:
            return found
        side *= 2


def _measured(package: Package, predict: Predict, side: int, places: int, *, differentiable: bool) -> Halo:
    spec = package.spec
    moved = felt = reach = 0
    spots = list(_spots(spec.multiple_of, side, places))
    for number, tile in enumerate(_tiles(package, side)):
        kick = 1.0 if number % 2 == 0 else -1.0
        moved = max(moved, _moved(predict, tile, spots, kick, spec))
        if differentiable:
            found = [_felt(predict, tile, spot, spec) for spot in spots]
            felt, reach = max(felt, *(near for near, _ in found)), max(reach, *(far for _, far in found))
    return Halo(
        perturbation=moved,
        gradient=felt if differentiable else None,
        reach=reach if differentiable else None,
        tile=side,
        bounded=max(moved, felt) < side // 2 - spec.multiple_of,
        multiple_of=spec.multiple_of,
    )


def _tiles(package: Package, side: int) -> Iterator[Tensor]:
    """Four tiles (1, [date,] channel, row, col): smooth and noise, as normalised channels and as reflectance are."""
    import torch

    smooth = [sample_of(package, 1, side, seed) for seed in range(2)]
    noise = [torch.randn(smooth[0].shape, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    yield smooth[0]
    yield noise[0]
    yield smooth[1].sigmoid()
    yield noise[1].sigmoid()


def _spots(stride: int, side: int, places: int) -> Iterator[int]:
    """Rows and columns about the middle of a tile, at places within the stride that lie evenly.

    >>> list(_spots(1, 64, 8)), list(_spots(4, 64, 8)), list(_spots(32, 64, 3))
    ([32], [32, 33, 34, 35], [32, 48, 63])
    """
    first = side // 2 // stride * stride
    count = min(stride, places)
    for number in range(count):
        yield first + (round(number * (stride - 1) / (count - 1)) if count > 1 else 0)


def _moved(predict: Predict, tile: Tensor, spots: list[int], kick: float, spec: ModelSpec) -> int:
    """Distance of the farthest output that moves when the pixel at one of `spots`, on the diagonal, changes."""
    import torch

    from geoseg.blend import to_probs

    farthest = 0
    with torch.inference_mode():
        before = to_probs(_of_tile(predict, tile, spec), spec)
        for spot in spots:
            for date in range(spec.dates):  # one at a time: what changes on both may cancel out
                changed = tile.clone()
                changed.view(spec.dates, -1, *tile.shape[-2:])[date, :, spot, spot] += kick
                change = (to_probs(_of_tile(predict, changed, spec), spec) - before).abs().amax((0, 1))  # (row, col)
                farthest = max(farthest, _radius(change, spot, MOVED))
    return farthest


def _of_tile(predict: Predict, tile: Tensor, spec: ModelSpec) -> Tensor:
    """Scores of one tile; a graph may fix how many it takes."""
    count = spec.static_batch or 1
    return predict(tile.expand(count, *tile.shape[1:]).contiguous())[:1]


def _felt(predict: Predict, tile: Tensor, spot: int, spec: ModelSpec) -> tuple[int, int]:
    """Distances of the farthest inputs whose gradients at one output pixel count, and are not 0."""
    import torch

    source = tile.clone().requires_grad_()
    with torch.enable_grad():
        scores = _of_tile(predict, source, spec)[0, :, spot, spot]  # (map * class,)
        if not scores.requires_grad:
            raise ModelError(f"model {spec.name!r} gives no gradients: its graph was exported without them")
        decisions = [_decision(each, spec) for each in scores.chunk(spec.maps)]
        grads = [torch.autograd.grad(each, source, retain_graph=True)[0] for each in decisions]
    size = torch.stack(grads).abs().sum(-3).flatten(0, -3).amax(0)  # (row, col): over channels; maps and dates
    return _radius(size, spot, MOVED), _radius(size, spot, 0.0)


def _decision(scores: Tensor, spec: ModelSpec) -> Tensor:
    """A probability that moves as that of the strongest class (class,) would in a pixel that is undecided.

    There probabilities move most: a net that is certain of a pixel would seem to see nothing.
    """
    if spec.activation == "none":
        low, high = spec.output_range
        return scores.amax() / (high - low)
    strongest = scores.topk(min(2, len(scores))).values
    margin = strongest[0] - strongest[1] if spec.activation == "softmax" and len(strongest) > 1 else strongest[0]
    return margin / (4 * spec.temperature)


def _radius(values: Tensor, spot: int, least: float) -> int:
    """Chebyshev distance from (spot, spot) of the farthest place (row, col) above `least`; 0 where there is none."""
    places = (values > least).nonzero()
    return int((places - spot).abs().max()) if len(places) else 0
