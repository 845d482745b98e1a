"""What a run left: its files, areas per class, counts, times, memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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

    out: Path
    """The run directory."""
    labels: Path
    """Class values, a COG."""
    confidence: Path | None
    """Probability of the chosen class, a COG."""
    probabilities: Path | None
    """Probability of every class, a COG."""
    polygons: tuple[Path, ...]
    """One file per format."""
    preview: Path
    """Picture with legend."""
    item: Path
    """STAC item."""
    report: Path
    """``run.json``."""
    areas: tuple[ClassArea, ...]
    """Per class, in the card's order."""
    counts: Mapping[str, int]
    """tiles, forward_passes, skipped_tiles, chunks, pixels, bytes_read, retries, halvings."""
    timings: Mapping[str, float]
    """Seconds: all of the call, then read, wait, compute and write of the chunks, then the later stages."""
    peak_memory: int
    """Largest resident size in bytes, of all processes together."""

    def open(self) -> xr.Dataset:
        """The rasters as a dataset of dims (y, x), or (class, y, x) for probabilities, read when computed."""
        from geoseg.source.dataset import open_rasters

        paths = {"labels": self.labels, "confidence": self.confidence, "probabilities": self.probabilities}
        return open_rasters({name: path for name, path in paths.items() if path is not None})


def read_result(out: Path) -> RunResult:
    """What a finished run left in its directory, from its report."""
    report = json.loads((out / "run.json").read_text())
    made = {name: out / name for name in report["outputs"]}
    return RunResult(
        out=out,
        labels=made["labels.tif"],
        confidence=made.get("confidence.tif"),
        probabilities=made.get("probabilities.tif"),
        polygons=tuple(path for name, path in made.items() if name.startswith("polygons.")),
        preview=made["preview.png"],
        item=made["item.json"],
        report=out / "run.json",
        areas=tuple(ClassArea(**area) for area in report["areas"]),
        counts=report["counts"],
        timings=report["timings"],
        peak_memory=report["peak_memory"],
    )
