"""A scene in, a map out: the whole story, step by step.

::

    spec   = read_spec(model)                      # what the model needs
    scene  = open_scene(href, bands=spec.bands)    # bands found by name
    plan   = plan_run(scene, spec, ...)            # tiles, chunks, memory; refuses what cannot fit
    run_chunks(plan, ...)                          # parts in the run directory, resumable
    write_outputs(plan, ...)                       # COGs, polygons, preview, STAC item, report
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geoseg import __version__
from geoseg.blend import Blend
from geoseg.decide import layers_of
from geoseg.earth import footprint
from geoseg.engine import run_chunks
from geoseg.errors import ConfigError, SourceError
from geoseg.events import Event, OnEvent, StageStarted
from geoseg.grid import ChunkGrid
from geoseg.journal import FINAL_NAMES, RunDirectory
from geoseg.models import load_model, package_path, read_spec
from geoseg.outputs import write_outputs
from geoseg.plan import RunPlan, check_fits, plan_run, tiling_for
from geoseg.protocols import Model, Source, Wanted
from geoseg.result import RunResult, read_result
from geoseg.scene import Scene
from geoseg.settings import Backend, Precision, Settings
from geoseg.source import open_scene
from geoseg.source.area import Area, area_of_bbox, area_of_file
from geoseg.spec import ModelSpec
from geoseg.stream import stream_chunk
from geoseg.tuning import ProbedCost, choose_settings, probe_cost
from geoseg.window import Window, crop_geobox, whole

if TYPE_CHECKING:
    import xarray as xr

    SceneLike = str | Path | xr.DataArray | Scene[Source]

__all__ = ["SegmentOptions", "plan_segment", "segment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOptions:
    """Every option of `segment`, with its default; the command line's options of the same names mean the same."""

    tile: int | None = None
    """Side of a tile in pixels; None: the card's."""
    overlap: int | None = None
    """Pixels that neighbouring tiles share; None: the card's, or a quarter of the tile."""
    blend: Blend = "ramp"
    """Taper."""
    batch_size: int | Literal["auto"] = "auto"
    """Tiles per forward pass."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    precision: Precision | Literal["auto"] = "auto"
    """``auto``, ``fp32``, ``bf16`` or ``fp16``."""
    backend: Backend | Literal["auto"] = "auto"
    """``auto``, ``torch``, ``onnxruntime`` or ``openvino``."""
    bands: Mapping[str, str | int] | None = None
    """Band name -> 1-based index in the input, or a file of its own."""
    scale: float | None = None
    """Reflectance per stored unit, in place of what the scene declares."""
    offset: float | None = None
    """Reflectance of a stored 0, in place of what the scene declares."""
    nodata: float | None = None
    """Stored number that means "no observation", in place of what the scene declares."""
    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees (WGS 84): crops what is computed and written."""
    aoi: str | Path | None = None
    """File of polygons: only pixels inside get a label."""
    mask: str | None = None
    """Raster whose non-zero pixels are not used."""
    resolution: float | None = None
    """Pixel size to warp to, in units of the CRS."""
    crs: str | None = None
    """CRS to warp to."""
    chunk: int | None = None
    """Side of a chunk in pixels; None: chosen."""
    workers: int = 1
    """Processes."""
    probabilities: bool = False
    """Whether the probability of every class is written."""
    confidence: bool = True
    """Whether the probability of the chosen class is written."""
    vector: Sequence[str] = ("geojson", "parquet")
    """Formats of the polygons; empty: none."""
    datetime: str | datetime | None = None
    """Time of acquisition, where the scene does not tell or tells it wrongly."""
    assume_crs: str | None = None
    """CRS of a scene that declares none."""
    on_bad_block: Literal["fail", "nodata"] = "fail"
    """What to do with a block that cannot be decoded."""
    aws_no_sign_request: bool = False
    """Read public buckets without credentials."""
    scene_id: str | None = None
    """Name of the scene; None: the file's stem or the item's id."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"--workers {self.workers}: at least one process is needed")
        if self.batch_size != "auto" and self.batch_size < 1:
            raise ConfigError(f"--batch-size {self.batch_size}: a batch holds at least one tile")


@dataclass(frozen=True, slots=True)
class _Job:
    """One scene and one model, opened and matched."""

    options: SegmentOptions
    scene: Scene[Source]
    model: str | Path | Model
    spec: ModelSpec
    crop: Window
    wanted: Wanted | None
    area: Area | None = field(default=None)

    def asked(self) -> dict[str, Any]:
        """What must not change between start and resume, as JSON values."""
        options, (tile, overlap) = self.options, tiling_for(self.spec, self.options.tile, self.options.overlap)
        fixed = {name: getattr(options, name) for name in _REPEATED}
        return {
            "version": __version__,
            "inputs": dict(self.scene.source.identity()),
            "model": {"name": self.spec.name, "digest": self.spec.digest},
            "options": fixed
            | {
                "tile": tile,
                "overlap": overlap,
                "nodata": str(options.nodata),  # NaN differs from itself
                "bands": {name: str(place) for name, place in sorted((options.bands or {}).items())},
                "crop": str(self.crop),
                "aoi": None if options.aoi is None else hashlib.sha256(Path(options.aoi).read_bytes()).hexdigest(),
                "vector": list(options.vector),
                "datetime": None if options.datetime is None else str(options.datetime),
            },
        }


_REPEATED = (
    "blend",
    "batch_size",
    "device",
    "precision",
    "backend",
    "scale",
    "offset",
    "mask",
    "resolution",
    "crs",
    "chunk",
    "probabilities",
    "confidence",
    "assume_crs",
    "on_bad_block",
    "scene_id",
)
"""Options that decide the bytes of a run as they stand; the others are resolved first or decide nothing."""


def segment(
    scene: SceneLike | None,
    *,
    model: str | Path | Model = "spectral-baseline",
    out: str | Path,
    overwrite: bool = False,
    restart: bool = False,
    skip_finished: bool = False,
    on_event: OnEvent | None = None,
    **options: Any,
) -> RunResult:
    """Maps, polygons and a STAC item of one scene, in the directory `out`.

    The same call again resumes a run that was interrupted, whatever `workers` is then.

    Args:
        scene: Path or URL of a raster or a STAC item, a DataArray (band, y, x), an open scene, or None where
            `bands` names a file for each band.
        model: Name or path of a model package, or an object that fits `geoseg.protocols.Model`.
        out: Output directory; created if its parent exists.
        overwrite: Replace a finished run.
        restart: Forget an unfinished run of another request.
        skip_finished: Take a finished run of the same request as it stands, in place of refusing to touch it.
        on_event: Called with each `geoseg.events` event, in the calling thread.
        options: As in `SegmentOptions`.

    Raises:
        SourceError: The scene cannot be read, or changed while it was.
        BandError: A band is missing.
        GridError: Scene, tile and overlap, or scene and area, disagree.
        ModelError: The model package is damaged, or the net gave something that is no score.
        PlanError: Memory or disk will not do.
        ConfigError: `out` holds something else.
        SinkError: Outputs cannot be written.
    """
    notify = on_event or _ignore
    directory = RunDirectory(Path(out))
    job = _open(scene, model, SegmentOptions(**options))
    _refuse_output_over_input(job, directory.out)
    began = time.perf_counter()
    with directory.locked():
        asked = job.asked()
        if skip_finished and not overwrite and (directory.finished_request() or {}).get("asked") == asked:
            return read_result(directory.out)
        stored = directory.check(asked, restart=restart, overwrite=overwrite)
        if stored is not None:
            notify(StageStarted(stage="resume"))
            directory.check_inputs(stored, asked["inputs"])
        plan = _plan(job, notify, pinned=None if stored is None else stored["plan"])
        check_fits(plan, directory.out, done=len(directory.finished()) / max(1, 2 * len(plan.chunks)))
        net = _load(job, plan.settings)
        if stored is None:
            directory.begin({"asked": asked, "plan": plan.pinned()})
        records = run_chunks(
            plan,
            source=job.scene.source,
            model=net,
            directory=directory,
            wanted=job.wanted,
            workers=job.options.workers,
            on_event=notify,
        )
        _refuse_changed(job, asked["inputs"])
        return write_outputs(
            plan,
            scene=job.scene,
            spec=job.spec,
            model_href=_card_of(job.model),
            directory=directory,
            records=records,
            request={"asked": asked, "plan": plan.pinned(), "workers": job.options.workers},
            vector=job.options.vector,
            began=began,
            on_event=notify,
        )


def plan_segment(
    scene: SceneLike | None,
    *,
    model: str | Path | Model = "spectral-baseline",
    out: str | Path | None = None,
    probe: bool = False,
    on_event: OnEvent | None = None,
    **options: Any,
) -> RunPlan:
    """What `segment` would do with the same arguments; reads headers only, and a few tiles' worth of net if `probe`.

    Raises:
        PlanError: Memory or disk will not do; also what `segment` raises before it begins.
    """
    job = _open(scene, model, SegmentOptions(**options))
    plan = _plan(job, on_event or _ignore, probe=probe)
    check_fits(plan, Path(out) if out is not None else Path.cwd())
    return plan


def _ignore(event: Event) -> None:
    """Nobody watches."""


def _open(scene: SceneLike | None, model: str | Path | Model, options: SegmentOptions) -> _Job:
    """The model's card and the scene's header, matched: bands found, area placed."""
    spec = model.spec if isinstance(model, Model) else read_spec(model)
    opened = scene if isinstance(scene, Scene) else _open_scene(scene, spec, options)
    crop, wanted, area = whole(opened.geobox), None, None
    if options.bbox is not None:
        crop = area_of_bbox(options.bbox, opened.geobox) & crop
    if options.aoi is not None:
        area = area_of_file(options.aoi, opened.geobox)
        crop, wanted = area.window & crop, area.covers
    footprint(crop_geobox(opened.geobox, crop))  # what has no place on the Earth fails now, not after the work
    return _Job(options, opened, model, spec, crop, wanted, area)


def _open_scene(scene: Any, spec: ModelSpec, options: SegmentOptions) -> Scene[Source]:
    return open_scene(
        scene,
        bands=spec.bands,
        band_map=options.bands,
        scale=options.scale,
        offset=options.offset,
        nodata=options.nodata,
        mask=options.mask,
        resolution=options.resolution,
        crs=options.crs,
        assume_crs=options.assume_crs,
        datetime=options.datetime,
        on_bad_block=options.on_bad_block,
        aws_no_sign_request=options.aws_no_sign_request,
        scene_id=options.scene_id,
    )


def _plan(job: _Job, notify: OnEvent, *, pinned: Mapping[str, Any] | None = None, probe: bool = False) -> RunPlan:
    options = job.options
    settings = _settings(job, notify) if pinned is None else Settings(**pinned["settings"])
    layers = layers_of(job.spec, confidence=options.confidence, probabilities=options.probabilities)

    def planned(cost: ProbedCost | None) -> RunPlan:
        return plan_run(
            job.scene,
            job.spec,
            settings=settings,
            layers=layers,
            tile=options.tile,
            overlap=options.overlap,
            blend=options.blend,
            crop=job.crop,
            chunk=options.chunk,
            workers=options.workers,
            pinned=pinned,
            cost=cost,
        )

    plan = planned(None)
    return planned(_probed(job, plan)) if probe and not isinstance(job.model, Model) else plan


def _probed(job: _Job, plan: RunPlan) -> ProbedCost:
    """What a few tiles in the middle of the scene cost, from the read to the decision."""
    settings, grid = plan.settings, plan.grid
    net = probe_cost(str(job.model), settings, tile=grid.tile)
    crop, side = plan.chunks.crop, 2 * settings.lanes * grid.stride
    row, col = crop.row_off + crop.height // 2, crop.col_off + crop.width // 2
    middle = Window(row_off=row, col_off=col, height=grid.stride, width=side) & crop
    chunk = ChunkGrid(grid=grid, crop=middle, rows_per_chunk=len(grid), cols_per_chunk=len(grid))[0]
    began = time.perf_counter()
    _, counts = stream_chunk(
        chunk,
        source=job.scene.source,
        model=_load(job, settings),
        blend=plan.blend,
        layers=plan.layers,
        settings=settings,
        write=lambda window, rasters: None,
    )
    seconds = (time.perf_counter() - began) / max(1, counts.forward_passes)
    return replace(net, seconds_per_tile=max(net.seconds_per_tile, seconds))


def _settings(job: _Job, notify: OnEvent) -> Settings:
    """As asked, the rest chosen by a probe; an object of somebody's own runs as it is, tile by tile."""
    options = job.options
    if isinstance(job.model, Model):
        batch = 1 if options.batch_size == "auto" else options.batch_size
        return Settings(batch=batch, device="cpu" if options.device == "auto" else options.device)
    return choose_settings(
        job.model,
        backend=options.backend,
        device=options.device,
        precision=options.precision,
        batch=options.batch_size,
        tile=tiling_for(job.spec, options.tile, options.overlap)[0],
        workers=options.workers,
        on_event=notify,
    )


def _load(job: _Job, settings: Settings) -> Model:
    return job.model if isinstance(job.model, Model) else load_model(job.model, settings)


def _card_of(model: str | Path | Model) -> str | None:
    """The card's file, for whoever reads the item; an object in memory has none."""
    return None if isinstance(model, Model) else str(package_path(model) / "model.json")


def _refuse_output_over_input(job: _Job, out: Path) -> None:
    """An input that bears the name of an output would be overwritten by it."""
    targets = {(out / name).resolve() for name in FINAL_NAMES}
    for place in job.scene.source.identity():
        if "://" not in place and Path(place).resolve() in targets:
            raise ConfigError(f"{place}: is the input and would be overwritten; choose another --out")


def _refuse_changed(job: _Job, known: Mapping[str, str]) -> None:
    """A source that changed while it was read may have given a mixture."""
    for place, now in job.scene.source.identity().items():
        if known.get(place) != now:
            raise SourceError(
                f"{place}: changed while it was read (was {known.get(place)}, is {now}); --restart begins anew"
            )
