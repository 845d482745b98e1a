"""``spectral-baseline``: a net whose weights are published thresholds on spectral indices, not the result of training.

Every class has a few criteria, each a straight line in the channels, positive where the class is plausible. A pixel's
score for a class is its weakest criterion (a fuzzy "and"), so all of them must hold; softmax makes probabilities of the
scores. It needs no training and no download, and it is explainable pixel by pixel. It is a baseline: it confuses what
these indices confuse (shadow with water, bright roofs and salt with cloud, dry grass with soil).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from geoseg.models.nets import ThresholdNet
from geoseg.models.package import SHIPPED
from geoseg.models.save import save_package
from geoseg.scene import Scaling
from geoseg.spec import ClassInfo

__all__ = ["CLASSES", "CRITERIA", "Criterion", "spectral_baseline", "write_spectral_baseline"]

CHANNELS = ("NDVI", "NDWI", "MNDWI", "NDBI", "blue", "red", "nir", "swir16", "swir22")
"""What the net sees: indices, and surface or top-of-atmosphere reflectance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """``sum(weights * channels) > threshold``, as a margin in units of `width`."""

    weights: tuple[tuple[str, float], ...]
    """Channel names and factors."""
    threshold: float = 0.0
    """Published number."""
    width: float = 0.1
    """Distance from the threshold at which the margin is 1: how fast doubt fades."""
    source: str
    """Author, year, DOI."""


CLASSES = (
    ClassInfo(value=1, name="water", title="Water", color="2B6CB0", description="open water, flooded land included"),
    ClassInfo(value=2, name="vegetation", title="Vegetation", color="3F8F3F", description="green vegetation"),
    ClassInfo(
        value=3, name="bare-or-built", title="Bare or built", color="C8A165", description="soil, rock, roads and roofs"
    ),
    ClassInfo(value=4, name="snow", title="Snow", color="A5F3FC", description="snow and ice"),
    ClassInfo(value=5, name="cloud", title="Cloud", color="B8B8C8", description="clouds that hide the ground"),
)

_XU = "Xu 2006, doi:10.1080/01431160600589179"
_MCFEETERS = "McFeeters 1996, doi:10.1080/01431169608948714"
_HALL = "Hall, Riggs and Salomonson 1995, doi:10.1016/0034-4257(95)00137-P"
_SOBRINO = "Sobrino, Jimenez-Munoz and Paolini 2004, doi:10.1016/j.rse.2004.02.003"
_ZHA = "Zha, Gao and Ni 2003, doi:10.1080/01431160304987"
_ZHU = "Zhu and Woodcock 2012, doi:10.1016/j.rse.2011.10.028"
_KNORN = "Main-Knorn et al. 2017, doi:10.1117/12.2278218"

CRITERIA: dict[str, tuple[Criterion, ...]] = {
    "water": (
        Criterion(weights=(("MNDWI", 1.0),), source=_XU),
        Criterion(weights=(("nir", -1.0),), threshold=-0.25, width=0.05, source=_KNORN),
        Criterion(weights=(("NDVI", -1.0),), threshold=-0.35, width=0.15, source=_SOBRINO),
    ),
    "vegetation": (
        Criterion(weights=(("NDVI", 1.0),), threshold=0.35, width=0.15, source=_SOBRINO),
        Criterion(weights=(("NDWI", -1.0),), source=_MCFEETERS),
        Criterion(weights=(("NDVI", 1.0), ("NDBI", -1.0)), source=_ZHA),
        Criterion(weights=(("blue", -1.0), ("red", 0.5)), threshold=-0.08, width=0.01, source=_ZHU),
    ),
    "bare-or-built": (
        Criterion(weights=(("NDVI", -1.0),), threshold=-0.35, width=0.15, source=_SOBRINO),
        Criterion(weights=(("MNDWI", -1.0),), source=_XU),
        Criterion(weights=(("blue", -1.0), ("red", 0.5)), threshold=-0.08, width=0.02, source=_ZHU),
    ),
    "snow": (
        Criterion(weights=(("MNDWI", 1.0),), threshold=0.4, source=_HALL),
        Criterion(weights=(("nir", 1.0),), threshold=0.25, width=0.05, source=_KNORN),
        Criterion(weights=(("blue", 1.0),), threshold=0.20, width=0.02, source=_KNORN),
    ),
    "cloud": (
        Criterion(weights=(("blue", 1.0), ("red", -0.5)), threshold=0.08, width=0.02, source=_ZHU),
        Criterion(weights=(("nir", 1.0), ("swir16", -0.75)), width=0.03, source=_ZHU),
        Criterion(weights=(("MNDWI", -1.0),), threshold=-0.4, source=_HALL),
        Criterion(weights=(("swir22", 1.0),), threshold=0.03, width=0.01, source=_ZHU),
    ),
}

_STEEPNESS = 2.0
"""Score per unit of margin: one width past a threshold (against one short of it) is a probability of 0.98."""


def spectral_baseline() -> ThresholdNet:
    """The net of `CRITERIA`; classes with fewer criteria than others repeat their last."""
    most = max(len(criteria) for criteria in CRITERIA.values())
    net = ThresholdNet(len(CHANNELS), len(CLASSES), most)
    weight = torch.zeros(most, len(CLASSES), len(CHANNELS))
    bias = torch.zeros(most, len(CLASSES))
    for column, info in enumerate(CLASSES):
        criteria = CRITERIA[info.name]
        for row in range(most):
            criterion = criteria[min(row, len(criteria) - 1)]
            bias[row, column] = -_STEEPNESS * criterion.threshold / criterion.width
            for channel, factor in criterion.weights:
                weight[row, column, CHANNELS.index(channel)] = _STEEPNESS * factor / criterion.width
    net.margins.weight.data = weight.reshape(-1, len(CHANNELS), 1, 1)
    net.margins.bias = nn.Parameter(bias.flatten())
    return net.eval()


def write_spectral_baseline(folder: Path = SHIPPED / "spectral-baseline") -> Path:
    """Writes the package that ships with geoseg; a test holds that it is up to date."""
    sources = sorted({criterion.source for criteria in CRITERIA.values() for criterion in criteria})
    return save_package(
        spectral_baseline(),
        folder,
        name="spectral-baseline",
        description="Baseline without training: water, vegetation, bare or built, snow and cloud by published "
        "thresholds on spectral indices.",
        bands=CHANNELS,
        classes=CLASSES,
        multiple_of=1,
        halo=0,
        overlap=0,
        assume_scaling=Scaling(scale=1e-4),
        properties={
            "datetime": "2026-01-01T00:00:00Z",
            "license": "MIT",
            "geoseg:provenance": {
                "training": "none: fixed weights, one linear function per published threshold",
                "limits": "confuses shadow with water, bright roofs and salt with cloud, dry grass with soil",
                "thresholds": sources,
            },
        },
        overwrite=True,
    )
