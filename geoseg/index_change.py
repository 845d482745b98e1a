"""``index-change``: what changed between two dates, by spectral indices alone, without training.

A pixel's change vector holds the differences of its indices between the dates; its length is the magnitude of change
(change vector analysis: Malila 1980; Bovolo and Bruzzone 2007, doi:10.1109/TGRS.2006.885408). Where "changed" begins
is taken from the scene itself: Otsu's threshold (1979, doi:10.1109/TSMC.1979.4310076) over a sample of its pixels. It
says that something changed, not what: season, haze and shadow change indices as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geoseg.errors import BandError, ModelError, SourceError
from geoseg.indices import named, parse
from geoseg.prepare import prepare, recipes_for
from geoseg.protocols import Model, Source
from geoseg.scene import DATES, Scene
from geoseg.spec import Channel, ClassInfo, ModelSpec, Rescale
from geoseg.window import Window, whole

__all__ = [
    "CLASSES", "LEAST", "IndexChange", "change_indices", "index_bands", "index_change_model", "magnitude",
    "sample_windows", "threshold_of",
]  # fmt: skip

CLASSES = (
    ClassInfo(value=0, name="unchanged", title="Unchanged", color="BBBBBB", description="indices as before"),
    ClassInfo(value=1, name="changed", title="Changed", color="D62728", description="indices moved by the threshold"),
)
LEAST = 0.1
"""Smallest threshold: a normalised burn ratio that moves by less is held unchanged (Key and Benson 2006,
doi:10.2737/RMRS-GTR-164). Otsu's method splits any histogram, that of mere noise too."""

_INDICES = (("NDVI",), ("NDWI",), ("NBR", "NDMI"))
"""What may be compared, of each group the first that the bands allow. NDMI (Wilson and Sader 2002,
doi:10.1016/S0034-4257(01)00318-2) is to swir16 what NBR is to swir22."""
_BINS = 1024
_SIDE = 256
_WINDOWS = 8
"""Windows along each side of the scene: 64 at most, about 4 million pixels."""
_STEEPNESS = 6.0
"""Score of twice the threshold; at no change at all the probability of change is 0.0025."""
_READERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexChange:
    """A `geoseg.protocols.Model` for pairs: changed where the change vector is longer than `threshold`."""

    spec: ModelSpec
    """Its card; the channels are the indices."""
    threshold: float
    """Length of the change vector at which the probability of change is 0.5."""
    otsu: float | None
    """What Otsu's method says; None where every sampled pixel shows the same."""
    sampled: int
    """Pixels, valid on both dates, that it was found on."""

    def predict(self, batch: Tensor) -> Tensor:
        """Scores float32 (n, 2, row, col) of indices (n, date, channel, row, col), before first.

        Raises:
            ModelError: `batch` has other axes than that.
        """
        expected = (len(DATES), len(self.spec.channels))
        if batch.ndim != 5 or tuple(batch.shape[1:3]) != expected:
            raise ModelError(f"index-change takes {expected} dates and indices, not {tuple(batch.shape[1:])}")
        changed = (magnitude(batch) / self.threshold - 1.0).mul_(_STEEPNESS).clamp_(-_STEEPNESS, _STEEPNESS)
        return torch.stack([torch.zeros_like(changed), changed], 1)

    def facts(self) -> dict[str, Any]:
        """What the threshold is and why, in JSON's types."""
        return {
            "indices": [channel.name for channel in self.spec.channels],
            "threshold": self.threshold,
            "otsu": self.otsu,
            "least": LEAST,
            "sampled_pixels": self.sampled,
        }


def change_indices(available: Collection[str]) -> tuple[str, ...]:
    """Names of the indices that can be compared, given the bands that both dates have.

    >>> change_indices(["green", "red", "nir", "swir16"])
    ('NDVI', 'NDWI', 'NDMI')

    Raises:
        BandError: None of them can.
    """
    found = [
        next(index for index in group if _bands(index) <= set(available))
        for group in _INDICES
        if any(_bands(index) <= set(available) for index in group)
    ]
    if not found:
        needs = "; ".join(f"{index} of {' and '.join(sorted(_bands(index)))}" for group in _INDICES for index in group)
        raise BandError(
            f"index-change compares {needs}: both dates have {', '.join(sorted(available)) or 'no band in common'}"
        )
    return tuple(found)


def index_bands(available: Collection[str]) -> tuple[str, ...]:
    """Bands to open on both dates, given those that both have.

    >>> index_bands(["blue", "red", "nir", "swir22"])
    ('nir', 'red', 'swir22')

    Raises:
        BandError: None of the indices can be computed.
    """
    return tuple(sorted(set().union(*(_bands(index) for index in change_indices(available)))))


def index_change_model(scene: Scene[Source]) -> IndexChange:
    """The model for a pair of dates, its threshold found on a sample of the pair's own pixels.

    The sample is bounded and always the same: at most 64 windows of 256 x 256 pixels, spread evenly over the scene.

    Args:
        scene: A pair; its bands are named ``before.NAME`` and ``after.NAME``.

    Raises:
        BandError: The bands allow none of the indices.
        SourceError: The sample cannot be read, or holds no pixel that is valid on both dates.
    """
    names = [name.partition(".")[::2] for name in scene.bands.names]
    shared = set.intersection(*({band for date, band in names if date == one} for one in DATES))
    indices = change_indices(shared)
    channels = tuple(
        Channel(name=index, expression=named(index), rescale=(Rescale(low=-1.0, high=1.0),)) for index in indices
    )
    spec = ModelSpec(
        name="index-change",
        bands=index_bands(shared),
        channels=channels,
        classes=CLASSES,
        overlap=0,
        halo=0,
        task="change-detection",
        dates=len(DATES),
    )
    counts = _histogram(scene, spec)
    if not counts.any():
        raise SourceError(
            f"index-change found no pixel of {scene.id} that is valid on both dates: check masks and nodata"
        )
    otsu = threshold_of(counts, _longest(len(indices)))
    threshold = max(LEAST, otsu or 0.0)
    recipe = json.dumps([indices, threshold, _STEEPNESS])
    return IndexChange(
        spec=replace(
            spec,
            digest=hashlib.sha256(recipe.encode()).hexdigest(),
            description=f"Change of {', '.join(indices)} by more than {threshold:.3f}, "
            + ("Otsu's threshold on this scene" if threshold == otsu else "the least that counts as change"),
        ),
        threshold=threshold,
        otsu=otsu,
        sampled=int(counts.sum()),
    )


def magnitude(batch: Tensor) -> Tensor:
    """Length (n, row, col) of the change vector of a batch (n, date, channel, row, col)."""
    return (batch[:, 1] - batch[:, 0]).square().sum(1).sqrt()


def threshold_of(counts: npt.NDArray[np.int64], most: float) -> float | None:
    """Otsu's threshold on a histogram of equal bins over [0, `most`]; None where all values lie in one bin.

    It parts the values so that the variance between both parts is largest: an edge between two bins, or the middle of
    the gap where empty bins leave the choice.
    """
    if np.count_nonzero(counts) < 2:
        return None
    edges = np.linspace(0.0, most, len(counts) + 1)
    below, total = np.cumsum(counts)[:-1], counts.sum()  # of each edge between two bins
    sums = np.cumsum(counts * (edges[:-1] + edges[1:]) / 2)
    shares = below * (total - below).astype(float)
    between = np.divide((sums[-1] * below - total * sums[:-1]) ** 2, shares, out=np.zeros(len(below)), where=shares > 0)
    alike = np.flatnonzero(below == below[between.argmax()])
    return float(edges[alike[0] + 1] + edges[alike[-1] + 1]) / 2


def sample_windows(scene: Window) -> list[Window]:
    """At most 64 windows, one in the middle of each cell of a regular grid over `scene`; small scenes in full."""
    spans = [_spans(scene.height), _spans(scene.width)]
    return [Window.from_bounds(top, left, bottom, right) for (top, bottom), (left, right) in product(*spans)]


def _spans(length: int) -> list[tuple[int, int]]:
    """Where windows begin and end along one side."""
    cells = min(_WINDOWS, -(-length // _SIDE))
    edges = [length * cell // cells for cell in range(cells + 1)]
    sides = [(start, stop, min(_SIDE, stop - start)) for start, stop in pairwise(edges)]
    return [((start + stop - side) // 2, (start + stop - side) // 2 + side) for start, stop, side in sides]


def _histogram(scene: Scene[Source], spec: ModelSpec) -> npt.NDArray[np.int64]:
    """Magnitudes of the sample's valid pixels, counted in bins over what is possible."""
    recipes = recipes_for(spec, scene.bands)

    def count(window: Window) -> npt.NDArray[np.int64]:
        pixels, valid = scene.source.read(window)
        dates = [prepare(torch.from_numpy(pixels), None, recipe) for recipe in recipes]
        lengths = magnitude(torch.stack(dates)[None])[0].numpy()[valid]
        return np.histogram(lengths, _BINS, (0.0, _longest(len(spec.channels))))[0]

    total = np.zeros(_BINS, np.int64)
    with ThreadPoolExecutor(_READERS) as pool:
        for counts in pool.map(count, sample_windows(whole(scene.geobox))):
            total += counts
    return total


def _longest(indices: int) -> float:
    """The longest change vector: every index from -1 to 1."""
    return 2.0 * float(np.sqrt(indices))


def _bands(index: str) -> frozenset[str]:
    return parse(named(index)).names


_: type[Model] = IndexChange
