"""From finished parts to the files of a run: COGs, polygons, preview, STAC item, report.

Everything is made in the run directory's staging folder and gets its final name at the end, `run.json` last.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg import __version__
from geoseg.decide import PROBABILITY_SCALE
from geoseg.earth import PixelAreas
from geoseg.engine import parts_of, peak_memory
from geoseg.events import OnEvent, StageStarted, Warned
from geoseg.journal import Record, RunDirectory
from geoseg.plan import RunPlan
from geoseg.protocols import Source
from geoseg.result import ClassArea, RunResult, read_result
from geoseg.scene import Scaling, Scene
from geoseg.sink.cog import CogSink
from geoseg.sink.parts import PartMosaic
from geoseg.sink.style import write_label_sidecars
from geoseg.source.info import inspect
from geoseg.source.open import read_window
from geoseg.spec import ClassInfo, ModelSpec
from geoseg.types import Labels
from geoseg.window import GeoBox, Window, crop_geobox

if TYPE_CHECKING:
    import geopandas

__all__ = ["vectorize", "write_outputs"]

_BLOCK = 512  # the COGs' blocks: each is written once, from a strip of this height
_STRIP_PIXELS = 8192 * _BLOCK
_SOFTWARE = ("torch", "onnxruntime", "rasterio", "numpy")


class _Clock:
    """Notes how long each stage takes, and tells whoever watches."""

    def __init__(self, on_event: OnEvent) -> None:
        self.seconds: dict[str, float] = {}
        self._on_event = on_event
        self._stage, self._began = "", 0.0

    def stage(self, name: str) -> None:
        """Ends the stage before and begins another; "" only ends."""
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] = now - self._began
        self._stage, self._began = name, now
        if name:
            self._on_event(StageStarted(stage=name))


def write_outputs(
    plan: RunPlan,
    *,
    scene: Scene[Source],
    spec: ModelSpec,
    model_href: str | None,
    directory: RunDirectory,
    records: Sequence[Record],
    request: Mapping[str, Any],
    vector: Sequence[str],
    began: float,
    on_event: OnEvent,
) -> RunResult:
    """Makes every output of a finished set of parts and gives them their final names.

    Args:
        plan: What was run.
        scene: What it was run on.
        spec: The model's card.
        model_href: The model's ``model.json``, for the item's link.
        directory: Where parts stand and outputs go.
        records: The journal's records of all chunks and seams.
        request: What was asked, for the report.
        vector: Formats of the polygons.
        began: `time.perf_counter` when the call began.
        on_event: Told about each stage.

    Raises:
        SinkError: An output cannot be written.
    """
    clock = _Clock(on_event)
    started = datetime.now(UTC)
    geobox = crop_geobox(scene.geobox, plan.chunks.crop)
    staging = directory.staging
    staging.mkdir(exist_ok=True)
    clock.stage("assemble")
    tally = _Tally(geobox, spec)
    files = [path for raster in plan.layers.counts for path in _assemble(plan, spec, directory, geobox, raster, tally)]
    files += write_label_sidecars(staging / "labels.tif", spec.classes, spec.label_nodata)
    if vector:
        clock.stage("vectorize")
        files += _vectors(files, scene, spec, staging, vector, on_event)
    clock.stage("describe")
    if scene.datetime is None:
        on_event(Warned(message="no time of acquisition is known, the item bears the run's; --datetime gives one"))
    files.append(_preview(staging, scene, spec, tally))
    files.append(_item(scene, spec, files, geobox, started, model_href, staging, directory.out))
    clock.stage("")
    counts, timings, peak = _totals(plan, records), _timings(records, clock.seconds, began), _peak_memory(records)
    report = {
        "request": request,
        "versions": _versions() | {"python": platform.python_version(), "platform": platform.platform()},
        "started": started.isoformat(),
        "timings": timings,
        "counts": counts,
        "peak_memory": peak,
        "areas": [asdict(area) for area in tally.areas()],
        "outputs": sorted(path.name for path in files),
    }
    files.append(_write_json(staging / "run.json", report))
    directory.publish(files)
    return read_result(directory.out)


class _Tally:
    """Pixels and square metres per class, summed over the windows of the label raster."""

    def __init__(self, geobox: GeoBox, spec: ModelSpec) -> None:
        self._spec = spec
        self._areas = PixelAreas(geobox)
        self._pixels = np.zeros(spec.label_nodata + 1, dtype=np.int64)
        self._m2 = np.zeros(spec.label_nodata + 1)

    def add(self, window: Window, labels: Labels) -> None:
        """Counts the labels (row, col) of a window, block by block, so that areas per pixel stay small."""
        for piece in window.pieces(_BLOCK, _BLOCK):
            found = labels[piece.within(window).slices].ravel()
            self._pixels += np.bincount(found, minlength=len(self._pixels))
            self._m2 += np.bincount(found, self._areas.read(piece).ravel(), minlength=len(self._m2))

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


def _assemble(
    plan: RunPlan, spec: ModelSpec, directory: RunDirectory, geobox: GeoBox, raster: str, tally: _Tally
) -> list[Path]:
    """One raster as a COG, written strip by strip from the parts that cover it."""
    layers, crop = plan.layers, plan.chunks.crop
    count = layers.counts[raster]
    is_labels = raster == "labels"
    mosaic = PartMosaic(
        parts_of(plan, directory, raster), count=count, dtype=layers.dtype(raster), nodata=layers.nodata(raster)
    )
    sink = CogSink(
        directory.staging / f"{raster}.tif",
        geobox=geobox,
        dtype=layers.dtype(raster),
        nodata=layers.nodata(raster),
        count=count,
        names=tuple(info.name for info in spec.classes) if raster == "probabilities" else (raster,),
        resampling="mode" if is_labels else "average",
        scale=None if is_labels else PROBABILITY_SCALE,
        offset=None if is_labels else 0.0,
        colors={info.value: info.color for info in spec.classes} if is_labels else None,
        workdir=directory.staging,
        threads=max(1, plan.settings.lanes * plan.settings.threads),
    )
    for place in crop.pieces(_BLOCK, max(_BLOCK, _STRIP_PIXELS // _BLOCK)):
        pixels = mosaic.read(place)
        target = place.within(crop)
        sink.write(target, pixels)
        if is_labels:
            tally.add(target, pixels[0])
    return sink.close()


def vectorize(
    labels: str | Path,
    *,
    classes: Sequence[ClassInfo] = (),
    confidence: str | Path | None = None,
    scene: str = "",
    datetime: datetime | None = None,
    model: str = "",
) -> geopandas.GeoDataFrame:
    """One row per 4-connected region of a label raster, without a cut at any tile or chunk.

    Columns: class_id, class_name, area_m2 (on the ellipsoid), confidence_mean, scene, datetime, model, geometry.

    Args:
        labels: Class values in the first band; the raster's nodata belongs to no region.
        classes: Names of the values, as in `ModelSpec.classes`.
        confidence: Probability of the chosen class on the same grid, as `segment` writes it.
        scene: The scene's id.
        datetime: Time of acquisition, with a time zone.
        model: The model's name.

    Raises:
        SourceError: A raster cannot be read.
        GridError: The rasters differ in shape.
    """
    from geoseg.sink.vector import make_features

    header = inspect(str(labels))
    scaled = None if confidence is None else inspect(str(confidence)).bands[0]
    nodata = header.bands[0].nodata
    return make_features(
        read_window(labels, bands=[1])[0],
        geobox=header.geobox,
        nodata=None if nodata is None else int(nodata),
        classes=classes,
        confidence=None if confidence is None else read_window(confidence, bands=[1])[0],
        confidence_scale=1.0 if scaled is None else scaled.scale,
        confidence_offset=0.0 if scaled is None else scaled.offset,
        scene=scene,
        datetime=datetime,
        model=model,
    )


def _vectors(
    files: Sequence[Path],
    scene: Scene[Source],
    spec: ModelSpec,
    staging: Path,
    formats: Sequence[str],
    on_event: OnEvent,
) -> list[Path]:
    from geoseg.sink.vector import write_features

    confidence = staging / "confidence.tif"
    frame = vectorize(
        staging / "labels.tif",
        classes=spec.classes,
        confidence=confidence if confidence in files else None,
        scene=scene.id,
        datetime=scene.datetime,
        model=spec.name,
    )
    return write_features(frame, staging, formats, on_event=on_event)


def _preview(staging: Path, scene: Scene[Source], spec: ModelSpec, tally: _Tally) -> Path:
    from geoseg.look import write_preview

    areas = tally.areas()
    total = max(1, sum(area.pixels for area in areas))
    return write_preview(
        staging / "preview.png",
        staging / "labels.tif",
        spec.classes,
        spec.label_nodata,
        title=scene.id,
        shares={area.value: area.pixels / total for area in areas},
    )


def _item(
    scene: Scene[Source],
    spec: ModelSpec,
    files: Sequence[Path],
    geobox: GeoBox,
    started: datetime,
    model_href: str | None,
    staging: Path,
    home: Path,
) -> Path:
    from geoseg.catalog import describe_run, write_item

    item = describe_run(
        scene,
        spec,
        files,
        geobox=geobox,
        started=started,
        software=_versions(),
        scaling=Scaling(scale=PROBABILITY_SCALE),
        model_href=model_href,
        home=home,
    )
    write_item(item, staging / "item.json")
    return staging / "item.json"


def _versions() -> dict[str, str]:
    versions = {"geoseg": __version__}
    for name in _SOFTWARE:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _totals(plan: RunPlan, records: Sequence[Record]) -> dict[str, int]:
    chunks = [record["counts"] for record in records if record["kind"] == "chunk"]
    passes = sum(counts["forward_passes"] for counts in chunks)
    tiles = sum(counts["tiles"] for counts in chunks)
    return {
        "tiles": tiles,
        "forward_passes": passes,
        "skipped_tiles": tiles - passes,
        "chunks": len(chunks),
        "pixels": plan.chunks.crop.size,
        "bytes_read": sum(counts["bytes_read"] for counts in chunks),
        "retries": sum(record.get("retries", 0) for record in records),
        "halvings": sum(counts["halvings"] for counts in chunks),
    }


def _timings(records: Sequence[Record], stages: Mapping[str, float], began: float) -> dict[str, float]:
    chunks = [record["counts"] for record in records if record["kind"] == "chunk"]
    spent = {name: sum(counts[name] for counts in chunks) for name in ("read", "wait", "compute", "write")}
    timings = {"seconds": time.perf_counter() - began, **spent, **stages}
    return {name: round(seconds, 3) for name, seconds in timings.items()}


def _peak_memory(records: Sequence[Record]) -> int:
    """This process and the workers of this call at their largest; a worker tells with each chunk."""
    peaks = {os.getpid(): peak_memory()}
    for record in records:
        process = record["process"]
        peaks[process] = max(peaks.get(process, 0), record["peak_memory"])
    return sum(peaks.values())


def _write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    return path
