"""``geoseg plan``: what `segment` would do, before anything is done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.messages import set_up_messages
from geoseg.cli.options import EPILOG, GroupedCommand, run_options
from geoseg.cli.outcome import DONE, FAILED, exit_code, say_error
from geoseg.cli.progress import Watch
from geoseg.cli.scenes import Input, PairInput, inputs_of
from geoseg.cli.signals import Signals
from geoseg.cli.text import byte_text, count_text, table, time_text
from geoseg.config import RunConfig
from geoseg.resolved import Resolved

if TYPE_CHECKING:
    from geoseg.cluster import Cluster
    from geoseg.plan import RunPlan

__all__ = ["plan", "plan_scenes"]


@click.command(cls=GroupedCommand, epilog=EPILOG)
@run_options(skip=("dry_run",))
@click.option("--probe/--no-probe", default=True, help="Run a few tiles to estimate the time.")
def plan(resolved: Resolved[RunConfig], probe: bool) -> int:
    """Say what segment would do with each INPUT; reads headers only.

    Takes the options of segment. Ends with exit code 3 if the run cannot fit, and names the option to change.
    """
    config = resolved.config
    set_up_messages(**config.for_messages())
    return plan_scenes(inputs_of(config), config, probe=probe)


def plan_scenes(given: Sequence[Input | PairInput], config: RunConfig, *, probe: bool) -> int:
    """Plans every scene and prints the plans; returns the exit code."""
    from geoseg.cluster import Cluster

    with Signals() as signals, Cluster(config.for_cluster(), starts=False) as cluster:
        signals.hint = "interrupted; nothing was written"
        ended = [_plan_one(each, config, cluster, probe=probe) for each in given]
    codes, documents = zip(*ended, strict=True)
    if config.json_output:
        click.echo(json.dumps({"plans": documents} if len(given) > 1 else documents[0], indent=2))
    return int(codes[0]) if len(codes) == 1 else FAILED if any(codes) else DONE


def _plan_one(
    given: Input | PairInput, config: RunConfig, cluster: Cluster, *, probe: bool
) -> tuple[int, dict[str, Any]]:
    try:
        with Watch(given.label, quiet=config.quiet, verbose=config.verbose) as watch:
            made = _planned(given, config, cluster, watch, probe=probe)
    except Exception as error:  # noqa: BLE001 - the other scenes are still planned
        code = exit_code(error, began=False)
        text = say_error(error, debug=config.debug, about=given.label)
        return code, {"status": "refused", "input": given.label, "error": text, "exit_code": code}
    if not config.json_output:
        click.echo(plan_text(made))
    return DONE, {"status": "planned", "input": given.label, **plan_document(made)}


def _planned(given: Input | PairInput, config: RunConfig, cluster: Cluster, watch: Watch, *, probe: bool) -> RunPlan:
    scene, more = given.opened(config, watch)
    from geoseg import pipeline  # and with it torch: bad input is refused without

    options = config.for_pipeline() | {key: value for key, value in more.items() if key == "model"}
    return pipeline.plan_segment(scene, out=config.out, cluster=cluster, on_event=watch, probe=probe, **options)


def plan_document(plan: RunPlan) -> dict[str, Any]:
    """What ``--json`` says about a plan; sizes in bytes and pixels, time in seconds."""
    settings = plan.settings
    return {
        "scene": plan.scene_id,
        "model": plan.model,
        "model_digest": plan.digest,
        "height": plan.grid.height,
        "width": plan.grid.width,
        "tile": plan.grid.tile,
        "overlap": plan.grid.overlap,
        "blend": plan.blend,
        "tiles": plan.tiles,
        "forward_passes": plan.tiles,
        "exactness": plan.exactness,
        "chunks": len(plan.chunks),
        "chunk_tiles": list(plan.summary.chunk_tiles),
        "seam_bytes": plan.seam_bytes,
        "workers": plan.workers,
        "backend": settings.backend,
        "device": settings.device,
        "precision": settings.precision,
        "batch": settings.batch,
        "lanes": settings.lanes,
        "threads": settings.threads,
        "bytes_to_read": plan.bytes_to_read,
        "bytes_to_write": plan.bytes_to_write,
        "worker_memory_bytes": plan.worker_memory,
        "peak_memory_bytes": plan.peak_memory,
        "seconds": plan.seconds,
    }


def plan_text(plan: RunPlan) -> str:
    """The plan for people."""
    grid, settings = plan.grid, plan.settings
    rows = [
        ("scene", f"{plan.scene_id}, {grid.height} x {grid.width} pixels"),
        ("model", f"{plan.model} ({plan.digest[:12]})"),
        ("tiles", f"{count_text(plan.tiles)} of {grid.tile} x {grid.tile}, overlap {grid.overlap}, blend {plan.blend}"),
        ("forward passes", f"at most {count_text(plan.tiles)}, one per tile; tiles without a usable pixel cost none"),
        ("exactness", plan.exactness),
        ("chunks", _chunks(plan)),
        ("runs on", f"{settings.device} with {settings.backend} in {settings.precision}; {_parallel(plan)}"),
        ("to read", f"{byte_text(plan.bytes_to_read)}"),
        ("to write", f"about {byte_text(plan.bytes_to_write)}"),
        ("peak memory", f"about {byte_text(plan.worker_memory)} per worker, {byte_text(plan.peak_memory)} in all"),
        ("time", "unknown without a probe" if plan.seconds is None else f"about {time_text(plan.seconds)}"),
    ]
    return table(rows)


def _chunks(plan: RunPlan) -> str:
    rows, cols = plan.summary.chunk_tiles
    height, width = (tiles * plan.grid.stride + plan.grid.overlap for tiles in (rows, cols))
    seams = f"; {byte_text(plan.seam_bytes)} of sums are exchanged" if plan.seam_bytes else ""
    return f"{count_text(len(plan.chunks))} of up to {rows} x {cols} tiles ({height} x {width} pixels){seams}"


def _parallel(plan: RunPlan) -> str:
    settings = plan.settings
    parts = [
        f"{count} {one if count == 1 else many}"
        for count, one, many in (
            (plan.workers, "worker", "workers"),
            (settings.lanes, "lane", "lanes"),
            (settings.threads, "thread", "threads"),
        )
    ]
    return f"{' x '.join(parts)}, batch {settings.batch}"
