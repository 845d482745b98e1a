"""Chips as they might have been: other cuts, turned, bent, in another light. The truth moves with the ground.

Whatever moves pixels moves all bands of all dates alike: bands are interpolated, labels take the nearest, and a pixel
stays usable only where all that it is made of was. Light changes band by band, and after that come indices and scaling,
so that an index is always that of the bands which the net sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import grid_sample, interpolate, pad

from geoseg.train import IGNORE
from geoseg.train.draws import around, between
from geoseg.train.options import Augmentation
from geoseg.train.samples import Sample
from geoseg.train.statistics import Statistics

__all__ = ["Augmenter"]

_BEND = 32
"""Pixels between two points that `elastic` moves independently of each other."""
_WHOLE = 0.999
"""A pixel is usable if at least so much of what it is made of is: float32 does not add up to 1 exactly."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Augmenter:
    """Draws squares of `side` pixels from samples."""

    options: Augmentation
    side: int
    statistics: Statistics
    """Of the bands."""

    def __call__(self, samples: Sequence[Sample], random: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Reflectance (n, date, band, row, col), labels uint8 and usable bool (n, row, col)."""
        moved = [self._turned(self._cut(sample, random), random) for sample in samples]
        bands, valid = torch.stack([each.bands for each in moved]), torch.stack([each.valid for each in moved])
        labels = torch.stack([each.labels for each in moved])
        for usable in valid:
            if between(0, 1, random) < self.options.lost:
                usable[_rectangle(self.side, random)] = False
        return self._relit(bands, valid, random), labels.masked_fill(~valid, IGNORE), valid

    def drop_channels(self, channels: Tensor, fill: float, random: Generator) -> Tensor:
        """Channels (n, ..., channel, row, col), one of them filled, on all dates, in some of the n."""
        for each in channels:
            if between(0, 1, random) < self.options.channel_dropout:
                lost = int(between(0, each.shape[-3], random))
                each[..., lost, :, :] = fill
        return channels

    # --- place ---

    def _cut(self, sample: Sample, random: Generator) -> Sample:
        """A square of the chip."""
        options = self.options
        if options.rotate or options.elastic or options.scale != (1.0, 1.0):
            return _sampled(sample, self._places(sample.valid.shape, random))
        sample = _grown(sample, self.side)
        starts = [int(between(0, length - self.side + 1, random)) for length in sample.valid.shape]
        rows, cols = (slice(start, start + self.side) for start in starts)
        return Sample(
            bands=sample.bands[..., rows, cols],
            labels=sample.labels[rows, cols],
            valid=sample.valid[rows, cols].clone(),
        )

    def _places(self, shape: Sequence[int], random: Generator) -> Tensor:
        """Where on a chip of `shape` each pixel of the square comes from: (row, col, 2) of row and col, in pixels."""
        options, side = self.options, self.side
        angle = math.radians(between(-options.rotate, options.rotate, random))
        zoom = math.exp(between(math.log(options.scale[0]), math.log(options.scale[1]), random))
        half = (side - 1) / 2
        axis = (torch.arange(side, dtype=torch.float32) - half) / zoom
        rows, cols = torch.meshgrid(axis, axis, indexing="ij")
        turned = torch.stack(
            [rows * math.cos(angle) - cols * math.sin(angle), rows * math.sin(angle) + cols * math.cos(angle)], -1
        )
        if options.elastic:
            turned = turned + options.elastic * _bends(side, random)
        room = [max(0.0, (length - 1) / 2 - half / zoom) for length in shape]  # a square that is not turned fits
        centre = [(length - 1) / 2 + between(-free, free, random) for length, free in zip(shape, room, strict=True)]
        return turned + torch.tensor(centre)

    def _turned(self, sample: Sample, random: Generator) -> Sample:
        """One of the square's eight symmetries."""
        if not self.options.flips:
            return sample
        quarters, mirrored = int(between(0, 4, random)), between(0, 1, random) < 0.5

        def turn(plane: Tensor) -> Tensor:
            turned = torch.rot90(plane, quarters, (-2, -1))
            return turned.flip(-1) if mirrored else turned

        return Sample(bands=turn(sample.bands), labels=turn(sample.labels), valid=turn(sample.valid))

    # --- light ---

    def _relit(self, bands: Tensor, valid: Tensor, random: Generator) -> Tensor:
        """Reflectance under another light, of each band and date its own."""
        options, each = self.options, (*bands.shape[:3], 1, 1)
        low, high, spread = (self.statistics.column(key)[:, None, None] for key in ("low", "high", "sd"))
        if options.gamma:
            part = (bands - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
            bands = low + (high - low) * part.sign() * part.abs() ** around(options.gamma, each, random)
        if options.contrast:
            usable = valid[:, None, None]
            mean = (bands * usable).sum((-2, -1), keepdim=True) / usable.sum((-2, -1), keepdim=True).clamp(min=1)
            bands = mean + (bands - mean) * around(options.contrast, each, random)
        if options.brightness:
            bands = bands * around(options.brightness, each, random)
        if options.noise:
            bands = bands + options.noise * spread * torch.randn(bands.shape, generator=random)
        return bands


def _grown(sample: Sample, side: int) -> Sample:
    """A sample of at least `side` rows and columns; what is added to the right and below is not usable."""
    rows, cols = (max(0, side - length) for length in sample.valid.shape)
    if not rows and not cols:
        return sample
    more = (0, cols, 0, rows)
    return Sample(
        bands=pad(sample.bands, more),
        labels=pad(sample.labels, more, value=IGNORE),
        valid=pad(sample.valid, more, value=False),
    )


def _sampled(sample: Sample, places: Tensor) -> Sample:
    """A sample as it is at `places` (row, col, 2); beyond its edge it is mirrored."""
    height, width = sample.valid.shape
    middle = torch.tensor([max(height - 1, 1), max(width - 1, 1)]) / 2
    grid = (places / middle - 1).flip(-1)[None]  # torch wants x first, and -1 to 1 from the first pixel to the last

    def at(planes: Tensor, mode: str) -> Tensor:
        return grid_sample(planes[None], grid, mode=mode, padding_mode="reflection", align_corners=True)[0]

    bands, valid = at(sample.bands.flatten(0, 1), "bilinear"), at(sample.valid[None].float(), "bilinear")[0] > _WHOLE
    labels = at(sample.labels[None].float(), "nearest")[0].to(torch.uint8)
    return Sample(bands=bands.reshape(*sample.bands.shape[:2], *labels.shape), labels=labels, valid=valid)


def _bends(side: int, random: Generator) -> Tensor:
    """Smooth displacements (row, col, 2), about 1 long (Simard et al. 2003, doi:10.1109/ICDAR.2003.1227801)."""
    knots = max(2, round(side / _BEND) + 1)
    field = torch.randn((1, 2, knots, knots), generator=random) / math.sqrt(2)
    return interpolate(field, size=(side, side), mode="bicubic", align_corners=True)[0].movedim(0, -1)


def _rectangle(side: int, random: Generator) -> tuple[slice, slice]:
    """Rows and columns around a centre that is drawn, up to half the side long, cut at the border."""
    bounds = []
    for _ in range(2):
        centre, half = between(0, side, random), between(0.05, 0.25, random) * side
        bounds.append(slice(max(0, math.floor(centre - half)), math.ceil(centre + half)))
    return bounds[0], bounds[1]
