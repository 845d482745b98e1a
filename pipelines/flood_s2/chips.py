"""Pairs of chips on disk to what the net sees, by the engine's own preparation."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import max_pool2d

from geoseg.models.card import rescale_of
from geoseg.prepare import prepare, recipes_for
from geoseg.scene import Band, BandSet
from geoseg.spec import Channel, ClassInfo, ModelSpec

__all__ = ["BANDS", "CHANNELS", "CLASSES", "FILL", "VALUE_SCALING", "Chips", "channels_of", "read_chips"]

BANDS = ("swir16", "nir", "green")
"""In the order of the files' channels."""
CHANNELS: tuple[str | dict[str, str], ...] = (
    *BANDS,
    *(
        {"name": f"log-{band}", "format": "rio-tiler", "expression": f"log(maximum({band}, 0) + 0.01)"}
        for band in BANDS
    ),
)
"""Reflectance, and its logarithm: dark water differs by factors, and light from date to date by a factor too."""
VALUE_SCALING: tuple[dict[str, Any], ...] = (
    *({"type": "scale", "value": 0.25} for _ in BANDS),
    *({"type": "z-score", "mean": -2.0, "stddev": 0.8} for _ in BANDS),
)
FILL = 0.0
"""No ground looks like this: black in the bands, but not in their logarithms."""
CLASSES = (
    ClassInfo(value=0, name="unchanged", title="Unchanged", color="D9D9D9", description="no flood that was not there"),
    ClassInfo(value=1, name="flood", title="Flood", color="2B6CB0", description="flooded after, dry before"),
)

_ONE_DATE = ModelSpec(
    name="flood-s2",
    bands=BANDS,
    channels=tuple(
        Channel(name=one, rescale=rescale_of(scaling))
        if isinstance(one, str)
        else Channel(name=one["name"], expression=one["expression"], rescale=rescale_of(scaling))
        for one, scaling in zip(CHANNELS, VALUE_SCALING, strict=True)
    ),
    classes=CLASSES,
    fill=FILL,
)
(_RECIPE,) = recipes_for(_ONE_DATE, BandSet(tuple(Band(name=name, dtype="float32") for name in BANDS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chips:
    """The pairs of one split."""

    names: tuple[str, ...]
    """Per pair."""
    blocks: tuple[str, ...]
    """Per pair: pairs of one block show one flood."""
    levels: Tensor
    """uint8 (pair, date, band, row, col), before first: reflectance times 255, truncated."""
    flood: Tensor
    """bool (pair, row, col)."""
    valid: Tensor
    """bool (pair, row, col): usable on both dates."""
    agreement: Tensor
    """float32 (pair): overlap of the flood with new water as an index sees it; the lower, the less the pair shows."""

    def __len__(self) -> int:
        return len(self.names)

    def reflectance(self, pairs: Tensor, dither: Tensor | float = 0.5) -> Tensor:
        """float32 (pair, date, band, row, col) of some pairs; `dither` says where in its level a value lies, 0 to 1."""
        return (self.levels[pairs].float() + dither) / 255.0


def read_chips(folder: Path, split: str) -> Chips:
    """All pairs of a split (``train``, ``val``, ``test_public``), in the order of ``pairs.csv``."""
    with (folder / "pairs.csv").open(encoding="utf-8", newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["split"] == split]
    names = tuple(row["id"] for row in rows)
    dates = [np.stack([_picture(folder / split / date / f"{name}.png") for name in names]) for date in _DATES]
    levels = torch.from_numpy(np.stack(dates, 1)).permute(0, 1, 4, 2, 3).contiguous()
    masks = np.stack([_picture(folder / split / "mask" / f"{name}.png") for name in names])
    return Chips(
        names=names,
        blocks=tuple(row["block"] for row in rows),
        levels=levels,
        flood=torch.from_numpy(masks > 0),
        valid=_seen(levels).all(1) & ~_wrapped(levels),
        agreement=torch.tensor([float(row["mndwi_iou"]) for row in rows]),
    )


_DATES = ("before", "after")


def _picture(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(path) as picture:
        return np.asarray(picture)


def _seen(levels: Tensor) -> Tensor:
    """Where a date was seen (pair, date, row, col): nodata is 0 in all bands."""
    return (levels > 0).any(2)


def _wrapped(levels: Tensor) -> Tensor:
    """Where reflectance above 1 became a small number (pair, row, col): dark right beside the brightest levels."""
    bright = max_pool2d((levels >= _BRIGHTEST).flatten(0, 1).float(), 3, 1, 1) > 0
    return (bright & (levels.flatten(0, 1) < _DARK)).reshape(levels.shape).any(2).any(1)


_BRIGHTEST, _DARK = 245, 64


def channels_of(reflectance: Tensor, valid: Tensor) -> Tensor:
    """What the net sees (pair, date, channel, row, col) of reflectance (pair, date, band, row, col).

    Args:
        reflectance: float32.
        valid: Usable pixels (pair, row, col); others are filled on both dates, as the engine does.
    """
    pairs, dates = reflectance.shape[:2]
    bands = reflectance.movedim(2, 0).flatten(1, 2)  # (band, pair * date, row, col)
    usable = valid[:, None].expand(-1, dates, -1, -1).flatten(0, 1)
    channels = prepare(bands, usable, _RECIPE)  # (channel, pair * date, row, col)
    return channels.reshape(-1, pairs, dates, *channels.shape[2:]).movedim(0, 2)
