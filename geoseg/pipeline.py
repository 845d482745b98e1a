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
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg import __version__
from geoseg.cluster import Cluster, ClusterOptions
from geoseg.decide import layers_of
from geoseg.earth import footprint
from geoseg.engine import run_chunks
from geoseg.errors import ConfigError, GridError, SourceError
from geoseg.events import Event, OnEvent, StageStarted
from geoseg.grid import ChunkGrid
from geoseg.journal import FINAL_NAMES, RunDirectory
from geoseg.models import load_model, package_path, read_spec
from geoseg.options import SegmentOptions
from geoseg.outputs import write_outputs
from geoseg.plan import RunPlan, check_fits, plan_run, tiling_for
from geoseg.protocols import Model, Source, Wanted
from geoseg.result import RunResult, read_result
from geoseg.scene import Scene
from geoseg.settings import Settings
from geoseg.source import open_scene
from geoseg.source.area import area_of_bbox, area_of_file
from geoseg.spec import ModelSpec
from geoseg.stream import stream_chunk
from geoseg.tuning import ProbedCost, choose_settings, probe_cost
from geoseg.window import Window, crop_geobox, whole

if TYPE_CHECKING:
    import xarray as xr

    SceneLike = str | Path | xr.DataArray | Scene[Source]

__all__ = ["SegmentOptions", "plan_segment", "segment"]


@dataclass(frozen=True, slots=True)
class _Job:
    """One scene and one model, opened and matched."""

    options: SegmentOptions
    scene: Scene[Source]
    model: str | Path | Model
    spec: ModelSpec
    crop: Window
    wanted: Wanted | None

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
    cluster: Cluster | None = None,
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
        cluster: Workers that several scenes share; None: processes of this run's own, as many as `workers`.
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
        own = Cluster(ClusterOptions(workers=job.options.workers))
        with own if cluster is None else nullcontext(cluster) as workers:
            records = run_chunks(
                plan,
                source=job.scene.source,
                model=net,
                directory=directory,
                wanted=job.wanted,
                cluster=workers,
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
    crop, wanted = whole(opened.geobox), None
    if options.bbox is not None:
        crop = area_of_bbox(options.bbox, opened.geobox) & crop
    if options.aoi is not None:
        area = area_of_file(options.aoi, opened.geobox)
        crop, wanted = area.window & crop, area.covers
    _demand_place(opened, crop)
    return _Job(options, opened, model, spec, crop, wanted)


def _demand_place(scene: Scene[Source], crop: Window) -> None:
    """A scene whose rim lies beyond the Earth's is refused now, not after the work: its item would have no place."""
    try:
        footprint(crop_geobox(scene.geobox, crop))
    except GridError as error:
        raise GridError(
            f"{scene.href or scene.id}: its rim has no longitude and latitude in its CRS; "
            "crop it to the Earth with --bbox, or read it in another --crs"
        ) from error


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
