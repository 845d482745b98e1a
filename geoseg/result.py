"""What a run left: its files, areas per class, counts, times, memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geoseg.store import Place, open_store

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ClassArea", "RunResult", "read_result"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassArea:
    """How much of the scene one class covers."""

    value: int
    """Number in the label raster."""
    name: str
    """Machine name."""
    title: str
    """Human name."""
    color: str
    """RRGGBB."""
    pixels: int
    """Pixels with this label."""
    km2: float
    """Square kilometres on the ellipsoid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run left, and what it cost."""

    out: Place
    """The run directory: a path, or the URL of a prefix in a bucket; so are all that follow."""
    labels: Place
    """Class values, a COG: ``labels.tif``, or ``change.tif`` of two dates."""
    confidence: Place | None
    """Probability of the chosen class, a COG; of two dates ``change_probability.tif``, that of change."""
    probabilities: Place | None
    """Probability of every class, a COG."""
    polygons: tuple[Place, ...]
    """One file per format."""
    preview: Place
    """Picture with legend."""
    compare: Place | None
    """Page that compares two dates."""
    item: Place
    """STAC item."""
    report: Place
    """``run.json``."""
    areas: tuple[ClassArea, ...]
    """Per class, in the card's order."""
    counts: Mapping[str, int]
    """tiles, forward_passes, skipped_tiles, chunks, pixels, bytes_read, retries, halvings."""
    timings: Mapping[str, float]
    """Seconds: all of the call, then read, wait, compute and write of the chunks, then the later stages."""
    peak_memory: int
    """Largest resident size in bytes, of all processes together."""

    @property
    def is_change(self) -> bool:
        """Whether the classes are kinds of change between two dates."""
        return str(self.labels).endswith("change.tif")

    def open(self) -> xr.Dataset:
        """The rasters as a dataset of dims (y, x), or (class, y, x) for probabilities, read when computed."""
        from geoseg.source.dataset import open_rasters

        names = ("change", "change_probability") if self.is_change else ("labels", "confidence")
        paths = {names[0]: self.labels, names[1]: self.confidence, "probabilities": self.probabilities}
        return open_rasters({name: path for name, path in paths.items() if path is not None})


def read_result(out: Place) -> RunResult:
    """What a finished run left in its directory, from its report."""
    store = open_store(out)
    with store.open("run.json") as file:
        report = json.loads(file.read())
    made = {name: store.href(name) for name in report["outputs"]}
    return RunResult(
        out=store.href(),
        labels=made.get("change.tif") or made["labels.tif"],
        confidence=made.get("change_probability.tif") or made.get("confidence.tif"),
        probabilities=made.get("probabilities.tif"),
        polygons=tuple(place for name, place in made.items() if name.startswith("polygons.")),
        preview=made["preview.png"],
        compare=made.get("compare.html"),
        item=made["item.json"],
        report=store.href("run.json"),
        areas=tuple(ClassArea(**area) for area in report["areas"]),
        counts=report["counts"],
        timings=report["timings"],
        peak_memory=report["peak_memory"],
    )
