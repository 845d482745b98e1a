"""``geoseg segment``: scenes in, maps out, one after the other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.options import EPILOG, GroupedCommand, run_options
from geoseg.cli.outcome import DONE, FAILED, exit_code, quiet_libraries, say_error
from geoseg.cli.plan import plan_scenes
from geoseg.cli.progress import Watch
from geoseg.cli.scenes import Input, OutputFolders, inputs_of, open_input
from geoseg.cli.signals import Signals
from geoseg.cli.text import byte_text, count_text, speed_text, table, time_text
from geoseg.config import Resolved, RunConfig
from geoseg.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from geoseg.protocols import Source
    from geoseg.result import RunResult
    from geoseg.scene import Scene

__all__ = ["segment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one scene ended."""

    code: int
    """Exit code, as if it had been the only one."""
    document: dict[str, Any]
    """What ``--json`` says about it."""


@click.command(cls=GroupedCommand, epilog=EPILOG)
@run_options()
def segment(resolved: Resolved) -> int:
    """Turn each INPUT into a class map, polygons, a preview and a STAC item in DIR.

    Prints the path of item.json. A run that was interrupted resumes when the same command is given again.
    """
    config = resolved.config
    quiet_libraries(debug=config.debug, verbose=config.verbose)
    if config.dry_run:
        return plan_scenes(config, probe=True)
    if config.out is None:
        raise ConfigError("--out is missing: name the directory of the results")
    given = inputs_of(config)
    outcomes = _run_all(given, OutputFolders(out=config.out, several=len(given) > 1), config)
    if config.json_output:
        documents = [outcome.document for outcome in outcomes]
        click.echo(json.dumps({"runs": documents} if len(given) > 1 else documents[0], indent=2))
    return _code([outcome.code for outcome in outcomes])


def _code(codes: list[int]) -> int:
    """The exit code of the whole call: an interruption's, the only scene's, or 1 if one of several failed."""
    if codes[-1] > 128 or len(codes) == 1:
        return codes[-1]
    return FAILED if any(codes) else DONE


def _run_all(inputs: tuple[Input, ...], folders: OutputFolders, config: RunConfig) -> list[Outcome]:
    outcomes: list[Outcome] = []
    with Signals() as signals, folders.made():
        from geoseg.models import read_spec

        bands = read_spec(config.model).bands
        for given in inputs:
            outcomes.append(_run_one(given, bands, folders, config, signals))
            if outcomes[-1].code > 128:
                break
    failed = sum(outcome.code != DONE for outcome in outcomes)
    if len(inputs) > 1 and failed and not config.quiet:
        click.echo(f"geoseg: {failed} of {len(inputs)} scenes failed", err=True)
    return outcomes


def _run_one(
    given: Input, bands: tuple[str, ...], folders: OutputFolders, config: RunConfig, signals: Signals
) -> Outcome:
    """One scene; whatever happens to it is said here, so that the next one can go on."""
    watch = Watch(given.label, quiet=config.quiet, verbose=config.verbose)
    signals.hint = "interrupted; the same command resumes"
    document: dict[str, Any] = {"input": given.label, "out": str(folders.out)}
    try:
        scene = open_input(given, bands, config)
        out = folders.of(scene.id, given.label)
        document["out"] = str(out)
        result = _segmented(scene, out, config, watch)
    except KeyboardInterrupt as error:
        signals.hint = ""
        what = f"the same command resumes what stands in {document['out']}" if watch.began else "nothing was written"
        click.echo(f"geoseg: interrupted; {what}", err=True)
        code = exit_code(error, began=watch.began)
        return Outcome(code=code, document={"status": "interrupted", **document, "exit_code": code})
    except Exception as error:  # noqa: BLE001 - the one place where everything ends as a line
        code = exit_code(error, began=watch.began)
        resumes = watch.began and not {"--restart", "--on-bad-block"} & set(str(error).split())
        advice = f"What is done stands in {document['out']}; the same command resumes it" if resumes else ""
        text = say_error(error, debug=config.debug, about=given.label, advice=advice)
        return Outcome(code=code, document={"status": "failed", **document, "error": text, "exit_code": code})
    _announce(result, config)
    return Outcome(code=DONE, document={"status": "done", **document, **result_document(result)})


def _segmented(scene: Scene[Source], out: Path, config: RunConfig, watch: Watch) -> RunResult:
    from geoseg import pipeline

    with watch:
        return pipeline.segment(
            scene,
            out=out,
            overwrite=config.overwrite,
            restart=config.restart,
            skip_finished=len(config.inputs) > 1,
            on_event=watch,
            **config.for_pipeline(),
        )


def _announce(result: RunResult, config: RunConfig) -> None:
    if config.json_output:
        return
    if not config.quiet:
        click.echo(summary(result), err=True)
    click.echo(str(result.item))


def result_document(result: RunResult) -> dict[str, Any]:
    """What ``--json`` says about a finished run: paths, areas, counts, timings in seconds, memory in bytes."""
    names = ("labels", "confidence", "probabilities", "preview", "item", "report")
    paths = {name: getattr(result, name) for name in names}
    areas = [
        {"value": area.value, "name": area.name, "title": area.title, "pixels": area.pixels, "km2": area.km2}
        for area in result.areas
    ]
    return {
        **{name: None if path is None else str(path) for name, path in paths.items()},
        "polygons": [str(path) for path in result.polygons],
        "areas": areas,
        "counts": dict(result.counts),
        "timings": dict(result.timings),
        "peak_memory_bytes": result.peak_memory,
    }


def summary(result: RunResult) -> str:
    """The table of a finished run: pixels and km2 per class, time, throughput, memory."""
    total = sum(area.pixels for area in result.areas)
    rows = [("class", "pixels", "km2", "share")]
    for area in result.areas:
        share = f"{100 * area.pixels / total:.1f} %" if total else "-"
        rows.append((area.title or area.name, count_text(area.pixels), f"{area.km2:,.3f}", share))
    passes = result.counts["forward_passes"]
    seconds = float(result.timings["seconds"])
    speed = int(result.counts["pixels"]) / max(seconds, 1e-9)
    facts = (
        f"{passes} forward {'pass' if passes == 1 else 'passes'}, {time_text(seconds)}, {speed_text(speed)}, "
        f"peak memory {byte_text(result.peak_memory)}"
    )
    return f"{table(rows, right=frozenset({1, 2, 3}))}\n{facts}"
