"""A scene in, a map out: the whole story, step by step.

::

    spec   = read_spec(model)                      # what the model needs
    scene  = open_scene(href, bands=spec.bands)    # bands found by name
    plan   = plan_run(scene, spec, ...)            # tiles, chunks, memory; refuses what cannot fit
    run_chunks(plan, ...)                          # parts in the run directory, resumable
    write_outputs(plan, ...)                       # COGs, polygons, preview, STAC item, report
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.cluster import Cluster
from geoseg.decide import layers_of
from geoseg.engine import run_chunks
from geoseg.errors import ConfigError, SourceError
from geoseg.events import Event, OnEvent, StageStarted, Warned
from geoseg.journal import FINAL_NAMES, RunDirectory
from geoseg.models import load_model, package_path
from geoseg.models.post_classification import PostClassification
from geoseg.options import SegmentOptions
from geoseg.outputs import write_outputs
from geoseg.plan import RunPlan, check_fits, check_memory, plan_run, tiling_for
from geoseg.protocols import Model
from geoseg.request import Comparison, Request, open_request
from geoseg.result import RunResult, read_result
from geoseg.settings import Settings
from geoseg.status import noted, totals_of
from geoseg.store import Place, Store, open_store
from geoseg.trial import try_out
from geoseg.tuning import Found, ProbedCost, tune
from geoseg.vectors import check_polygons

if TYPE_CHECKING:
    from geoseg.request import SceneLike

__all__ = ["SegmentOptions", "plan_segment", "predicted", "segment"]


def segment(
    scene: SceneLike | None,
    *,
    model: str | Path | Model = "spectral-baseline",
    out: str | Path,
    overwrite: bool = False,
    restart: bool = False,
    skip_finished: bool = False,
    cluster: Cluster | str | Path | None = None,
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
        skip_finished: Take a finished run of the same request as it stands, in place of refusing to touch it, or of
            replacing it.
        cluster: Workers that several scenes share, or the YAML file of a cluster to start; None: as `workers` or
            `scheduler` say.
        on_event: Called with each `geoseg.events` event, in the calling thread.
        options: As in `SegmentOptions`.

    Raises:
        SourceError: The scene cannot be read, or changed while it was.
        BandError: A band is missing.
        GridError: Scene, tile and overlap, or scene and area, disagree.
        ModelError: The model package is damaged, or the net gave something that is no score.
        PlanError: Memory or disk will not do.
        ClusterError: The workers cannot be reached, or lack what the run needs.
        ConfigError: `out` holds something else.
        SinkError: Outputs cannot be written.
    """
    with predicted(
        scene,
        model=model,
        out=out,
        overwrite=overwrite,
        restart=restart,
        skip_finished=skip_finished,
        cluster=cluster,
        on_event=on_event,
        **options,
    ) as finish:
        return finish()


@contextmanager
def predicted(
    scene: SceneLike | None,
    *,
    model: str | Path | Model = "spectral-baseline",
    out: str | Path,
    overwrite: bool = False,
    restart: bool = False,
    skip_finished: bool = False,
    cluster: Cluster | str | Path | None = None,
    comparison: Comparison | None = None,
    on_event: OnEvent | None = None,
    **options: Any,
) -> Iterator[Callable[[], RunResult]]:
    """Runs every chunk of a scene, then gives what makes the files of it: it may run while the next scene is at work.

    The run directory is locked until the block ends. Arguments and errors are those of `segment`; `comparison` is what
    `geoseg.change.compare` found out about a pair.
    """
    notify = on_event or _ignore
    directory = RunDirectory(out)
    job = open_request(scene, model, SegmentOptions(**options), comparison)
    check_polygons(job.options.for_polygons())
    _refuse_output_over_input(job, directory.store)
    began, own = time.perf_counter(), ExitStack()
    workers = own.enter_context(_reached(cluster, job.options))
    with directory.locked(), own:
        asked = job.asked()
        if skip_finished and (directory.last_request() or {}).get("asked") == asked:
            damage = directory.damage()
            if not damage:
                yield lambda: read_result(directory.out)
                return
            notify(Warned(message=f"{directory.out}: was finished, but {damage}: it is made anew"))
            overwrite = True
        stored = directory.check(asked, restart=restart, overwrite=overwrite)
        if stored is not None:
            notify(StageStarted(stage="resume"))
            directory.check_inputs(stored, asked["inputs"])
        plan = _plan(job, notify, workers, pinned=None if stored is None else stored["plan"])
        workers.demand_reach(job.scene.source, directory.state, notify)
        check_fits(plan, directory.store.disk(), done=len(directory.finished()) / max(1, 2 * len(plan.chunks)))
        net = _load(job, plan.settings, elsewhere=workers.elsewhere)
        notify(plan.summary)
        if stored is None:
            directory.begin({"asked": asked, "plan": plan.pinned(), "totals": totals_of(plan)})
        with noted(directory, notify) as told:
            records = run_chunks(
                plan,
                source=job.scene.source,
                model=net,
                directory=directory,
                wanted=job.wanted,
                cluster=workers,
                on_event=told,
            )
            own.close()  # workers of this run alone need not wait until its files are made
            _refuse_changed(job, asked["inputs"])
            yield lambda: write_outputs(
                plan,
                scene=job.scene,
                spec=job.spec,
                model_href=_card_of(job.model),
                directory=directory,
                records=records,
                request={"asked": asked, "plan": plan.pinned(), "workers": plan.workers},
                polygons=job.options.for_polygons(),
                began=began,
                on_event=told,
                view=None if comparison is None else comparison.view,
                ndvi=None if comparison is None else comparison.ndvi,
                facts={} if comparison is None else {"pair": comparison.facts},
            )


def plan_segment(
    scene: SceneLike | None,
    *,
    model: str | Path | Model = "spectral-baseline",
    out: str | Path | None = None,
    probe: bool = False,
    cluster: Cluster | str | Path | None = None,
    on_event: OnEvent | None = None,
    **options: Any,
) -> RunPlan:
    """What `segment` would do with the same arguments; reads headers only, and a few tiles' worth of net if `probe`.

    A cluster that runs is asked for its workers; one that would have to be started is not started.

    Raises:
        PlanError: Memory or disk will not do; also what `segment` raises before it begins.
    """
    job = open_request(scene, model, SegmentOptions(**options))
    with _reached(cluster, job.options, starts=False) as workers:
        plan = _plan(job, on_event or _ignore, workers, probe=probe)
    check_fits(plan, Path.cwd() if out is None else open_store(out).disk())
    return plan


@contextmanager
def _reached(
    cluster: Cluster | str | Path | None, options: SegmentOptions, *, starts: bool = True
) -> Iterator[Cluster]:
    """The workers that were given, or some of this call's own, which go when the block ends."""
    if isinstance(cluster, Cluster):
        yield cluster
        return
    with Cluster(options.for_cluster(cluster), starts=starts) as own:
        yield own


def _ignore(event: Event) -> None:
    """Nobody watches."""


def _plan(
    job: Request, notify: OnEvent, cluster: Cluster, *, pinned: Mapping[str, Any] | None = None, probe: bool = False
) -> RunPlan:
    options = job.options
    cluster.ready(notify, options.device)
    layers = layers_of(job.spec, confidence=options.confidence, probabilities=options.probabilities)

    def planned(settings: Settings, seconds: float | None = None, cost: ProbedCost | None = None) -> RunPlan:
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
            workers=cluster.size,
            worker_memory=cluster.memory,
            pinned=pinned,
            seconds_per_tile=seconds,
            cost=cost,
        )

    if pinned is not None:
        return planned(Settings(**pinned["settings"]))
    check_memory(planned(Settings(batch=1 if options.batch_size == "auto" else options.batch_size)))  # a probe needs it
    settings, seconds = _settings(job, notify, cluster)
    plan = planned(settings, seconds)
    if not probe or isinstance(job.model, Model):
        return plan
    net = _load(job, settings, elsewhere=True)
    return planned(settings, seconds, cluster.call(try_out, plan, job.scene.source, str(job.model), net))


def _settings(job: Request, notify: OnEvent, cluster: Cluster) -> tuple[Settings, float | None]:
    """As asked, the rest chosen by a probe where the net will run, and what a tile took there.

    Somebody's own object runs as it is, tile by tile, and is not timed.
    """
    options = job.options
    if isinstance(job.model, Model):
        batch = 1 if options.batch_size == "auto" else options.batch_size
        return Settings(batch=batch, device="cpu" if options.device == "auto" else options.device), None
    found, events = cluster.call(
        _tuned,
        job.model,
        backend=options.backend,
        device=options.device,
        precision=options.precision,
        batch=options.batch_size,
        tile=tiling_for(job.spec, options.tile, options.overlap)[0],
        workers=cluster.neighbours,
    )
    for event in events:
        notify(event)
    return found.settings, found.seconds_per_tile


def _tuned(model: str | Path, **options: Any) -> tuple[Found, list[Event]]:
    """What `tune` gives, and what it says: on a worker nobody listens."""
    events: list[Event] = []
    return tune(model, **options, on_event=events.append), events


def _load(job: Request, settings: Settings, *, elsewhere: bool = False) -> Model:
    model = job.model if isinstance(job.model, Model) else load_model(job.model, settings, load=not elsewhere)
    return model if model.spec.dates == job.spec.dates else PostClassification(model)


def _card_of(model: str | Path | Model) -> str | None:
    """The card's file, for whoever reads the item; an object in memory has none."""
    return None if isinstance(model, Model) else str(package_path(model) / "model.json")


def _refuse_output_over_input(job: Request, out: Store) -> None:
    """What goes in and bears the name of an output would be overwritten by it."""
    targets = {_resolved(out.href(name)) for name in FINAL_NAMES}
    for place, what in _given(job):
        if place and _resolved(place) in targets:
            raise ConfigError(f"{place}: is {what} and would be overwritten; choose another --out")


def _given(job: Request) -> Iterator[tuple[str, str]]:
    """Every file that goes in, and what it is; empty where one is not named."""
    for place in job.scene.source.identity():
        yield place.removeprefix("mask:"), "the input"
    for scene in (job.scene, *job.scene.dates):
        yield scene.item_href or scene.href, "the input"
    for text in job.options.stats:
        yield text.rpartition(":")[0], "a raster of --stats"
    yield str(job.options.aoi or ""), "the file of --aoi"
    if job.comparison:
        yield job.comparison.asked["pair"]["align"] or "", "the grid of --align"


def _resolved(place: Place) -> Place:
    return place if "://" in str(place) else Path(place).resolve()


def _refuse_changed(job: Request, known: Mapping[str, str]) -> None:
    """A source that changed while it was read may have given a mixture."""
    for place, now in job.scene.source.identity().items():
        if known.get(place) != now:
            raise SourceError(
                f"{place}: changed while it was read (was {known.get(place)}, is {now}); --restart begins anew"
            )
