"""From finished parts to the files of a run: COGs, polygons, preview, STAC item, report.

Everything is made in the run directory's staging folder and gets its final name at the end, `run.json` last.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg import __version__
from geoseg.assembly import Tally, assemble
from geoseg.change_outputs import change_frames_of, change_pictures, from_to_table
from geoseg.decide import PROBABILITY_SCALE
from geoseg.engine import parts_of
from geoseg.events import OnEvent, StageStarted, Warned
from geoseg.jobs import peak_memory
from geoseg.journal import Record, RunDirectory
from geoseg.plan import RunPlan
from geoseg.polygon_options import PolygonOptions
from geoseg.result import RunResult, read_result
from geoseg.scene import Scaling, Scene
from geoseg.sink.style import write_label_sidecars
from geoseg.source.labels import RasterLabels
from geoseg.spec import ModelSpec
from geoseg.status import worker_figures
from geoseg.store import Place
from geoseg.vectors import Drawing, also_into, map_features
from geoseg.window import GeoBox, crop_geobox

if TYPE_CHECKING:
    import geopandas

    from geoseg.catalog.item import Origin

__all__ = ["write_outputs"]

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
    scene: Scene[Any],
    spec: ModelSpec,
    model_href: str | None,
    directory: RunDirectory,
    records: Sequence[Record],
    request: Mapping[str, Any],
    polygons: PolygonOptions,
    began: float,
    on_event: OnEvent,
    origins: Sequence[Origin] = (),
    view: Scene[Any] | None = None,
    ndvi: Scene[Any] | None = None,
    facts: Mapping[str, Any] | None = None,
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
        polygons: How they are made, and where they go.
        began: `time.perf_counter` when the call began.
        on_event: Told about each stage.
        origins: The scenes of a mosaic.
        view: Of two dates, a pair on the same grid with the bands that people look at.
        ndvi: Likewise with red and nir alone; None: no mean NDVI.
        facts: What else the report shall say.

    Raises:
        SinkError: An output cannot be written.
    """
    clock = _Clock(on_event)
    started = datetime.now(UTC)
    geobox = crop_geobox(scene.geobox, plan.chunks.crop)
    staging = directory.staging
    staging.mkdir(exist_ok=True)
    clock.stage("assemble")
    layers, written = plan.layers, spec.written
    pair = view or scene if layers.change else None
    tally = Tally(geobox, spec)
    parts = {raster: parts_of(plan, directory, raster) for raster in layers.counts}
    files = assemble(plan, spec, geobox, parts, staging, tally)
    files += write_label_sidecars(staging / f"{layers.label}.tif", written.classes, written.label_nodata)
    if polygons.wanted:
        from geoseg.sink.vector import write_features

        clock.stage("vectorize")
        drawing = Drawing(options=polygons, scratch=staging)
        if pair is None:
            frames = _features(files, scene, spec, staging, drawing)
        else:
            frames = change_frames_of(scene, spec, plan.chunks.crop, staging, ndvi, drawing)
        also = also_into(polygons, f"{scene.id}-{spec.name}")
        files += write_features(
            frames, staging, polygons.formats, classes=written.classes, also=also, on_event=on_event
        )
    clock.stage("describe")
    if scene.datetime is None and not any(origin.datetime for origin in origins):
        on_event(Warned(message="no time of acquisition is known, the item bears the run's; --datetime gives one"))
    if pair is None:
        files.append(_preview(staging, scene, spec, tally))
    else:
        files += change_pictures(pair, spec, plan.chunks.crop, tally, staging, title=scene.id)
    files.append(_item(scene, spec, files, geobox, started, model_href, staging, directory.out, origins=origins))
    clock.stage("")
    counts, timings, peak = _totals(plan, records), _timings(records, clock.seconds, began), _peak_memory(records)
    report = {
        "request": request,
        "versions": _versions() | {"python": platform.python_version(), "platform": platform.platform()},
        "started": started.isoformat(),
        "timings": timings,
        "counts": counts,
        "gauge": {"lattice": plan.tiles, "run": counts["tiles"], "forward_passes": counts["forward_passes"]},
        "peak_memory": peak,
        "workers": [worker.document() for worker in worker_figures(records)],
        "areas": [asdict(area) for area in tally.areas()],
        "outputs": sorted(path.name for path in files),
        **(facts or {}),
    }
    if table := from_to_table(spec, tally):
        report["from_to"] = table
    if origins:
        report["scenes"] = [origin.document(directory.out) for origin in origins]
    files.append(_write_json(staging / "run.json", report))
    directory.publish(files)
    return read_result(directory.out)


def _features(
    files: Sequence[Path], scene: Scene[Any], spec: ModelSpec, staging: Path, drawing: Drawing
) -> Iterator[geopandas.GeoDataFrame]:
    confidence = staging / "confidence.tif"
    return map_features(
        RasterLabels(staging / "labels.tif"),
        drawing=drawing,
        classes=spec.classes,
        confidence=confidence if confidence in files else None,
        scene=scene.id,
        datetime=scene.datetime,
        model=spec.name,
    )


def _preview(staging: Path, scene: Scene[Any], spec: ModelSpec, tally: Tally) -> Path:
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
    scene: Scene[Any],
    spec: ModelSpec,
    files: Sequence[Path],
    geobox: GeoBox,
    started: datetime,
    model_href: str | None,
    staging: Path,
    home: Place,
    *,
    origins: Sequence[Origin],
) -> Path:
    from geoseg.catalog.item import describe_run, write_item

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
        origins=origins,
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
