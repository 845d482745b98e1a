"""Chips as a person checks them: what the net sees of each date, the truth, what the net says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from geoseg.picture import Rgba, color_classes, encode, in_one_stretch, shown_bands
from geoseg.sink.parts import durable
from geoseg.spec import ClassInfo
from geoseg.train import IGNORE
from geoseg.train.samples import Sample
from geoseg.types import Labels

__all__ = ["draw_samples", "write_samples"]

_GAP = 4
"""White pixels between two pictures."""
_LONGEST = 4096


def draw_samples(
    samples: Sequence[Sample], predicted: Sequence[Labels], bands: Sequence[str], classes: Sequence[ClassInfo]
) -> Rgba:
    """A row for each sample: its dates, its labels, and the class numbers (row, col) `predicted` for it."""
    chosen = [list(bands).index(name) for name in shown_bands(bands)]
    seen = in_one_stretch(
        [date[chosen].numpy() for sample in samples for date in sample.bands],
        [sample.valid.numpy() for sample in samples for _ in sample.bands],
    )
    colors = [(number, each.color) for number, each in enumerate(classes)]
    dates = len(samples[0].bands)
    rows = []
    for number, (sample, says) in enumerate(zip(samples, predicted, strict=True)):
        maps = [sample.labels.numpy(), np.where(sample.valid.numpy(), says, IGNORE).astype(np.uint8)]
        rows.append([*seen[number * dates :][:dates], *(color_classes(each, colors, {IGNORE}) for each in maps)])
    height = max(sample.valid.shape[0] for sample in samples) + _GAP
    width = max(sample.valid.shape[1] for sample in samples) + _GAP
    sheet = np.full((height * len(rows) - _GAP, width * (dates + 2) - _GAP, 4), 255, np.uint8)
    for row, pictures in enumerate(rows):
        for col, picture in enumerate(pictures):
            place = sheet[row * height :, col * width :]
            place[: picture.shape[0], : picture.shape[1]] = picture
    return sheet


def write_samples(path: Path, sheet: Rgba) -> None:
    """Writes a sheet as WebP.

    Raises:
        SinkError: It cannot be written.
    """
    with durable(path) as draft:
        draft.write_bytes(encode(sheet, _LONGEST, lossless=True))
