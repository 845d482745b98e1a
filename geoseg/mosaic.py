"""One map of many: of each place the label that one scene gave it, so that nothing is ever counted twice.

Every scene is mapped on its own grid first. Their labels are then read, window by window, on one grid (that of the
first scene, grown to hold all), and laid over one another by a rule:

- ``first``      the order of the inputs
- ``newest``     the latest time of acquisition first, scenes without a time last
- ``cloudless``  what is no cloud before what is, of that the most confident, of equals the newest

A pixel comes from the first scene in that order that has a label there. ``scene.tif`` tells which one.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from geoseg import __version__
from geoseg.catalog.item import Origin
from geoseg.cluster import Cluster
from geoseg.engine import work_off
from geoseg.errors import ConfigError, GeosegError
from geoseg.events import ChunkDone, Event, OnEvent, StageStarted, Warned
from geoseg.grid import ChunkGrid, TileGrid
from geoseg.journal import Record, RunDirectory
from geoseg.models import package_path, read_spec
from geoseg.outputs import write_outputs
from geoseg.overlay import cloud_like, in_order
from geoseg.patches import NOWHERE, SIDE, Facts, MosaicLayers, OverlayJob
from geoseg.plan import RunPlan, check_fits
from geoseg.polygon_options import PolygonOptions
from geoseg.result import RunResult, read_result
from geoseg.scene import BandSet, Scene
from geoseg.settings import MosaicRule, Settings
from geoseg.source.maps import FinishedMap, covering_grid, extent_on, open_map
from geoseg.spec import ModelSpec
from geoseg.status import noted, totals_of
from geoseg.store import Place, Store, open_store
from geoseg.vectors import check_polygons
from geoseg.window import whole

__all__ = ["MappedScene", "make_mosaic", "read_scene"]

_MEMORY = 600 << 20  # bytes: interpreter, GDAL, and the rows at hand of the scenes held open


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedScene:
    """A scene whose run is finished."""

    id: str
    """The scene's id."""
    item: Place
    """Its map's STAC item."""
    datetime: datetime | None
    """Time of acquisition, if known."""
    digest: str
    """Of the model that made the map."""
    checksums: tuple[tuple[str, str], ...]
    """Of its rasters, by name."""
    map: FinishedMap
    """Its labels, and their confidence if it is there."""


def read_scene(out: Place) -> MappedScene:
    """The finished run that stands in a directory.

    Raises:
        ConfigError: There is none.
        SourceError: Its rasters cannot be opened.
    """
    store = open_store(out)
    try:
        with store.open("item.json") as file:
            item = json.load(file)
        facts, assets = item["properties"], item["assets"]
        names = [name for name in ("labels", "confidence") if name in assets]
        timed = facts["geoseg:datetime_source"] != "run"
        return MappedScene(
            id=facts["geoseg:scene"],
            item=store.href("item.json"),
            datetime=datetime.fromisoformat(facts["datetime"]) if timed else None,
            digest=facts["geoseg:model_digest"],
            checksums=tuple((name, assets[name]["file:checksum"]) for name in names),
            map=open_map({name: str(store.href(f"{name}.tif")) for name in names}),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, GeosegError):
            raise
        raise ConfigError(f"{store}: holds no finished run; give the same command again to finish it") from error


def make_mosaic(
    runs: Sequence[Place],
    *,
    out: Place,
    rule: MosaicRule,
    model: str | Path = "spectral-baseline",
    polygons: PolygonOptions | None = None,
    overwrite: bool = False,
    cluster: Cluster | None = None,
    on_event: OnEvent | None = None,
) -> RunResult:
    """One map of finished runs of one model, in the directory `out`; the same call again makes only what changed.

    Args:
        runs: The run directories, in the order of their scenes.
        out: Output directory; created if its parent exists.
        rule: Which scene a pixel comes from: ``first``, ``newest`` or ``cloudless``.
        model: Name or path of the model package that made the runs.
        polygons: How they are made, and where they go; None: as usual.
        overwrite: Make a finished mosaic anew even if nothing changed.
        cluster: Workers to share the work; None: this process.
        on_event: Called with each `geoseg.events` event, in the calling thread.

    Raises:
        SourceError: A run's rasters cannot be read.
        GridError: The scenes have no common grid.
        ConfigError: A run is not finished or of another model, or `out` holds something else.
        PlanError: Disk will not do.
        SinkError: Outputs cannot be written.
    """
    notify, began = on_event or _ignore, time.perf_counter()
    polygons = polygons or PolygonOptions()
    check_polygons(polygons)
    spec, directory = read_spec(model), RunDirectory(out)
    scenes = [read_scene(run) for run in runs]
    _demand_one_model(scenes, runs, spec)
    facts = _facts(scenes, spec, rule, directory.parts)
    asked = _asked(scenes, runs, facts, spec, rule, polygons)
    with directory.locked(), nullcontext(cluster) if cluster else Cluster() as workers:
        finished, stored = directory.last_request(), directory.stored_request()
        if not overwrite and finished is not None and finished["asked"] == asked:
            damage = directory.damage()
            if not damage:
                return read_result(directory.out)
            notify(Warned(message=f"{directory.out}: was finished, but {damage}: it is made anew"))
        _refuse_other_run(directory, stored or finished)
        workers.ready(notify)
        workers.demand_reach(scenes[0].map.open(), directory.state, notify)
        plan = _plan(facts, spec, workers)
        check_fits(plan, directory.store.disk())
        if stored is None or stored["asked"] != asked:
            directory.check(asked, restart=True, overwrite=True)
            directory.begin({"asked": asked, "plan": plan.pinned(), "totals": totals_of(plan)})
        _warn(scenes, facts, rule, notify)
        with noted(directory, notify) as told:
            records = _lay(plan, facts, directory, workers, told)
            return write_outputs(
                plan,
                scene=Scene(id="mosaic", source=None, geobox=facts.grid, bands=BandSet(())),
                spec=spec,
                model_href=str(package_path(model) / "model.json"),
                directory=directory,
                records=records,
                request={"asked": asked, "plan": plan.pinned()},
                polygons=polygons,
                began=began,
                on_event=told,
                origins=_origins(scenes, records),
            )


def _ignore(event: Event) -> None:
    """Nobody watches."""


def _demand_one_model(scenes: Sequence[MappedScene], runs: Sequence[Place], spec: ModelSpec) -> None:
    if not scenes:
        raise ConfigError("a mosaic needs at least one scene")
    if len(scenes) >= NOWHERE:
        raise ConfigError(f"{len(scenes)} scenes are too many for one mosaic: at most {NOWHERE - 1}; split them")
    for scene, run in zip(scenes, runs, strict=True):
        if scene.digest != spec.digest:
            raise ConfigError(f"{run}: was made by another model than {spec.name}; make it anew with --overwrite")


def _facts(scenes: Sequence[MappedScene], spec: ModelSpec, rule: MosaicRule, parts: Store) -> Facts:
    grid = covering_grid([scene.map.geobox for scene in scenes])
    order = in_order([scene.datetime for scene in scenes], rule)
    confident = all(len(scene.map.places) > 1 for scene in scenes)
    return Facts(
        maps=tuple((at, scenes[at].map, extent_on(grid, scenes[at].map.geobox) & whole(grid)) for at in order),
        grid=grid,
        layers=MosaicLayers(
            values=spec.values,
            label_dtype=spec.label_dtype,
            label_nodata=spec.label_nodata,
            confidence=confident,
        ),
        hidden=cloud_like(spec.classes) if rule == "cloudless" else None,
        parts=parts,
    )


def _asked(
    scenes: Sequence[MappedScene],
    runs: Sequence[Place],
    facts: Facts,
    spec: ModelSpec,
    rule: MosaicRule,
    polygons: PolygonOptions,
) -> dict[str, Any]:
    """What decides the bytes of a mosaic, as JSON values."""
    inputs = {
        str(run).rstrip("/").rpartition("/")[2]: "; ".join(
            [scene.id, str(scene.datetime), *map(" ".join, scene.checksums)]
        )
        for scene, run in zip(scenes, runs, strict=True)
    }
    grid = facts.grid
    return {
        "version": __version__,
        "inputs": inputs,
        "model": {"name": spec.name, "digest": spec.digest},
        "options": {
            "mosaic": rule,
            "scenes": list(inputs),
            "grid": [*grid.shape, *grid.transform[:6], str(grid.crs)],
            **polygons.asked(),
        },
    }


def _refuse_other_run(directory: RunDirectory, request: dict[str, Any] | None) -> None:
    if request is not None and "mosaic" not in request["asked"]["options"]:
        raise ConfigError(f"{directory.out}: holds the map of one scene; move it away, or choose another --out")


def _plan(facts: Facts, spec: ModelSpec, cluster: Cluster) -> RunPlan:
    """The work as a lattice of squares that overlap nowhere, so that its parts are those of any run."""
    height, width = (int(side) for side in facts.grid.shape)
    chunks = ChunkGrid(
        grid=TileGrid(height=height, width=width, tile=SIDE, overlap=0),
        crop=whole(facts.grid),
        rows_per_chunk=1,
        cols_per_chunk=1,
    )
    raw = height * width * (np.dtype(spec.label_dtype).itemsize + int(facts.layers.confidence) + 2)
    return RunPlan(
        scene_id="mosaic",
        model=spec.name,
        digest=spec.digest,
        grid=chunks.grid,
        chunks=chunks,
        blend="crop",
        settings=Settings(lanes=1, threads=os.cpu_count() or 1),
        layers=facts.layers,
        workers=cluster.size,
        exactness="each pixel has the label of one scene",
        bytes_to_read=raw,
        bytes_to_write=raw * 4 // 3,
        disk_needed=raw * 4 // 3,
        seam_bytes=0,
        worker_memory=_MEMORY,
        memory_limit=cluster.memory,
    )


def _warn(scenes: Sequence[MappedScene], facts: Facts, rule: MosaicRule, notify: OnEvent) -> None:
    timeless = [scene.id for scene in scenes if scene.datetime is None]
    if timeless and rule != "first" and len(scenes) > 1:
        notify(Warned(message=f"{', '.join(timeless[:5])}: no time of acquisition is known, so counted as the oldest"))
    if rule == "cloudless" and not facts.hidden:
        notify(Warned(message="the model names no class of clouds, so the most confident scene gives the label"))


def _lay(plan: RunPlan, facts: Facts, directory: RunDirectory, cluster: Cluster, on_event: OnEvent) -> list[Record]:
    """Does what the journal does not hold yet; returns the records of all pieces."""
    finished = directory.finished()
    records = list(finished.values())
    missing = iter([chunk for chunk in plan.chunks if chunk.name not in finished])
    on_event(
        StageStarted(
            stage="mosaic",
            total_tiles=plan.tiles,
            done_tiles=len(finished),
            total_pixels=plan.chunks.crop.size,
            total_chunks=len(plan.chunks),
            done_chunks=len(finished),
        )
    )

    def accept(done: Sequence[Record]) -> None:
        directory.accept(*done)
        records.extend(done)
        for record in done:
            pixels, worker = record["counts"]["pixels"], record.get("worker", "")
            on_event(ChunkDone(chunk=record["name"], seconds=record["seconds"], worker=worker, tiles=1, pixels=pixels))

    if len(finished) < len(plan.chunks):
        with closing(cluster.runner(on_event)) as runner:
            shared = runner.share(facts)
            work_off(
                lambda: None if (chunk := next(missing, None)) is None else OverlayJob(chunk=chunk, facts=shared),
                lambda name: None,
                runner,
                accept,
            )
    return records


def _origins(scenes: Sequence[MappedScene], records: Sequence[Record]) -> list[Origin]:
    """The legend of ``scene.tif``."""
    pixels: Counter[str] = Counter()
    for record in records:
        pixels.update(record["counts"]["of"])
    return [
        Origin(value=at, scene=scene.id, item=str(scene.item), datetime=scene.datetime, pixels=pixels[str(at)])
        for at, scene in enumerate(scenes)
    ]
