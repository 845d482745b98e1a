"""The trained net as a model package, with a card that says where it comes from, how good it is and where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from geoseg.models import save_package
from geoseg.scene import Scaling
from pipelines.flood_s2.chips import BANDS, CHANNELS, CLASSES, FILL, VALUE_SCALING, Chips
from pipelines.flood_s2.measure import Counts

__all__ = ["figures_of", "statistics_of", "write_package"]

TILE, OVERLAP = 512, 128
_HALO = 64
"""Measured on the validation pairs: one pixel black, flooded or lost moved no probability by 0.001 beyond 54 pixels."""
_BINS = 20

_PROVENANCE = {
    "data": "OMBRIA, Sentinel-2 part (github.com/geodrak/OMBRIA at 38a49035): pairs of 256 x 256 pixels of 10 m, "
    "masks of Copernicus EMS Rapid Mapping",
    "citation": "Drakonakis et al. 2022, OmbriaNet, IEEE JSTARS, IEEE Xplore document 9723593",
    "attribution": "Contains modified Copernicus Sentinel data; (c) European Union, Copernicus Emergency Management "
    "Service data; OMBRIA, Drakonakis et al. 2022",
    "licence": "The repository of the data carries no licence file. Its pixels are Copernicus Sentinel-2 data (free, "
    "full and open: Regulation (EU) 1159/2013), its masks are rasterised from Copernicus EMS Rapid Mapping products "
    "(open under the Copernicus data policy); the selection itself is unlicensed by its authors.",
    "split": "By blocks of neighbouring chips, since the authors' own split puts direct neighbours on both sides: "
    "364 pairs of 26 blocks to train, 66 of 3 blocks to validate, 10 of Timor 2021 to test. Everything was chosen on "
    "the validation pairs. Two blocks may still show one flood some kilometres apart.",
    "recipe": "python -m pipelines.flood_s2 DATA OUT",
    "limits": "The labels are noisy: map and scene differ in date, clouds hide water, some outlines come from other "
    "sensors. Wet soil, cloud shadow and dark fields may be taken for floods; water below trees or thin cloud and "
    "turbid water over gravel may be missed; water that was there before is left out on purpose. Probabilities are too "
    "sure. Trained on pixels of 10 m.",
}


def write_package(
    net: torch.nn.Module, folder: Path, train: Chips, figures: Mapping[str, Mapping[str, Any]], plan: Mapping[str, Any]
) -> Path:
    """Writes the package and returns its folder.

    Args:
        net: Trained.
        folder: Of the package.
        train: What it was trained on.
        figures: By split, from `figures_of`.
        plan: Settings of the training, as plain values.
    """
    return save_package(
        net,
        folder,
        name="flood-s2",
        description="Flood between two Sentinel-2 scenes: water after where there was none before.",
        bands=CHANNELS,
        classes=CLASSES,
        tile=TILE,
        overlap=OVERLAP,
        halo=_HALO,
        multiple_of=32,
        fill=FILL,
        value_scaling=VALUE_SCALING,
        assume_scaling=Scaling(scale=1e-4),
        dates=2,
        task="change-detection",
        training_statistics=statistics_of(train),
        properties={
            "datetime": "2026-01-01T00:00:00Z",
            "license": "other",
            "geoseg:provenance": {**_PROVENANCE, "training": dict(plan), "metrics": dict(figures)},
        },
        overwrite=True,
    )


def figures_of(chips: Chips, per_pair: list[Counts]) -> dict[str, Any]:
    """What a card says of a split: of class flood, pixels pooled over its pairs, and per block."""
    blocks = {
        block: sum((one for one, where in zip(per_pair, chips.blocks, strict=True) if where == block), Counts())
        for block in sorted(set(chips.blocks))
    }
    return {
        "pairs": len(chips),
        **_rounded(sum(per_pair, Counts())),
        "blocks": {block: {"pairs": chips.blocks.count(block), **_rounded(sums)} for block, sums in blocks.items()},
    }


def _rounded(counts: Counts) -> dict[str, float]:
    return {name: round(getattr(counts, name), 4) for name in ("iou", "precision", "recall")}


def statistics_of(chips: Chips) -> dict[str, Any]:
    """Per band: mean, standard deviation and histogram of the valid reflectance of both dates."""
    valid = chips.valid[:, None].expand(-1, chips.levels.shape[1], -1, -1)
    found = {}
    for number, name in enumerate(BANDS):
        values = ((chips.levels[:, :, number][valid].float() + 0.5) / 255.0).double()
        counts = torch.histc(values, _BINS, 0.0, 1.0)
        found[name] = {
            "mean": round(float(values.mean()), 4),
            "sd": round(float(values.std()), 4),
            "histogram": {"low": 0.0, "high": 1.0, "counts": [int(count) for count in counts]},
        }
    return found
