"""Batches that show the net what it may meet elsewhere: other light, other cuts, lost borders, pairs without change.

Between its steps a batch is one tensor of planes (pair, plane, row, col), so that whatever moves pixels moves all of
them: the bands before, the bands after, flood (0 or 1), valid (0 or 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from pipelines.flood_s2.chips import BANDS, Chips

__all__ = ["Augmentation", "draw"]

_BEFORE, _AFTER = slice(0, len(BANDS)), slice(len(BANDS), 2 * len(BANDS))
_FLOOD, _VALID = 2 * len(BANDS), 2 * len(BANDS) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How much batches are changed."""

    side: int = 128
    """Rows and columns of what the net sees."""
    zoom: tuple[float, float] = (0.7, 1.2)
    """A cut of side / zoom pixels is drawn on side pixels."""
    gain: float = 0.1
    """Spread of the logarithm of brightness, per date."""
    tint: float = 0.03
    """The same per date and band."""
    haze: float = 0.01
    """Most reflectance that air adds to a date."""
    faded: float = 0.2
    """Share of pairs whose change is made fainter: shallow, turbid or receding water, which few blocks show."""
    unchanged: float = 0.1
    """Share of pairs that show one date twice, where nothing is flooded."""
    mixed: float = 0.3
    """Share of pairs into which a rectangle of another pair is pasted."""
    lost: float = 0.3
    """Share of pairs of which a rectangle, most often at a border, is not valid."""


_FAINT = (0.35, 1.0)
"""How much of its change a faded pair keeps."""


def draw(
    chips: Chips, weights: Tensor, count: int, plan: Augmentation, random: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Reflectance (pair, date, band, row, col), flood float32 and valid bool (pair, row, col) of `count` pairs.

    Args:
        chips: Where from.
        weights: How often each pair is drawn, relative to the others.
        count: Pairs.
        plan: How they are changed.
        random: The only source of chance.
    """
    chosen = torch.multinomial(weights, count, replacement=True, generator=random)
    reflectance = chips.reflectance(chosen, torch.rand(chips.levels[chosen].shape, generator=random))
    labels = torch.stack([chips.flood[chosen], chips.valid[chosen]], 1).float()
    planes = torch.cat([reflectance.flatten(1, 2), labels], 1)
    planes = torch.stack([_turned(_cut(pair, plan, random), random) for pair in planes])
    planes = _mixed(planes, plan.mixed, random)
    for pair in planes:
        if _chance(plan.faded, random):
            pair[_AFTER] = pair[_BEFORE].lerp(pair[_AFTER], _number(*_FAINT, random))
        if _chance(plan.unchanged, random):
            _repeat_a_date(pair, random)
        if _chance(plan.lost, random):
            pair[_VALID][_rectangle(plan.side, random)] = 0
    reflectance = planes[:, :_FLOOD].reshape(count, 2, len(BANDS), plan.side, plan.side)
    return _relit(reflectance, plan, random), planes[:, _FLOOD], planes[:, _VALID] > 0.5


def _number(low: float, high: float, random: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=random))


def _chance(share: float, random: Generator) -> bool:
    return _number(0, 1, random) < share


def _cut(pair: Tensor, plan: Augmentation, random: Generator) -> Tensor:
    """A square of the pair, zoomed to the side that the net sees."""
    size = min(round(plan.side / _number(*plan.zoom, random)), *pair.shape[-2:])
    row, col = (int(_number(0, length - size + 1, random)) for length in pair.shape[-2:])
    square = pair[None, :, row : row + size, col : col + size]
    pixels = interpolate(square[:, :_FLOOD], size=(plan.side, plan.side), mode="bilinear", align_corners=False)
    labels = interpolate(square[:, _FLOOD:], size=(plan.side, plan.side), mode="nearest")
    return torch.cat([pixels, labels], 1)[0]


def _turned(pair: Tensor, random: Generator) -> Tensor:
    """One of the square's eight symmetries."""
    turned = torch.rot90(pair, int(_number(0, 4, random)), (-2, -1))
    return turned.flip(-1) if _chance(0.5, random) else turned


def _mixed(planes: Tensor, share: float, random: Generator) -> Tensor:
    """Rectangles of the next pair in some pairs (CutMix: Yun et al. 2019, doi:10.1109/ICCV.2019.00612)."""
    result = planes.clone()
    for target, other in zip(result, planes.roll(1, 0), strict=True):
        if _chance(share, random):
            rows, cols = _rectangle(planes.shape[-1], random)
            target[:, rows, cols] = other[:, rows, cols]
    return result


def _rectangle(side: int, random: Generator) -> tuple[slice, slice]:
    """Rows and columns around a random centre, cut at the border."""
    centres = (int(_number(0, side, random)), int(_number(0, side, random)))
    halves = (int(_number(0.05, 0.4, random) * side), int(_number(0.05, 0.4, random) * side))
    rows, cols = (slice(max(0, at - half), at + half + 1) for at, half in zip(centres, halves, strict=True))
    return rows, cols


def _repeat_a_date(pair: Tensor, random: Generator) -> None:
    """The same date twice, in place: nothing is flooded that was not before."""
    if _chance(0.5, random):
        pair[_BEFORE] = pair[_AFTER]
    else:
        pair[_AFTER] = pair[_BEFORE]
    pair[_FLOOD] = 0


def _relit(reflectance: Tensor, plan: Augmentation, random: Generator) -> Tensor:
    """Each date under a light of its own: brightness, tint, and haze that grows towards short waves."""
    pairs, dates, bands = reflectance.shape[:3]
    gain = plan.gain * torch.randn(pairs, dates, 1, 1, 1, generator=random)
    tint = plan.tint * torch.randn(pairs, dates, bands, 1, 1, generator=random)
    haze = plan.haze * torch.rand(pairs, dates, 1, 1, 1, generator=random) * _HAZE
    return reflectance * (gain + tint).exp() + haze


_HAZE = torch.tensor([0.1, 0.4, 1.0])[:, None, None]
"""Of swir16, nir, green: about wavelength to the power of -2."""
