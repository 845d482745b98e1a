"""From the finished parts of a run to its rasters, piece by piece on all cores; the areas of the classes with them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from geoseg.decide import PROBABILITY_SCALE, Layers
from geoseg.earth import PixelAreas
from geoseg.plan import RunPlan
from geoseg.result import ClassArea
from geoseg.sink.cog import CogSink
from geoseg.sink.parts import PartMosaic, PartsIn
from geoseg.spec import ModelSpec
from geoseg.tuning import usable_cores
from geoseg.types import Labels, Pixels
from geoseg.window import GeoBox, Window

__all__ = ["Tally", "assemble", "cog_sink"]

_MOST_THREADS = 16  # each holds a few pieces of some megabytes
_SQUARE = 256  # pixels: areas are looked up for so many rows and columns at a time; they stay in the processor's cache
_TURNS = 4  # counters per label: neighbours mostly bear the same, and adding to one number waits for the last addition
_FRACTION = 8  # of a square metre: sums of such parts are exact, in any order, up to all of the Earth


class Tally:
    """Pixels and square metres per class, summed over the windows of the label raster; `add` is thread-safe."""

    def __init__(self, geobox: GeoBox, spec: ModelSpec) -> None:
        self._spec = spec.written
        self._areas = PixelAreas(geobox)
        self._pixels = np.zeros(self._spec.label_nodata + 1, dtype=np.int64)
        self._m2 = np.zeros(self._spec.label_nodata + 1)
        self._lock = threading.Lock()

    def add(self, window: Window, labels: Labels) -> None:
        """Counts the labels (row, col) of a window, square by square, so that areas per pixel stay small."""
        bins = len(self._pixels)
        pixels, m2 = np.zeros(_TURNS * bins, np.int64), np.zeros(_TURNS * bins)
        for piece in window.pieces(_SQUARE, _SQUARE):
            turn = np.arange(piece.width) % _TURNS * bins
            counters = (labels[piece.within(window).slices] + turn).ravel()
            pixels += np.bincount(counters, minlength=len(pixels))
            m2 += np.bincount(counters, self._areas.read(piece).ravel(), minlength=len(m2))
        with self._lock:
            self._pixels += pixels.reshape(_TURNS, bins).sum(axis=0)
            self._m2 += np.rint(m2.reshape(_TURNS, bins).sum(axis=0) * _FRACTION) / _FRACTION

    def areas(self) -> tuple[ClassArea, ...]:
        """Per class, in the card's order."""
        return tuple(
            ClassArea(
                value=info.value,
                name=info.name,
                title=info.title or info.name,
                color=info.color,
                pixels=int(self._pixels[info.value]),
                km2=round(float(self._m2[info.value]) / 1e6, 6),
            )
            for info in self._spec.classes
        )


def assemble(
    plan: RunPlan,
    spec: ModelSpec,
    geobox: GeoBox,
    parts: Mapping[str, PartsIn],
    folder: Path,
    tally: Tally,
) -> list[Path]:
    """Writes every raster of a run as a COG in `folder`; returns their paths in the order of `parts`.

    Args:
        plan: What was run.
        spec: The model's card.
        geobox: Where the rasters lie: the plan's crop of the scene.
        parts: What finds the finished parts, per raster.
        folder: Existing folder for the files, and for what is unfinished.
        tally: Counts the labels on their way.

    Raises:
        SinkError: A file cannot be written, or a part cannot be read.
    """
    pool = ThreadPoolExecutor(min(_MOST_THREADS, usable_cores()), "geoseg-assembly")
    with ThreadPoolExecutor(len(parts), "geoseg-rasters") as rasters:
        try:
            making = []
            for name, found in parts.items():
                sink = cog_sink(plan.layers, spec, geobox, name, folder)
                read = _reader(plan, name, found, tally if name == plan.layers.label else None)
                making.append(rasters.submit(sink.pull, read, pool))
            return [path for future in making for path in future.result()]
        finally:
            pool.shutdown(cancel_futures=True)


def cog_sink(layers: Layers, spec: ModelSpec, geobox: GeoBox, raster: str, folder: Path) -> CogSink:
    """What writes one raster of a map, ``RASTER.tif`` in `folder`, as every run has it."""
    is_labels, is_number = raster == layers.label, raster in {layers.label, "scene"}
    return CogSink(
        folder / f"{raster}.tif",
        geobox=geobox,
        dtype=layers.dtype(raster),
        nodata=layers.nodata(raster),
        count=layers.counts[raster],
        names=spec.probability_names if raster == "probabilities" else (raster,),
        resampling="mode" if is_number else "average",
        scale=None if is_number else PROBABILITY_SCALE,
        offset=None if is_number else 0.0,
        colors={info.value: info.color for info in spec.written.classes} if is_labels else None,
        workdir=folder,
    )


def _reader(plan: RunPlan, raster: str, parts: PartsIn, tally: Tally | None) -> Callable[[Window], Pixels]:
    """What reads a window of the finished raster; what the tally is given is counted."""
    layers, crop = plan.layers, plan.chunks.crop
    mosaic = PartMosaic(parts, count=layers.counts[raster], dtype=layers.dtype(raster), nodata=layers.nodata(raster))
    scene = Window(row_off=-crop.row_off, col_off=-crop.col_off, height=0, width=0)  # seen from the raster

    def read(window: Window) -> Pixels:
        pixels = mosaic.read(window.within(scene))
        if tally is not None:
            tally.add(window, pixels[0])
        return pixels

    return read
